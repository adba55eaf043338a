"""The floor of a training batch: the products it cannot do without, at this machine's rate."""

from __future__ import annotations

import time

import torch

from pcgen.model.layers import Dense
from pcgen.model.network import Network

_REPEATS = 30


def multiply_adds(network: Network, count: int, steps: int) -> float | None:
    """Return the multiply-adds of a training batch in the Gram form; None with convolutions.

    A step makes both products of every hidden layer and one with the data layer's Gram matrix, of
    which a triangle is computed once a weight update; the update makes both products of all layers.
    """
    if not all(isinstance(layer, Dense) for layer in network.layers):
        return None
    data, above = network.layers[0].weight.shape
    hidden = sum(layer.weight.numel() for layer in network.layers[1:])
    everything = data * above + hidden
    step = count * (2 * hidden + above * above)
    once = count * data * above + data * above * above / 2 + count * hidden
    return steps * step + once + 2 * count * everything


def measured_rate(network: Network, count: int, threads: int) -> float:
    """Return the floating-point operations a second of the largest hidden product, at best."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        weight = max((layer.weight for layer in network.layers[1:]), key=torch.Tensor.numel)
        states = torch.rand(count, weight.shape[1])
        out = torch.empty(count, weight.shape[0])
        best = float("inf")
        for _ in range(_REPEATS):
            began = time.perf_counter()
            torch.mm(states, weight.T, out=out)
            best = min(best, time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return 2 * count * weight.numel() / best
