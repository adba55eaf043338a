"""Our side of the benchmark, behind the same requests as the other libraries' workers.

`mode` says what is timed: `pcgen`, or `autograd`, the same steps with torch.autograd in the loop.
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

from pcgen.config import InferenceTable, from_dict
from pcgen.data.images import Rows
from pcgen.device import generator
from pcgen.evaluation.baselines import autoencoder
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.solvers import prepare
from pcgen.learning.hebbian import optimiser_for
from pcgen.learning.train import Training
from pcgen.model.network import Network, build

Message = dict[str, Any]
# How a solver arrives: its run, the steps and the tolerance that it stops at.
_Arrival = tuple[Callable[[], object], int, float | None]
# Of the energy, relative: one of them for each solver, as a descent has its rate.
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)


class Bench:
    """The network of the last `setup`, and one method for each request."""

    def setup(self, message: Message) -> Message:
        self.message = message
        self.recipe = from_dict(message["tables"])
        with np.load(message["npz"]) as file:
            self.arrays = {name: torch.from_numpy(array) for name, array in file.items()}
        self.data_BD = self.arrays.pop("data_BD")
        self.shape = (message["shape"][0], message["shape"][1], message["shape"][2])
        self.network = build(self.recipe.model, self.shape, generator(0))
        self.work = _WORK[message["mode"]](self)
        return {"ok": True, "library": "pcgen", "note": ""}

    def restore(self) -> Network:
        """Return the network at the set-up's weights."""
        for i, layer in enumerate(self.network.layers):
            assert layer.bias is not None
            layer.weight.copy_(self.arrays[f"w{i}"])
            layer.bias.copy_(self.arrays[f"b{i}"])
        return self.network

    def batch(self, message: Message) -> Message:
        """Time whole training batches."""
        self.restore()
        self.work()
        seconds = [clock(self.work) for _ in range(message["repeats"])]
        finite = all(bool(weight.isfinite().all()) for weight in self.network.weights())
        return {"seconds": seconds, "finite": finite}

    def steps(self, message: Message) -> Message:
        """Time the steps of a batch alone, per step."""
        method, steps = prepare(self.restore(), self.recipe.inference), self.message["steps"]

        def run() -> None:
            method.begin(self.data_BD, steps=steps)

        run()
        return {"seconds": [clock(run) / steps for _ in range(message["repeats"])]}

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
            target_B = torch.from_numpy(arrays["target_B"])
        network, most = self.restore(), message["max_steps"]
        if table.solver == "descent":
            found = self._descend(network, table, target_B, most)
        else:
            found = self._stop(network, table, target_B, most)
        if found is None:
            return {"seconds": None, "steps": None}
        run, steps, tolerance = found
        prepared = clock(lambda: prepare(network, table))
        run()
        seconds = [clock(run) for _ in range(message["repeats"])]
        return {"seconds": seconds, "steps": steps, "prepare": prepared, "tolerance": tolerance}

    def _descend(
        self, network: Network, table: InferenceTable, target_B: Tensor, most: int
    ) -> _Arrival | None:
        inference = prepare(network, table).begin(self.data_BD)
        steps = 0
        while not bool((inference.energy_B <= target_B).all()):
            if steps == most:
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


def clock(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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
    total = torch.zeros(())
    for i, layer in enumerate(network.layers):
        drive = layer.drive(states[i + 1])
        total = total + 0.5 * (states[i] - (torch.tanh(drive) if i else drive)).square().sum()
    return total


def _training(bench: Bench) -> Callable[[], None]:
    count = len(bench.data_BD)
    training = Training(bench.network, bench.recipe, bench.data_BD)
    rows = Rows(bench.data_BD, ["ok"] * count, [""] * count, torch.arange(count))
    return lambda: training.learn(rows, 1000)


def _autograd(bench: Bench) -> Callable[[], None]:
    network, table = bench.network, bench.recipe.learning
    weights = network.weights()
    optimiser = optimiser_for(weights, "adamw", table.rate, 0.0, 0.0)

    def work() -> None:
        count = len(bench.data_BD)
        states = autograd_states(
            network, bench.data_BD, bench.recipe.inference.steps, bench.recipe.inference
        )
        for weight in weights:
            weight.requires_grad_()
        with torch.enable_grad():
            gradients = torch.autograd.grad(_energy(network, states) / count, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.requires_grad_(False)
            weight.grad = gradient
        optimiser.step()

    return work


def _backprop(bench: Bench) -> Callable[[], None]:
    model = autoencoder(bench.recipe, bench.shape)
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_()
    optimiser = torch.optim.AdamW(parameters, lr=bench.recipe.learning.rate, fused=True)
    count = len(bench.data_BD)

    def work() -> None:
        optimiser.zero_grad()
        with torch.enable_grad():
            loss = 0.5 * (model(bench.data_BD) - bench.data_BD).square().sum() / count
            loss.backward()
        optimiser.step()

    return work


_WORK = {"pcgen": _training, "autograd": _autograd, "backprop": _backprop}


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
