"""The table's cells: one competitor's timings of one thing, and the row that they make."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_REFERENCE = "pcx"
_TIE = 0.1  # medians that differ by less are called equal

BATCH = "ms per training batch"
STEP = "ms per inference step"
ERROR = "seconds to the validation MSE"
EQUILIBRIUM = "seconds to equilibrium"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the competitors run: on a number of processors, or on a GPU."""

    threads: int
    device: str = "cpu"

    def __str__(self) -> str:
        if self.device != "cpu":
            return self.device
        return "one thread" if self.threads == 1 else f"{self.threads} threads"


@dataclass(slots=True)
class Cell:
    """One competitor's timings of one thing, in seconds."""

    method: str
    metric: str
    seconds: list[float] = field(default_factory=list)
    note: str = ""
    ranked: bool = True

    @property
    def median(self) -> float:
        """Return the median of the timings, of which there is at least one."""
        return quartiles(self.seconds)[1]

    def row(self, dataset: str, place: Place, reference: float | None) -> dict[str, Any]:
        """Return the row of the table: median, quartiles and the ratio to the reference."""
        scale = 1.0 if self.metric.startswith("seconds") else 1e3
        row: dict[str, Any] = {
            "dataset": dataset,
            "threads": place.threads,
            "device": place.device,
            "method": self.method,
            "metric": self.metric,
            "value": None,
            "ci_low": None,
            "ci_high": None,
            "published": None,
            "source": "measured",
            "seconds": sum(self.seconds) or None,
            "samples": len(self.seconds),
            "ratio": None,
            "note": self.note,
        }
        if self.seconds:
            low, median, high = quartiles(self.seconds)
            row |= {"value": scale * median, "ci_low": scale * low, "ci_high": scale * high}
            if reference and self.ranked:
                row["ratio"] = median / reference
                if abs(row["ratio"] - 1) < _TIE and not self.method.startswith(_REFERENCE):
                    row["note"] = "; ".join(filter(None, [self.note, "a tie"]))
        return row

    def rule_out(self, reason: str) -> None:
        """Exclude this competitor from the comparison, and note the reason."""
        self.ranked = False
        self.note = "; ".join(filter(None, [self.note, reason]))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def rows_of(cells: Sequence[Cell], dataset: str, place: Place) -> list[dict[str, Any]]:
    """Return the rows of one metric's cells, each with its ratio to the reference's faster mode."""
    medians = [
        cell.median
        for cell in cells
        if cell.method.startswith(_REFERENCE) and cell.ranked and cell.seconds
    ]
    reference = min(medians, default=None)
    return [cell.row(dataset, place, reference) for cell in cells]
