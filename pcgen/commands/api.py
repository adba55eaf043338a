"""The public functions: each command of the command line is one call of one of these.

Imports stand inside the functions, so that looking at a checkpoint's header does not import torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.errors import CheckpointError, DataError, RecipeError

if TYPE_CHECKING:
    import torch

    from pcgen.classification.network import Classifier, ClassifierModel
    from pcgen.config import InferenceTable, Recipe
    from pcgen.data.images import Images
    from pcgen.distributed import Group
    from pcgen.learning.train import Training
    from pcgen.model.network import Network
    from pcgen.storage.checkpoint import Model


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell the user while a command works.

    Attributes:
        stage: what is being done.
        done: of `total`, in this stage.
        energy: nats per image.
        mse: per pixel.
        accuracy: of a classifier.
        note: a line worth keeping.
        acceptance: share of a sampler's steps that were taken.
        ess: effective sample size of its chains so far.
    """

    stage: str
    done: int = 0
    total: int = 0
    energy: float | None = None
    mse: float | None = None
    note: str = ""
    accuracy: float | None = None
    acceptance: float | None = None
    ess: float | None = None


OnProgress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training left behind. `metrics` are the best epoch's on the validation split."""

    checkpoint: Path
    run: Path
    recipe: Recipe
    device: str
    epochs: int
    images_per_second: float
    metrics: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        return {
            "model": self.recipe.name,
            "seed": self.recipe.seed,
            "device": self.device,
            "inference": _inference(self.recipe.inference, self.metrics.get("converged")),
            "checkpoint": str(self.checkpoint),
            "epochs": self.epochs,
            "images_per_second": self.images_per_second,
            "metrics": self.metrics,
        }


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made; `strange` says for each kind of input how many were flagged."""

    trained: TrainResult
    reconstructed: ReconstructResult
    strange: dict[str, str]
    page: Path
    seconds: float

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        found = self.reconstructed.document()
        return {
            "model": found["model"],
            "seed": found["seed"],
            "device": found["device"],
            "inference": found["inference"],
            "count": found["count"],
            "mse": found["mse"],
            "energy": found["energy"],
            "picture": found["picture"],
            "flagged": self.strange,
            "page": str(self.page),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a run would be, found by training on one batch."""

    recipe: Recipe
    device: str
    sizes: list[int]
    parameters: int
    images: int
    validation_images: int
    batches: int
    seconds_per_epoch: float
    disk_bytes: int

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        return {
            "model": self.recipe.name,
            "seed": self.recipe.seed,
            "device": self.device,
            "inference": _inference(self.recipe.inference, None),
            "sizes": self.sizes,
            "parameters": self.parameters,
            "images": self.images,
            "validation_images": self.validation_images,
            "batches": self.batches,
            "epochs": self.recipe.learning.epochs,
            "seconds_per_epoch": self.seconds_per_epoch,
            "disk_bytes": self.disk_bytes,
        }


@dataclass(frozen=True, slots=True)
class ReconstructResult:
    """Reconstruction errors: means, a row per input, and where the picture is."""

    model: Model
    device: str
    metrics: dict[str, Any]
    inputs: list[dict[str, Any]]
    preprocessing: dict[str, Any]
    picture: Path | None

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        unreadable = sum(row["status"] != "ok" for row in self.inputs)
        return {
            "model": str(self.model.path),
            "seed": self.model.recipe.seed,
            "device": self.device,
            "inference": _inference(self.model.recipe.inference, self.metrics["converged"])
            | {"mean_steps": self.metrics["steps"]},
            "count": self.metrics["count"],
            "unreadable": unreadable,
            "mse": self.metrics["mse"],
            "mse_last_hidden": self.metrics["mse_last_hidden"],
            "energy": self.metrics["energy"],
            "preprocessing": self.preprocessing,
            "picture": None if self.picture is None else str(self.picture),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every input, in input order, those that could not be read included."""
        return self.inputs


def _inference(table: InferenceTable, converged: float | None) -> dict[str, Any]:
    return {"solver": table.solver, "steps": table.test_steps, "converged": converged}


def resolve_recipe(
    recipe: str | Path | Recipe,
    *,
    data: str | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
) -> Recipe:
    """Return the recipe of a name or a TOML file, with settings laid over it.

    Raises:
        RecipeError: no such recipe, or keys and values that make none.
    """
    from pcgen import config, shipped

    if isinstance(recipe, config.Recipe):
        tables, where = config.to_dict(recipe), recipe.name
    else:
        tables, where = config.read(shipped.recipe_path(str(recipe))), str(recipe)
    tables = config.with_settings(tables, settings)
    if data is not None:
        tables = _with_value(tables, "data", "source", data)
    if seed is not None:
        tables["seed"] = seed
    return config.from_dict(tables, where)


def _with_value(tables: dict[str, Any], table: str, key: str, value: Any) -> dict[str, Any]:
    inner = tables.get(table, {})
    return tables | {table: (inner if isinstance(inner, dict) else {}) | {key: value}}


def train(
    recipe: str | Path | Recipe | None,
    out: Path | str,
    *,
    data: str | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    resume: bool = False,
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> TrainResult:
    """Train a model into a run folder and return its checkpoint and validation metrics.

    Where a launcher such as torchrun has started several processes, they share each batch.

    Args:
        recipe: a shipped recipe's name, a TOML file, or a `Recipe`; None only with `resume`.
        out: the run's folder; with `resume`, one that holds a run.
        data: a data set's name or a path, over the recipe's.
        settings: `key.path=value` words, over the recipe's.

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
    # The recipe comes first: a mistake in it should not wait for torch.
    if resume and (data is not None or settings or seed is not None or recipe is not None):
        raise RecipeError(
            "--resume continues with the run's own recipe, data and seed",
            f"Restate nothing: pcgen train --resume --out {out}",
        )
    if not resume:
        assert recipe is not None
        found = resolve_recipe(recipe, data=data, settings=settings, seed=seed)

    from pcgen.distributed import joined

    hint = f"Continue, with any number of processes: pcgen train --resume --out {out}"
    with joined(os.environ, device, hint) as group:
        return _train(None if resume else found, Path(out), device, data_dir, on_progress, group)


def _train(
    recipe: Recipe | None,
    out: Path,
    device: str,
    data_dir: Path | None,
    on_progress: OnProgress,
    group: Group | None,
) -> TrainResult:
    """Do as `train`; no recipe resumes the run's own."""
    from pcgen.device import choose_device, choose_products, choose_threads
    from pcgen.learning.initial import sample
    from pcgen.storage.runs import Run, RunFolder

    chosen = choose_device(device) if group is None else group.device
    if recipe is None:
        folder, found = RunFolder.existing(out)
    else:
        folder, found = RunFolder(out), recipe
    images, validation = _training_data(found, data_dir)
    sample_BD = sample(images, found.seed)
    network = _initial(found, images, validation, sample_BD).to(chosen)
    choose_threads(network.largest_product * found.learning.batch_size)
    choose_products(found.inference.products)
    if recipe is not None and (group is None or group.writes):
        folder = RunFolder.create(out, found, chosen)
    training = training_of(network, found, sample_BD, len(images), group)
    run = Run(folder, training, found, images, group)
    if recipe is None:
        run.resume()
    seen, began = 0, time.monotonic()
    for progress in run.progress(images, validation):
        seen += min(found.learning.batch_size, len(images))
        per_epoch = len(images)
        note = ""
        told = max(1, progress.epochs // 10)
        if progress.ends_epoch and (
            progress.epoch % told == 0 or progress.epoch == progress.epochs
        ):
            note = f"epoch {progress.epoch}/{progress.epochs}: energy {progress.energy:.4g}"
            if progress.validation is not None:
                note += f", validation mse {progress.validation.mse:.4e}"
            if progress.labelled is not None:
                note += f", validation accuracy {progress.labelled.accuracy:.4f}"
        on_progress(
            Event(
                "training",
                (progress.epoch - 1) * per_epoch + progress.images,
                progress.epochs * per_epoch,
                progress.energy,
                progress.mse,
                note,
                progress.accuracy,
            )
        )
    seconds = time.monotonic() - began
    metrics = run.best or {}
    return TrainResult(
        folder.model,
        folder.path,
        found,
        str(chosen),
        found.learning.epochs,
        seen / seconds if seen else 0.0,
        metrics,
    )


def check(
    recipe: str | Path | Recipe,
    *,
    data: str | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
) -> CheckResult:
    """Train on one batch, write nothing, and return the sizes, times and disk of the whole run.

    Raises:
        PcgenError: what `train` would raise before its first epoch.
    """
    from pcgen.device import choose_device, choose_products, choose_threads
    from pcgen.learning.initial import sample

    chosen = choose_device(device)
    found = resolve_recipe(recipe, data=data, settings=settings, seed=seed)
    images, validation = _training_data(found, data_dir)
    sample_BD = sample(images, found.seed)
    network = _initial(found, images, validation, sample_BD).to(chosen)
    choose_threads(network.largest_product * found.learning.batch_size)
    choose_products(found.inference.products)
    training = training_of(network, found, sample_BD, len(images))
    steps = training.run(images, None)
    first = next(steps)
    began = time.monotonic()
    timed = next(steps, None)
    seconds = time.monotonic() - began if timed else float("nan")
    parameters = sum(tensor.numel() for tensor in network.weights())
    held = sum(tensor.numel() * tensor.element_size() for tensor in training.tensors().values())
    return CheckResult(
        found,
        str(chosen),
        network.sizes,
        parameters,
        len(images),
        0 if validation is None else len(validation),
        first.batches,
        seconds * first.batches,
        held + 4 * parameters,
    )


def reconstruct(
    model: str | Path,
    data: str,
    *,
    out: Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> ReconstructResult:
    """Infer the states of data, decode them, and return the errors; with `out`, a picture too.

    Where a launcher such as torchrun has started several processes, they share the images.

    Args:
        model: a checkpoint, a run's folder, or a shipped model's name.
        data: a data set's name or a path; images are brought to the model's shape.
        out: the folder for `reconstructions.png`, `.npz` and `.jsonl`.

    Raises:
        PcgenError: a model or data that cannot be used.
        DistributedError: another of the launcher's processes was lost.
    """
    from pcgen.distributed import joined

    with joined(os.environ, device, "Start it again; nothing was written") as group:
        return _reconstruct(model, data, out, limit, device, data_dir, on_progress, group)


def _reconstruct(
    model: str | Path,
    data: str,
    out: Path | None,
    limit: int | None,
    device: str,
    data_dir: Path | None,
    on_progress: OnProgress,
    group: Group | None,
) -> ReconstructResult:
    """Do as `reconstruct`; of a group, the first process writes."""
    from pcgen import reconstruction as task
    from pcgen.data.sources import open_data
    from pcgen.device import choose_device, choose_products, choose_threads
    from pcgen.learning.validate import BATCH

    chosen = choose_device(device) if group is None else group.device
    loaded = open_model(model, chosen)
    choose_threads(loaded.network.largest_product * BATCH)
    choose_products(loaded.recipe.inference.products)
    images = open_data(
        data,
        data_dir=data_dir,
        limit=limit,
        like=loaded.shape,
        like_scale=loaded.scale,
        columns=loaded.header["data"].get("columns"),
    )
    processes = 1
    if group is not None:
        group.require_equal({"number of images": len(images)})
        processes = group.size

    def tell(done: int) -> None:
        on_progress(Event("reconstructing", min(processes * done, len(images)), len(images)))

    table = loaded.recipe.inference
    found = task.reconstruct(loaded.network, images, table, on_batch=tell, group=group)
    if not found.metrics.count:
        first = found.rows[0]
        raise DataError(
            f"{images.source}: none of {len(found.rows)} inputs can be used; "
            f"first, {first['id']}: {first['reason']}"
        )
    picture = None
    if out is not None and (group is None or group.writes):
        picture = _write_reconstructions(out, found, images, loaded)
    return ReconstructResult(
        loaded, str(chosen), asdict(found.metrics), found.rows, images.preprocessing, picture
    )


def demo(out: Path | str = "demo", *, on_progress: OnProgress = silent) -> DemoResult:
    """Train on embedded digits, reconstruct held-out ones, score strange ones, and show it all.

    What an earlier demo left in the folder is replaced.
    """
    from pcgen.commands.demo import score_strange
    from pcgen.pages import run_page
    from pcgen.storage.runs import RunFolder

    folder = Path(out)
    RunFolder(folder).clear()
    began = time.monotonic()
    trained = train("digits", folder, on_progress=on_progress)
    found = reconstruct(trained.checkpoint, "digits:test", out=folder, on_progress=on_progress)
    RunFolder(folder / "scoring").clear()
    scoring = train("digits-ood", folder / "scoring", on_progress=on_progress)
    strange = score_strange(folder, scoring.checkpoint, "digits", on_progress=on_progress)
    page = run_page.write(folder, folder / "index.html")
    return DemoResult(trained, found, strange, page, time.monotonic() - began)


def _initial(
    recipe: Recipe, images: Images, validation: Images | None, sample_BD: torch.Tensor
) -> Network | Classifier:
    """Return a new network of the recipe's kind."""
    from pcgen.classification.training import initial_classifier
    from pcgen.learning.initial import initial_network

    if recipe.classifier is not None:
        return initial_classifier(recipe, images, validation)
    return initial_network(recipe, sample_BD, images.shape, images.class_count)


def training_of(
    network: Network | Classifier,
    recipe: Recipe,
    sample_BD: torch.Tensor,
    count: int,
    group: Group | None = None,
) -> Training:
    """Return the training of a network of either kind, of so many images.

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
    return Training(ClassifierLearner(network, recipe), group)


def open_model(model: str | Path, device: torch.device | str = "cpu") -> Model:
    """Return the model of a checkpoint file, a run's folder or a shipped name.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    from pcgen.storage.checkpoint import load_model

    return load_model(_model_path(model), device)


def open_classifier(model: str | Path, device: torch.device | str = "cpu") -> ClassifierModel:
    """Return the classifier of a checkpoint file, a run's folder or a shipped name.

    Raises:
        CheckpointError: there is none, it is damaged, or it is a predictive coding network.
    """
    from pcgen.classification.network import load_classifier

    return load_classifier(_model_path(model), device)


def info(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's header, without reading its tensors or importing torch.

    Raises:
        CheckpointError: no such file, or no checkpoint.
    """
    from pcgen.storage.checkpoint import read_header

    return {"file": str(_model_path(path)), **read_header(_model_path(path))}


def datasets(*, data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Return a row for every named data set: what it is, and where it is or how to get it."""
    from pcgen.data.sources import listing

    return listing(data_dir=data_dir)


def doctor(*, data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Return a row for all that decides whether pcgen works here: versions, devices, data."""
    import platform
    from importlib import metadata

    from pcgen import __version__

    rows = [
        {"what": "pcgen", "state": "ok", "found": __version__},
        {"what": "python", "state": "ok", "found": platform.python_version()},
    ]
    packages = (
        "torch",
        "torchvision",
        "numpy",
        "scikit-learn",
        "safetensors",
        "msgspec",
        "rich",
        "click",
    )
    for package in packages:
        try:
            rows.append({"what": package, "state": "ok", "found": metadata.version(package)})
        except metadata.PackageNotFoundError:
            rows.append({"what": package, "state": "missing", "found": f"pip install {package}"})

    import torch

    from pcgen.data import vision

    rows.append({"what": "torchvision import", "state": vision.state(), "found": ""})
    rows.append({"what": "cpu threads", "state": "ok", "found": str(torch.get_num_threads())})
    for i in range(torch.cuda.device_count()):
        rows.append({"what": f"cuda:{i}", "state": "ok", "found": torch.cuda.get_device_name(i)})
    if not torch.cuda.is_available():
        rows.append({"what": "cuda", "state": "none", "found": "training runs on the CPU"})
    rows += [
        {"what": f"data: {row['name']}", "state": "", "found": row["where"]}
        for row in datasets(data_dir=data_dir)
    ]
    return rows


def recipes() -> list[dict[str, Any]]:
    """Return a row for every shipped recipe, with the measured error of its model."""
    from pcgen import config, shipped
    from pcgen.storage.checkpoint import read_header

    rows = []
    for name in shipped.names():
        recipe = config.from_dict(config.read(shipped.recipe_path(name)), name)
        path = shipped.model_path(name)
        metrics = read_header(path)["metrics"] if path else {}
        rows.append(
            {
                "name": name,
                "data": recipe.data.source,
                "layers": _layers(recipe),
                "model": "shipped" if path else "-",
                "validation_mse": metrics.get("mse"),
                "validation_accuracy": metrics.get("accuracy"),
                "description": recipe.description,
            }
        )
    return rows


def _layers(recipe: Recipe) -> list[Any]:
    """Return the sizes of a recipe's layers in the order it names them."""
    table = recipe.classifier
    if table is None:
        return [*recipe.model.layers]
    return [*(table.channels if table.kind == "convnet" else []), *table.hidden]


def _model_path(model: str | Path) -> Path:
    from pcgen import shipped

    path = Path(model)
    if path.is_dir():
        if (path / "model.safetensors").is_file():
            return path / "model.safetensors"
        raise CheckpointError(
            f"{path}: holds no model.safetensors",
            "Train one: pcgen train digits --out " + str(path),
        )
    if not path.exists():
        known = shipped.model_path(str(model))
        if known is not None:
            return known
        raise CheckpointError(
            f"{model}: no such checkpoint, and no shipped model of that name",
            "Show the models: pcgen recipes",
        )
    return path


def _training_data(recipe: Recipe, data_dir: Path | None) -> tuple[Images, Images | None]:
    from pcgen.data.binary import binarised
    from pcgen.data.images import parts
    from pcgen.data.sources import open_data

    table = recipe.data
    images = open_data(
        table.source,
        data_dir=data_dir,
        limit=table.limit,
        size=None if table.size is None else (table.size[0], table.size[1]),
        channels=table.channels,
        columns=table.columns,
        memory=table.memory * 2**20,
    )
    if table.threshold is not None:
        images = binarised(images, table.threshold)
    kept, held_out, _ = parts(images, table.validation, table.calibration, recipe.seed)
    return kept, held_out if len(held_out) else None


def _write_reconstructions(out: Path, found: Any, images: Images, model: Model) -> Path | None:
    import json

    import numpy as np

    from pcgen.errors import RunError
    from pcgen.pages import pictures

    try:
        out.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in found.rows)
        (out / "reconstructions.jsonl").write_text(lines)
        np.savez_compressed(
            out / "reconstructions.npz",
            inputs=found.inputs_BD.numpy(),
            reconstructions=found.outputs_BD.numpy(),
        )
        if images.is_table or not len(found.inputs_BD):
            return None
        return pictures.reconstructions(
            out / "reconstructions.png",
            found.inputs_BD,
            found.outputs_BD,
            model.shape,
            title=f"{images.source}: mse {1e3 * found.metrics.mse:.2f}e-3 from the latent",
        )
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None
