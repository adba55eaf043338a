"""`pcgen.classify`: the likeliest label of each input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.outputs import RowsResult, require_results
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import open_classifier, session

if TYPE_CHECKING:
    from pcgen.data.sources import Data


@dataclass(frozen=True, slots=True)
class ClassifyResult(RowsResult):
    """The labels of data.

    Attributes:
        accuracy: share of the readable inputs that are labelled rightly; None if the data have no
            labels, or a class of another name than the model's (a note names it).
    """

    accuracy: float | None

    def found(self) -> dict[str, Any]:
        energies = [row["energy"] for row in self.inputs if row["status"] == "ok"]
        energy = sum(energies) / len(energies)
        return {"count": len(energies), "accuracy": self.accuracy, "energy": energy}


def classify(
    model: str | Path,
    data: Data,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> ClassifyResult:
    """Return the likeliest label of each input, with the energy (nats) of every label.

    Args:
        model: a classifier: a checkpoint, a run's folder, or a shipped model's name.
        data: a data set's name, a path or an array; images are brought to the classifier's shape.
        out: a .csv, .jsonl or .npz file for the rows.
        limit: use the first so many inputs only.
        data_dir: the folder in which names of data sets are looked up first.

    Raises:
        PcgenError: no classifier, data that cannot be used, or a file that cannot be written.

    Example:
        >>> import pcgen
        >>> result = pcgen.classify("digits-classifier", "digits:test", limit=3)
        >>> len(result.inputs)
        3
    """
    from pcgen.classification import classify as task
    from pcgen.data.labels import in_classes_of
    from pcgen.learning.validate import BATCH
    from pcgen.storage.row_formats import require_format, write_rows

    path = None if out is None else Path(out)
    if path is not None:
        require_format(path)
    files = [] if path is None else [path]
    reads = [shipped.find_model(model), data]
    with session(
        device, data_dir=data_dir, reads=reads, writes=files, on_progress=on_progress
    ) as place:
        loaded = place.ready(open_classifier(model, place.device), BATCH)
        images = place.open_data(data, loaded, limit=limit)

        def tell(done: int) -> None:
            on_progress(Event("classifying", done, len(images)))

        rows = task.classify(loaded.network, loaded.classes, images, tell)
        require_results(rows, images.source)
        if path is not None:
            write_rows(rows, list(rows[0]), path)
        labels, reason = in_classes_of(images, loaded.classes)
        place.note([reason] if reason else [])
        accuracy = None if labels is None else _accuracy(rows, labels.tolist())
        read = (rows, images.preprocessing, path, place.notes)
        return ClassifyResult(loaded, str(place.device), *read, accuracy)


def _accuracy(rows: list[dict[str, Any]], labels: list[int]) -> float:
    """Return the share of readable rows whose label is right."""
    pairs = zip(rows, labels, strict=True)
    right = [row["label"] == label for row, label in pairs if row["status"] == "ok"]
    return sum(right) / len(right)
