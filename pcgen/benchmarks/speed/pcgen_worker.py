"""The benchmark's network in pcgen; `protocol.py` runs it in this environment.

`mode` chooses what is timed: `pcgen`; `autograd`, the same steps with torch.autograd in the loop;
or `backprop`, an autoencoder with the same decoder. Times are seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.benchmarks.baselines import autoencoder
from pcgen.benchmarks.peers.protocol import Message, clock
from pcgen.benchmarks.speed.floor import wait
from pcgen.config import InferenceTable, Recipe, from_dict
from pcgen.data.images import Rows
from pcgen.device import generator
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.solvers import prepare
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Batch
from pcgen.model.network import Network, build

# A timed run to equilibrium, its number of steps and the tolerance at which it stops.
_Run = tuple[Callable[[], object], int, float | None]
_UPDATES = 1000  # of the rate's schedule; the benchmark takes the first few
_TEST_STEPS = 30
# Of the energy, relative: each solver is timed at one of them, as a descent is at its best rate.
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)


class Library:
    """The network of the last `setup`."""

    def setup(self, message: Message) -> Message:
        """Build the network on the message's device."""
        torch.set_grad_enabled(False)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.message = message
        self.recipe = from_dict(message["tables"])
        self.device = torch.device(message["device"])
        with np.load(message["npz"]) as file:
            self.arrays = {n: torch.from_numpy(a).to(self.device) for n, a in file.items()}
        self.data_BD = self.arrays.pop("data_BD")
        self.shape = (message["shape"][0], message["shape"][1], message["shape"][2])
        self.network = build(self.recipe.model, self.shape, generator(0)).to(self.device)
        self.restore()
        self.learner = _LEARNERS[message["mode"]](self, self.recipe)
        return {"ok": True, "note": ""}

    def restore(self, rate: float | None = None, momentum: float | None = None) -> None:
        """Set the weights to those of the set-up."""
        for i, layer in enumerate(self.network.layers):
            assert layer.bias is not None
            layer.weight.copy_(self.arrays[f"w{i}"])
            layer.bias.copy_(self.arrays[f"b{i}"])
        self.network.typical_latents.copy_(self.arrays["typical_latents"])
        self.method = prepare(self.network, self.recipe.inference)

    def train(self) -> None:
        """Train on one batch."""
        self.learner.learn(self.data_BD)

    def finite(self) -> bool:
        """Return whether every weight is finite."""
        return all(bool(weight.isfinite().all()) for weight in self.network.weights())

    def begin(self) -> None:
        """Set the number of steps to 0."""
        self.steps_taken = 0

    def descend(self, steps: int) -> None:
        """Move the states from their start, by the steps before and these."""
        self.steps_taken += steps
        if self.message["mode"] != "autograd":
            self.method.begin(self.data_BD, steps=self.steps_taken)

    def energy(self) -> np.ndarray:
        """Return each image's energy (B,)."""
        if self.message["mode"] == "autograd":
            table = self.recipe.inference
            states = autograd_states(self.network, self.data_BD, self.steps_taken, table)
            return self.network.energy(states).cpu().numpy()
        return self.method.begin(self.data_BD, steps=self.steps_taken).energy_B.cpu().numpy()

    def wait(self) -> None:
        """Wait for a GPU."""
        wait(self.device)

    def equilibrium(self, message: Message) -> Message:
        """Time inference, its preparation included, until every image is at its target energy.

        A solver with a stopping rule stops by it, at the loosest tolerance that is tight enough;
        descent takes as many steps as a first run needed, and does not look at the energy.
        """
        table = from_dict({"inference": message["inference"]}).inference
        with np.load(message["target_npz"]) as arrays:
            target_B = torch.from_numpy(arrays["target_B"]).to(self.device)
        self.restore()
        arrive = self._descend_to if table.solver == "descent" else self._stop_at
        arrival = arrive(table, target_B, message["max_steps"])
        if arrival is None:
            return {"seconds": None, "steps": None}
        run, steps, tolerance = arrival
        prepared = clock(self, lambda: prepare(self.network, table))
        run()
        seconds = [clock(self, run) for _ in range(message["repeats"])]
        return {"seconds": seconds, "steps": steps, "prepare": prepared, "tolerance": tolerance}

    def _descend_to(self, table: InferenceTable, target_B: Tensor, most: int) -> _Run | None:
        """Return the descent that reaches the target energies in the fewest steps."""
        inference = prepare(self.network, table).begin(self.data_BD)
        steps = 0
        while not bool((inference.energy_B <= target_B).all()):
            if steps == most or not bool(inference.energy_B.isfinite().all()):
                return None
            inference.step()
            steps += 1
        return lambda: prepare(self.network, table).begin(self.data_BD, steps=steps), steps, None

    def _stop_at(self, table: InferenceTable, target_B: Tensor, most: int) -> _Run | None:
        """Return the inference at the loosest tolerance that reaches the target energies."""
        for tolerance in TOLERANCES:

            def run(tolerance: float = tolerance) -> Equilibrium:
                method = prepare(self.network, table)
                return infer(method, self.data_BD, steps=most, tolerance=tolerance)

            equilibrium = run()
            if bool((equilibrium.energy_B <= target_B).all()):
                return run, int(equilibrium.steps_B.max()), tolerance
        return None

    def curve(self, message: Message) -> Message:
        """Train on a stream of batches; return [updates, seconds, validation MSE] on the way.

        The error is that of decoding the latent where the energy is least, for every method. The
        time of measuring it does not count.
        """
        with np.load(message["stream_npz"]) as arrays:
            train_TBD = torch.from_numpy(arrays["train_TBD"]).to(self.device)
            held_out_BD = torch.from_numpy(arrays["held_out_BD"]).to(self.device)
        tables = dict(self.message["tables"])
        tables["inference"] = message.get("inference", tables["inference"])
        tables["learning"] = tables["learning"] | {"rate": message["rate"]}
        self.restore()
        learner = _LEARNERS[self.message["mode"]](self, from_dict(tables))
        seconds, curve = 0.0, []
        for update, batch_BD in enumerate(train_TBD, start=1):
            seconds += clock(self, lambda batch_BD=batch_BD: learner.learn(batch_BD))  # type: ignore[misc]
            if update % message["every"] == 0:
                output_BD = learner.reconstruct(held_out_BD)
                curve.append([update, seconds, float((output_BD - held_out_BD).square().mean())])
        return {"curve": curve}


def autograd_states(network: Network, data_BD: Tensor, steps: int, table: Any) -> list[Tensor]:
    """Return the states after `steps` steps of descent along the gradients of autograd."""
    states = network.states_from(network.start_latent(data_BD), data_BD)
    free = states[1:]
    velocity = [torch.zeros_like(state) for state in free]
    for _ in range(steps):
        with torch.enable_grad():
            for state in free:
                state.requires_grad_()
            slopes = torch.autograd.grad(_energy(network, [data_BD, *free]), free)
        for v, slope in zip(velocity, slopes, strict=True):
            v.mul_(table.momentum).sub_(slope, alpha=table.rate)
        free = [(state.detach() + v) for state, v in zip(free, velocity, strict=True)]
    return [data_BD, *free]


def _energy(network: Network, states: list[Tensor]) -> Tensor:
    """Return the energy, summed over images, in as few operations as possible."""
    total = states[0].new_zeros(())
    for i, layer in enumerate(network.layers):
        drive = layer.drive(states[i + 1])
        total = total + 0.5 * (states[i] - (torch.tanh(drive) if i else drive)).square().sum()
    return total


class LocalErrors:
    """Learns by the recipe's inference."""

    def __init__(self, library: Library, recipe: Recipe) -> None:
        self.network = library.network
        self.learner = PredictiveCoding(self.network, recipe, library.data_BD)

    def learn(self, data_BD: Tensor) -> None:
        count = len(data_BD)
        rows = Rows(data_BD, ["ok"] * count, [""] * count, torch.arange(count))
        self.learner.learn(Batch(rows, rows.index_B, batches=_UPDATES))

    def reconstruct(self, data_BD: Tensor) -> Tensor:
        """Return the images (B, D) that the latent decodes to at the equilibrium."""
        method = prepare(self.network, InferenceTable(solver="majorise"))
        return self.network.decode(infer(method, data_BD, steps=_TEST_STEPS).states[-1])


class Autograd:
    """Learns by the same steps, with autograd for every gradient."""

    def __init__(self, library: Library, recipe: Recipe) -> None:
        self.network, self.table = library.network, recipe.inference
        self.weights = self.network.weights()
        rate = recipe.learning.rate
        self.optimiser = torch.optim.AdamW(self.weights, rate, weight_decay=0.0, fused=True)

    def learn(self, data_BD: Tensor) -> None:
        states = autograd_states(self.network, data_BD, self.table.steps, self.table)
        for weight in self.weights:
            weight.requires_grad_()
        with torch.enable_grad():
            energy = _energy(self.network, states) / len(data_BD)
            gradients = torch.autograd.grad(energy, self.weights)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.requires_grad_(False)
            weight.grad = gradient
        self.optimiser.step()


class Backprop:
    """Trains an autoencoder with the same decoder by backpropagation."""

    def __init__(self, library: Library, recipe: Recipe) -> None:
        self.model = autoencoder(recipe, library.shape).to(library.device)
        parameters = list(self.model.parameters())
        for parameter in parameters:
            parameter.requires_grad_()
        self.optimiser = torch.optim.AdamW(parameters, lr=recipe.learning.rate, fused=True)

    def learn(self, data_BD: Tensor) -> None:
        self.optimiser.zero_grad()
        with torch.enable_grad():
            loss = 0.5 * (self.model(data_BD) - data_BD).square().sum() / len(data_BD)
            loss.backward()
        self.optimiser.step()

    def reconstruct(self, data_BD: Tensor) -> Tensor:
        """Return the reconstruction (B, D)."""
        output_BD: Tensor = self.model(data_BD)
        return output_BD


_LEARNERS: dict[str, Any] = {
    "pcgen": LocalErrors,
    "autograd": Autograd,
    "backprop": Backprop,
}
