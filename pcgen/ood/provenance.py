"""The metadata beside a file of rows: where its numbers come from, and what is guaranteed."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pcgen import __version__
from pcgen.data.images import Images
from pcgen.ood import conformal, self_test
from pcgen.ood.conformal import Array
from pcgen.ood.detector import Detector
from pcgen.ood.rows import Question, Row, Verdicts, most_unusual
from pcgen.ood.scores.scorer import stops_alone

# The statuses of inputs that are not scored, and what a reader is told of them.
_FAULTS = {
    "unreadable": "cannot be read",
    "nonfinite": "a number is missing or infinite",
    "shape": "another size",
}


@dataclass(slots=True)
class Tally:
    """Counts of rows; score and p-value of each readable one; the most unusual ones."""

    statuses: Counter[str] = field(default_factory=Counter)
    converged: int = 0
    scores: list[float] = field(default_factory=list)
    p_values: list[float] = field(default_factory=list)
    worst: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Tally:
        """Return the tally of rows; two numbers of each row stay in memory."""
        tally = cls()
        tally.worst = most_unusual(map(tally._count, rows))
        return tally

    def _count(self, row: Row) -> Row:
        """Count a row and return it."""
        self.statuses[row["status"]] += 1
        if row["status"] == "ok":
            self.converged += bool(row.get("converged"))
            self.scores.append(row["score"])
            self.p_values.append(row["p_value"])
        return row

    @property
    def inputs(self) -> int:
        """Return the number of rows."""
        return sum(self.statuses.values())

    @property
    def arrays(self) -> tuple[Array, Array]:
        """Return scores and p-values (R,) of the readable rows."""
        return np.array(self.scores, np.float64), np.array(self.p_values, np.float64)


def metadata_of(
    detector: Detector,
    inputs: Sequence[Images],
    question: Question,
    tally: Tally,
    verdicts: Verdicts,
    *,
    argv: Sequence[str],
    complete: bool,
) -> dict[str, Any]:
    """Return the content of the metadata file that belongs to a file of rows."""
    return {
        "pcgen": __version__,
        "schema": 1,
        "command": "ood-score",
        "argv": [*argv],
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "device": str(detector.device),
        "complete": complete,
        **_origins(detector, inputs, tally),
        **_answer(detector, question, tally, verdicts),
        "self_test": detector.header.get("self_test"),
        "statement": statement(detector, inputs, question),
        "warnings": warnings(detector, inputs, question, tally),
        "notes": [*dict.fromkeys(note for images in inputs for note in images.notes)],
    }


def _origins(detector: Detector, inputs: Sequence[Images], tally: Tally) -> dict[str, Any]:
    """Return the detector, model, calibration and settings that the scores depend on."""
    model, known = detector.model, detector.header["calibration"]
    table, readable = model.recipe.inference, tally.statuses["ok"]
    has_converged = "converged" in detector.columns and readable > 0
    return {
        "detector": {"path": str(model.path), "sha256": detector.header.get("sha256")},
        "model": {
            "name": model.recipe.name,
            "seed": model.recipe.seed,
            "sha256": model.header.get("sha256"),
        },
        "calibration": {
            key: known.get(key)
            for key in ("source", "origin", "fingerprint", "sha256", "fit", "part_a", "part_b")
        },
        "preprocessing": {
            "calibration": known["preprocessing"],
            "inputs": {images.source: images.preprocessing for images in inputs},
        },
        "inference": {
            "solver": table.for_use().solver,
            "steps": table.test_steps,
            "tolerance": table.tolerance,
            "converged": tally.converged / readable if has_converged else None,
        },
    }


def _answer(
    detector: Detector, question: Question, tally: Tally, verdicts: Verdicts
) -> dict[str, Any]:
    """Return the question, the thresholds, and how many inputs are flagged."""
    first, flagged, readable = question.scores[0], sum(verdicts.is_ood), tally.statuses["ok"]
    thresholds, rule = {first: verdicts.threshold}, (question.fpr, question.guarantee)
    if question.fdr is None:
        # Of a combined score beside a table's, too few rows may be left.
        needed = conformal.smallest(*rule)
        thresholds = {
            name: detector.threshold(name, *rule)
            for name in question.scores
            if name == first or detector.count(name) >= needed
        }
    low, high = conformal.share_interval(flagged, readable)
    batch = None
    if question.fdr is None:
        count = detector.count(first)
        batch = {
            "p_value": conformal.batch_p_value(flagged, readable, count, *rule),
            "statement": conformal.batch_statement(*rule),
        }
    names = ("id", "source", "score", "p_value")
    return {
        "score": first,
        "scores": [*question.scores],
        "fpr": question.fpr,
        "guarantee": question.guarantee,
        "confidence": conformal.CONFIDENCE if question.guarantee == "pac" else None,
        "fdr": question.fdr,
        "thresholds": thresholds,
        "counts": {
            "inputs": tally.inputs,
            **{status: tally.statuses[status] for status in ("ok", *_FAULTS)},
            "flagged": flagged,
        },
        "alarm_rate": {
            "value": flagged / readable if readable else None,
            "ci_low": low,
            "ci_high": high,
        },
        "batch": batch,
        "most_unusual": [{name: row[name] for name in names} for row in tally.worst],
    }


def statement(detector: Detector, inputs: Sequence[Images], question: Question) -> str:
    """Return the guarantee in words."""
    count = detector.count(question.scores[0])
    if question.fdr is None:
        words = conformal.statement(count, question.fpr, question.guarantee)
    else:
        words = conformal.fdr_statement(count, question.fdr)
    if _prepared_otherwise(detector, inputs):
        words += " It does not hold for inputs that were brought to another size."
    return words


def warnings(
    detector: Detector, inputs: Sequence[Images], question: Question, tally: Tally
) -> list[str]:
    """Return the warnings that a reader of the rows needs."""
    texts = []
    if sources := _prepared_otherwise(detector, inputs):
        texts.append(
            f"{', '.join(sources)}: not prepared like the calibration images; the guarantee does "
            "not hold for them"
        )
    if "chose the epoch" in detector.header["calibration"]["origin"]:
        texts.append(
            "the calibration images also chose the model's epoch; for an exact guarantee train "
            "with data.calibration"
        )
    table = detector.model.recipe.inference
    if detector.layers and not stops_alone(table):
        texts.append(unsettled(table.for_use().solver))
    test = detector.header.get("self_test")
    if test is not None and test["score"] == question.scores[0]:
        texts += self_test.warnings(test)
    for status, reason in _FAULTS.items():
        if count := tally.statuses[status]:
            texts.append(f"{count} of {tally.inputs} inputs not scored: {reason}")
    count, readable = detector.count(question.scores[0]), tally.statuses["ok"]
    if question.fdr is not None and readable:
        needed = conformal.needed_for_a_discovery(readable, count, question.fdr)
        if needed > 1:
            texts.append(
                f"with {count:,} calibration inputs, {needed:,} of the {readable:,} inputs must be "
                "more unusual than every calibration input before any is flagged at FDR "
                f"{question.fdr:g}"
            )
    return texts


def unsettled(solver: str) -> str:
    """Return the warning about scores of networks that need a solver for high precisions."""
    return (
        f"inference.solver = {solver}: rounding changes energy-layers and latent-knn by a fraction "
        "of their standard deviation, so the scores of an image can depend on the images scored "
        "with it"
    )


def _prepared_otherwise(detector: Detector, inputs: Sequence[Images]) -> list[str]:
    """Return the inputs that were not prepared like the calibration images."""
    known = detector.header["calibration"]
    if known["native"] is None:
        return []
    return [
        images.source
        for images in inputs
        if not images.is_table
        and _resized_from(images.preprocessing) != _resized_from(known["preprocessing"])
    ]


def _resized_from(preprocessing: dict[str, Any]) -> list[int] | None:
    """Return the size that images had before a resize, [] if theirs differ; None without one."""
    if "size" not in preprocessing:
        return None
    return (preprocessing["from"] or [])[1:]
