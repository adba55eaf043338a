"""Our side of the benchmark, behind the same requests as the other libraries' workers.

`mode` says what is timed: `pcgen`, `eager`, the same without captured graphs, `autograd`, the same
steps with torch.autograd in the loop, or `backprop`, an autoencoder with the same decoder.
Times are seconds.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.benchmarks.baselines import autoencoder
from pcgen.benchmarks.speed.floor import wait
from pcgen.config import InferenceTable, Recipe, from_dict
from pcgen.data.images import Rows
from pcgen.device import generator
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.solvers import prepare
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Batch
from pcgen.model.network import Network, build

Message = dict[str, Any]
# How a solver arrives: its run, the steps and the tolerance that it stops at.
_Arrival = tuple[Callable[[], object], int, float | None]
_UPDATES = 1000  # that the rate's schedule spans; the benchmark takes the first few
_TEST_STEPS = 30
# Of the energy, relative: one of them for each solver, as a descent has its rate.
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)


class Bench:
    """The network of the last `setup`, and one method for each request."""

    def setup(self, message: Message) -> Message:
        self.message = message
        self.recipe = from_dict(message["tables"])
        self.device = torch.device(message["device"])
        with np.load(message["npz"]) as file:
            found = {name: torch.from_numpy(array) for name, array in file.items()}
        self.arrays = {name: array.to(self.device) for name, array in found.items()}
        self.data_BD = self.arrays.pop("data_BD")
        self.shape = (message["shape"][0], message["shape"][1], message["shape"][2])
        self.network = build(self.recipe.model, self.shape, generator(0)).to(self.device)
        self.learner = _LEARNERS[message["mode"]](self, self.recipe)
        return {"ok": True, "library": "pcgen", "note": ""}

    def restore(self) -> Network:
        """Return the network at the set-up's weights."""
        for i, layer in enumerate(self.network.layers):
            assert layer.bias is not None
            layer.weight.copy_(self.arrays[f"w{i}"])
            layer.bias.copy_(self.arrays[f"b{i}"])
        self.network.typical_latents.copy_(self.arrays["typical_latents"])
        return self.network

    def batch(self, message: Message) -> Message:
        """Time whole training batches."""
        self.restore()

        def work() -> None:
            self.learner.learn(self.data_BD)

        # The second use of a batch's size may capture a graph.
        work()
        work()
        seconds = [self.clock(work) for _ in range(message["repeats"])]
        finite = all(bool(weight.isfinite().all()) for weight in self.network.weights())
        return {"seconds": seconds, "finite": finite}

    def steps(self, message: Message) -> Message:
        """Time the steps of a batch alone, per step."""
        method, steps = prepare(self.restore(), self.recipe.inference), self.message["steps"]
        if self.message["mode"] == "eager" and method.loops is not None:
            method.loops.capture = None

        def run() -> None:
            method.begin(self.data_BD, steps=steps)

        run()
        run()
        return {"seconds": [self.clock(run) / steps for _ in range(message["repeats"])]}

    def energies(self, message: Message) -> Message:
        """Return the energy per image, mean over the batch, after 0 to k steps."""
        network = self.restore()
        energies = []
        for steps in range(message["steps"] + 1):
            if self.message["mode"] == "autograd":
                states = autograd_states(network, self.data_BD, steps, self.recipe.inference)
                energy_B = network.energy(states)
            else:
                method = prepare(network, self.recipe.inference)
                energy_B = method.begin(self.data_BD, steps=steps).energy_B
            energies.append(float(energy_B.mean()))
        return {"energy": [energy if math.isfinite(energy) else None for energy in energies]}

    def equilibrium(self, message: Message) -> Message:
        """Time inference, its preparation included, until every image is at its target energy.

        A solver with a stopping rule stops by it, at the loosest tolerance that is tight enough;
        descent takes as many steps as a first run needed, and does not look at the energy.
        """
        table = from_dict({"inference": message["inference"]}).inference
        with np.load(message["target_npz"]) as arrays:
            target_B = torch.from_numpy(arrays["target_B"]).to(self.device)
        network, most = self.restore(), message["max_steps"]
        if table.solver == "descent":
            found = self._descend(network, table, target_B, most)
        else:
            found = self._stop(network, table, target_B, most)
        if found is None:
            return {"seconds": None, "steps": None}
        run, steps, tolerance = found
        prepared = self.clock(lambda: prepare(network, table))
        run()
        seconds = [self.clock(run) for _ in range(message["repeats"])]
        return {"seconds": seconds, "steps": steps, "prepare": prepared, "tolerance": tolerance}

    def curve(self, message: Message) -> Message:
        """Train on a stream of batches; return [updates, seconds, validation MSE] on the way.

        The error is the same for all, and its time does not count: of what the latent decodes to
        where the energy is least.
        """
        with np.load(message["stream_npz"]) as arrays:
            train_TBD = torch.from_numpy(arrays["train_TBD"]).to(self.device)
            held_out_BD = torch.from_numpy(arrays["held_out_BD"]).to(self.device)
        tables = dict(self.message["tables"])
        tables["inference"] = message.get("inference", tables["inference"])
        tables["learning"] = tables["learning"] | {"rate": message["rate"]}
        learner = _LEARNERS[self.message["mode"]](self, from_dict(tables))
        seconds, curve = 0.0, []
        for update, batch_BD in enumerate(train_TBD, start=1):
            seconds += self.clock(lambda batch_BD=batch_BD: learner.learn(batch_BD))  # type: ignore[misc]
            if update % message["every"] == 0:
                output_BD = learner.reconstruct(held_out_BD)
                curve.append([update, seconds, float((output_BD - held_out_BD).square().mean())])
        return {"curve": curve}

    def clock(self, work: Callable[[], object]) -> float:
        """Return the seconds that the work takes, on a GPU too."""
        wait(self.device)
        began = time.perf_counter()
        work()
        wait(self.device)
        return time.perf_counter() - began

    def _descend(
        self, network: Network, table: InferenceTable, target_B: Tensor, most: int
    ) -> _Arrival | None:
        inference = prepare(network, table).begin(self.data_BD)
        steps = 0
        while not bool((inference.energy_B <= target_B).all()):
            if steps == most or not bool(inference.energy_B.isfinite().all()):
                return None
            inference.step()
            steps += 1
        return lambda: prepare(network, table).begin(self.data_BD, steps=steps), steps, None

    def _stop(
        self, network: Network, table: InferenceTable, target_B: Tensor, most: int
    ) -> _Arrival | None:
        for tolerance in TOLERANCES:

            def run(tolerance: float = tolerance) -> Equilibrium:
                method = prepare(network, table)
                return infer(method, self.data_BD, steps=most, tolerance=tolerance)

            found = run()
            if bool((found.energy_B <= target_B).all()):
                return run, int(found.steps_B.max()), tolerance
        return None


def autograd_states(network: Network, data_BD: Tensor, steps: int, table: Any) -> list[Tensor]:
    """Return the states after steps of descent whose slopes autograd finds."""
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
    """Return the summed energy, with no more operations than it needs."""
    total = states[0].new_zeros(())
    for i, layer in enumerate(network.layers):
        drive = layer.drive(states[i + 1])
        total = total + 0.5 * (states[i] - (torch.tanh(drive) if i else drive)).square().sum()
    return total


class Energies:
    """Learns by the recipe's inference."""

    def __init__(self, bench: Bench, recipe: Recipe) -> None:
        self.network = bench.restore()
        self.learner = PredictiveCoding(self.network, recipe, bench.data_BD)
        if bench.message["mode"] == "eager":
            self.learner.method = prepare(self.network, recipe.inference)
            if self.learner.method.loops is not None:
                self.learner.method.loops.capture = None

    def learn(self, data_BD: Tensor) -> None:
        count = len(data_BD)
        rows = Rows(data_BD, ["ok"] * count, [""] * count, torch.arange(count))
        self.learner.learn(Batch(rows, rows.index_B, batches=_UPDATES))

    def reconstruct(self, data_BD: Tensor) -> Tensor:
        """Return what the latent decodes to at the equilibrium."""
        method = prepare(self.network, InferenceTable(solver="majorise"))
        return self.network.decode(infer(method, data_BD, steps=_TEST_STEPS).states[-1])


class Autograd:
    """Learns by the same steps, with autograd for every slope."""

    def __init__(self, bench: Bench, recipe: Recipe) -> None:
        self.network, self.table = bench.network, recipe.inference
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
    """An autoencoder with the same decoder learns by backpropagation."""

    def __init__(self, bench: Bench, recipe: Recipe) -> None:
        self.model = autoencoder(recipe, bench.shape).to(bench.device)
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
        """Return what goes through the bottleneck."""
        output_BD: Tensor = self.model(data_BD)
        return output_BD


_LEARNERS: dict[str, Any] = {
    "pcgen": Energies,
    "eager": Energies,
    "autograd": Autograd,
    "backprop": Backprop,
}


def serve(bench: Bench) -> None:
    """Answer each line of standard input until it ends or says quit."""
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "quit":
            return
        try:
            answer = getattr(bench, message["do"])(message)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, allow_nan=False), flush=True)  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with torch.no_grad():
        serve(Bench())
