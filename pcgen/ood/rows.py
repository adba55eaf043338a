"""A row for every input: its scores, its p-value, and why it is unusual."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pcgen.data.images import Images
from pcgen.ood import conformal as calibration
from pcgen.ood.conformal import Array, Guarantee
from pcgen.ood.detector import LAYER, Detector
from pcgen.ood.scoring import Columns, Scored
from pcgen.storage.rows_file import Row as Row

# What is written last, once all p-values are known.
VERDICT = ("threshold", "is_ood", "q_value_bh")
_FIRST = ("id", "source", "status", "score", "score_name", "p_value", *VERDICT)
_ENERGIES = ("free_energy_nats", "bits_per_dim")
_LAST = ("heatmap", "reason")
_KINDS: dict[str, type] = {"converged": bool, "class_argmin": int, "surprised_layer": int}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the inputs.

    Attributes:
        scores: the columns wanted; verdict and p-value are the first's.
        fpr: the false-alarm rate allowed.
        guarantee: in which sense.
        fdr: where given, the verdict goes by q-value instead.
    """

    scores: tuple[str, ...]
    fpr: float = 0.05
    guarantee: Guarantee = "pac"
    fdr: float | None = None


class RowMaker:
    """Makes the rows of scored batches."""

    def __init__(self, detector: Detector, question: Question) -> None:
        """Prepare what all rows need.

        Raises:
            CalibrationError: a score that the detector does not have.
        """
        self.detector, self.question = detector, question
        self.first = question.scores[0]
        self.reference: Array = detector.reference(self.first)
        detector.require(question.scores)
        others = [name for name in detector.columns if name not in detector.names]
        layers = detector.layers
        named = [*_ENERGIES, *layers, *(["surprised_layer"] if layers else [])]
        named += [name for name in others if name not in named]
        if "free_energy_nats" not in others:
            named = [name for name in named if name not in _ENERGIES]
        self.columns = [*_FIRST, *named, *map(column, question.scores), *_LAST]

    def rows(self, batch: Scored, images: Images, heatmaps: Sequence[str] = ()) -> list[Row]:
        """Return the rows of a batch, those of inputs that cannot be read included.

        Args:
            heatmaps: the files drawn of the readable inputs.
        """
        found = self._found(batch.columns)
        rows, readable = [], 0
        for i, status in enumerate(batch.rows.status):
            row: Row = dict.fromkeys(self.columns)
            row |= {"id": images.id(batch.first + i), "source": images.source, "status": status}
            if status == "ok":
                row |= {name: _value(name, values[readable]) for name, values in found.items()}
                row["score_name"] = self.first
                row["heatmap"] = heatmaps[readable] if heatmaps else None
                readable += 1
            else:
                row["reason"] = batch.rows.reason[i]
            rows.append(row)
        return rows

    def _found(self, columns: Columns) -> dict[str, Any]:
        """Return what the rows of the readable inputs hold, by column."""
        if not columns:
            return {}
        scores = self.detector.scores(columns)
        found: dict[str, Any] = {**scores}
        found |= {column(name): scores[name] for name in self.question.scores}
        found["score"] = calibration.finite(scores[self.first])
        found["p_value"] = calibration.p_values(scores[self.first], self.reference)
        if "free_energy_nats" in columns:
            units = math.prod(self.detector.model.shape)
            found["bits_per_dim"] = columns["free_energy_nats"] / (units * math.log(2))
        if self.detector.layers:
            found["surprised_layer"] = self.detector.surprised_layer(columns)
        return {name: found[name] for name in self.columns if name in found}


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is decided once all inputs are scored; of the readable ones (R,).

    Attributes:
        threshold: the score above which an input is flagged; None where no score is.
        is_ood: which inputs are flagged.
        q_values: Benjamini-Hochberg.
    """

    threshold: float | None
    is_ood: list[bool]
    q_values: list[float]


def with_verdicts(rows: Iterable[Row], verdicts: Verdicts) -> Iterator[Row]:
    """Yield rows with their verdicts; those that could not be read get none."""
    each = zip(verdicts.is_ood, verdicts.q_values, strict=True)
    for row in rows:
        if row["status"] == "ok":
            is_ood, q_value = next(each)
            row |= {"threshold": verdicts.threshold, "is_ood": is_ood, "q_value_bh": q_value}
        yield row


def decide(scores: Array, p_values: Array, threshold: float, fdr: float | None) -> Verdicts:
    """Return the verdicts by threshold or, where a false discovery rate is given, by q-value."""
    q_values = calibration.benjamini_hochberg(p_values)
    if fdr is None:
        return Verdicts(threshold, (scores > threshold).tolist(), q_values.tolist())
    flagged = q_values <= fdr
    least = float(scores[flagged].min()) if flagged.any() else None
    # Flagged is what scores above: the threshold is the next score below the least flagged one.
    below = scores[scores < least].max(initial=-np.inf) if least is not None else None
    reached = None if below is None or not np.isfinite(below) else float(below)
    return Verdicts(reached, flagged.tolist(), q_values.tolist())


def column(score: str) -> str:
    """Return the column of a score: `energy-lse` is `energy_lse`."""
    return score.replace("-", "_")


def layer_number(name: str) -> int:
    """Return the layer whose energy a column holds."""
    return int(name.removeprefix(LAYER))


def _value(name: str, value: Any) -> Any:
    kind = _KINDS.get(name, float)
    number = float(value)
    return kind(number) if math.isfinite(number) else None
