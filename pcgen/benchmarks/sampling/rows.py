"""Rows of `pcgen bench sampling`, with the published values beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcgen.benchmarks.table import Measured

_PCX = "Pinchetti et al. 2025"
_MCPC = "Oliviers et al. 2024, recomputed"
# Published on other features, samples and models: only the ratios compare.
PUBLISHED = {
    ("pcn", "frechet"): (2.53, f"{_PCX}, text; their features, 900 samples"),
    ("vae", "frechet"): (4.19, f"{_PCX}, text; their features, 900 samples"),
    ("pcn", "inception score"): (7.13, f"{_PCX}, text"),
    ("vae", "inception score"): (7.91, f"{_PCX}, text"),
    ("pcn", "log-likelihood"): (-144.8, f"{_MCPC}; 5,000 samples"),
    ("vae", "log-likelihood"): (-125.8, f"DLGM, {_MCPC}; 5,000 samples"),
    ("pcn", "emd"): (0.06, "authors' notebook, best run"),
}


def row(
    method: str, metric: str, values: Sequence[float], dataset: str, seconds: float = 0.0
) -> dict[str, Any]:
    """Return the row of a mean, with its 95 % interval where there are several values."""
    published, source = PUBLISHED.get((method, metric), (None, "measured"))
    return Measured(method, metric, list(values), seconds, None, published, source).row(dataset)
