"""The public function that draws new data. Imports stand inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pcgen.commands.api import Event, OnProgress, open_model, silent
from pcgen.errors import RecipeError, RunError

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.sampling.draw import Given, Samples
    from pcgen.storage.checkpoint import Model

Mode = Literal["ancestral", "chain"]
SUFFIXES = (".png", ".npz", ".csv")
MASKS = ("top", "bottom", "left", "right")
# Images of a picture, at most; an array holds them all.
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What was drawn, where it is, and whether the chains can be believed."""

    model: Model
    device: str
    seed: int
    mode: str
    samples: Samples
    out: Path | None
    warning: str

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        table, found = self.model.recipe.inference, self.samples
        return {
            "model": str(self.model.path),
            "seed": self.seed,
            "device": self.device,
            "inference": {"solver": table.solver, "steps": None, "converged": None},
            "count": len(found.data_BD),
            "out": None if self.out is None else str(self.out),
            "mode": self.mode,
            "ess": found.ess,
            "rhat": found.r_hat,
            "acceptance": found.acceptance,
            "step": found.step,
            "warning": self.warning or None,
        }


def sample(
    model: str | Path,
    n: int = 100,
    *,
    out: Path | None = None,
    mode: Mode = "ancestral",
    chains: int | None = None,
    burn_in: int = 500,
    thin: int = 50,
    label: int | str | None = None,
    noise: bool | None = None,
    given: str | None = None,
    mask: str | None = None,
    limit: int | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> SampleResult:
    """Draw n new images or rows from what a model has learnt; with `out`, write them.

    Args:
        model: a checkpoint, a run's folder, or a shipped model's name.
        out: .png (a grid of the first 200), .npz (all), or .csv for a table, in the data's units.
        mode: `ancestral` draws are independent and exact; `chain` draws wander in the energy.
        chains: at once; n of them, at most 10, if not given. With `given`, for each row, at most 4.
        burn_in: steps of a chain before its first draw.
        thin: steps between two draws of a chain.
        label: the class to draw from, its number or its name.
        noise: add the output's own noise; of tables if not given, images are what is predicted.
        given: data of which a part is known; n samples of the rest are drawn for each row.
        mask: which part of it is hidden: top, bottom, left, right; of tables, columns' names.
        limit: rows of the given data to use.
        settings: `inference.` words over the model's recipe.
        seed: of the noise; the model's if not given.

    Raises:
        PcgenError: a model that has no distribution, a label it does not know, a step that
            diverges, data that cannot be used.

    Example:
        >>> import pcgen
        >>> pcgen.sample("iris", 5).samples.data_BD.shape
        torch.Size([5, 2])
    """
    if n < 1:
        raise RecipeError(f"-n {n}: at least one sample is needed")
    for name, value, least in (("chains", chains, 1), ("burn-in", burn_in, 0), ("thin", thin, 1)):
        if value is not None and value < least:
            raise RecipeError(f"--{name} {value}: at least {least}")
    if (given is None) != (mask is None):
        raise RecipeError(
            "--given and --mask go together", "Example: --given mnist:test --mask top"
        )
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise RecipeError(f"{out}: samples are written as {', '.join(SUFFIXES)}")

    import torch

    from pcgen.device import choose_device, choose_threads
    from pcgen.sampling import draw as task

    chosen = choose_device(device)
    loaded = open_model(model, chosen)
    network = loaded.network
    choose_threads(network.largest_product * min(n, task.BATCH))
    task.require_prior(network)
    if out is not None:
        _require_kind(out, loaded)
    number = None if label is None else _class_number(loaded, label)
    own_seed = loaded.recipe.seed if seed is None else seed
    draw = (loaded.scale is not None) if noise is None else noise
    table = _inference(loaded, settings)

    def tell(done: int, total: int, acceptance: float | None, ess: float | None) -> None:
        on_progress(Event("sampling", n * done // total, n, acceptance=acceptance, ess=ess))

    with torch.no_grad():
        if mode == "ancestral" and given is None:
            found = task.ancestral(network, n, own_seed, label=number, draw=draw, on_step=tell)
        else:
            mode = "chain"
            known = None if given is None else _given(loaded, given, mask or "", limit, data_dir)
            count = chains or min(n, 10)
            if known is not None:
                count = chains or min(n, 4)
            how = task.Chained(count, burn_in, thin)
            found = task.chained(
                network,
                table,
                n,
                own_seed,
                how,
                label=number,
                given=known,
                draw=draw,
                on_step=tell,
            )
    if out is not None:
        _write(out, found.data_BD, loaded, n if given is not None else 20)
    warning = found.warning or _not_learnt(loaded)
    return SampleResult(loaded, str(chosen), own_seed, mode, found, out, warning)


def _not_learnt(model: Model) -> str:
    """Return in words why draws need not be like the model's data; empty if they should be."""
    if model.network.mixture is not None or model.recipe.inference.draws:
        return ""
    return (
        "The model learnt to reconstruct, not to sample: draws from its prior need not be like its "
        "data. A sampler is trained with --set inference.solver=kinetic"
    )


def _inference(model: Model, settings: Sequence[str]) -> Any:
    """Return the model's inference table with settings laid over it."""
    from pcgen import config

    tables = config.with_settings(config.to_dict(model.recipe), settings)
    foreign = [word for word in settings if not word.strip().startswith("inference.")]
    if foreign:
        raise RecipeError(f"--set {foreign[0]}: of a trained model only inference.* can be set")
    return config.from_dict(tables, str(model.path)).inference


def _class_number(model: Model, label: int | str) -> int:
    from pcgen.sampling.draw import require_label

    names = model.header["data"].get("classes") or []
    if isinstance(label, str) and label in names:
        number = names.index(label)
    else:
        try:
            number = int(label)
        except ValueError:
            known = f"It knows: {', '.join(names)}" if names else ""
            raise RecipeError(f"--label {label}: the model knows no such class", known) from None
    require_label(model.network, number, names)
    return number


def _require_kind(out: Path, model: Model) -> None:
    """Let a file pass that can hold what the model makes.

    Raises:
        RecipeError: a picture of a table, or a table of pictures.
    """
    is_table = model.scale is not None
    if out.suffix.lower() == ".png" and is_table:
        raise RecipeError(f"{out}: the model draws rows of a table", "Use .csv or .npz")
    if out.suffix.lower() == ".csv" and not is_table:
        raise RecipeError(f"{out}: the model draws images", "Use .png or .npz")


def _given(model: Model, data: str, mask: str, limit: int | None, data_dir: Path | None) -> Given:
    import torch

    from pcgen.data.images import require_ok
    from pcgen.data.sources import open_data
    from pcgen.sampling.draw import Given

    images = open_data(
        data,
        data_dir=data_dir,
        limit=limit or 10,
        like=model.shape,
        like_scale=model.scale,
        columns=model.header["data"].get("columns"),
    )
    rows = images.rows(range(len(images)))
    require_ok(rows, images)
    data_BD = rows.pixels_BD.to(model.network.layers[0].weight)
    hidden = torch.zeros(model.shape)
    _, height, width = model.shape
    columns = model.header["data"].get("columns") or []
    if model.scale is not None:
        asked = [name.strip() for name in mask.split(",")]
        unknown = [name for name in asked if name not in columns]
        if unknown:
            raise RecipeError(
                f"--mask {mask}: no column {unknown[0]}", f"There are: {', '.join(columns)}"
            )
        hidden[0, 0, [columns.index(name) for name in asked]] = 1
    elif mask not in MASKS:
        raise RecipeError(f"--mask {mask}: one of {', '.join(MASKS)}")
    else:
        part = {
            "top": (slice(None, height // 2), slice(None)),
            "bottom": (slice(height // 2, None), slice(None)),
            "left": (slice(None), slice(None, width // 2)),
            "right": (slice(None), slice(width // 2, None)),
        }[mask]
        hidden[(slice(None), *part)] = 1
    seen = (1 - hidden).flatten().to(data_BD).expand_as(data_BD)
    return Given(torch.where(seen > 0, data_BD, 0.0), seen)


def _write(out: Path, data_BD: Tensor, model: Model, columns: int) -> None:
    import csv

    import numpy as np

    from pcgen.pages import pictures

    values = data_BD.cpu()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix.lower() == ".png":
            pixels = values[:_SHOWN].clamp(0, 1).view(-1, *model.shape)
            pictures.grid(out, [pictures.Row("", pixels.numpy())], columns=min(columns, 20))
            return
        if model.scale is None:
            images = values.clamp(0, 1).view(-1, *model.shape).numpy()
            np.savez_compressed(out, samples=images)
            return
        mean, deviation = (np.array(part) for part in model.scale)
        table = values.double().numpy() * deviation + mean
        if out.suffix.lower() == ".npz":
            np.savez_compressed(out, samples=table)
            return
        names = model.header["data"].get("columns") or []
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([[f"{value:.6g}" for value in row] for row in table])
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None
