"""Scores of how unusual new data are: `pcgen ood-calibrate` and `pcgen ood-score` as functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.commands.api import Event, OnProgress
from pcgen.errors import CheckpointError, DataError

if TYPE_CHECKING:
    import torch

    from pcgen.distributed import Group
    from pcgen.ood.conformal import Guarantee
    from pcgen.ood.detector import Detector
    from pcgen.ood.rows import Row


class ScoringInterrupted(KeyboardInterrupt):
    """Scoring stopped on request; the rows so far are whole."""


@dataclass(frozen=True, slots=True)
class OodCalibrateResult:
    """A detector and what it can promise."""

    detector: Path
    header: dict[str, Any]
    device: str

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        from pcgen.ood.conformal import smallest

        known = self.header["calibration"]
        recipe = self.header["model"]["recipe"]
        rates = (0.05, 0.01, 0.001)
        return {
            "model": recipe.get("name"),
            "seed": recipe.get("seed", 0),
            "device": self.device,
            "detector": str(self.detector),
            "scores": self.header["scores"],
            "calibrated_on": known["source"],
            "origin": known["origin"],
            "fit": known["fit"],
            "part_a": known["part_a"],
            "part_b": known["part_b"],
            "unreadable": known["unreadable"],
            "rates": [rate for rate in rates if known["part_b"] >= smallest(rate, "pac")],
            "statement": known["statement"],
            "warnings": self.warnings,
        }

    @property
    def warnings(self) -> list[str]:
        """Return what to know before the detector is used."""
        from pcgen.ood.provenance import unsettled

        solver = self.header["model"]["recipe"].get("inference", {}).get("solver", "majorise")
        return [] if solver == "majorise" else [unsettled(solver)]


@dataclass(frozen=True, slots=True)
class OodScoreResult:
    """What scoring found: counts and guarantee, and a row for every input."""

    meta: dict[str, Any]
    out: Path | None
    columns: list[str]
    _rows: Callable[[], Iterator[Row]] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        meta = self.meta
        return {
            "model": meta["model"]["name"],
            "seed": meta["model"]["seed"],
            "device": meta["device"],
            "inference": meta["inference"],
            "detector": meta["detector"]["path"],
            "count": meta["counts"]["inputs"],
            "unreadable": meta["counts"]["inputs"] - meta["counts"]["ok"],
            "flagged": meta["counts"]["flagged"],
            "score": meta["score"],
            "threshold": meta["thresholds"][meta["score"]],
            "alarm_rate": meta["alarm_rate"],
            "statement": meta["statement"],
            "warnings": meta["warnings"],
            "out": None if self.out is None else str(self.out),
        }

    def rows(self) -> Iterator[Row]:
        """Yield a row for every input, in input order, those that could not be read included."""
        return self._rows()


def ood_calibrate(
    model: str | Path,
    data: str,
    out: Path | str,
    *,
    classifier: str | Path | None = None,
    scores: Sequence[str] = (),
    device: str = "auto",
    data_dir: Path | None = None,
    on_progress: OnProgress = lambda event: None,
) -> OodCalibrateResult:
    """Score known data that the model has not seen, and store them with it: a detector.

    Args:
        model: a checkpoint, a run's folder or a shipped model's name.
        data: the data that the model was trained on, of which the rows set aside are taken; or
            other data of the same kind.
        out: the detector's file.
        classifier: a trained classifier, whose scores are to stand beside the model's.
        scores: names of your own scores (`pcgen.register_score`), to stand beside the model's.

    Raises:
        PcgenError: a model or data that cannot be used.
        CalibrationError: no rows that the model has not seen.
    """
    from pcgen.commands.api import open_classifier, open_model
    from pcgen.data.sources import open_data
    from pcgen.device import choose_device, choose_products, choose_threads
    from pcgen.ood.calibrate import calibrate, fitted_scorers, require_unseen, rows_for
    from pcgen.ood.detector import save
    from pcgen.ood.inputs import require_columns
    from pcgen.ood.scoring import BATCH

    chosen = choose_device(device)
    loaded = open_model(model, chosen)
    choose_threads(loaded.network.largest_product * BATCH)
    choose_products(loaded.recipe.inference.products)
    images = open_data(data, data_dir=data_dir, like=loaded.shape, like_scale=loaded.scale)
    require_columns(images, loaded.header["data"].get("columns"))
    rows = rows_for(images, loaded)
    judge = None
    if classifier is not None:
        judge = open_classifier(classifier, chosen)
        require_unseen(judge, images, rows)
    on_progress(Event("fitting scores", 0, len(rows.fit)))
    scorers = fitted_scorers(loaded, rows.fit, judge, scores)

    def tell(done: int) -> None:
        on_progress(Event("calibrating", done, len(rows.held_out)))

    detector = calibrate(loaded, rows, scorers, classifier=judge, on_batch=tell)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    return OodCalibrateResult(path, save(path, detector), str(chosen))


def ood_score(
    detector: str | Path,
    inputs: Sequence[str] | str,
    out: Path | str | None = None,
    *,
    scores: Sequence[str] = (),
    fpr: float = 0.05,
    guarantee: Guarantee = "pac",
    fdr: float | None = None,
    heatmaps: Path | None = None,
    resize: bool = False,
    resume: bool = False,
    device: str = "auto",
    data_dir: Path | None = None,
    argv: Sequence[str] = (),
    on_progress: OnProgress = lambda event: None,
) -> OodScoreResult:
    """Score every input: how unusual it is, its p-value, and whether it is flagged.

    Where a launcher such as torchrun has started several processes, they share the inputs.

    Args:
        detector: a detector's file, a folder with one, or a shipped detector's name.
        inputs: names or paths of data, as many as wanted.
        out: a .csv, .jsonl or .npz file for the rows; without, they stay in memory.
        scores: columns wanted, all if none; p-value and verdict are the first's.
        fpr: share of known inputs that may be flagged.
        guarantee: whether that holds for this calibration with 95 % confidence (`pac`) or on
            average over calibrations (`marginal`).
        fdr: flag by q-value instead, so that this share of the flagged is known at most.
        heatmaps: a folder for a picture of each input's prediction errors.
        resize: whether inputs of other sizes than in calibration are brought to the
            model's, outside the guarantee, instead of being rows with a status.
        resume: go on where an interrupted call with the same arguments stopped.
        argv: the command, for the record.

    Raises:
        PcgenError: a detector or inputs that cannot be used.
        CalibrationError: too few calibration inputs for the false-alarm rate.
        ScoringInterrupted: after Ctrl-C, once the rows so far are written.
    """
    from pcgen.distributed import joined
    from pcgen.ood.inputs import open_like
    from pcgen.ood.job import Job
    from pcgen.ood.rows import Question
    from pcgen.pages.heatmaps import drawer
    from pcgen.storage.row_formats import require_format

    path = None if out is None else Path(out)
    if path is not None:
        require_format(path)
    words = [inputs] if isinstance(inputs, str) else [*inputs]
    asked = {
        "inputs": words,
        "scores": [*scores],
        "resize": resize,
        "heatmaps": None if heatmaps is None else str(heatmaps),
    }
    again = "Go on: the same command with --resume" if path else "Start it again"
    with joined(os.environ, device, again) as group:
        loaded = _opened(detector, device, group)
        question = Question(tuple(scores) or loaded.names, fpr, guarantee, fdr)
        images = open_like(loaded, words, resize, data_dir)
        job = Job.of(loaded, images, question, group)
        part, done = job.begin(path, asked, resume)
        draw = None if heatmaps is None else drawer(loaded, images, heatmaps)
        try:
            for step in job.steps(done, draw):
                part.add(step.rows)
                on_progress(Event("scoring", step.done, step.total))
        except KeyboardInterrupt:
            if group is not None or path is None:
                raise
            meta, _ = job.finish(part, path, argv, complete=False)
            raise ScoringInterrupted(
                f"Interrupted. {meta['counts']['inputs']:,} of {job.total:,} rows are in {path}",
                again,
            ) from None
        finally:
            part.close()
        meta, rows = job.finish(part, path, argv, complete=True)
    if not meta["counts"]["ok"]:
        raise _nothing_readable(next(rows()), job.total)
    return OodScoreResult(meta, path, job.maker.columns, rows)


def open_detector(detector: str | Path, device: torch.device | str = "cpu") -> Detector:
    """Return the detector of a file, of a folder that holds one, or of a shipped name.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    from pcgen.ood.detector import load

    return load(_detector_path(detector), device)


def _opened(detector: str | Path, device: str, group: Group | None) -> Detector:
    from pcgen.device import choose_device, choose_products, choose_threads
    from pcgen.ood.scoring import BATCH

    loaded = open_detector(detector, choose_device(device) if group is None else group.device)
    choose_threads(loaded.model.network.largest_product * BATCH)
    choose_products(loaded.model.recipe.inference.products)
    return loaded


def _detector_path(detector: str | Path) -> Path:
    from pcgen import shipped

    path = Path(detector)
    if path.is_dir():
        path = path / "detector.safetensors"
    if not path.exists():
        known = shipped.detector_path(str(detector))
        if known is not None:
            return known
        raise CheckpointError(
            f"{detector}: no such detector, and no shipped one of that name",
            "Make one: pcgen ood-calibrate MODEL DATA --out DETECTOR",
        )
    return path


def _nothing_readable(row: Row, total: int) -> DataError:
    from pcgen.ood.inputs import RESIZE

    hint = RESIZE if row["status"] == "shape" else ""
    first = f"first, {row['id']}: {row['reason']}"
    return DataError(f"{row['source']}: none of {total} inputs can be scored; {first}", hint)
