"""One row for every input: its scores, its p-value, its verdict."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pcgen.data.images import Images
from pcgen.ood import conformal
from pcgen.ood.conformal import Array, Guarantee
from pcgen.ood.detector import Detector
from pcgen.ood.scoring import Columns, Scored
from pcgen.storage.row_formats import kind_of
from pcgen.storage.rows_file import Row as Row

# These columns are filled last, once all p-values are known.
VERDICT = ("threshold", "is_ood", "q_value_bh")
_FIRST = ("id", "source", "status", "score", "score_name", "p_value", *VERDICT)
_ENERGIES = ("free_energy_nats", "bits_per_dim")
_LAST = ("heatmap", "reason")


@dataclass(frozen=True, slots=True)
class Question:
    """The scores asked for, and the rule that flags inputs.

    Attributes:
        scores: names of scores; p-value and verdict are those of the first.
        fpr: the false-alarm rate allowed.
        guarantee: whether `fpr` holds with 95 % confidence (`pac`) or on average (`marginal`).
        fdr: if given, inputs are flagged by q-value, with this false discovery rate.
    """

    scores: tuple[str, ...]
    fpr: float = 0.05
    guarantee: Guarantee = "pac"
    fdr: float | None = None


class RowMaker:
    """Turns scored batches into rows."""

    def __init__(self, detector: Detector, question: Question) -> None:
        """Prepare the columns and the calibration scores.

        Raises:
            CalibrationError: the detector does not have a score that is asked for.
        """
        self.detector, self.question = detector, question
        self.first = question.scores[0]
        self.reference: Array = detector.reference(self.first)
        detector.require(question.scores)
        others = [name for name in detector.columns if name not in detector.names]
        layers = detector.layers
        named = [*_ENERGIES, *layers, *(["surprised_layer"] if layers else []), *others]
        if "free_energy_nats" not in others:
            named = [name for name in named if name not in _ENERGIES]
        chosen = map(column, question.scores)
        self.columns = [*dict.fromkeys([*_FIRST, *named, *chosen, *_LAST])]

    def rows(self, batch: Scored, images: Images, heatmaps: Sequence[str] = ()) -> list[Row]:
        """Return a row for every input of a batch, also for those that cannot be read.

        Args:
            heatmaps: the files of the readable inputs' heat maps.
        """
        values = self._values(batch.columns)
        cells = iter(zip(*(_cells(*item) for item in values.items()), strict=True))
        rows, readable = [], 0
        for i, status in enumerate(batch.rows.status):
            row: Row = dict.fromkeys(self.columns)
            row |= {"id": images.id(batch.first + i), "source": images.source, "status": status}
            if status == "ok":
                row.update(zip(values, next(cells), strict=True))
                row["score_name"] = self.first
                row["heatmap"] = heatmaps[readable] if heatmaps else None
                readable += 1
            else:
                row["reason"] = batch.rows.reason[i]
            rows.append(row)
        return rows

    def _values(self, columns: Columns) -> dict[str, Any]:
        """Return the values of the readable inputs' rows, by column."""
        if not columns:
            return {}
        scores = self.detector.scores(columns)
        values: dict[str, Any] = {**scores}
        values |= {column(name): scores[name] for name in self.question.scores}
        values["score"] = conformal.finite(scores[self.first])
        values["p_value"] = conformal.p_values(scores[self.first], self.reference)
        if "free_energy_nats" in columns:
            units = math.prod(self.detector.model.shape)
            values["bits_per_dim"] = columns["free_energy_nats"] / (units * math.log(2))
        if self.detector.layers:
            values["surprised_layer"] = self.detector.surprised_layer(columns)
        return {name: values[name] for name in self.columns if name in values}


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The decisions on the readable inputs (R,), made once all are scored.

    Attributes:
        threshold: the score above which an input is flagged; None if no score is that high.
        is_ood: whether each input is flagged.
        q_values: Benjamini-Hochberg's.
    """

    threshold: float | None
    is_ood: list[bool]
    q_values: list[float]


def decide(scores: Array, p_values: Array, threshold: float, fdr: float | None) -> Verdicts:
    """Return the verdicts by threshold or, with a false discovery rate, by q-value."""
    q_values = conformal.benjamini_hochberg(p_values)
    if fdr is None:
        return Verdicts(threshold, (scores > threshold).tolist(), q_values.tolist())
    flagged = q_values <= fdr
    least = float(scores[flagged].min()) if flagged.any() else None
    # Inputs above the threshold are flagged, so it is the next score below the least flagged one.
    below = scores[scores < least].max(initial=-np.inf) if least is not None else None
    reached = None if below is None or not np.isfinite(below) else float(below)
    return Verdicts(reached, flagged.tolist(), q_values.tolist())


def with_verdicts(rows: Iterable[Row], verdicts: Verdicts) -> Iterator[Row]:
    """Yield rows with their verdicts; rows of unreadable inputs have none."""
    pairs = zip(verdicts.is_ood, verdicts.q_values, strict=True)
    for row in rows:
        if row["status"] == "ok":
            is_ood, q_value = next(pairs)
            row |= {"threshold": verdicts.threshold, "is_ood": is_ood, "q_value_bh": q_value}
        yield row


def most_unusual(rows: Iterable[Row], count: int = 10) -> list[Row]:
    """Return the `count` rows with the highest scores, the highest first.

    Rows of unreadable inputs are left out. Only `count` rows are in memory at a time.
    """
    readable = (row for row in rows if row["status"] == "ok")
    return heapq.nlargest(count, readable, key=lambda row: row["score"])


def column(score: str) -> str:
    """Return the column of a score: `energy_lse` for `energy-lse`."""
    return score.replace("-", "_")


def _cells(name: str, column: Any) -> list[Any]:
    """Return a column's numbers as its Python type; None for one that is not finite."""
    numbers, kind = np.asarray(column, dtype=np.float64), kind_of(name)
    if np.isfinite(numbers).all():
        return list(numbers.astype(kind).tolist())
    return [kind(number) if math.isfinite(number) else None for number in numbers.tolist()]
