"""The training loop: batch by batch, a learner infers the states and steps the weights.

Three learners plug into it: `learning/predictive_coding.py`, `memory/training.py` and
`classification/training.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcgen.config import Recipe
from pcgen.data.images import Images, Rows, epoch_batches, mirrored, moved
from pcgen.device import generator
from pcgen.distributed import Group
from pcgen.errors import DivergenceError, OutOfMemoryError, RecipeError, is_out_of_memory
from pcgen.learning.validate import Accuracy, Metrics


@dataclass(slots=True)
class Progress:
    """The state of a run after a batch.

    Attributes:
        epoch: from 1.
        batch: from 1, within the epoch.
        images: seen in this epoch.
        energy: nats per image, mean over the epoch so far.
        mse: per unit, from the last hidden layer, mean over the epoch so far; not of a classifier.
        validation: after the epoch's last batch, where images are held out.
        accuracy: of a classifier, mean over the epoch so far.
        labelled: the validation of a classifier.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    images: int
    energy: float
    mse: float | None = None
    validation: Metrics | None = None
    accuracy: float | None = None
    labelled: Accuracy | None = None

    @property
    def ends_epoch(self) -> bool:
        return self.batch == self.batches


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's rows of a batch.

    Attributes:
        rows: this process's. A process with an empty share holds one row, which counts 0 times,
            since inference needs at least one.
        whole_B: row numbers of the whole batch.
        epoch: from 0.
        batches: of the whole run.
        group: the processes that share the batch, if there are several.
    """

    rows: Rows
    whole_B: Tensor
    epoch: int = 0
    batches: int = 1
    group: Group | None = None

    def __len__(self) -> int:
        """Return the number of images of the whole batch."""
        return len(self.whole_B)

    @property
    def own(self) -> range:
        """Return the places of this process's rows in the batch; there may be none."""
        return range(len(self)) if self.group is None else self.group.share(len(self))

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of the tensors over all processes."""
        if self.group is None:
            return list(tensors)
        return self.group.sum_and_look(tensors)

    def placed(self, own_BX: Tensor) -> Tensor:
        """Return a tensor (len(self), X) of this process's rows at their places, 0 elsewhere."""
        if self.group is None:
            return own_BX
        whole_BX = own_BX.new_zeros(len(self), *own_BX.shape[1:])
        whole_BX[self.own.start : self.own.stop] = own_BX[: len(self.own)]
        return whole_BX


class Learner:
    """A network and everything that a batch changes.

    Attributes:
        criterion: the validation metric whose least value marks the best epoch.
        updates: weight updates so far.
    """

    criterion = "mse"

    def __init__(self, network: Any, recipe: Recipe) -> None:
        self.network = network
        self.recipe = recipe
        self.updates = 0

    def begin(self, images: Images, validation: Images | None) -> None:
        """Prepare for these images; called once, before the first or the resumed epoch."""

    def learn(self, batch: Batch) -> tuple[float, float]:
        """Step the weights; return two sums over the whole batch: the energy, and a second one.

        The second is the squared error per unit or, of a classifier, the number of right labels.
        """
        raise NotImplementedError

    def updates_of_run(self, batch: Batch) -> int:
        """Return the weight updates of the whole run: of each batch, or of each inference step."""
        if not self.recipe.learning.incremental:
            return batch.batches
        epochs = self.recipe.learning.epochs
        steps = sum(self.recipe.steps_in(epoch) for epoch in range(1, epochs + 1))
        return batch.batches // epochs * steps

    def end_epoch(self, images: Images, epoch: int) -> None:
        """Learn what is learned once an epoch, after its last batch."""

    def described(
        self, second: float, images: Images | None, group: Group | None
    ) -> dict[str, Any]:
        """Return the fields of `Progress` that depend on the kind of network.

        Args:
            second: mean of the second sum of `learn`.
            images: held-out images to measure, after an epoch.
        """
        raise NotImplementedError

    def fits(self, data_BD: Tensor) -> bool:
        """Return whether a batch of these images fits into the memory."""
        raise NotImplementedError

    def out_of_memory(self, count: int, largest: int) -> OutOfMemoryError:
        """Return the error of a batch of `count` images, of which `largest` would fit."""
        message = f"a batch of {count} images does not fit into the memory"
        if not largest:
            hint = "Use --set model.layers=[...]"
            return OutOfMemoryError(f"{message}, nor does one image", hint)
        return OutOfMemoryError(
            f"{message}, one of {largest} does", f"Use --set learning.batch_size={largest}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a resumed run needs beside the counters, by name."""
        return self.network.tensors()

    def model_tensors(self) -> dict[str, Tensor]:
        """Return what the finished model is made of, by name."""
        return self.network.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors()` returned."""
        self.network.load(tensors)


class Training:
    """A run in progress: a learner and how far it has come.

    Everything a resumed run needs is in `tensors()` and `counters`; the order of the images and
    all noise depend on the seed and these counters alone.
    """

    def __init__(self, learner: Learner, group: Group | None = None) -> None:
        self.learner = learner
        self.group = group
        self.epoch = self.batch = 0
        self.sums = torch.zeros(3, dtype=torch.float64)

    @property
    def network(self) -> Any:
        return self.learner.network

    @property
    def counters(self) -> dict[str, int]:
        """Return the finished epochs, the batches of the present one, and the weight updates."""
        return {"epoch": self.epoch, "batch": self.batch, "updates": self.learner.updates}

    def run(self, images: Images, validation: Images | None) -> Iterator[Progress]:
        """Yield the progress after every batch, from wherever the counters stand.

        Raises:
            DivergenceError: an energy that is not finite.
            DataError: an image that cannot be read.
            RecipeError: images that cannot be mirrored or shifted.
            OutOfMemoryError: a batch too large; it names one that fits.
            DistributedError: another process was lost.
        """
        learning, seed = self.learner.recipe.learning, self.learner.recipe.seed
        _require_pictures(self.learner.recipe, images)
        batches = math.ceil(len(images) / learning.batch_size)
        self.learner.begin(images, validation)
        while self.epoch < learning.epochs:
            order = (learning.batch_size, seed, self.epoch, self.batch, self._own)
            for rows, whole_B in epoch_batches(images, *order):
                rows = self._changed(rows, images)
                batch = Batch(rows, whole_B, self.epoch, batches * learning.epochs, self.group)
                energy, second = self._learn(batch)
                self.sums += torch.tensor([energy, second, len(batch)], dtype=torch.float64)
                self.batch += 1
                is_last = self.batch == batches
                if is_last:
                    self.learner.end_epoch(images, self.epoch)
                progress = self._progress(batches, validation if is_last else None)
                if is_last:
                    self.epoch, self.batch = self.epoch + 1, 0
                    self.sums.zero_()
                yield progress

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a resumed run needs beside the counters, by name."""
        return {**self.learner.tensors(), "sums": self.sums}

    def load(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Continue from what `tensors()` and `counters` were."""
        self.learner.load(tensors)
        self.sums.copy_(tensors["sums"])
        self.epoch, self.batch = counters["epoch"], counters["batch"]
        self.learner.updates = counters["updates"]

    def _own(self, indices: Tensor) -> Tensor:
        """Return the row numbers of a batch that this process reads: see `Batch.rows`."""
        if self.group is None:
            return indices
        own = self.group.share(len(indices))
        return indices[own.start : own.stop] if own else indices[:1]

    def _changed(self, rows: Rows, images: Images) -> Rows:
        """Return the rows mirrored and shifted; how depends on seed, epoch and row alone."""
        seed, table = self.learner.recipe.seed, self.learner.recipe.learning
        pixels_BD = rows.pixels_BD
        if table.mirror:
            source = generator(seed, "mirror", self.epoch)
            chosen_B = (torch.rand(len(images), generator=source) < 0.5)[rows.index_B]
            mirror_BD = mirrored(pixels_BD, images.shape)
            pixels_BD = torch.where(chosen_B[:, None], mirror_BD, pixels_BD)
        if table.shift:
            source = generator(seed, "shift", self.epoch)
            span = (-table.shift, table.shift + 1)
            moves_N2 = torch.randint(*span, (len(images), 2), generator=source)
            pixels_BD = moved(pixels_BD, images.shape, moves_N2[rows.index_B])
        return replace(rows, pixels_BD=pixels_BD)

    def _learn(self, batch: Batch) -> tuple[float, float]:
        try:
            energy, second = self.learner.learn(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            energy = None
        # Only after the `except` are the failed batch's tensors free, which the exception held.
        if energy is None:
            raise self._too_large(batch)
        if not math.isfinite(energy):
            descends = self.learner.recipe.inference.solver == "descent"
            raise DivergenceError(
                f"epoch {batch.epoch + 1}, batch {self.batch + 1}: the energy is not finite",
                "Lower it: --set learning.rate=..."
                + (" or use --set inference.solver=majorise" if descends else ""),
            )
        return energy, second

    def _too_large(self, batch: Batch) -> OutOfMemoryError:
        """Return the error of a batch too large for the memory; find by halving which fits."""
        pixels_BD = batch.rows.pixels_BD
        largest = len(pixels_BD) // 2
        while largest and not self.learner.fits(pixels_BD[:largest]):
            largest //= 2
        processes = 1 if self.group is None else self.group.size
        return self.learner.out_of_memory(len(batch), largest * processes)

    def _progress(self, batches: int, validation: Images | None) -> Progress:
        energy, second, count = self.sums.tolist()
        return Progress(
            self.epoch + 1,
            self.learner.recipe.learning.epochs,
            self.batch,
            batches,
            int(count),
            energy / count,
            **self.learner.described(second / count, validation, self.group),
        )


def _require_pictures(recipe: Recipe, images: Images) -> None:
    """Refuse to mirror or shift rows that are no pictures, or whose latents are kept.

    Raises:
        RecipeError: such rows.
    """
    learning = recipe.learning
    keeps = recipe.inference.keep_latents or recipe.inference.sampling.persistent
    fixed = images.shape[1] == 1 or images.is_table or keeps or learning.memory
    for key, word, off in (("mirror", "mirrored", "false"), ("shift", "shifted", "0")):
        if getattr(learning, key) and fixed:
            raise RecipeError(
                f"learning.{key}: only pictures can be {word}, and no latent or chain can be kept",
                f"Use --set learning.{key}={off}",
            )
