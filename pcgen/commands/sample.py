"""`pcgen.sample`: new data drawn from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pcgen import shipped
from pcgen.commands.arguments import require_choice
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import Session, open_model, session, with_inference
from pcgen.errors import DivergenceError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.data.sources import Data
    from pcgen.sampling.draw import Given, Samples
    from pcgen.storage.checkpoint import Model

Mode = Literal["ancestral", "chain"]
SUFFIXES = (".png", ".npz", ".csv")
GIVEN = 10
"""Rows of `given` that are completed if there is no limit."""
# Images of a picture, at most; an array holds them all.
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class SampleResult:
    """Drawn data, and whether their chains can be trusted.

    Attributes:
        samples: the drawn data and the diagnostics of their chains.
        out: the file of the samples, if there is one.
        warning: why the samples may not be like the model's data; empty if nothing is known
            against them.
        completed: number of the given rows that were completed; None without `given`.
        notes: what a user should know about how the data were read.
    """

    model: Model
    device: str
    seed: int
    mode: str
    samples: Samples
    out: Path | None
    warning: str
    completed: int | None = None
    notes: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        table, samples = self.model.recipe.inference, self.samples
        return {
            "model": str(self.model.path),
            "seed": self.seed,
            "device": self.device,
            "inference": {"solver": table.solver, "steps": None, "converged": None},
            "count": len(samples.data_BD),
            "completed": self.completed,
            "out": None if self.out is None else str(self.out),
            "mode": self.mode,
            "ess": samples.ess,
            "rhat": samples.r_hat,
            "acceptance": samples.acceptance,
            "step": samples.step,
            "jump_acceptance": samples.jump_acceptance,
            "warning": self.warning or None,
            "notes": [*self.notes],
        }


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `sample` that say how to draw."""

    n: int
    mode: Mode
    chains: int | None
    burn_in: int
    thin: int
    label: int | str | None
    noise: bool | None
    given: Data | None
    mask: str | None
    limit: int | None
    settings: Sequence[str]
    seed: int | None

    def require_valid(self) -> None:
        """Raise RecipeError unless the numbers and the data to complete are valid."""
        require_choice("mode", self.mode, ("ancestral", "chain"))
        if self.n < 1:
            raise RecipeError(f"-n {self.n}: at least one sample is needed")
        bounds = (("chains", self.chains, 1), ("burn-in", self.burn_in, 0), ("thin", self.thin, 1))
        for name, value, least in bounds:
            if value is not None and value < least:
                raise RecipeError(f"--{name} {value}: at least {least}")
        if (self.given is None) != (self.mask is None):
            raise RecipeError(
                "--given and --mask go together", "Example: --given mnist:test --mask top"
            )


def sample(
    model: str | Path,
    n: int = 100,
    *,
    out: str | Path | None = None,
    mode: Mode = "ancestral",
    chains: int | None = None,
    burn_in: int = 500,
    thin: int = 50,
    label: int | str | None = None,
    noise: bool | None = None,
    given: Data | None = None,
    mask: str | None = None,
    limit: int | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> SampleResult:
    """Draw n new images or rows from a model's distribution; with `out`, write them.

    Args:
        model: a checkpoint, a run's folder, or a shipped model's name.
        out: .png (a grid of the first 200), .npz (all), or .csv for a table, in the data's units.
        mode: `ancestral` draws are independent and exact; `chain` draws wander in the energy.
        chains: at once; n of them, at most 10, if not given. With `given`, for each row, at most 4.
        burn_in: steps of a chain before its first draw.
        thin: steps between two draws of a chain.
        label: the class to draw from, its number or its name.
        noise: add the output's own noise. By default tables have it, and images do not.
        given: a data set's name, a path or an array; n samples of each row's hidden part are drawn.
        mask: the hidden part: top, bottom, left, right, or a share of the pixels such as 80%; of
            tables, the columns' names.
        limit: complete the first so many rows of `given`; the first 10 if not given.
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
    words = (label, noise, given, mask, limit, settings, seed)
    request = _Request(n, mode, chains, burn_in, thin, *words)
    request.require_valid()
    path = None if out is None else Path(out)
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise RecipeError(f"{path}: samples are written as {', '.join(SUFFIXES)}")
    files = [] if path is None else [path]
    reads = [shipped.find_model(model), given]
    with session(
        device, data_dir=data_dir, reads=reads, writes=files, on_progress=on_progress
    ) as place:
        return _sample(place, model, request, path, on_progress)


def _sample(
    place: Session, model: str | Path, request: _Request, out: Path | None, on_progress: OnProgress
) -> SampleResult:
    import torch

    from pcgen.sampling import draw as task

    loaded, n = place.ready(open_model(model, place.device), min(request.n, task.BATCH)), request.n
    task.require_prior(loaded.network)
    if out is not None:
        _require_kind(out, loaded)
    label = None if request.label is None else _class_number(loaded, request.label)
    seed = loaded.recipe.seed if request.seed is None else request.seed
    noisy = (loaded.scale is not None) if request.noise is None else request.noise
    table = with_inference(loaded, request.settings).recipe.inference

    def tell(done: int, total: int, acceptance: float | None, ess: float | None) -> None:
        on_progress(Event("sampling", n * done // total, n, acceptance=acceptance, ess=ess))

    mode, known, inputs_BD = request.mode, None, None
    with torch.no_grad():
        if mode == "ancestral" and request.given is None:
            samples = task.ancestral(loaded.network, n, seed, label=label, draw=noisy, on_step=tell)
        else:
            mode = "chain"
            if request.given is not None:
                known, inputs_BD = _given(place, loaded, request)
            chains = request.chains or min(n, 10 if known is None else 4)
            samples = task.chained(
                loaded.network,
                table,
                n,
                seed,
                task.Chained(chains, request.burn_in, request.thin),
                label=label,
                given=known,
                draw=noisy,
                on_step=tell,
            )
    if not samples.data_BD.isfinite().all():
        raise DivergenceError(f"{loaded.path}: samples are not finite", DivergenceError.too_large)
    if out is not None:
        _write(out, samples.data_BD, loaded, known, inputs_BD)
    warning = samples.warning or _not_learnt(loaded)
    completed = None if known is None else len(known.data_BD)
    found = (mode, samples, out, warning, completed, place.notes)
    return SampleResult(loaded, str(place.device), seed, *found)


def _not_learnt(model: Model) -> str:
    """Return the reason why draws may not be like the model's data; empty if there is none."""
    if model.network.mixture is not None or model.recipe.inference.draws:
        return ""
    return (
        "The model learnt to reconstruct, not to sample: draws from its prior need not be like its "
        "data. A sampler is trained with --set inference.solver=kinetic"
    )


def _class_number(model: Model, label: int | str) -> int:
    """Return the number of a class that is named by its number or its name."""
    from pcgen.data.labels import matched
    from pcgen.sampling.draw import require_label

    names = model.header["data"].get("classes") or []
    number = matched([str(label)], names)[0]
    if number is None:
        try:
            number = int(label)
        except ValueError:
            known = f"It knows: {', '.join(names)}" if names else ""
            raise RecipeError(f"--label {label}: the model knows no such class", known) from None
    require_label(model.network, number, names)
    return number


def _require_kind(out: Path, model: Model) -> None:
    """Raise RecipeError unless a file of this kind can hold the model's samples."""
    is_table = model.scale is not None
    if out.suffix.lower() == ".png" and is_table:
        raise RecipeError(f"{out}: the model draws rows of a table", "Use .csv or .npz")
    if out.suffix.lower() == ".csv" and not is_table:
        raise RecipeError(f"{out}: the model draws images", "Use .png or .npz")


def _given(place: Session, model: Model, request: _Request) -> tuple[Given, Tensor]:
    """Return the rows to complete with a mask, and the rows with nothing hidden."""
    import torch

    from pcgen.data.images import require_readable
    from pcgen.sampling.draw import Given

    assert request.given is not None
    assert request.mask is not None
    images = place.open_data(request.given, model, limit=request.limit or GIVEN)
    rows = images.rows(range(len(images)))
    require_readable(rows, images)
    data_BD = rows.pixels_BD.to(model.network.layers[0].weight)
    visible_BD = _visible(model, request.mask, rows.pixels_BD).to(data_BD)
    return Given(torch.where(visible_BD > 0, data_BD, 0.0), visible_BD), data_BD


def _visible(model: Model, mask: str, data_BD: Tensor) -> Tensor:
    """Return which of a model's data (B, D) are visible, bool."""
    import torch

    from pcgen.commands.masks import visible

    if model.scale is None:
        numbers = list(range(len(data_BD)))
        return visible(mask, model.shape, data_BD, numbers, model.recipe.seed)
    columns = model.header["data"].get("columns") or []
    names = [name.strip() for name in mask.split(",")]
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise RecipeError(
            f"--mask {mask}: no column {unknown[0]}", f"There are: {', '.join(columns)}"
        )
    visible_BD = torch.ones_like(data_BD, dtype=torch.bool)
    visible_BD[:, [columns.index(name) for name in names]] = False
    return visible_BD


def _write(
    out: Path, data_BD: Tensor, model: Model, known: Given | None, inputs_BD: Tensor | None
) -> None:
    """Write samples as a picture, as an array, or as a table.

    In a picture, completed images stand below their input and the part of it that was given.

    Raises:
        RunError: a file that cannot be written.
    """
    import csv
    import io

    import numpy as np

    from pcgen.data.cells import cell_of
    from pcgen.pages import pictures
    from pcgen.storage.files import replacing

    values = data_BD.cpu()
    if model.scale is None:
        values = values.clamp(0, 1).view(-1, *model.shape)
        array = values.numpy()
    else:
        mean, deviation = (np.array(part) for part in model.scale)
        array = values.double().numpy() * deviation + mean
    with replacing(out) as (file,):
        if out.suffix.lower() == ".png":
            rows = [pictures.Row("", array[:_SHOWN])]
            if known is not None and inputs_BD is not None:
                count = len(array) // len(inputs_BD)
                seen_BD = inputs_BD.where(known.mask_BD > 0, 0.5)
                drawn = [array[i::count] for i in range(min(count, _SHOWN // len(inputs_BD) or 1))]
                rows = [
                    pictures.Row(name, pixels.reshape(-1, *model.shape))
                    for name, pixels in (
                        ("input", inputs_BD.cpu().numpy()),
                        ("given", seen_BD.cpu().numpy()),
                        *((f"sample {i}", pixels) for i, pixels in enumerate(drawn, 1)),
                    )
                ]
            file.write(pictures.grid_png(rows, columns=20 if known is None else 10))
        elif out.suffix.lower() == ".npz":
            np.savez_compressed(file, samples=array)
        else:
            text = io.StringIO(newline="")
            writer = csv.writer(text)
            writer.writerow(map(cell_of, model.header["data"].get("columns") or []))
            writer.writerows([[f"{value:.6g}" for value in row] for row in array])
            file.write(text.getvalue().encode())
