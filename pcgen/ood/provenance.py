"""What the numbers of a file of rows depend on, and what they promise."""

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
from pcgen.ood import conformal as calibration
from pcgen.ood.conformal import Array
from pcgen.ood.detector import Detector
from pcgen.ood.rows import Question, Row, Verdicts


@dataclass(slots=True)
class Tally:
    """What is counted of the rows: of the readable ones, score and p-value."""

    statuses: Counter[str] = field(default_factory=Counter)
    converged: int = 0
    scores: list[float] = field(default_factory=list)
    p_values: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Tally:
        """Return the tally of rows; of each, two numbers stay in memory."""
        tally = cls()
        for row in rows:
            tally.statuses[row["status"]] += 1
            if row["status"] == "ok":
                tally.converged += bool(row.get("converged"))
                tally.scores.append(row["score"])
                tally.p_values.append(row["p_value"])
        return tally

    @property
    def inputs(self) -> int:
        return sum(self.statuses.values())

    @property
    def arrays(self) -> tuple[Array, Array]:
        """Return scores and p-values (R,)."""
        return np.array(self.scores, np.float64), np.array(self.p_values, np.float64)


def meta_of(
    detector: Detector,
    inputs: Sequence[Images],
    question: Question,
    tally: Tally,
    verdicts: Verdicts,
    *,
    argv: Sequence[str],
    complete: bool,
) -> dict[str, Any]:
    """Return the document that goes beside a file of rows."""
    header, first = detector.header, question.scores[0]
    known, table = header["calibration"], detector.model.recipe.inference
    flagged, readable = sum(verdicts.is_ood), tally.statuses["ok"]
    low, high = calibration.share_interval(flagged, readable)
    has_converged = "converged" in detector.columns and readable > 0
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
        "detector": {"path": str(detector.model.path), "sha256": header.get("sha256")},
        "model": {
            "name": detector.model.recipe.name,
            "seed": detector.model.recipe.seed,
            "sha256": detector.model.header.get("sha256"),
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
            "solver": table.solver,
            "steps": table.test_steps,
            "tolerance": table.tolerance,
            "converged": tally.converged / readable if has_converged else None,
        },
        "score": first,
        "scores": [*question.scores],
        "fpr": question.fpr,
        "guarantee": question.guarantee,
        "confidence": calibration.CONFIDENCE if question.guarantee == "pac" else None,
        "fdr": question.fdr,
        "thresholds": {
            name: detector.threshold(name, question.fpr, question.guarantee)
            for name in question.scores
        }
        if question.fdr is None
        else {first: verdicts.threshold},
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
        "statement": statement(detector, inputs, question),
        "warnings": warnings(detector, inputs, question, tally),
    }


_FAULTS = ("unreadable", "nonfinite", "shape")


def statement(detector: Detector, inputs: Sequence[Images], question: Question) -> str:
    """Return the guarantee in words."""
    count = len(detector.reference(question.scores[0]))
    if question.fdr is None:
        said = calibration.statement(count, question.fpr, question.guarantee)
    else:
        said = calibration.fdr_statement(count, question.fdr)
    if _brought(detector, inputs):
        said += " Inputs brought to another size are outside it."
    return said


def warnings(
    detector: Detector, inputs: Sequence[Images], question: Question, tally: Tally
) -> list[str]:
    """Return what a reader of the rows must know."""
    said = []
    known = detector.header["calibration"]
    if sources := _brought(detector, inputs):
        said.append(
            f"{', '.join(sources)}: prepared otherwise than the calibration images; the guarantee "
            "does not hold for them"
        )
    if "chose the epoch" in known["origin"]:
        said.append(
            "the calibration images also chose the model's epoch; for an exact guarantee train "
            "with data.calibration"
        )
    solver = detector.model.recipe.inference.solver
    if solver != "majorise" and detector.layers:
        said.append(unsettled(solver))
    for status in _FAULTS:
        if tally.statuses[status]:
            said.append(f"{tally.statuses[status]} of {tally.inputs} inputs: {status}")
    count, readable = len(detector.reference(question.scores[0])), tally.statuses["ok"]
    if question.fdr is not None and readable:
        needed = calibration.needed_for_a_discovery(readable, count, question.fdr)
        if needed > 1:
            said.append(
                f"with {count:,} calibration inputs, {needed:,} of the {readable:,} inputs must be "
                f"more unusual than all of these before any is flagged at FDR {question.fdr:g}"
            )
    return said


def unsettled(solver: str) -> str:
    """Return what to know of the scores where a solver for high precisions infers."""
    return (
        f"inference.solver = {solver}: rounding moves energy-layers and latent-knn by a share of "
        "their deviation, so that an image scored alone may differ from the same one among others"
    )


def _brought(detector: Detector, inputs: Sequence[Images]) -> list[str]:
    """Return the inputs that were prepared otherwise than the calibration images."""
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
