"""`pcgen.reconstruct`: the states of data under a model, decoded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.outputs import inference_document, require_results
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import Session, session

if TYPE_CHECKING:
    from pcgen.data.images import Images
    from pcgen.data.sources import Data
    from pcgen.reconstruction import Reconstructed
    from pcgen.storage.checkpoint import Model


@dataclass(frozen=True, slots=True)
class ReconstructResult:
    """The reconstruction errors of data.

    Attributes:
        metrics: means over the readable inputs.
        inputs: a row per input.
        preprocessing: how the inputs were brought to the model.
        picture: the file that shows inputs and reconstructions, if one was written.
        out: the folder of the files, if there is one.
        notes: what a user should know about how the data were read.
    """

    model: Model
    device: str
    metrics: dict[str, Any]
    inputs: list[dict[str, Any]]
    preprocessing: dict[str, Any]
    picture: Path | None
    out: Path | None = None
    notes: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        return {
            "model": str(self.model.path),
            "seed": self.model.recipe.seed,
            "device": self.device,
            "inference": inference_document(self.model.recipe.inference, self.metrics["converged"])
            | {"mean_steps": self.metrics["steps"]},
            "count": self.metrics["count"],
            "unreadable": sum(row["status"] != "ok" for row in self.inputs),
            "mse": self.metrics["mse"],
            "mse_last_hidden": self.metrics["mse_last_hidden"],
            "energy": self.metrics["energy"],
            "preprocessing": self.preprocessing,
            "notes": [*self.notes],
            "picture": None if self.picture is None else str(self.picture),
            "out": None if self.out is None else str(self.out),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every input, in input order, unreadable ones included."""
        return self.inputs


def reconstruct(
    model: str | Path,
    data: Data,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> ReconstructResult:
    """Infer the states of data, decode them, and return the errors; with `out`, write them too.

    If a launcher such as torchrun has started several processes, they share the images.

    Args:
        model: a checkpoint, a run's folder, or a shipped model's name.
        data: a data set's name, a path or an array; images are brought to the model's shape.
        out: the folder for `reconstructions.png`, `.npz` and `.jsonl`.
        limit: use the first so many inputs only.
        data_dir: the folder in which names of data sets are looked up first.

    Raises:
        PcgenError: a model or data that cannot be used.
        DistributedError: another of the launcher's processes was lost.

    Example:
        >>> import pcgen, torch
        >>> result = pcgen.reconstruct("digits", torch.rand(3, 8, 8))
        >>> result.metrics["count"]
        3
    """
    folder = None if out is None else Path(out)
    hint = "Start it again; nothing was written"
    files = [] if folder is None else _files(folder)
    reads = [shipped.find_model(model), data]
    with session(
        device, data_dir=data_dir, hint=hint, reads=reads, writes=files, on_progress=on_progress
    ) as place:
        return _reconstruct(place, model, data, folder, limit, on_progress)


def _reconstruct(
    place: Session,
    model: str | Path,
    data: Data,
    folder: Path | None,
    limit: int | None,
    on_progress: OnProgress,
) -> ReconstructResult:
    from pcgen import reconstruction as task
    from pcgen.learning.validate import BATCH

    loaded = place.open_model(model, BATCH)
    images = place.open_data(data, loaded, limit=limit)
    group, total = place.group, len(images)
    processes = 1 if group is None else group.size
    if group is not None:
        group.require_equal({"number of images": total})

    def tell(done: int) -> None:
        on_progress(Event("reconstructing", min(processes * done, total), total))

    table = loaded.recipe.inference
    result = task.reconstruct(loaded.network, images, table, on_batch=tell, group=group)
    require_results(result.rows, images.source)
    writes = folder is not None and place.writes
    picture = _write(folder, result, images, loaded) if folder and writes else None
    return ReconstructResult(
        loaded,
        str(place.device),
        asdict(result.metrics),
        result.rows,
        images.preprocessing,
        picture,
        folder,
        place.notes,
    )


def _files(out: Path) -> list[Path]:
    """Return the files of a folder: rows, arrays and the picture."""
    return [out / f"reconstructions.{ending}" for ending in ("jsonl", "npz", "png")]


def _write(out: Path, result: Reconstructed, images: Images, model: Model) -> Path | None:
    """Write rows, arrays and a picture; return the picture, None for a table.

    Raises:
        RunError: a folder that cannot be written.
    """
    import numpy as np

    from pcgen.pages import pictures
    from pcgen.storage.files import replacing

    has_picture = not images.is_table and len(result.inputs_BD) > 0
    paths = _files(out) if has_picture else _files(out)[:2]
    with replacing(*paths) as files:
        files[0].write("".join(json.dumps(row) + "\n" for row in result.rows).encode())
        np.savez_compressed(
            files[1],
            inputs=result.inputs_BD.numpy(),
            reconstructions=result.outputs_BD.numpy(),
        )
        if has_picture:
            title = f"{images.source}: mse {1e3 * result.metrics.mse:.2f}e-3 from the latent"
            rows = pictures.reconstructions(result.inputs_BD, result.outputs_BD, model.shape)
            files[2].write(pictures.grid_png(rows, title=title))
    return paths[2] if has_picture else None
