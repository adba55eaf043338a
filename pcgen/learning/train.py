"""The training loop: infer the states of a batch, step the weights, again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.config import LearningTable, Recipe
from pcgen.data.images import Images, Rows, epoch_batches
from pcgen.device import generator
from pcgen.distributed import Group
from pcgen.errors import DivergenceError, OutOfMemoryError, RecipeError, is_out_of_memory
from pcgen.inference.solvers import Method, prepare
from pcgen.inference.states import Inference
from pcgen.learning.gradients import (
    load_optimiser,
    optimiser_for,
    optimiser_tensors,
    precision_gradients,
    weight_gradients,
)
from pcgen.learning.latent_regression import StartRegression
from pcgen.learning.mixture_em import step_causes
from pcgen.learning.posterior import Drawn, PosteriorLearning
from pcgen.learning.validate import Accuracy, Metrics, measure
from pcgen.model.energy import Terms
from pcgen.model.network import Network


@dataclass(slots=True)
class Progress:
    """Where training stands after a batch.

    Attributes:
        epoch: from 1.
        batch: from 1, within the epoch.
        images: seen in this epoch.
        energy: nats per image, mean over the epoch so far.
        mse: per unit, from the last hidden layer, mean over the epoch so far; not of a classifier.
        validation: after the epoch's last batch, where images are held out.
        accuracy: of a classifier, mean over the epoch so far.
        labelled: what `validation` is for a classifier.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    images: int
    energy: float
    mse: float | None
    validation: Metrics | None = None
    accuracy: float | None = None
    labelled: Accuracy | None = None

    @property
    def ends_epoch(self) -> bool:
        return self.batch == self.batches


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a batch's inference ended, at the weights that it was inferred with."""

    states: list[Tensor]
    terms: list[Terms]
    energy_B: Tensor

    @classmethod
    def of(cls, inference: Inference) -> _Found:
        return cls(inference.states, inference.terms, inference.energy_B)


class Training:
    """A run in progress: the network, its optimisers and how far it has come.

    Everything a resumed run needs is in `tensors()` and `counters`; the order of the images and
    all noise depend on the seed and these counters alone.

    Attributes:
        criterion: the validation metric whose least value is best.
    """

    criterion = "mse"

    def __init__(
        self, network: Network, recipe: Recipe, sample_BD: Tensor, group: Group | None = None
    ) -> None:
        """Begin a run.

        Args:
            network: on the device to train on.
            sample_BD: data whose mean and covariance stand for all, from `initial.sample`.
            group: the processes that share each batch, if there are several.
        """
        self.network = network
        self.group = group
        self.start = None
        if network.start is not None:
            self.start = StartRegression(network, sample_BD.to(network.start))
        self.recipe = recipe
        table = recipe.learning
        self.weights = network.weights()
        self.optimiser = optimiser_for(
            self.weights, table.optimiser, table.rate, table.momentum, table.weight_decay
        )
        self.precisions = network.log_precisions[:-1]
        self.precision_optimiser = torch.optim.Adam(self.precisions, lr=recipe.model.precision.rate)
        self.method: Method | None = None
        self.posterior: PosteriorLearning | None = None
        if recipe.inference.draws:
            self.posterior = PosteriorLearning(network, recipe)
        elif recipe.model.causes > 1:
            raise RecipeError(
                "model.causes: a mixture is learned from chains",
                "Use --set inference.solver=kinetic --set inference.sampling.persistent=true",
            )
        self.counters = {"epoch": 0, "batch": 0, "updates": 0}
        self.sums = torch.zeros(3, dtype=torch.float64)

    def run(self, images: Images, validation: Images | None) -> Iterator[Progress]:
        """Yield the progress after every batch, from wherever the counters stand.

        Raises:
            DivergenceError: an energy that is not finite.
            DataError: an image that cannot be read.
            OutOfMemoryError: a batch too large; it names one that fits.
            DistributedError: another process was lost.
        """
        table = self.recipe.learning
        batches = math.ceil(len(images) / table.batch_size)
        total = batches * table.epochs
        if self.posterior is not None:
            self.posterior.hold(len(images))
        while self.counters["epoch"] < table.epochs:
            present = (self.counters["epoch"], self.counters["batch"])
            size, seed = self.recipe.learning.batch_size, self.recipe.seed
            for rows, whole_B in epoch_batches(images, size, seed, *present, self._own):
                count = len(whole_B)
                try:
                    self.learn(rows, total, whole_B)
                    too_large = False
                except (MemoryError, RuntimeError) as error:
                    too_large = is_out_of_memory(error)
                    if not too_large:
                        raise
                # Only now are the failed batch's tensors free, which the exception held.
                if too_large:
                    raise self._too_large(rows, count)
                self.counters["batch"] += 1
                ends_epoch = self.counters["batch"] == batches
                metrics = None
                if ends_epoch:
                    self._learn_causes(images)
                if ends_epoch and validation is not None:
                    metrics = measure(self.network, validation, self.recipe.inference, self.group)
                progress = self._progress(batches, metrics)
                if ends_epoch:
                    self.counters.update(epoch=self.counters["epoch"] + 1, batch=0)
                    self.sums.zero_()
                yield progress

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a resumed run needs beside the counters, by name."""
        named = dict(self.network.tensors())
        named["sums"] = self.sums
        if self.start is not None:
            named |= self.start.tensors()
        if self.posterior is not None:
            named |= self.posterior.tensors()
        for prefix, optimiser in self._optimisers():
            named |= optimiser_tensors(optimiser, prefix)
        return named

    def model_tensors(self) -> dict[str, Tensor]:
        """Return what the finished model is made of, by name."""
        return self.network.tensors()

    def load(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Go on from what `tensors()` and `counters` were."""
        self.network.load(tensors)
        self.sums.copy_(tensors["sums"])
        if self.start is not None:
            for name, tensor in self.start.tensors().items():
                tensor.copy_(tensors[name])
        if self.posterior is not None:
            self.posterior.load(tensors)
        self.counters.update(counters)
        for prefix, optimiser in self._optimisers():
            load_optimiser(optimiser, prefix, tensors)

    def _optimisers(self) -> list[tuple[str, torch.optim.Optimizer]]:
        return [("optimiser", self.optimiser), ("precision_optimiser", self.precision_optimiser)]

    def _learn_causes(self, images: Images) -> None:
        """Move the causes of a mixture prior to where the chains stand, after an epoch."""
        mixture, posterior = self.network.mixture, self.posterior
        if mixture is None or posterior is None:
            return
        if self.counters["epoch"] < self.recipe.learning.causes_warmup:
            return
        source = generator(self.recipe.seed, "causes")
        labels = images.labels if len(mixture.log_weights_YK) > 1 else None
        step_causes(mixture, posterior.ends_NK[:, :-1], labels, source)

    def _own(self, indices: Tensor) -> Tensor:
        """Return what this process infers of a batch; without a share, its first, counted 0 times.

        So that no process is without a batch, whose states it can make no step from.
        """
        if self.group is None:
            return indices
        mine = self.group.share(len(indices))
        return indices[mine.start : mine.stop] if mine else indices[:1]

    def learn(self, rows: Rows, total_updates: int, whole_B: Tensor | None = None) -> None:
        """Infer the states of a batch and step the weights.

        Args:
            rows: of the batch, or this process's share of it.
            total_updates: of the whole run, which the rate's schedule spans.
            whole_B: row numbers of the whole batch, where other processes have the rest.
        """
        whole_B = rows.index_B if whole_B is None else whole_B
        count, data_BD = len(whole_B), rows.pixels_BD.to(self.weights[0])
        if self.posterior is not None:
            found: _Found | Drawn = self.posterior.draw(
                data_BD, rows, self._labels(rows), self.counters["updates"]
            )
            sums = self._update(found, count, total_updates)
        else:
            found, sums = self._infer(data_BD, rows, count, total_updates)
        if sums is None:
            energy, squared = self._take_in(found, whole_B)
        else:
            energy, squared = self._take_in_shared(sums, whole_B)
        if not math.isfinite(energy):
            epoch, batch = self.counters["epoch"] + 1, self.counters["batch"] + 1
            descends = self.recipe.inference.solver == "descent"
            raise DivergenceError(
                f"epoch {epoch}, batch {batch}: the energy is not finite",
                "Lower it: --set learning.rate=..."
                + (" or use --set inference.solver=majorise" if descends else ""),
            )
        self.sums += torch.tensor([energy, squared, count], dtype=torch.float64)

    def _latents(self, rows: Rows) -> Tensor | None:
        """Return where the rows' latents start (B, D_latent), if not where the network says."""
        return None

    def _infer(
        self, data_BD: Tensor, rows: Rows, count: int, total_updates: int
    ) -> tuple[_Found, list[Tensor] | None]:
        """Return where a batch's inference ended, and the group's sums, after the weights' step."""
        steps, incremental = self.recipe.inference.steps, self.recipe.learning.incremental
        self.method = prepare(
            self.network, self.recipe.inference, self.method, reduced=not incremental
        )
        inference = self.method.begin(
            data_BD,
            latent_BD=self._latents(rows),
            steps=0 if incremental else steps,
            labels_BK=self._labels(rows),
        )
        if not incremental:
            found = _Found.of(inference)
            return found, self._update(found, count, total_updates)
        for step in range(1, steps + 1):
            inference.step()
            found = _Found.of(inference)
            sums = self._update(found, count, total_updates * steps)
            if step < steps:
                inference.refresh()
        return found, sums

    def _labels(self, rows: Rows) -> Tensor | None:
        """Return the rows' classes, one-hot (B, K), where the network has a label layer."""
        if not self.network.table.labels:
            return None
        assert rows.labels_B is not None
        return functional.one_hot(rows.labels_B, self.network.sizes[-1]).to(self.weights[0])

    def _take_in(self, found: _Found | Drawn, whole_B: Tensor) -> tuple[float, float]:
        """Learn from a batch's equilibrium; return its summed energy and squared error."""
        network, states = self.network, found.states
        energy_B = found.energy_B + network.log_det()
        latent_BD = states[network.latent]
        network.typical_latents[: len(energy_B)] = latent_BD[: len(network.typical_latents)]
        if self.start is not None:
            self.start.update(states[0], latent_BD, self.counters["updates"])
        if self.posterior is not None and isinstance(found, Drawn):
            self.posterior.take_in(whole_B, found.ends_BK)
        squared_B = (states[0] - found.terms[0].prediction_BD).square().mean(1)
        return energy_B.double().sum().item(), squared_B.double().sum().item()

    def _update(self, found: _Found | Drawn, count: int, total_updates: int) -> list[Tensor] | None:
        """Step the weights, and the precisions where they learn; return the group's sums."""
        states, terms = found.states, found.terms
        rate = rate_at(self.recipe.learning, self.counters["updates"], total_updates)
        self.counters["updates"] += 1
        precision = self.recipe.model.precision
        learned = precision.learned and self.counters["epoch"] >= precision.warmup
        if isinstance(found, Drawn):
            gradients: list[Tensor | None] = [*found.weights]
            gradients += found.precisions if learned else []
        else:
            gradients = [*weight_gradients(self.network, states, terms)]
            gradients += precision_gradients(self.network, states, terms) if learned else []
        sums = None
        if self.group is not None:
            gradients, sums = self._share(self.group, found, gradients, count)
        for tensor, gradient in zip([*self.weights, *self.precisions], gradients, strict=False):
            tensor.grad = gradient
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        if learned:
            self.precision_optimiser.step()
            for tensor in self.precisions:
                tensor.clamp_(max=-math.log(precision.floor))
        return sums

    def _share(
        self, group: Group, found: _Found | Drawn, gradients: list[Tensor | None], count: int
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Return the whole batch's gradients and its sums, for `_take_in_shared`, in one exchange.

        Args:
            gradients: means over this process's images.
            count: of the whole batch.
        """
        mine, states = group.share(count), found.states
        data_BD = states[0][: len(mine)]
        latent_BD = states[self.network.latent][: len(mine)]
        squared_B = (states[0] - found.terms[0].prediction_BD).square().mean(1)
        numbers = [column[: len(mine)].double().sum() for column in (found.energy_B, squared_B)]
        asked = numbers[0].new_tensor(float(group.asked()))
        typical = torch.zeros_like(self.network.typical_latents)
        typical[mine.start : mine.stop] = latent_BD[: max(0, len(typical) - mine.start)]
        own = [torch.stack([*numbers, asked]).to(typical.dtype), typical]
        if isinstance(found, Drawn):
            ends = found.ends_BK.new_zeros(count, found.ends_BK.shape[1])
            ends[mine.start : mine.stop] = found.ends_BK[: len(mine)]
            own.append(ends)
        if self.start is not None:
            own.append(self.start.sums(data_BD, latent_BD))
        given = [gradient for gradient in gradients if gradient is not None]
        sums = group.sum([*(gradient * (len(mine) / count) for gradient in given), *own])
        whole = iter(sums)
        return [None if g is None else next(whole) for g in gradients], sums[len(given) :]

    def _take_in_shared(self, sums: list[Tensor], whole_B: Tensor) -> tuple[float, float]:
        """Do as `_take_in` does from all processes' sums; note whether one is to stop."""
        assert self.group is not None
        numbers, typical, *rest = sums
        count = len(whole_B)
        energy, squared, asked = numbers.tolist()
        self.group.stopping = asked > 0
        known = min(count, len(typical))
        self.network.typical_latents[:known] = typical[:known]
        if self.posterior is not None:
            self.posterior.take_in(whole_B, rest.pop(0))
        if self.start is not None:
            self.start.take_in(rest[0], count, self.counters["updates"])
        return energy + count * float(self.network.log_det()), squared

    def _too_large(self, rows: Rows, count: int) -> OutOfMemoryError:
        """Return the error of a batch too large for the memory; try which would not be."""
        self.method = None
        for tensor in (*self.weights, *self.precisions):
            tensor.grad = None
        processes = 1 if self.group is None else self.group.size
        size = len(rows.pixels_BD) // 2
        while size and not self._fits(rows.pixels_BD[:size]):
            size //= 2
        said = f"a batch of {count} images does not fit into the memory"
        if not size:
            return OutOfMemoryError(f"{said}, nor does one image", "Use --set model.layers=[...]")
        fits = size * processes
        return OutOfMemoryError(
            f"{said}, one of {fits} does", f"Use --set learning.batch_size={fits}"
        )

    def _fits(self, data_BD: Tensor) -> bool:
        """Return whether a batch of these images can be inferred and learned from."""
        table = self.recipe.inference
        try:
            if self.weights[0].is_cuda:
                torch.cuda.empty_cache()
            data_BD = data_BD.to(self.weights[0].device)
            inference = prepare(self.network, table).begin(data_BD, steps=table.steps)
            # As large as what the first step of the optimiser keeps.
            held = [] if self.optimiser.state else [torch.empty_like(w) for w in self.weights * 2]
            held += weight_gradients(self.network, inference.states, inference.terms)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _progress(self, batches: int, validation: Metrics | None) -> Progress:
        energy, squared, count = self.sums.tolist()
        return Progress(
            self.counters["epoch"] + 1,
            self.recipe.learning.epochs,
            self.counters["batch"],
            batches,
            int(count),
            energy / count,
            squared / count,
            validation,
        )


def rate_at(table: LearningTable, update: int, total: int) -> float:
    """Return the weight rate of an update (from 0): a rise, then constant or a cosine to 1 %."""
    rise = min(1.0, (update + 1) / table.warmup) if table.warmup else 1.0
    if table.schedule == "constant":
        return table.rate * rise
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, update / max(1, total))))
    return table.rate * rise * max(fall, 0.01)
