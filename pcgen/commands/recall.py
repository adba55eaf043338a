"""`pcgen.recall`: memorised images, restored from damaged ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pcgen import shipped
from pcgen.commands.arguments import require_choice
from pcgen.commands.outputs import RowsResult, require_results, result_files, write_results
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import Session, open_memory, session
from pcgen.errors import DataError, RecipeError

if TYPE_CHECKING:
    from pcgen.data.images import Images, Shape
    from pcgen.data.sources import Data
    from pcgen.memory.restore import Restored
    from pcgen.storage.checkpoint import Model


@dataclass(frozen=True, slots=True)
class RecallResult(RowsResult):
    """The images that cues recalled.

    Attributes:
        corrupt: how the cues were made.
        prior: on the latent.
        stored: number of images in the memory.
        metrics: means over the readable inputs.
        picture: the file that shows cues and recalled images, if one was written.
    """

    seed: int
    corrupt: tuple[str, ...]
    prior: str
    stored: int
    metrics: dict[str, Any]
    picture: Path | None

    def found(self) -> dict[str, Any]:
        metrics = dict(self.metrics)
        converged, steps = metrics.pop("converged"), metrics.pop("steps_allowed")
        solver = self.model.recipe.inference.for_use("errors").solver
        return {
            "seed": self.seed,
            "inference": {"solver": solver, "steps": steps, "converged": converged},
            "corrupt": list(self.corrupt),
            "prior": self.prior,
            "stored": self.stored,
            **metrics,
            "picture": None if self.picture is None else str(self.picture),
        }


def recall(
    model: str | Path,
    data: Data,
    *,
    corrupt: Sequence[str],
    original: Data | None = None,
    noise: float = 0.0,
    prior: Literal["auto", "lookup", "groups", "gaussian", "none", "mixture"] = "auto",
    steps: int | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> RecallResult:
    """Restore memorised images from damaged cues; with `out`, write pictures too.

    Args:
        model: a memory: a checkpoint or a run's folder, trained with `learning.memory=true`.
        data: a data set's name, a path or an array: images to damage, or, with
            `corrupt=["none"]`, cues.
        corrupt: how to damage the images, see `pcgen.memory.corruptions`; several add up.
        original: the undamaged images of the cues, row by row; `data` where pcgen damages them.
        noise: standard deviation of the noise that the images already contain.
        prior: on the latent: `lookup` of the stored latents, `groups` of them, their
            `gaussian`, or `none`. By default (`auto`) the look-up, and a completion for cues that
            are then unknown. `mixture` is an older name of `lookup`.
        steps: gradient evaluations at most, instead of the model's.
        out: the folder for `recalled.png`, `.npz` and `.jsonl`.
        limit: use the first so many inputs only.
        seed: of hidden pixels and noise; the model's if not given.

    Raises:
        PcgenError: a model that is no memory, data or a corruption that cannot be used.

    Example:
        >>> import pcgen, tempfile
        >>> settings = ["data.limit=20", "data.validation=0", "learning.memory=true"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = pcgen.train("digits", folder, settings=[*settings, "learning.epochs=2"])
        ...     result = pcgen.recall(folder, "digits", corrupt=["mask:bottom"], limit=20)
        >>> result.metrics["count"]
        20
    """
    if prior == "mixture":
        prior = "lookup"
    require_choice("prior", prior, ("auto", "lookup", "groups", "gaussian", "none"))
    if not 0 <= noise < math.inf:
        raise RecipeError(f"noise {noise!r}: at least 0, and finite")
    if steps is not None and steps < 1:
        raise RecipeError(f"steps {steps!r}: at least 1")
    folder = None if out is None else Path(out)
    request = _Request(tuple(corrupt), original, noise, prior, steps, limit, seed)
    files = result_files(folder, "recalled")
    reads = [shipped.find_model(model), data, original, [*corrupt]]
    with session(
        device, data_dir=data_dir, reads=reads, writes=files, on_progress=on_progress
    ) as place:
        return _recall(place, model, data, request, folder, on_progress)


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `recall` that say how to restore."""

    corrupt: tuple[str, ...]
    original: Data | None
    noise: float
    prior: Literal["auto", "lookup", "groups", "gaussian", "none"]
    steps: int | None
    limit: int | None
    seed: int | None


def _recall(
    place: Session,
    model: str | Path,
    data: Data,
    request: _Request,
    out: Path | None,
    on_progress: OnProgress,
) -> RecallResult:
    import msgspec

    from pcgen.memory.corruptions import corruption_of
    from pcgen.memory.recall import BATCH, Memory
    from pcgen.memory.restore import restore

    loaded = place.ready(open_memory(model, place.device), BATCH)
    assert loaded.latents is not None
    corruption = corruption_of(request.corrupt, loaded.shape)

    def opened(source: Data) -> Images:
        images = place.open_data(source, loaded, limit=request.limit)
        require_stored_size(images, loaded)
        return images

    images = opened(data)
    table = loaded.recipe.inference
    if request.steps is not None:
        table = msgspec.structs.replace(table, test_steps=request.steps)
    seed = loaded.recipe.seed if request.seed is None else request.seed
    restored = restore(
        Memory.of(loaded.network, loaded.latents, loaded.errors),
        images,
        corruption,
        table,
        seed=seed,
        prior=request.prior,
        noise=request.noise,
        originals=None if request.original is None else opened(request.original),
        on_batch=lambda done: on_progress(Event("recalling", done, len(images))),
    )
    require_results(restored.rows, images.source)

    def picture() -> bytes:
        return _picture(restored, f"{images.source}, {' '.join(request.corrupt)}", loaded.shape)

    written = write_results(place.files, images, restored.rows, restored.pictures, picture)
    read = (restored.rows, images.preprocessing, out, place.notes)
    metrics = restored.metrics | {"steps_allowed": table.test_steps}
    how = (seed, request.corrupt, request.prior, len(loaded.latents))
    return RecallResult(loaded, str(place.device), *read, *how, metrics, written)


def _picture(restored: Restored, title: str, shape: Shape) -> bytes:
    """Return the grid cue | recalled | original as a PNG."""
    from pcgen.pages import pictures

    if restored.metrics["mse"] is not None:
        title += f": mse {restored.metrics['mse']:.2g}"
    names = zip(("cue", "recalled", "original"), restored.pictures.values(), strict=False)
    rows = [pictures.Row(name, x_BD.reshape(-1, *shape)) for name, x_BD in names]
    return pictures.grid_png(rows, title=title)


def require_stored_size(images: Images, model: Model) -> None:
    """Raise DataError if images were resized to a memory whose own images were not."""
    stored = model.header["data"].get("preprocessing") or {}
    if "size" in images.preprocessing and "size" not in stored:
        size = images.preprocessing["from"]
        shown = "of several sizes" if size is None else "x".join(map(str, size[1:]))
        raise DataError(
            f"{images.source}: images {shown}, the memory holds "
            f"{'x'.join(map(str, model.shape[1:]))}",
            "A resized image is not the one that was stored: use images of the memory's size",
        )
