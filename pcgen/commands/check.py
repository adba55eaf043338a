"""`pcgen.check`: the sizes, times and disk space of a run, before it starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.commands.from_data import settled
from pcgen.commands.outputs import inference_document
from pcgen.commands.progress import OnProgress, silent
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import session
from pcgen.commands.train import set_up, training_of

if TYPE_CHECKING:
    from pcgen.config import Recipe
    from pcgen.data.sources import Data


_COUNTS = ("sizes", "parameters", "images", "validation_images", "batches")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The sizes and times of a run, measured by training on one batch or two.

    Attributes:
        sizes: units of each layer, the data layer first.
        parameters: number of weights and biases.
        batches: of an epoch.
        seconds_per_epoch: without validation.
        disk_bytes: of the run's folder.
        notes: what a user should know about how the data were read.
    """

    recipe: Recipe
    device: str
    sizes: list[int]
    parameters: int
    images: int
    validation_images: int
    batches: int
    seconds_per_epoch: float
    disk_bytes: int
    notes: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        return {
            "model": self.recipe.name,
            "seed": self.recipe.seed,
            "device": self.device,
            "inference": inference_document(self.recipe.inference, None),
            **{name: getattr(self, name) for name in _COUNTS},
            "epochs": self.recipe.learning.epochs,
            "seconds_per_epoch": self.seconds_per_epoch,
            "disk_bytes": self.disk_bytes,
            "notes": [*self.notes],
        }


def check(
    recipe: str | Path | Recipe,
    *,
    data: Data | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> CheckResult:
    """Train on one batch or two, write nothing, and return sizes, times and disk of the whole run.

    Args: see `train`.

    Raises:
        PcgenError: any error that `train` would raise before its first epoch.

    Example:
        >>> import pcgen
        >>> result = pcgen.check("digits")
        >>> result.sizes
        [64, 64, 64, 16]
    """
    chosen = resolve_recipe(recipe, data=data, settings=settings, seed=seed)
    array = None if isinstance(data, str | Path) else data
    with session(device, data_dir=data_dir, on_progress=on_progress) as place:
        chosen = settled(chosen, place, array)
        setup = set_up(place, chosen, array)
        network, images = setup.network, setup.images
        training = training_of(network, chosen, setup.sample_BD, len(images))
        steps = training.run(images, None)
        began = time.monotonic()
        first = next(steps)
        middle = time.monotonic()
        # The first batch also warms up. A run of a single batch has no other to be timed.
        has_second = next(steps, None) is not None
        seconds = time.monotonic() - middle if has_second else middle - began
        if chosen.inference.schedule:
            count = chosen.steps_in(1)
            place.note([f"seconds_per_epoch is that of epoch 1, with {count} inference steps"])
        tensors = training.tensors().values()
        parameters = sum(tensor.numel() for tensor in network.weights())
        return CheckResult(
            chosen,
            str(place.device),
            network.sizes,
            parameters,
            len(images),
            0 if setup.validation is None else len(setup.validation),
            first.batches,
            seconds * first.batches,
            sum(tensor.numel() * tensor.element_size() for tensor in tensors) + 4 * parameters,
            place.notes,
        )
