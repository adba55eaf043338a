"""The session of a public function: its device, its processes, its model and its data.

Every public function runs within `session`. It gives the process its number of threads and its
precision of matrix products back at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pcgen import shipped
from pcgen.commands.outputs import require_safe, require_unlisted
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.config import ARRAY
from pcgen.errors import CheckpointError, DataError, DivergenceError, RecipeError

if TYPE_CHECKING:
    import torch

    from pcgen.classification.network import ClassifierModel
    from pcgen.config import DataTable, InferenceTable
    from pcgen.data.images import Images
    from pcgen.data.sources import Data
    from pcgen.distributed import Group
    from pcgen.ood.detector import Detector
    from pcgen.storage.checkpoint import LoadedModel, Model

    AnyModel = TypeVar("AnyModel", bound=LoadedModel[Any])


@dataclass(frozen=True, slots=True)
class Session:
    """The device, the data folder and the group of processes of one call.

    Attributes:
        device: where networks and batches are.
        data_dir: the folder in which names of data sets are looked up first.
        group: the processes that share the work, if a launcher started several.
        on_progress: hears each note about the data that are opened.
        notes: these notes, for the result.
        files: the files that the call writes.
        opened: the data of recipes, by their settings.
    """

    device: torch.device
    data_dir: str | Path | None = None
    group: Group | None = None
    on_progress: OnProgress = silent
    notes: list[str] = field(default_factory=list)
    files: Sequence[Path] = ()
    opened: dict[Any, Images] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Return whether this process writes the files."""
        return self.group is None or self.group.writes

    def ready(self, loaded: AnyModel, batch: int) -> AnyModel:
        """Return a model, ready for batches of so many images; see `prepare`."""
        self.prepare(loaded.network, loaded.recipe.inference, batch)
        return loaded

    def prepare(
        self, network: Any, table: InferenceTable, batch: int, begun: str | None = None
    ) -> None:
        """Choose threads, products and memory for a network and batches of so many images.

        Args:
            begun: the operation of the matrix products with which a resumed run was begun; it goes
                on with that one, whatever `PCGEN_PRODUCTS` is.

        Raises:
            DeviceError: `PCGEN_PRODUCTS` names an operation that does not exist here.
        """
        from pcgen.device import choose_products, choose_threads, keep_memory

        keep_memory()
        multiply_adds = network.largest_product * batch
        choose_threads(multiply_adds)
        choose_products(table.products)
        self._choose_operation(multiply_adds, begun)

    def _choose_operation(self, multiply_adds: int, begun: str | None) -> None:
        """Choose the operation of large matrix products, the same in all processes of a group."""
        from pcgen.model import products

        small = multiply_adds < products.LEAST or self.device.type != "cpu"
        setting = "auto" if begun else products_setting()
        chosen = products.resolve(setting, begun or (products.TORCH if small else None))
        if self.group is not None:
            others, exist = zip(*self.group.gather((chosen, products.exists())), strict=True)
            chosen = others[0] if all(exist) else products.TORCH
        if begun not in (None, chosen):
            note = f"The run was begun with matrix products of {begun}, which is not usable here."
            self.note([f"{note} It goes on with those of {chosen}: its numbers differ by rounding"])
        products.use(chosen)

    def open_data(self, data: Data, model: LoadedModel[Any], *, limit: int | None = None) -> Images:
        """Return data brought to a model by the rules that its training data followed.

        Raises:
            DataError: data that cannot be found or read, or do not fit the model.
        """
        from pcgen.data.sources import open_data

        images = open_data(data, data_dir=self.data_dir, limit=limit, **model.data_rules)
        self.note(images.notes)
        if isinstance(data, str) and data == "-":
            require_unlisted(self.files, [images.id(row) for row in range(len(images))])
        return images

    def open_recipe_data(
        self,
        table: DataTable,
        data: Data | None = None,
        *,
        split: str = "",
        by_class: bool = True,
    ) -> Images:
        """Return the data of a recipe, by all of its rules.

        Args:
            data: the data themselves, where the recipe says that they are an array.
            split: another split of the data set, all of it.
            by_class: whether the table's limit takes as many pictures of each class.

        Raises:
            DataError: data that cannot be found or read, an array that is not given, or a row with
                a missing number.
        """
        import msgspec

        from pcgen.data.sources import open_data
        from pcgen.data.tables import require_complete

        # The rows held out are chosen afterwards.
        same = msgspec.structs.replace(table, validation=0.0, calibration=0.0)
        key = (msgspec.json.encode(same), id(data), split, by_class)
        if key in self.opened:
            return self.opened[key]
        if data is None and table.source == ARRAY:
            raise DataError(
                "data.source is an array, which a recipe does not hold",
                "In Python, give it as data=; a file or folder of that name is ./array",
            )
        source: Data = f"{table.source}{':' if split else ''}{split}" if data is None else data
        images = open_data(
            source,
            data_dir=self.data_dir,
            limit=None if split else table.limit,
            size=None if table.size is None else (table.size[0], table.size[1]),
            channels=table.channels,
            columns=table.columns,
            memory=table.memory * 2**20,
            threshold=table.threshold,
            value_range=table.range,
            labels=table.labels,
            by_class=by_class,
        )
        require_complete(images)
        self.note(images.notes)
        self.opened[key] = images
        return images

    def note(self, notes: Sequence[str]) -> None:
        """Tell each new note and keep it for the result."""
        for note in notes:
            if note not in self.notes:
                self.notes.append(note)
                self.on_progress(Event("reading", note=f"Note: {note}"))


def products_setting() -> str:
    """Return `PCGEN_PRODUCTS`: torch, onednn or auto, the operation of large matrix products.

    Raises:
        RecipeError: another word.
    """
    setting = os.environ.get("PCGEN_PRODUCTS") or "auto"
    if setting not in ("auto", "torch", "onednn"):
        raise RecipeError(
            f"PCGEN_PRODUCTS={setting}: not an operation for matrix products",
            "Use torch, onednn or auto",
        )
    return setting


@contextmanager
def session(
    device: str = "auto",
    *,
    data_dir: str | Path | None = None,
    hint: str | None = None,
    on_progress: OnProgress = silent,
    reads: Sequence[object] = (),
    writes: Sequence[Path] = (),
) -> Iterator[Session]:
    """Yield the session of a call; restore threads and precision at its end.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        data_dir: the folder in which names of data sets are looked up first.
        hint: how a user continues after another process was lost. With it, the processes that a
            launcher started share the work; without it, each process works alone.
        on_progress: hears the notes about the data that are opened.
        reads: paths, names and arrays that the call reads.
        writes: the files that it writes.

    Raises:
        OutputError: a file that is written is one that is read.
        RunError: a file that cannot be written.
        DeviceError: a device that is not on this machine.
        DistributedError: another process was lost.
        RecipeError: `PCGEN_PRODUCTS` is no operation.
        DivergenceError: a matrix that cannot be factorised.
    """
    # Before torch is imported, which takes seconds.
    require_safe(writes, reads)
    products_setting()
    from pcgen.device import choose_device, choose_products, restored_settings
    from pcgen.distributed import joined
    from pcgen.model.products import restored_products

    with restored_settings(), restored_products(), diverging():
        # torch lets cuDNN round the factors of convolutions, unless a recipe says that it may.
        choose_products("float32")
        if hint is None:
            yield Session(choose_device(device), data_dir, None, on_progress, files=writes)
            return
        with joined(os.environ, device, hint) as group:
            chosen = choose_device(device) if group is None else group.device
            yield Session(chosen, data_dir, group, on_progress, files=writes)


@contextmanager
def diverging() -> Iterator[None]:
    """Convert the failure of a factorisation within a block into a DivergenceError."""
    import torch

    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise DivergenceError(
            "a matrix of the model cannot be factorised: its numbers are not finite, or too large",
            DivergenceError.too_large,
        ) from error


def open_model(model: str | Path, device: torch.device | str = "cpu") -> Model:
    """Return the predictive coding network of a checkpoint, a run's folder or a shipped name.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    from pcgen.storage.checkpoint import load_model

    return load_model(shipped.find_model(model), device)


def with_inference(model: Model, settings: Sequence[str]) -> Model:
    """Return the model with `inference.key=value` words laid over its recipe.

    Raises:
        RecipeError: a word that does not fit, or that sets anything else.
    """
    from pcgen import config

    tables = config.with_settings(config.to_dict(model.recipe), settings)
    foreign = [word for word in settings if not word.strip().startswith("inference.")]
    if foreign:
        raise RecipeError(f"--set {foreign[0]}: of a trained model only inference.* can be set")
    return replace(model, recipe=config.from_dict(tables, str(model.path)))


def open_classifier(model: str | Path, device: torch.device | str = "cpu") -> ClassifierModel:
    """Return the classifier of a checkpoint, a run's folder or a shipped name.

    Raises:
        CheckpointError: there is none, it is damaged, or it is a predictive coding network.
    """
    from pcgen.classification.network import classifier_of
    from pcgen.storage.checkpoint import load_held

    return classifier_of(load_held(shipped.find_model(model)), device)


def open_memory(model: str | Path, device: torch.device | str = "cpu") -> Model:
    """Return the memory of a checkpoint or a run's folder.

    Raises:
        CheckpointError: there is none, or the model has stored no images.
    """
    loaded = open_model(model, device)
    if loaded.latents is None:
        raise CheckpointError(
            f"{loaded.path}: holds no memory: it was trained to generalise",
            "Train one: pcgen train tiny-imagenet-memory --out runs/memory",
        )
    return loaded


def open_detector(detector: str | Path, device: torch.device | str = "cpu") -> Detector:
    """Return the detector of a file, of a folder that holds one, or of a shipped name.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    from pcgen.ood.detector import load

    return load(shipped.find_detector(detector), device)
