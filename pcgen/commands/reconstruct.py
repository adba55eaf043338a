"""`pcgen.reconstruct`: the states of data under a model, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.outputs import (
    RowsResult,
    inference_document,
    require_results,
    result_files,
    write_results,
)
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import Session, open_model, session, with_inference

if TYPE_CHECKING:
    from pcgen.data.sources import Data


@dataclass(frozen=True, slots=True)
class ReconstructResult(RowsResult):
    """The reconstruction errors of data.

    Attributes:
        metrics: means over the readable inputs.
        picture: the file that shows inputs and reconstructions, if one was written.
    """

    metrics: dict[str, Any]
    picture: Path | None

    def found(self) -> dict[str, Any]:
        metrics = self.metrics
        inference = inference_document(self.model.recipe.inference, metrics["converged"])
        return {
            "inference": inference | {"mean_steps": metrics["steps"]},
            **{key: metrics[key] for key in ("count", "mse", "mse_last_hidden", "energy")},
            "picture": None if self.picture is None else str(self.picture),
        }


def reconstruct(
    model: str | Path,
    data: Data,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    settings: Sequence[str] = (),
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
        settings: `inference.` words over the model's recipe.
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
    files = result_files(folder, "reconstructions")
    reads = [shipped.find_model(model), data]
    with session(
        device, data_dir=data_dir, hint=hint, reads=reads, writes=files, on_progress=on_progress
    ) as place:
        return _reconstruct(place, model, data, folder, limit, settings, on_progress)


def _reconstruct(
    place: Session,
    model: str | Path,
    data: Data,
    folder: Path | None,
    limit: int | None,
    settings: Sequence[str],
    on_progress: OnProgress,
) -> ReconstructResult:
    from pcgen import reconstruction as task
    from pcgen.learning.validate import BATCH

    loaded = with_inference(place.ready(open_model(model, place.device), BATCH), settings)
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

    def picture() -> bytes:
        from pcgen.pages import page, pictures

        title = f"{images.source}: MSE per pixel {page.number(result.metrics.mse)}"
        rows = pictures.reconstructions(result.inputs_BD, result.outputs_BD, loaded.shape)
        return pictures.grid_png(rows, title=title)

    files = place.files if place.writes else ()
    arrays = {"inputs": result.inputs_BD, "reconstructions": result.outputs_BD}
    written = write_results(files, images, result.rows, arrays, picture)
    read = (result.rows, images.preprocessing, folder, place.notes)
    return ReconstructResult(loaded, str(place.device), *read, asdict(result.metrics), written)
