"""`pcgen.memorise`: images added to a memory at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.outputs import require_finite
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.recall import require_stored_size
from pcgen.commands.session import open_memory, session
from pcgen.errors import RunError

if TYPE_CHECKING:
    from pcgen.data.sources import Data
    from pcgen.memory.edit import EditedMemory
    from pcgen.storage.checkpoint import Model


@dataclass(frozen=True, slots=True)
class MemoryEditResult:
    """A memory after images were added or removed.

    Attributes:
        model: the file of the memory before.
        out: the file of the memory after.
        changed: number of images that were added or removed.
        stored: number of images in the memory now.
        mse: of the added images, per pixel; None where none was added.
        old_change: mean squared change per pixel of the decoded old images.
        room: how many of the added images the memory had room for; the others are blurred.
        written: whether the new memory was saved.
        notes: what a user should know about how the data were read.
    """

    model: Path
    seed: int
    device: str
    out: Path | None
    changed: int
    stored: int
    mse: float | None
    old_change: float
    room: int = 0
    written: bool = True
    notes: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        out = None if self.out is None else str(self.out)
        words = {"model": str(self.model), "out": out, "notes": [*self.notes]}
        return asdict(self) | words


def memorise(
    model: str | Path,
    data: Data,
    out: str | Path | None = None,
    *,
    check: bool = False,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> MemoryEditResult:
    """Add images to a memory at once, without its old images; save it as another file.

    Args:
        model: a memory: a checkpoint or a run's folder.
        data: a data set's name, a path or an array.
        out: the new memory's file; in a folder, `model.safetensors`.
        check: compute what the addition would cost, and write nothing; `out` is not needed.
        limit: add the first so many images only.
        seed: of the new latents.

    Raises:
        PcgenError: a memory that cannot be added to, data that cannot be used, or neither `out`
            nor `check`.

    Example:
        >>> import pcgen
        >>> small = ["data.limit=20", "model.layers=[32, 32]"]
        >>> run = pcgen.train("tiny-imagenet-memory", "memory", data="digits", settings=small)
        >>> written = pcgen.memorise("memory", "digits:test", "larger.safetensors", limit=5)
    """
    from pcgen.data.images import require_readable
    from pcgen.memory.edit import write
    from pcgen.memory.recall import BATCH

    if out is None and not check:
        raise RunError("no file for the new memory", "Name it with out, or use check")
    path = None if out is None or check else memory_file(out)
    reads = [shipped.find_model(model), data]
    writes = [] if path is None else [path]
    with session(
        device, data_dir=data_dir, reads=reads, writes=writes, on_progress=on_progress
    ) as place:
        loaded = place.ready(open_memory(model, place.device), BATCH)
        assert loaded.latents is not None
        images = place.open_data(data, loaded, limit=limit)
        require_stored_size(images, loaded)
        on_progress(Event("writing", 0, len(images)))
        rows = images.rows(range(len(images)))
        require_readable(rows, images)
        pixels_BD = rows.pixels_BD.to(place.device)
        edited = write(loaded.network, loaded.latents, pixels_BD, seed, loaded.errors)
        on_progress(Event("writing", len(images), len(images)))
        saved = save_memory(path, loaded, edited, len(images), place.device.type, seed)
        return replace(saved, notes=[*place.notes, *_beyond(loaded, saved)])


def _beyond(model: Model, result: MemoryEditResult) -> list[str]:
    """Return the note on a write beyond the memory's room."""
    blurred = result.changed - result.room
    if not blurred:
        return []
    note = (
        f"{blurred} of {result.changed} images beyond the {model.network.sizes[1]} that the memory "
        f"holds exactly: mean squared error of the new images {result.mse:.2g} per pixel, change "
        f"of the old ones {result.old_change:.2g}. Train anew to hold all: pcgen train"
    )
    return [note]


def memory_file(out: str | Path) -> Path:
    """Return the file of a memory that is named by a file or a folder."""
    path = Path(out)
    return path / "model.safetensors" if path.is_dir() else path


def save_memory(
    path: Path | None,
    model: Model,
    edited: EditedMemory,
    changed: int,
    device: str,
    seed: int,
) -> MemoryEditResult:
    """Write an edited memory, if there is a file for it, and return the result.

    Args:
        changed: number of images that were added or removed.

    Raises:
        PcgenError: a file that cannot be written.
        DivergenceError: an error that is not finite.
    """
    from pcgen.memory.rounding import in_float16
    from pcgen.storage.checkpoint import LATENTS, MEMORY_ERRORS, model_header, save

    errors = {"mse": edited.mse, "old_change": edited.old_change}
    require_finite(str(model.path), errors)
    count = len(edited.latents_NL)
    if path is not None:
        data = {**model.header["data"], "count": count}
        header = model_header(edited.network, model.recipe, data, model.header["metrics"])
        tensors = edited.network.tensors() | {LATENTS: edited.latents_NL}
        if edited.errors_N is not None:
            tensors[MEMORY_ERRORS] = edited.errors_N
        if model.recipe.learning.stored_type == "float16":
            tensors = in_float16(edited.network, tensors)
        save(path, tensors, header)
    mean = (edited.mse, edited.old_change, edited.room, path is not None)
    return MemoryEditResult(model.path, seed, device, path, changed, count, *mean)
