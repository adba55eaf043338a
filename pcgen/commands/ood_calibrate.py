"""`pcgen.ood_calibrate`: a model and the scores of known data, stored as a detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import open_classifier, open_model, session

if TYPE_CHECKING:
    from pcgen.data.sources import Data

_RATES = (0.05, 0.01, 0.001)


@dataclass(frozen=True, slots=True)
class OodCalibrateResult:
    """A detector and its guarantee.

    Attributes:
        detector: its file.
        header: of the file.
        notes: what a user should know about how the data were read.
    """

    detector: Path
    header: dict[str, Any]
    device: str
    notes: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        from pcgen.ood.conformal import smallest

        known = self.header["calibration"]
        recipe = self.header["model"]["recipe"]
        return {
            "model": recipe.get("name"),
            "seed": recipe.get("seed", 0),
            "device": self.device,
            "detector": str(self.detector),
            "scores": self.header["scores"],
            "calibrated_on": known["source"],
            "origin": known["origin"],
            **{name: known[name] for name in ("fit", "part_a", "part_b", "unreadable")},
            "rates": [rate for rate in _RATES if self.deciding >= smallest(rate, "pac")],
            "least_fpr": self.least_fpr,
            "needed": self.needed,
            "statement": known["statement"],
            "self_test": self.header["self_test"],
            "warnings": self.warnings,
            "notes": [*self.notes],
        }

    @property
    def deciding(self) -> int:
        """Return the number of rows that give the first score its p-values."""
        return int(self.header["calibration"]["deciding"])

    @property
    def calibrating(self) -> int:
        """Return the number of rows that calibrate the first score."""
        return self._parts * self.deciding

    @property
    def _parts(self) -> int:
        """Return 2 where one half of the rows shapes the first score, else 1."""
        known = self.header["calibration"]
        return 1 if known["part_a_is_apart"] or self.deciding > known["part_b"] else 2

    @property
    def warnings(self) -> list[str]:
        """Return the known weaknesses of the detector, in words."""
        from pcgen.config import from_dict
        from pcgen.ood import self_test
        from pcgen.ood.calibrate import FPR
        from pcgen.ood.conformal import smallest
        from pcgen.ood.provenance import unsettled
        from pcgen.ood.scores.scorer import stops_alone

        texts = []
        table = from_dict(self.header["model"]["recipe"]).inference
        if not stops_alone(table):
            solver = table.for_use().solver
            texts.append(f"{unsettled(solver)}. The recipes NAME-ood are made for scoring")
        count, needed = self.deciding, smallest(FPR, "pac")
        if count < needed:
            pac, marginal = self.least_fpr.values()
            texts.append(
                f"{count} rows calibrate {self.header['scores'][0]}, {needed} are needed for the "
                f"default ood-score (--fpr {FPR:g} --guarantee pac). They allow --fpr {pac:g} or "
                f"more, or --fpr {marginal:g} or more with --guarantee marginal"
            )
        return texts + self_test.warnings(self.header["self_test"])

    @property
    def needed(self) -> list[dict[str, Any]]:
        """Return the rows that must calibrate for false-alarm rates, and whether these are met."""
        from pcgen.ood.conformal import smallest

        rows, count = [], self.deciding
        for rate in _RATES:
            row: dict[str, Any] = {"fpr": rate}
            for guarantee in ("pac", "marginal"):
                least = smallest(rate, guarantee)
                row |= {f"rows_{guarantee}": self._parts * least, guarantee: count >= least}
            rows.append(row)
        return rows

    @property
    def least_fpr(self) -> dict[str, float]:
        """Return the smallest false-alarm rate for each guarantee, rounded up."""
        from pcgen.ood.conformal import least_fpr

        count = self.deciding
        rates = {"pac": least_fpr(count, "pac"), "marginal": least_fpr(count, "marginal")}
        return {name: math.ceil(1e4 * rate) / 1e4 for name, rate in rates.items()}


def ood_calibrate(
    model: str | Path,
    data: Data,
    out: str | Path,
    *,
    classifier: str | Path | None = None,
    scores: Sequence[str] = (),
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> OodCalibrateResult:
    """Score known data that the model has not seen, and store both as a detector.

    Args:
        model: a checkpoint, a run's folder or a shipped model's name.
        data: a data set's name, a path or an array: the model's training data, of which the rows
            set aside are used; or other data of the same kind.
        out: the detector's file.
        classifier: a trained classifier, whose scores stand beside the model's.
        scores: names of your own scores (`pcgen.register_score`) that stand beside the model's.

    Raises:
        PcgenError: a model or data that cannot be used.
        CalibrationError: no rows that the model has not seen.

    Example:
        >>> import numpy, pcgen, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pcgen.save(pcgen.Network([2, 8, 4]), f"{folder}/network.safetensors")
        ...     rows = numpy.random.default_rng(0).random((200, 4))
        ...     files = f"{folder}/network.safetensors", f"{folder}/detector.safetensors"
        ...     result = pcgen.ood_calibrate(files[0], rows, files[1])
        >>> result.detector.name
        'detector.safetensors'
    """
    from pcgen.data.tables import require_complete
    from pcgen.ood.calibrate import calibrate, fitted_scorers, require_unseen, rows_for
    from pcgen.ood.detector import save
    from pcgen.ood.scoring import BATCH
    from pcgen.ood.self_test import self_test

    path = Path(out)
    models = [shipped.find_model(each) for each in (model, classifier) if each is not None]
    with session(
        device, data_dir=data_dir, reads=[models, data], writes=[path], on_progress=on_progress
    ) as place:
        loaded = place.ready(open_model(model, place.device), BATCH)
        images = place.open_data(data, loaded)
        if images.is_table:
            require_complete(images)
        rows = rows_for(images, loaded)
        judge = None
        if classifier is not None:
            judge = open_classifier(classifier, place.device)
            require_unseen(judge, images, rows)
        on_progress(Event("fitting scores", 0, len(rows.fit)))
        scorers = fitted_scorers(loaded, rows.fit, judge, scores)

        def tell(done: int) -> None:
            on_progress(Event("calibrating", done, len(rows.held_out)))

        detector = calibrate(loaded, rows, scorers, classifier=judge, on_batch=tell)
        detector.header["self_test"] = self_test(detector, rows.held_out)
        return OodCalibrateResult(path, save(path, detector), str(place.device), place.notes)
