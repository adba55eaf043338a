"""The workloads: networks, their data, and the descent that every library computes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.config import InferenceTable, Recipe, from_dict
from pcgen.data.images import Rows
from pcgen.device import generator
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Batch
from pcgen.model.layers import TransposedConvolution
from pcgen.model.network import Network, build

Setting = dict[str, Any]
"""The inference table of a recipe: solver, steps and, for descent, rate and momentum."""

MOST_UPDATES = 40  # of the training until a validation error
NEAR = 1e-3  # of the least energy, relative: what counts as the equilibrium
_MOMENTUM, _WEIGHT_RATE = 0.5, 1e-3
_UPDATES = 30  # before the equilibrium is timed
_LEAST_STEPS = 300


@dataclass(frozen=True, slots=True)
class Workload:
    """A network and how it is trained.

    Attributes:
        shape: of the data.
        steps: T of the descent, for a batch with the equal algorithm.
        rate: of that descent, stable for the trained network.
        races: whether the times to a result are measured, or training batches alone.
    """

    name: str
    layers: list[int | list[int]]
    shape: tuple[int, int, int]
    batch: int
    steps: int
    rate: float
    model: dict[str, Any] = field(default_factory=dict)
    races: bool = True

    def descent(self) -> Setting:
        """Return the descent that all libraries are compared with."""
        steps, rate = self.steps, self.rate
        return {"solver": "descent", "steps": steps, "rate": rate, "momentum": _MOMENTUM}

    def recipe(self, setting: Setting) -> Recipe:
        """Return the recipe with this inference."""
        tables = {
            "name": self.name,
            "model": {"layers": self.layers, "activation": "tanh", **self.model},
            "inference": setting,
            "learning": {"batch_size": self.batch, "rate": _WEIGHT_RATE, "warmup": 0},
        }
        return from_dict(tables)

    def network(self) -> Network:
        """Return the network with seeded random weights."""
        channels, height, width = self.shape
        return build(self.recipe({}).model, (channels, height, width), generator(0, self.name))

    def data(self, count: int) -> Tensor:
        """Return seeded images (count, D) in [0, 1]: smooth mixtures of 40 patterns."""
        draw = generator(0, self.name, "data")
        patterns = torch.randn(40, math.prod(self.shape), generator=draw).cumsum(1)
        patterns /= patterns.std(1, keepdim=True)
        mixed = torch.randn(count, 40, generator=draw) @ patterns / math.sqrt(40)
        return torch.sigmoid(2 * mixed)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("tiny", [2, 3], (1, 1, 12), 6, 4, 0.05, races=False),
        Workload("W1", [64, 256, 256], (1, 1, 784), 200, 20, 0.05),
        Workload("W2", [512, 2048, 2048], (1, 1, 12288), 50, 50, 0.001),
        Workload("W2-4096", [512, 2048, 2048], (1, 1, 12288), 4096, 50, 0.001, races=False),
        Workload("W3", [128] * 30, (1, 1, 128), 256, 60, 0.05),
        Workload(
            "W4", [[8, 4, 4], [8, 8, 8], [5, 16, 16]], (3, 32, 32), 200, 20, 0.02, {"kernel": 4}
        ),
    )
}


def batch_of(data_BD: Tensor, batches: int = 1000) -> Batch:
    """Return these images as a batch to learn from, one of so many in the rate's schedule."""
    count = len(data_BD)
    rows = Rows(data_BD, ["ok"] * count, [""] * count, torch.arange(count))
    return Batch(rows, rows.index_B, batches=batches)


def prepared(workload: Workload) -> tuple[Network, Tensor]:
    """Return a workload's network, trained a little if its races are timed, and a batch (B, D)."""
    network, count = workload.network(), workload.batch
    data_BD = workload.data(count)
    if workload.races:
        recipe = workload.recipe({"solver": "majorise", "steps": 5})
        learner = PredictiveCoding(network, recipe, data_BD)
        for images_BD in torch.split(workload.data(count * _UPDATES), count):
            learner.learn(batch_of(images_BD, _UPDATES))
    return network, data_BD


def least_energy(network: Network, data_BD: Tensor) -> Tensor:
    """Return the least energy (B,) that long runs of two solvers reach."""
    energies = [
        infer(
            prepare(network, InferenceTable(solver=solver)),
            data_BD,
            steps=_LEAST_STEPS,
            tolerance=NEAR / 100,
        ).energy_B
        for solver in ("newton", "majorise")
    ]
    return torch.minimum(*energies)


def setup(workload: Workload, folder: Path) -> dict[str, Any]:
    """Write a workload's network and data; return the request that sets up a worker with them.

    The hidden layers are tanh, the data layer is linear. The typical latents are part of a trained
    network: our preconditioners are computed at them.
    """
    network, data_BD = prepared(workload)
    arrays = {"data_BD": data_BD, "typical_latents": network.typical_latents}
    if workload.races:
        arrays["target_B"] = (1 + NEAR) * least_energy(network, data_BD)
    for i, layer in enumerate(network.layers):
        assert layer.bias is not None
        arrays |= {f"w{i}": layer.weight, f"b{i}": layer.bias}
    numbers: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
    np.savez(folder / "network.npz", **numbers)
    message = {
        "do": "setup",
        "npz": str(folder / "network.npz"),
        "workload": asdict(workload),
        "weight_rate": _WEIGHT_RATE,
        "kind": "dense",
    }
    convolutions = [x for x in network.layers if isinstance(x, TransposedConvolution)]
    if convolutions:
        message["kind"] = "deconv"
        message["geometry"] = [_geometry(layer) for layer in convolutions]
    return message


def _geometry(layer: TransposedConvolution) -> dict[str, Any]:
    return {
        "stride": layer.stride,
        "padding": layer.padding,
        "output_padding": layer.output_padding,
        "in": list(layer.above),
        "out": list(layer.below),
    }
