"""The training loop: infer the states of a batch, step the weights, again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.config import LearningTable, Recipe
from pcgen.data.images import Images, Rows, order, require_ok
from pcgen.errors import DivergenceError
from pcgen.inference.solvers import Inference, Method, prepare
from pcgen.learning.amortise import StartRegression
from pcgen.learning.hebbian import optimiser_for, precision_gradients, weight_gradients
from pcgen.learning.validate import Metrics, measure
from pcgen.model.network import Network


@dataclass(slots=True)
class Progress:
    """Where training stands after a batch.

    Attributes:
        epoch: from 1.
        batch: from 1, within the epoch.
        images: seen in this epoch.
        energy: nats per image, mean over the epoch so far.
        mse: per unit, from the last hidden layer, mean over the epoch so far.
        validation: after the epoch's last batch, where images are held out.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    images: int
    energy: float
    mse: float
    validation: Metrics | None = None

    @property
    def ends_epoch(self) -> bool:
        return self.batch == self.batches


class Training:
    """A run in progress: the network, its optimisers and how far it has come.

    Everything a resumed run needs is in `tensors()` and `counters`; the order of the images and
    all noise depend on the seed and these counters alone.
    """

    def __init__(self, network: Network, recipe: Recipe, sample_BD: Tensor) -> None:
        """Begin a run.

        Args:
            network: on the device to train on.
            sample_BD: data whose mean and covariance stand for all, from `initial.sample`.
        """
        self.network = network
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
        self.counters = {"epoch": 0, "batch": 0, "updates": 0}
        self.sums = torch.zeros(3, dtype=torch.float64)

    def run(self, images: Images, validation: Images | None) -> Iterator[Progress]:
        """Yield the progress after every batch, from wherever the counters stand.

        Raises:
            DivergenceError: an energy that is not finite.
            DataError: an image that cannot be read.
        """
        table = self.recipe.learning
        batches = math.ceil(len(images) / table.batch_size)
        total = batches * table.epochs
        while self.counters["epoch"] < table.epochs:
            for rows in self._batches(images):
                self.learn(rows, total)
                self.counters["batch"] += 1
                ends_epoch = self.counters["batch"] == batches
                metrics = None
                if ends_epoch and validation is not None:
                    metrics = measure(self.network, validation, self.recipe.inference)
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
        for prefix, optimiser in self._optimisers():
            for i, state in optimiser.state_dict()["state"].items():
                for key, value in state.items():
                    if value is not None:
                        named[f"{prefix}.{i}.{key}"] = value
        return named

    def load(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Go on from what `tensors()` and `counters` were."""
        self.network.load(tensors)
        self.sums.copy_(tensors["sums"])
        if self.start is not None:
            for name, tensor in self.start.tensors().items():
                tensor.copy_(tensors[name])
        self.counters.update(counters)
        for prefix, optimiser in self._optimisers():
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith(f"{prefix}."):
                    _, i, key = name.split(".")
                    state.setdefault(int(i), {})[key] = value
            whole = optimiser.state_dict()
            whole["state"] = state
            optimiser.load_state_dict(whole)

    def _optimisers(self) -> list[tuple[str, torch.optim.Optimizer]]:
        return [("optimiser", self.optimiser), ("precision_optimiser", self.precision_optimiser)]

    def _batches(self, images: Images) -> Iterator[Rows]:
        """Yield the epoch's batches from the present one on, reading one ahead."""
        size = self.recipe.learning.batch_size
        whole = order(len(images), self.recipe.seed, self.counters["epoch"])
        chosen = torch.split(whole, size)
        chosen = chosen[self.counters["batch"] :]
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(images.rows, chosen[0])
            for indices in [*chosen[1:], None]:
                rows = following.result()
                if indices is not None:
                    following = reader.submit(images.rows, indices)
                require_ok(rows, images)
                yield rows

    def learn(self, rows: Rows, total_updates: int) -> None:
        """Infer the states of a batch and step the weights, of `total_updates` in all."""
        table, network = self.recipe.inference, self.network
        data_BD = rows.pixels_BD.to(self.weights[0].device)
        steps, incremental = table.steps, self.recipe.learning.incremental
        self.method = prepare(network, table, self.method)
        inference = self.method.begin(data_BD, steps=0 if incremental else steps)
        if incremental:
            for step in range(1, steps + 1):
                inference.step()
                self._update(inference, total_updates * steps)
                if step < steps:
                    inference.refresh()
        else:
            self._update(inference, total_updates)
        states, energy_B = inference.states, inference.energy_B + network.log_det()
        network.typical_latents[: len(data_BD)] = states[-1][: len(network.typical_latents)]
        if self.start is not None:
            self.start.update(data_BD, states[-1], self.counters["updates"])
        energy = energy_B.double().sum().item()
        if not math.isfinite(energy):
            epoch, batch = self.counters["epoch"] + 1, self.counters["batch"] + 1
            raise DivergenceError(
                f"epoch {epoch}, batch {batch}: the energy is not finite",
                "Lower it: --set learning.rate=..."
                + (" or use --set inference.solver=majorise" if table.solver == "descent" else ""),
            )
        squared = (
            (states[0] - inference.terms[0].prediction_BD).square().mean(1).double().sum().item()
        )
        self.sums += torch.tensor([energy, squared, len(data_BD)], dtype=torch.float64)

    def _update(self, inference: Inference, total_updates: int) -> None:
        """Step the weights, and the precisions where they learn."""
        states, terms = inference.states, inference.terms
        rate = rate_at(self.recipe.learning, self.counters["updates"], total_updates)
        self.counters["updates"] += 1
        for tensor, gradient in zip(
            self.weights, weight_gradients(self.network, states, terms), strict=True
        ):
            tensor.grad = gradient
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        precision = self.recipe.model.precision
        if precision.learned and self.counters["epoch"] >= precision.warmup:
            gradients = precision_gradients(self.network, states, terms)
            for tensor, slope in zip(self.precisions, gradients, strict=False):
                tensor.grad = slope
            self.precision_optimiser.step()
            for tensor in self.precisions:
                tensor.clamp_(max=-math.log(precision.floor))

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
