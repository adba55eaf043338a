"""`pcgen.ood_score`: how unusual new data are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.arguments import require_choice, require_share
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import diverging, open_detector, session
from pcgen.config import ARRAY
from pcgen.errors import DataError, DivergenceError

if TYPE_CHECKING:
    from pcgen.data.images import Images
    from pcgen.data.sources import Data
    from pcgen.ood.conformal import Guarantee
    from pcgen.ood.job import Job, Step
    from pcgen.ood.rows import Row
    from pcgen.storage.rows_file import RowStore


class ScoringInterrupted(KeyboardInterrupt):
    """Scoring stopped on request; the file holds every row so far."""


@dataclass(frozen=True, slots=True)
class OodScoreResult:
    """The scores of all inputs.

    Attributes:
        metadata: the document of FILE.meta.json: counts, thresholds, guarantee and provenance.
        out: the file of the rows, if there is one.
        columns: of the rows.
    """

    metadata: dict[str, Any]
    out: Path | None
    columns: list[str]
    _rows: Callable[[], Iterator[Row]] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        from pcgen.ood.self_test import summary

        metadata = self.metadata
        counts = metadata["counts"]
        return {
            "model": metadata["model"]["name"],
            "seed": metadata["model"]["seed"],
            "device": metadata["device"],
            "inference": metadata["inference"],
            "detector": metadata["detector"]["path"],
            "count": counts["inputs"],
            "unreadable": counts["inputs"] - counts["ok"],
            "flagged": counts["flagged"],
            "score": metadata["score"],
            "threshold": metadata["thresholds"][metadata["score"]],
            "alarm_rate": metadata["alarm_rate"],
            "batch": metadata["batch"],
            "most_unusual": metadata["most_unusual"],
            "statement": metadata["statement"],
            "self_test": summary(metadata["self_test"]),
            "warnings": metadata["warnings"],
            "notes": metadata["notes"],
            "out": None if self.out is None else str(self.out),
        }

    def rows(self) -> Iterator[Row]:
        """Yield a row for every input, in input order, unreadable ones included."""
        return self._rows()


def ood_score(
    detector: str | Path,
    inputs: Data | Sequence[Data],
    out: str | Path | None = None,
    *,
    scores: Sequence[str] = (),
    fpr: float = 0.05,
    guarantee: Guarantee = "pac",
    fdr: float | None = None,
    heatmaps: str | Path | None = None,
    resize: bool = False,
    resume: bool = False,
    device: str = "auto",
    data_dir: str | Path | None = None,
    argv: Sequence[str] = (),
    on_progress: OnProgress = silent,
) -> OodScoreResult:
    """Score every input: how unusual it is, its p-value, and whether it is flagged.

    If a launcher such as torchrun has started several processes, they share the inputs.

    Args:
        detector: a detector's file, a folder with one, or a shipped detector's name.
        inputs: names, paths or arrays of data, or a single one.
        out: a .csv, .jsonl or .npz file for the rows; without it, they stay in memory.
        scores: names of score columns, all if none is given; p-value and verdict are the first's.
        fpr: share of known inputs that may be flagged.
        guarantee: `pac` holds for this calibration with 95 % confidence, `marginal` on average
            over calibrations.
        fdr: flag by q-value instead: at most this share of the flagged inputs is known.
        heatmaps: a folder for a picture of each input's prediction errors.
        resize: bring inputs of other sizes to the model's, outside the guarantee; otherwise they
            are rows with a status.
        resume: continue an interrupted call with the same arguments.
        argv: the command, for the metadata.

    Raises:
        PcgenError: a detector, inputs or an argument that cannot be used.
        CalibrationError: too few calibration inputs for the false-alarm rate.
        DivergenceError: a score that is not finite although its input is usual; no row is left.
        ScoringInterrupted: after Ctrl-C, once the rows so far are written.

    Example:
        >>> import numpy, pcgen
        >>> noise = numpy.random.default_rng(0).random((20, 1, 8, 8))
        >>> result = pcgen.ood_score("digits-ood", noise)
        >>> result.document()["flagged"]
        20
    """
    from pcgen.ood.inputs import open_like
    from pcgen.ood.job import Job
    from pcgen.ood.rows import Question
    from pcgen.ood.scoring import BATCH
    from pcgen.pages.heatmaps import drawer
    from pcgen.storage.row_formats import require_format
    from pcgen.storage.rows_file import claimed

    require_share("fpr", fpr)
    require_share("fdr", fdr)
    require_choice("guarantee", guarantee, ("pac", "marginal"))
    path = None if out is None else Path(out)
    if path is not None:
        require_format(path)
    maps = None if heatmaps is None else Path(heatmaps)
    hint = "Go on: the same command with --resume" if path else "Start it again"
    reads = [shipped.find_detector(detector), inputs]
    files = _files(path, maps)
    with session(
        device, data_dir=data_dir, hint=hint, reads=reads, writes=files, on_progress=on_progress
    ) as place:
        loaded = open_detector(detector, place.device)
        place.ready(loaded.model, BATCH)
        images = open_like(loaded, inputs, resize, place.data_dir)
        for table in images:
            place.note(table.notes)
        question = Question(tuple(scores) or loaded.names, fpr, guarantee, fdr)
        job = Job.of(loaded, images, question, place.group)
        settings = {
            "inputs": _names(inputs, images),
            "scores": [*scores],
            "resize": resize,
            "heatmaps": None if maps is None else str(maps),
        }
        with claimed(path, 0 if place.group is None else place.group.rank):
            store, done = job.begin(path, settings, resume)
            draw = None if maps is None else drawer(loaded, images, maps)
            steps = job.steps(done, draw)
            metadata, rows = _run(job, steps, store, path, argv, hint, on_progress)
        if not metadata["counts"]["ok"]:
            raise _nothing_readable(rows(), job.total)
        return OodScoreResult(metadata, path, job.maker.columns, rows)


def _files(out: Path | None, heatmaps: Path | None) -> list[Path]:
    """Return the files that are written; of the heat maps, one that stands for all."""
    from pcgen.storage.row_formats import metadata_path

    files = [] if out is None else [out, metadata_path(out), out.with_name(f"{out.name}.part")]
    return files if heatmaps is None else [*files, heatmaps / "heat map.png"]


def _names(inputs: Data | Sequence[Data], images: Sequence[Images]) -> list[str]:
    """Return the names of the inputs, which a resumed call repeats; arrays by fingerprints too."""
    several = inputs if isinstance(inputs, list | tuple) else [inputs]
    names = [str(data) if isinstance(data, str | Path) else ARRAY for data in several]
    return names + [table.fingerprint() for table in images if table.source == ARRAY]


def _run(
    job: Job,
    steps: Iterator[Step],
    store: RowStore,
    out: Path | None,
    argv: Sequence[str],
    hint: str,
    on_progress: OnProgress,
) -> tuple[dict[str, Any], Callable[[], Iterator[Row]]]:
    """Score all inputs; return the metadata and a function that yields the rows."""
    try:
        with diverging():
            for step in steps:
                store.add(step.rows)
                on_progress(Event("scoring", step.done, step.total))
    except KeyboardInterrupt:
        if job.group is not None or out is None:
            raise
        metadata, _ = job.finish(store, out, argv, complete=False)
        raise ScoringInterrupted(
            f"Interrupted. {metadata['counts']['inputs']:,} of {job.total:,} rows are in {out}",
            hint,
        ) from None
    except DivergenceError:
        store.remove()
        raise
    finally:
        store.close()
    return job.finish(store, out, argv, complete=True)


def _nothing_readable(rows: Iterator[Row], total: int) -> DataError:
    """Return the error that names the most frequent reason, and the first input that has it."""
    from pcgen.ood.inputs import RESIZE

    first: dict[str, Row] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        first.setdefault(row["status"], row)
        counts[row["status"]] += 1
    ((status, _),) = counts.most_common(1)
    row = first[status]
    hint = RESIZE if status == "shape" else ""
    reason = f"{row['id']}: {row['reason']}"
    return DataError(f"{row['source']}: none of {total} inputs can be scored; {reason}", hint)
