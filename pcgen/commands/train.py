"""`pcgen.train`: from a recipe to a run folder with a trained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.from_data import settled
from pcgen.commands.outputs import inference_document
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import Session, open_model, session
from pcgen.config import ARRAY
from pcgen.errors import DataError, PcgenError, RecipeError, is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.classification.network import Classifier
    from pcgen.config import Recipe
    from pcgen.data.images import Images
    from pcgen.data.sources import Data
    from pcgen.distributed import Group
    from pcgen.learning.train import Progress, Training
    from pcgen.model.network import Network
    from pcgen.storage.runs import RunFolder

# Samples in the picture of a run, each above its nearest training image.
_SHOWN = 24


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run.

    Attributes:
        checkpoint: the trained model's file.
        run: the run's folder.
        images_per_second: while this call trained; the images of validation count too.
        metrics: of the best epoch, on the validation split.
        credit: the fields of `pcgen.learning.credit.Credit`; None for a classifier and a memory.
        samples: the fields of `pcgen.benchmarks.sampling.held_out.Judgement`; None where the
            recipe does not learn by sampling, or too few rows are held out.
        notes: what a user should know about how the data were read.
    """

    checkpoint: Path
    run: Path
    recipe: Recipe
    device: str
    epochs: int
    images_per_second: float
    metrics: dict[str, Any]
    notes: Sequence[str] = ()
    credit: dict[str, Any] | None = None
    samples: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        return {
            "model": self.recipe.name,
            "seed": self.recipe.seed,
            "device": self.device,
            "inference": inference_document(self.recipe.inference, self.metrics.get("converged")),
            "checkpoint": str(self.checkpoint),
            "epochs": self.epochs,
            "images_per_second": self.images_per_second,
            "metrics": self.metrics,
            "credit": self.credit,
            "samples": self.samples,
            "notes": [*self.notes],
        }


def train(
    recipe: str | Path | Recipe | None,
    out: str | Path,
    *,
    data: Data | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    resume: bool = False,
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> TrainResult:
    """Train a model into a run folder and return its checkpoint and validation metrics.

    If a launcher such as torchrun has started several processes, they share each batch.

    Args:
        recipe: a shipped recipe's name, a TOML file, or a `Recipe`; None only with `resume`.
        out: the run's folder; with `resume`, a folder that holds a run.
        data: a data set's name, a path or an array, instead of the recipe's data. A run does not
            store an array: to resume it, give the same array again.
        settings: `key.path=value` words, over the recipe's.
        seed: of weights, order and noise; the recipe's if not given.
        resume: continue the run in `out`.
        data_dir: the folder in which names of data sets are looked up first.

    Raises:
        PcgenError: a bad recipe, data that cannot be used, a folder that cannot be written.
        DistributedError: another of the launcher's processes was lost.
        Interrupted: after Ctrl-C, once the state is saved.

    Example:
        >>> import pcgen, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = pcgen.train("digits", folder, settings=["learning.epochs=1"])
        >>> result.metrics["mse"] < 0.1
        True
    """
    # Before torch is imported, which takes seconds: a mistake in a recipe is reported at once.
    array = None if isinstance(data, str | Path) else data
    if resume and (recipe is not None or settings or seed is not None or data is not array):
        raise RecipeError(
            "--resume continues with the run's own recipe, data and seed",
            f"Restate nothing: pcgen train --resume --out {out}",
        )
    chosen: Recipe | None = None
    reads: list[object] = []
    if not resume:
        assert recipe is not None
        chosen = resolve_recipe(recipe, data=data, settings=settings, seed=seed)
        reads = [data, chosen.data.source]
        if isinstance(recipe, str | Path):
            reads.append(shipped.recipe_path(str(recipe)))
    from pcgen.storage.runs import RunFolder

    hint = f"Continue, with any number of processes: pcgen train --resume --out {out}"
    files = RunFolder(Path(out)).files
    with session(
        device, data_dir=data_dir, hint=hint, reads=reads, writes=files, on_progress=on_progress
    ) as place:
        return _train(place, chosen, Path(out), array, on_progress)


def _train(
    place: Session, recipe: Recipe | None, out: Path, array: Data | None, on_progress: OnProgress
) -> TrainResult:
    """Train a recipe, or resume the folder's run without one."""
    from pcgen.storage.runs import Run, RunFolder

    if recipe is not None:
        folder, own, products = RunFolder(out), recipe, None
    else:
        folder, own = RunFolder.existing(out)
        products = folder.products
        _require_data_to_resume(own, array, out)
    own = settled(own, place, array)
    setup = set_up(place, own, array, products)
    images = setup.images
    training = training_of(setup.network, own, setup.sample_BD, len(images), place.group)
    run = Run(folder, training, own, images, place.group)
    with folder.locked() if place.writes else nullcontext():
        if recipe is None:
            run.resume()
        elif place.writes:
            RunFolder.create(out, own, place.device)
        seen, began = 0, time.monotonic()
        held_out = len(setup.validation or ())
        if recipe is not None:
            # The progress bar's clock starts with the training, not with its first event.
            on_progress(Event("training", 0, own.learning.epochs * (len(images) + held_out)))
        for progress in run.progress(images, setup.validation):
            size = own.learning.batch_size
            seen += min(size, len(images) - (progress.batch - 1) * size)
            seen += held_out * progress.ends_epoch
            on_progress(_event(progress, len(images), held_out, own))
        seconds = time.monotonic() - began
        credit = _credit(place, folder.model, own, setup) if place.writes else None
        samples = _judged(place, folder, own, setup) if place.writes else None
    return TrainResult(
        folder.model,
        folder.path,
        own,
        str(place.device),
        own.learning.epochs,
        seen / seconds if seen else 0.0,
        run.best or {},
        place.notes,
        credit,
        samples,
    )


def _credit(place: Session, model: Path, recipe: Recipe, setup: Setup) -> dict[str, Any] | None:
    """Return how the weights of the run's model get their gradient, and store it in its header."""
    from pcgen.learning.credit import credit_of

    if recipe.classifier is not None or recipe.learning.memory:
        return None
    images = setup.images if setup.validation is None else setup.validation

    def measure(network: Network) -> dict[str, Any]:
        return asdict(credit_of(network, recipe, images))

    return _measured(place, model, "credit", "how the weights get their gradient", measure)


def _judged(
    place: Session, folder: RunFolder, recipe: Recipe, setup: Setup
) -> dict[str, Any] | None:
    """Return how samples compare with held-out rows, and store it; draw the picture of samples.

    None where the recipe does not learn by sampling, or too few rows are held out.
    """
    import torch

    from pcgen.benchmarks.sampling.held_out import LEAST_ROWS, judge, nearest_rows
    from pcgen.pages import pictures
    from pcgen.sampling.draw import ancestral
    from pcgen.storage.files import write_whole

    images, held_out = setup.images, setup.validation
    if not recipe.inference.draws or held_out is None or len(held_out) < LEAST_ROWS:
        return None

    def measure(network: Network) -> dict[str, Any]:
        network = network.to("cpu", torch.float32)
        judgement = judge(network, images, held_out, recipe.model.causes, recipe.seed)
        if not images.is_table:
            drawn_BD = ancestral(network, _SHOWN, recipe.seed).data_BD.clamp(0, 1)
            rows = [("sample", drawn_BD), ("nearest", nearest_rows(drawn_BD, images))]
            shown = [
                pictures.Row(name, data.view(-1, *images.shape).numpy()) for name, data in rows
            ]
            write_whole(folder.samples, pictures.grid_png(shown))
        return asdict(judgement)

    return _measured(place, folder.model, "samples", "how good the samples are", measure)


def _measured(
    place: Session,
    model: Path,
    key: str,
    words: str,
    measure: Callable[[Network], dict[str, Any]],
) -> dict[str, Any] | None:
    """Return a measure of the finished model, and store it in its header.

    It depends on the model and the data alone, so a resumed run stores the same.
    """
    from pcgen.storage import checkpoint

    saved = checkpoint.load(model)
    value: dict[str, Any] | None = saved.header.get(key)
    if value is None:
        try:
            value = measure(checkpoint.model_of(saved, place.device).network)
        except (PcgenError, MemoryError, RuntimeError) as error:
            # The model is finished and saved: a measure of it must not make the run fail.
            if not isinstance(error, PcgenError) and not is_out_of_memory(error):
                raise
            place.note([f"{words} was not measured: {error}"])
            return None
        checkpoint.amend(saved, {key: value})
    return value


def _require_data_to_resume(recipe: Recipe, array: Data | None, out: Path) -> None:
    """Raise an error unless an array is given for a run on an array, and only then.

    Raises:
        DataError: the run was trained on an array, and there is none.
        RecipeError: the run was trained on other data.
    """
    if recipe.data.source == ARRAY and array is None:
        raise DataError(
            f"{out}: was trained on an array, which a run's folder does not hold",
            f"Give the same array: pcgen.train(None, {str(out)!r}, resume=True, data=X)",
        )
    if recipe.data.source != ARRAY and array is not None:
        raise RecipeError(
            f"{out}: was trained on {recipe.data.source}, not on an array", "Resume without data"
        )


@dataclass(frozen=True, slots=True)
class Setup:
    """A new network and the data that it will be trained on.

    Attributes:
        validation: the rows held out to choose the epoch; None if there are none.
        sample_BD: training rows, enough for their mean and covariance.
    """

    images: Images
    validation: Images | None
    sample_BD: Tensor
    network: Network | Classifier


def set_up(
    place: Session, recipe: Recipe, array: Data | None = None, products: str | None = None
) -> Setup:
    """Return a recipe's new network and its data; choose threads and products for them.

    Args:
        products: the operation of the run that is resumed.

    Raises:
        PcgenError: data that cannot be used, or a network that does not fit them.
    """
    from pcgen.data.images import parts
    from pcgen.learning.initial import sample

    table = recipe.data
    # A memory's pictures are recalled as `pcgen recall DATA --limit N`: the first ones.
    whole = place.open_recipe_data(table, array, by_class=not recipe.learning.memory)
    images, held_out, _ = parts(whole, table.validation, table.calibration, recipe.seed)
    validation = held_out if len(held_out) else None
    sample_BD = sample(images, recipe.seed, recipe.model.weights)
    network = _initial(recipe, images, validation, sample_BD).to(place.device)
    place.prepare(network, recipe.inference, recipe.learning.batch_size, products)
    return Setup(images, validation, sample_BD, network)


def _initial(
    recipe: Recipe, images: Images, validation: Images | None, sample_BD: Tensor
) -> Network | Classifier:
    """Return a new network of the recipe's kind."""
    from pcgen.classification.training import initial_classifier
    from pcgen.learning.initial import initial_network, take_over

    if recipe.classifier is not None:
        return initial_classifier(recipe, images, validation)
    network = initial_network(recipe, sample_BD, images.shape, images.class_count)
    if recipe.learning.downward:
        take_over(network, open_model(recipe.learning.downward).network, recipe.learning.downward)
    return network


def training_of(
    network: Network | Classifier,
    recipe: Recipe,
    sample_BD: Tensor,
    count: int,
    group: Group | None = None,
) -> Training:
    """Return the training of a network of either kind on so many images.

    Raises:
        RecipeError: settings of a memory that the network cannot be.
    """
    from pcgen.classification.network import Classifier
    from pcgen.classification.training import ClassifierLearner
    from pcgen.learning.train import Training
    from pcgen.memory.training import learner_of

    if not isinstance(network, Classifier):
        return Training(learner_of(network, recipe, sample_BD, count, group), group)
    if recipe.learning.memory or recipe.learning.optimiser == "least-squares":
        raise RecipeError("learning.memory: a classifier memorises no images")
    if recipe.learning.stored_type != "float32":
        raise RecipeError("learning.stored_type: for a memory, not for a classifier")
    return Training(ClassifierLearner(network, recipe), group)


def _event(progress: Progress, images: int, held_out: int, recipe: Recipe) -> Event:
    """Return the event of a batch; about ten times a run it has a note.

    An epoch ends with its validation, whose images count like those of training.
    """
    note = ""
    every = max(1, progress.epochs // 10)
    if progress.ends_epoch and (progress.epoch % every == 0 or progress.epoch == progress.epochs):
        note = f"epoch {progress.epoch}/{progress.epochs}: energy {progress.energy:.4g}"
        if recipe.inference.schedule:
            note += f", {recipe.steps_in(progress.epoch)} inference steps"
        if progress.validation is not None:
            note += f", validation mse {progress.validation.mse:.4e}"
        if progress.labelled is not None:
            note += f", validation accuracy {progress.labelled.accuracy:.4f}"
    return Event(
        "training",
        (progress.epoch - 1) * (images + held_out)
        + progress.images
        + held_out * progress.ends_epoch,
        progress.epochs * (images + held_out),
        progress.energy,
        progress.mse,
        note,
        progress.accuracy,
    )
