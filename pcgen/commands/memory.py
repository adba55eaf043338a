"""The public functions of memories: recall, and writing and forgetting without training anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pcgen.commands.api import Event, OnProgress, open_model, silent
from pcgen.errors import CheckpointError, DataError, RunError

if TYPE_CHECKING:
    from pcgen.data.images import Images
    from pcgen.memory.edit import EditedMemory
    from pcgen.memory.restore import Restored
    from pcgen.storage.checkpoint import Model


@dataclass(frozen=True, slots=True)
class RecallResult:
    """What cues recalled: means, a row per input, and where the picture is."""

    model: Model
    device: str
    seed: int
    corrupt: tuple[str, ...]
    prior: str
    stored: int
    metrics: dict[str, Any]
    inputs: list[dict[str, Any]]
    preprocessing: dict[str, Any]
    picture: Path | None

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        metrics = dict(self.metrics)
        converged, steps = metrics.pop("converged"), metrics.pop("steps_allowed")
        return {
            "model": str(self.model.path),
            "seed": self.seed,
            "device": self.device,
            "inference": {"solver": "errors", "steps": steps, "converged": converged},
            "corrupt": list(self.corrupt),
            "prior": self.prior,
            "stored": self.stored,
            **metrics,
            "unreadable": sum(row["status"] != "ok" for row in self.inputs),
            "preprocessing": self.preprocessing,
            "picture": None if self.picture is None else str(self.picture),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every input, in input order, those that could not be read included."""
        return self.inputs


@dataclass(frozen=True, slots=True)
class RewriteResult:
    """A memory after images were written to it, or forgotten."""

    model: Path
    out: Path
    device: str
    seed: int
    changed: int
    stored: int
    mse: float | None
    old_change: float

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        return {
            "model": str(self.model),
            "seed": self.seed,
            "device": self.device,
            "out": str(self.out),
            "changed": self.changed,
            "stored": self.stored,
            "mse": self.mse,
            "old_change": self.old_change,
        }


def recall(
    model: str | Path,
    data: str,
    *,
    corrupt: Sequence[str],
    original: str | None = None,
    noise: float = 0.0,
    prior: Literal["mixture", "gaussian", "none"] = "mixture",
    steps: int | None = None,
    out: Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> RecallResult:
    """Restore memorised images from damaged cues; with `out`, write pictures too.

    Args:
        model: a memory: a checkpoint or a run's folder, trained with `learning.memory=true`.
        data: a data set's name or a path: images to damage, or, with `corrupt=["none"]`, cues.
        corrupt: what is done to the images, see `pcgen.memory.corruptions`; several add up.
        original: what the cues are of, row by row; the images of `data` where they are damaged.
        noise: standard deviation of noise that is in the images already.
        prior: on the latent: that of single stored latents, their Gaussian, or none.
        steps: gradient evaluations at most, instead of the model's.
        out: the folder for `recalled.png`, `.npz` and `.jsonl`.
        seed: of what is hidden and added; the model's if not given.

    Raises:
        PcgenError: a model that is no memory, data or a corruption that cannot be used.

    Example:
        >>> import pcgen, tempfile
        >>> settings = ["data.limit=20", "data.validation=0", "learning.memory=true"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = pcgen.train("digits", folder, settings=[*settings, "learning.epochs=2"])
        ...     found = pcgen.recall(folder, "digits", corrupt=["mask:bottom"], limit=20)
        >>> found.metrics["count"]
        20
    """
    import msgspec

    from pcgen.data.sources import open_data
    from pcgen.device import choose_device, choose_threads
    from pcgen.memory.corruptions import corruption_of
    from pcgen.memory.recall import BATCH, Memory
    from pcgen.memory.restore import restore

    chosen = choose_device(device)
    loaded = open_memory(model, chosen)
    assert loaded.latents is not None
    corruption = corruption_of(corrupt, loaded.shape)
    choose_threads(loaded.network.largest_product * BATCH)

    def opened(source: str) -> Images:
        found = open_data(
            source, data_dir=data_dir, limit=limit, like=loaded.shape, like_scale=loaded.scale
        )
        _require_size(found, loaded)
        return found

    images = opened(data)
    originals = None if original is None else opened(original)
    table = loaded.recipe.inference
    if steps is not None:
        table = msgspec.structs.replace(table, test_steps=steps)
    seed = loaded.recipe.seed if seed is None else seed
    found = restore(
        Memory.of(loaded.network, loaded.latents),
        images,
        corruption,
        table,
        seed=seed,
        prior=prior,
        noise=noise,
        originals=originals,
        on_batch=lambda done: on_progress(Event("recalling", done, len(images))),
    )
    if not found.metrics["count"]:
        first = found.rows[0]
        raise DataError(
            f"{images.source}: none of {len(found.rows)} inputs can be used; "
            f"first, {first['id']}: {first['reason']}"
        )
    picture = None if out is None else _write(out, found, images, loaded, corrupt)
    return RecallResult(
        loaded,
        str(chosen),
        seed,
        tuple(corrupt),
        prior,
        len(loaded.latents),
        found.metrics | {"steps_allowed": table.test_steps},
        found.rows,
        images.preprocessing,
        picture,
    )


def memorise(
    model: str | Path,
    data: str,
    out: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> RewriteResult:
    """Write images to a memory at once, without those it holds; save it as another file.

    Raises:
        PcgenError: a model that cannot be written to, or data that cannot be used.
    """
    from pcgen.data.images import require_ok
    from pcgen.data.sources import open_data
    from pcgen.device import choose_device
    from pcgen.memory.edit import write

    chosen = choose_device(device)
    loaded = open_memory(model, chosen)
    assert loaded.latents is not None
    images = open_data(
        data, data_dir=data_dir, limit=limit, like=loaded.shape, like_scale=loaded.scale
    )
    _require_size(images, loaded)
    on_progress(Event("writing", 0, len(images)))
    rows = images.rows(range(len(images)))
    require_ok(rows, images)
    found = write(loaded.network, loaded.latents, rows.pixels_BD.to(chosen), seed)
    on_progress(Event("writing", len(images), len(images)))
    return _save(out, loaded, found, len(images), chosen.type, seed)


def forget(
    model: str | Path,
    items: Sequence[int],
    out: Path,
    *,
    device: str = "auto",
) -> RewriteResult:
    """Take stored images out of a memory, by their numbers; save it as another file.

    Args:
        items: numbers of stored images from 0, as `recall` gives them (`item`).

    Raises:
        PcgenError: a model that cannot forget, or a number of no stored image.
    """
    from pcgen.device import choose_device
    from pcgen.memory.edit import erase

    chosen = choose_device(device)
    loaded = open_memory(model, chosen)
    assert loaded.latents is not None
    chosen_items = sorted(set(items))
    outside = [item for item in chosen_items if not 0 <= item < len(loaded.latents)]
    if outside or not chosen_items:
        raise DataError(
            f"no stored image {', '.join(map(str, outside)) or 'named'}: "
            f"{loaded.path} holds numbers 0 to {len(loaded.latents) - 1}",
            "Find an image's number: pcgen recall MODEL IMAGE --corrupt none --jsonl",
        )
    found = erase(loaded.network, loaded.latents, chosen_items)
    return _save(out, loaded, found, len(chosen_items), chosen.type, loaded.recipe.seed)


def open_memory(model: str | Path, device: Any = "cpu") -> Model:
    """Return a model that has memorised.

    Raises:
        CheckpointError: there is none, or it is no memory.
    """
    loaded = open_model(model, device)
    if loaded.latents is None:
        raise CheckpointError(
            f"{loaded.path}: holds no memory: it was trained to generalise",
            "Train one: pcgen train tiny-imagenet-memory --out runs/memory",
        )
    return loaded


def _require_size(images: Images, model: Model) -> None:
    """Let images of the memory's size pass, and those brought to it as the stored ones were.

    Raises:
        DataError: another size.
    """
    stored = model.header["data"].get("preprocessing") or {}
    found = images.preprocessing
    if "size" in found and "size" not in stored:
        size = found["from"]
        shown = "of several sizes" if size is None else "x".join(map(str, size[1:]))
        raise DataError(
            f"{images.source}: images {shown}, the memory holds "
            f"{'x'.join(map(str, model.shape[1:]))}",
            "A resized image is not the one that was stored: bring cues of the memory's size",
        )


def _write(
    out: Path, found: Restored, images: Images, model: Model, corrupt: Sequence[str]
) -> Path | None:
    """Write the rows, the arrays and the grid cue | recalled | original; return the grid."""
    import numpy as np

    from pcgen.pages import pictures

    try:
        out.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in found.rows)
        (out / "recalled.jsonl").write_text(lines)
        arrays = {"cues": found.cues_BD.numpy(), "recalled": found.recalled_BD.numpy()}
        if found.originals_BD is not None:
            arrays["originals"] = found.originals_BD.numpy()
        np.savez_compressed(out / "recalled.npz", **arrays)  # type: ignore[arg-type]
        if images.is_table or not len(found.cues_BD):
            return None
        shape = (-1, *model.shape)
        rows = [
            pictures.Row("cue", found.cues_BD.reshape(shape)),
            pictures.Row("recalled", found.recalled_BD.reshape(shape)),
        ]
        if found.originals_BD is not None:
            rows.append(pictures.Row("original", found.originals_BD.reshape(shape)))
        title = f"{images.source}, {' '.join(corrupt)}"
        if found.metrics["mse"] is not None:
            title += f": mse {found.metrics['mse']:.2g}"
        return pictures.grid(out / "recalled.png", rows, title=title)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None


def _save(
    out: Path, model: Model, found: EditedMemory, changed: int, device: str, seed: int
) -> RewriteResult:
    from pcgen.storage.checkpoint import LATENTS, model_header, save

    data = {**model.header["data"], "count": len(found.latents_NL)}
    header = model_header(found.network, model.recipe, data, model.header["metrics"])
    if out.is_dir():
        out = out / "model.safetensors"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None
    save(out, found.network.tensors() | {LATENTS: found.latents_NL}, header)
    return RewriteResult(
        model.path,
        out,
        device,
        seed,
        changed,
        len(found.latents_NL),
        found.mse,
        found.old_change,
    )
