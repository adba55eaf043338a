"""The workloads: networks, their data, and the descent that every library computes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.config import Recipe, from_dict
from pcgen.device import generator
from pcgen.model.layers import Shape, TransposedConvolution
from pcgen.model.network import Network, build


@dataclass(frozen=True, slots=True)
class Workload:
    """A network and how it is trained.

    Attributes:
        shape: of the data.
        rate: of the descent, stable for the trained network.
        rates: among which every library's descent is tuned for the time to equilibrium, which is
            measured only if there are some.
    """

    name: str
    layers: list[int | list[int]]
    shape: Shape
    batch: int
    steps: int
    rate: float
    rates: tuple[float, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, Any]:
        """Return the recipe as plain tables."""
        return {
            "name": self.name,
            "model": {"layers": self.layers, "activation": "tanh", **self.model},
            "inference": {
                "solver": "descent",
                "steps": self.steps,
                "rate": self.rate,
                "momentum": MOMENTUM,
            },
            "learning": {"batch_size": self.batch, "rate": WEIGHT_RATE, "warmup": 0},
        }

    def recipe(self) -> Recipe:
        """Return the recipe."""
        return from_dict(self.tables())

    def network(self) -> Network:
        """Return the network with seeded random weights."""
        return build(self.recipe().model, self.shape, generator(0, self.name))

    def data(self, count: int) -> Tensor:
        """Return seeded images (count, D) in [0, 1]: smooth mixtures of 40 patterns."""
        draw = generator(0, self.name, "data")
        patterns = torch.randn(40, math.prod(self.shape), generator=draw).cumsum(1)
        patterns /= patterns.std(1, keepdim=True)
        mixed = torch.randn(count, 40, generator=draw) @ patterns / math.sqrt(40)
        return torch.sigmoid(2 * mixed)


MOMENTUM, WEIGHT_RATE = 0.5, 1e-4
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "W1",
            [64, 256, 256],
            (1, 1, 784),
            200,
            20,
            0.05,
            rates=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2),
        ),
        Workload(
            "W2",
            [512, 2048, 2048],
            (1, 1, 12288),
            50,
            50,
            0.001,
            rates=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.007),
        ),
        Workload("W2-4096", [512, 2048, 2048], (1, 1, 12288), 4096, 50, 0.001),
        Workload("W3", [128] * 30, (1, 1, 128), 256, 60, 0.05),
        Workload(
            "W4",
            [[8, 4, 4], [8, 8, 8], [5, 16, 16]],
            (3, 32, 32),
            200,
            20,
            0.02,
            model={"kernel": 4},
        ),
    )
}


def write(network: Network, data_BD: Tensor, path: Path) -> None:
    """Write the weights, biases and data that all workers read.

    The typical latents are part of a trained network: our preconditioners are computed at them.
    """
    arrays: dict[str, np.ndarray] = {
        "data_BD": data_BD.numpy(),
        "typical_latents": network.typical_latents.numpy(),
    }
    for i, layer in enumerate(network.layers):
        assert layer.bias is not None
        arrays[f"w{i}"], arrays[f"b{i}"] = layer.weight.numpy(), layer.bias.numpy()
    np.savez(path, **arrays)  # type: ignore[arg-type]


def setup(
    workload: Workload, network: Network, npz: Path, mode: str, device: str = "cpu"
) -> dict[str, Any]:
    """Return the request that sets up a worker: hidden layers are tanh, the data layer linear."""
    message: dict[str, Any] = {
        "do": "setup",
        "device": device,
        "npz": str(npz),
        "kind": "dense",
        "steps": workload.steps,
        "rate": workload.rate,
        "momentum": MOMENTUM,
        "weight_rate": WEIGHT_RATE,
        "mode": mode,
        "tables": workload.tables(),
        "shape": list(workload.shape),
    }
    convolutions = [x for x in network.layers if isinstance(x, TransposedConvolution)]
    if convolutions:
        message["kind"] = "deconv"
        message["geometry"] = [
            {
                "stride": layer.stride,
                "padding": layer.padding,
                "output_padding": layer.output_padding,
                "in": list(layer.above),
                "out": list(layer.below),
            }
            for layer in convolutions
        ]
    return message
