"""What every table of `pcgen bench` shares: a row for each method, and the interval of its mean."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pcgen.intervals import interval

Tell = Callable[[str, int, int], None]
"""Called with the stage of a benchmark, how much of it is done, and how much there is."""


@dataclass(slots=True)
class Measured:
    """One method's results: one value for each seed.

    Attributes:
        seconds: that the method trained, mean over the seeds.
        parameters: number of weights and biases.
        published: the value in the literature.
        source: where that value is from.
        note: how the method's settings were chosen.
    """

    method: str
    metric: str
    values: list[float]
    seconds: float = 0.0
    parameters: int | None = None
    published: float | None = None
    source: str = "measured"
    note: str = ""

    def row(self, dataset: str) -> dict[str, Any]:
        """Return the row of the table, with a 95 % interval where there are several seeds."""
        low, high = interval(self.values)
        return {
            "dataset": dataset,
            "method": self.method,
            "metric": self.metric,
            "value": sum(self.values) / len(self.values) if self.values else None,
            "ci_low": low,
            "ci_high": high,
            "published": self.published,
            "source": self.source,
            "seconds": self.seconds or None,
            "seeds": len(self.values) or None,
            "parameters": self.parameters,
            **({"note": self.note} if self.note else {}),
        }

    def against(self, other: Measured) -> dict[str, float | None]:
        """Return the mean difference to another method over the seeds, with its 95 % interval.

        The seeds are those of `self`, which may be the first of the other's.
        """
        others = other.values[: len(self.values)]
        differences = [a - b for a, b in zip(self.values, others, strict=True)]
        low, high = interval(differences)
        mean = statistics.fmean(differences)
        if abs(mean) < 1e-12 * max(map(abs, self.values), default=0.0):
            mean = 0.0  # a rounding error
        return {"difference": mean, "difference_low": low, "difference_high": high}
