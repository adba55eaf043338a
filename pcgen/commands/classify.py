"""`pcgen.classify`: the likeliest label of each input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.outputs import RowsResult, require_results
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import Session, open_classifier, open_model, session
from pcgen.errors import RecipeError

if TYPE_CHECKING:
    from pcgen.classification.both_ways import BothWays
    from pcgen.classification.network import Classifier
    from pcgen.data.images import Images
    from pcgen.data.sources import Data
    from pcgen.storage.checkpoint import LoadedModel

# Images of the picture, at most.
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class ClassifyResult(RowsResult):
    """The labels of data.

    Attributes:
        accuracy: share of the readable inputs that are labelled rightly; None if the data have no
            labels, or a class of another name than the model's (a note names it).
        mask: the part of each image that was hidden; empty if none was.
        picture: the file that shows hidden pixels filled in, if one was written.
    """

    accuracy: float | None
    mask: str = ""
    picture: Path | None = None

    def found(self) -> dict[str, Any]:
        energies = [row["energy"] for row in self.inputs if row["status"] == "ok"]
        energy = sum(energies) / len(energies)
        return {
            "count": len(energies),
            "accuracy": self.accuracy,
            "energy": energy,
            "mask": self.mask or None,
            "picture": None if self.picture is None else str(self.picture),
        }


def classify(
    model: str | Path,
    data: Data,
    *,
    out: str | Path | None = None,
    mask: str = "",
    picture: str | Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> ClassifyResult:
    """Return the likeliest label of each input, with the energy (nats) of every label.

    Args:
        model: a classifier, or a network with predictions both ways: a checkpoint, a run's folder,
            or a shipped model's name.
        data: a data set's name, a path or an array; images are brought to the classifier's shape.
        out: a .csv, .jsonl or .npz file for the rows.
        mask: the part of each image to hide: top, bottom, left, right, or a share of the pixels
            such as 80%. It needs a network with predictions both ways.
        picture: a .png file that shows the first images, what is visible of them, and how the
            network fills in the rest.
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

    path, drawing = (None if name is None else Path(name) for name in (out, picture))
    if path is not None:
        require_format(path)
    _require_picture(drawing, mask)
    files = [file for file in (path, drawing) if file is not None]
    reads = [shipped.find_model(model), data]
    with session(
        device, data_dir=data_dir, reads=reads, writes=files, on_progress=on_progress
    ) as place:
        loaded = _open(place, model)
        place.ready(loaded, BATCH)
        network = _reader(loaded, mask)
        whole = place.open_data(data, loaded, limit=limit)
        images = _hidden(whole, mask, loaded.recipe.seed)

        def tell(done: int) -> None:
            on_progress(Event("classifying", done, len(images)))

        rows = task.classify(network, loaded.classes, images, tell)
        require_results(rows, images.source)
        if path is not None:
            write_rows(rows, list(rows[0]), path)
        if drawing is not None:
            _draw(drawing, network, whole, images)
        labels, reason = in_classes_of(images, loaded.classes)
        place.note([reason] if reason else [])
        accuracy = None if labels is None else _accuracy(rows, labels.tolist())
        read = (rows, images.preprocessing, path, place.notes)
        return ClassifyResult(loaded, str(place.device), *read, accuracy, mask, drawing)


def _require_picture(picture: Path | None, mask: str) -> None:
    if picture is not None and not (mask and picture.suffix.lower() == ".png"):
        raise RecipeError(
            f"--picture {picture}: a .png file that shows what --mask hides",
            "Example: --mask 80% --picture filled-in.png",
        )


def _open(place: Session, model: str | Path) -> LoadedModel[Any]:
    """Return a classifier, or a network with predictions both ways."""
    from pcgen.storage.checkpoint import read_model_header

    recipe = read_model_header(shipped.find_model(model)).get("recipe", {})
    if recipe.get("model", {}).get("upward"):
        return open_model(model, place.device)
    return open_classifier(model, place.device)


def _reader(loaded: LoadedModel[Any], mask: str) -> BothWays | Classifier:
    """Return what tells the classes apart.

    Raises:
        RecipeError: hidden pixels, and a classifier that needs all of them.
    """
    from pcgen.classification.both_ways import BothWays

    if loaded.recipe.model.upward:
        return BothWays(loaded.network, loaded.recipe.inference)
    if mask:
        raise RecipeError(
            f"--mask {mask}: {loaded.path} is a classifier, which needs all pixels",
            "Use a network with predictions both ways, such as mnist-both-ways",
        )
    classifier: Classifier = loaded.network
    return classifier


def _hidden(images: Images, mask: str, seed: int) -> Images:
    from pcgen.commands.masks import visible
    from pcgen.data.hidden import hidden

    if not mask:
        return images
    shape = images.shape
    return hidden(images, mask, lambda pixels, numbers: visible(mask, shape, pixels, numbers, seed))


def _draw(picture: Path, network: BothWays | Classifier, whole: Images, images: Images) -> None:
    """Write a picture of the first readable images: whole, their visible part, and completed."""
    import torch

    from pcgen.classification.both_ways import BothWays
    from pcgen.pages import pictures
    from pcgen.storage.files import replacing

    assert isinstance(network, BothWays)
    first = range(min(_SHOWN, len(images)))
    rows = images.rows(first)
    seen_BD = rows.pixels_BD[rows.ok]
    with torch.no_grad():
        completed_BD = network.completed(seen_BD.to(network.weights()[0])).clamp(0, 1).cpu()
    parts = {
        "input": whole.rows(first).pixels_BD[rows.ok],
        "visible": seen_BD.nan_to_num(0.5),
        "filled in": completed_BD,
    }
    shape = images.shape
    shown = [pictures.Row(name, p.reshape(-1, *shape).numpy()) for name, p in parts.items()]
    with replacing(picture) as (file,):
        file.write(pictures.grid_png(shown, columns=10))


def _accuracy(rows: list[dict[str, Any]], labels: list[int]) -> float:
    """Return the share of readable rows whose label is right."""
    pairs = zip(rows, labels, strict=True)
    right = [row["label"] == label for row, label in pairs if row["status"] == "ok"]
    return sum(right) / len(right)
