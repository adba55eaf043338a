"""The public function `pcgen.classify`, beside those of `pcgen.commands.api`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.commands.api import Event, OnProgress, open_classifier, silent
from pcgen.errors import DataError

if TYPE_CHECKING:
    from pcgen.classification.network import ClassifierModel


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """The labels of data: a row per input, and how many are right where that is known.

    Attributes:
        accuracy: share of the readable inputs whose label is their own; None where they have none.
    """

    model: ClassifierModel
    device: str
    inputs: list[dict[str, Any]]
    preprocessing: dict[str, Any]
    accuracy: float | None
    out: Path | None

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        readable = [row for row in self.inputs if row["status"] == "ok"]
        return {
            "model": str(self.model.path),
            "seed": self.model.recipe.seed,
            "device": self.device,
            "count": len(readable),
            "unreadable": len(self.inputs) - len(readable),
            "accuracy": self.accuracy,
            "energy": sum(row["energy"] for row in readable) / len(readable),
            "preprocessing": self.preprocessing,
            "out": None if self.out is None else str(self.out),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every input, in input order, those that could not be read included."""
        return self.inputs


def classify(
    model: str | Path,
    data: str,
    *,
    out: Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> ClassifyResult:
    """Return the likeliest label of each input, with the energy of every label.

    Args:
        model: a classifier: a checkpoint, a run's folder, or a shipped model's name.
        data: a data set's name or a path; images are brought to the classifier's shape.
        out: a .csv, .jsonl or .npz file for the rows.

    Raises:
        PcgenError: no classifier, data that cannot be used, or a file that cannot be written.
    """
    from pcgen.classification import classify as task
    from pcgen.data.sources import open_data
    from pcgen.device import choose_device, choose_threads
    from pcgen.learning.validate import BATCH
    from pcgen.storage.row_formats import require_format, write_rows

    if out is not None:
        require_format(out)
    chosen = choose_device(device)
    loaded = open_classifier(model, chosen)
    choose_threads(loaded.network.largest_product * BATCH)
    images = open_data(
        data, data_dir=data_dir, limit=limit, like=loaded.shape, like_scale=loaded.scale
    )

    def tell(done: int) -> None:
        on_progress(Event("classifying", done, len(images)))

    rows = task.classify(loaded.network, loaded.classes, images, tell)
    readable = [i for i, row in enumerate(rows) if row["status"] == "ok"]
    if not readable:
        raise DataError(
            f"{images.source}: none of {len(rows)} inputs can be used; "
            f"first, {rows[0]['id']}: {rows[0]['reason']}"
        )
    accuracy = None
    if images.labels is not None and images.class_count == loaded.network.classes:
        right = sum(rows[i]["label"] == int(images.labels[i]) for i in readable)
        accuracy = right / len(readable)
    if out is not None:
        write_rows(rows, list(rows[0]), out)
    return ClassifyResult(loaded, str(chosen), rows, images.preprocessing, accuracy, out)
