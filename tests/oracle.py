"""Small random networks, and autograd as the oracle of every closed-form slope."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcgen.config import ModelTable, PrecisionTable
from pcgen.device import generator
from pcgen.model.network import Network, build

DATA = 7
ACTIVATIONS = ["linear", "tanh", "hard_tanh", "relu", "leaky_relu", "gelu", "sigmoid"]
SOLVERS = ["majorise", "newton", "errors", "descent"]


def network(
    *,
    layers: tuple[int | list[int], ...] = (3, 5, 4),
    shape: int | tuple[int, int, int] = DATA,
    kernel: int | list[int] = 3,
    skips: tuple[list[int], ...] = (),
    activation: str = "tanh",
    output: str = "linear",
    likelihood: str = "gaussian",
    seed: int = 0,
    gain: float = 1.0,
    **precision: object,
) -> Network:
    """Return a float64 network with random weights, biases and, if diagonal, precisions."""
    table = ModelTable(
        layers=list(layers),
        kernel=kernel,
        skips=list(skips),
        activation=activation,
        output=output,
        likelihood=likelihood,
        precision=PrecisionTable(**precision),  # type: ignore[arg-type]
    )
    source = generator(seed, "test")
    result = build(table, shape, source).to("cpu", torch.float64)
    for layer in result.layers:
        assert layer.bias is not None
        layer.weight.mul_(gain)
        layer.bias.copy_(0.3 * torch.randn(layer.bias.shape, generator=source).double())
    for log_precision in result.log_precisions[:-1]:
        if log_precision.ndim:
            noise = torch.randn(log_precision.shape, generator=source).double()
            log_precision.add_(0.3 * noise)
    return result


# Networks of every build: dense, convolutional, mixed, and with skip connections.
BUILDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "skip": {"skips": ([0, 2], [1, 3], [0, 3])},
    "maps": {"layers": ([2, 2, 2], [3, 4, 4]), "shape": (2, 8, 8), "kernel": [4, 3]},
    "same size": {"layers": ([2, 4, 4], [3, 4, 4]), "shape": (1, 8, 8), "kernel": [3, 5]},
    "mixed": {"layers": (4, [3, 2, 3], [2, 4, 6], 5), "shape": (1, 4, 4), "kernel": 5},
    "maps with skips": {
        "layers": (3, [2, 2, 2], [3, 4, 4]),
        "shape": (2, 8, 8),
        "kernel": 4,
        "skips": ([0, 2], [1, 3]),
    },
}


def data(network: Network, count: int = 6, seed: int = 1) -> Tensor:
    """Return data (B, D) that the network's likelihood allows."""
    source, units = generator(seed, "data"), network.sizes[0]
    if network.table.likelihood == "categorical":
        chosen = torch.randint(units, (count,), generator=source)
        return torch.nn.functional.one_hot(chosen, units).double()
    return torch.rand(count, units, generator=source).double()


def states(network: Network, data_BD: Tensor, seed: int = 2) -> list[Tensor]:
    """Return random states over the data."""
    source = generator(seed, "states")
    return [
        data_BD,
        *(torch.randn(len(data_BD), size, generator=source).double() for size in network.sizes[1:]),
    ]
