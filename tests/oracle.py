"""Small random networks, and autograd as the oracle of every closed-form slope."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.config import ModelTable, PrecisionTable
from pcgen.device import generator
from pcgen.model.network import Network, build

DATA = 7
ACTIVATIONS = ["linear", "tanh", "hard_tanh", "relu", "gelu", "sigmoid"]


def network(
    *,
    layers: tuple[int, ...] = (3, 5, 4),
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
        activation=activation,  # type: ignore[arg-type]
        output=output,  # type: ignore[arg-type]
        likelihood=likelihood,  # type: ignore[arg-type]
        precision=PrecisionTable(**precision),  # type: ignore[arg-type]
    )
    source = generator(seed, "test")
    result = build(table, DATA, source).to("cpu", torch.float64)
    for layer in result.layers:
        layer.weight.mul_(gain)
        layer.bias.copy_(0.3 * torch.randn(layer.bias.shape, generator=source).double())
    for log_precision in result.log_precisions[:-1]:
        if log_precision.ndim:
            noise = torch.randn(log_precision.shape, generator=source).double()
            log_precision.add_(0.3 * noise)
    return result


def data(network: Network, count: int = 6, seed: int = 1) -> Tensor:
    """Return data (B, D) that the network's likelihood allows."""
    source = generator(seed, "data")
    if network.table.likelihood == "categorical":
        chosen = torch.randint(DATA, (count,), generator=source)
        return torch.nn.functional.one_hot(chosen, DATA).double()
    return torch.rand(count, DATA, generator=source).double()


def states(network: Network, data_BD: Tensor, seed: int = 2) -> list[Tensor]:
    """Return random states over the data."""
    source = generator(seed, "states")
    return [
        data_BD,
        *(torch.randn(len(data_BD), size, generator=source).double() for size in network.sizes[1:]),
    ]
