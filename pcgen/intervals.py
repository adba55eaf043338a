"""The interval of a mean over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from scipy import stats

_CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the mean by Student's t; (None, None) below two values."""
    count = len(values)
    if count < 2:
        return None, None
    mean = sum(values) / count
    error = statistics.stdev(values) / count**0.5
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * error
    return mean - half, mean + half
