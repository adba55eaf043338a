"""The table's cells: one competitor's timings at one setting, and the row that they make."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

EQUILIBRIUM = "seconds to equilibrium"
ERROR = "seconds to the validation MSE"
BATCH = "ms per training batch"
_PEERS = ("pcx", "fabricpc")


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
    """One competitor's timings at one setting, in seconds.

    Attributes:
        method: the competitor's name, which begins with its library's.
        setting: what it computes; None if there is nothing to time, for the reason in the note.
        processors: the processor time of its threads by the time that passed.
    """

    method: str
    setting: dict[str, Any] | None
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    processors: float | None = None

    @property
    def library(self) -> str:
        """Return the library that computes it."""
        name = self.method.partition(",")[0]
        return name if name in _PEERS else "pcgen"

    @property
    def median(self) -> float:
        """Return the median of the timings; infinite if there is none."""
        return statistics.median(self.seconds) if self.seconds else float("inf")

    def exclude(self, reason: str) -> None:
        """Take this competitor out of the race, and note the reason."""
        self.setting, self.seconds, self.note = None, [], reason

    def times(self, updates: int, note: str) -> Cell:
        """Return the cell of so many training batches like this one's."""
        seconds = [updates * second for second in self.seconds]
        note = note if seconds else self.note
        return Cell(self.method, self.setting, note, seconds, self.processors)

    def row(self, dataset: str, place: Place, metric: str, reference: float) -> dict[str, Any]:
        """Return the row of the table: median, quartiles and the ratio to the reference."""
        scale = 1.0 if metric.startswith("seconds") else 1e3
        low = middle = high = None
        if self.seconds:
            values = [scale * second for second in self.seconds] * (1 + (len(self.seconds) < 2))
            low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return {
            "dataset": dataset,
            "threads": place.threads,
            "device": place.device,
            "method": self.method,
            "metric": metric,
            "value": middle,
            "ci_low": low,
            "ci_high": high,
            "published": None,
            "source": "measured",
            "seconds": sum(self.seconds) or None,
            "samples": len(self.seconds),
            "ratio": self.median / reference if self.seconds and reference < float("inf") else None,
            "processors": self.processors,
            "note": self.note,
        }


def rows_of(cells: Sequence[Cell], dataset: str, place: Place, metric: str) -> list[dict[str, Any]]:
    """Return the rows of one metric's cells, each with its ratio to the fastest other library."""
    others = [cell.median for cell in cells if cell.library in _PEERS]
    reference = min(others, default=float("inf"))
    return [cell.row(dataset, place, metric, reference) for cell in cells]
