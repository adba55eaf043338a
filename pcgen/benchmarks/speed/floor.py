"""Lower bounds of the time of a training batch, from its operations and from its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pcgen.benchmarks.speed.cells import BATCH, Cell, Place
from pcgen.benchmarks.speed.workloads import Workload
from pcgen.model.layers import Dense
from pcgen.model.network import Network

_REPEATS = 30
_STREAM = 2**25  # values of the arrays that are copied: more than any cache holds


def floors(workload: Workload, network: Network, place: Place, ours: Cell) -> list[Cell]:
    """Return the two bounds of our batch, with our time as a multiple; none with convolutions."""
    count, steps = workload.batch, workload.steps
    needed = multiply_adds(network, count, steps)
    if needed is None or not ours.seconds:
        return []
    rate, bandwidth = measured_rate(network, count, place), measured_bandwidth(place)
    return [
        _floor("floor of the operations", 2 * needed / rate, ours),
        _floor("floor of the memory", bytes_moved(network, count, steps) / bandwidth, ours),
    ]


def _floor(name: str, seconds: float, ours: Cell) -> Cell:
    return Cell(name, BATCH, [seconds], f"pcgen takes {ours.median / seconds:.2f} times the floor")


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


def bytes_moved(network: Network, count: int, steps: int) -> float:
    """Return the bytes of a training batch in the Gram form, each operand of a product read once.

    A step reads the hidden layers' weights twice and the Gram matrix once, reads the states and
    their velocities and writes both; the update reads and writes weights and both Adam moments.
    """
    above = network.sizes[1]
    hidden = sum(layer.weight.numel() for layer in network.layers[1:])
    states = count * sum(network.sizes[1:])
    update = 6 * (network.sizes[0] * above + hidden) + 2 * count * network.sizes[0]
    return 4.0 * (steps * (2 * hidden + above * above + 4 * states) + update)


def measured_rate(network: Network, count: int, place: Place) -> float:
    """Return the floating-point operations a second of the largest hidden product, best of many."""
    weight = max((layer.weight for layer in network.layers[1:]), key=torch.Tensor.numel)
    weight = weight.to(place.device)
    states = torch.rand(count, weight.shape[1], device=place.device)
    out = torch.empty(count, weight.shape[0], device=place.device)
    best = _best(lambda: torch.mm(states, weight.T, out=out), place)
    return 2 * count * weight.numel() / best


def measured_bandwidth(place: Place) -> float:
    """Return the bytes a second that a copy reads and writes, best of many."""
    source = torch.ones(_STREAM, device=place.device)
    target = torch.empty_like(source)
    return 8 * _STREAM / _best(lambda: target.copy_(source), place)


def _best(work: Callable[[], object], place: Place) -> float:
    """Return the least time of the work in seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(place.threads)
    best = float("inf")
    try:
        for _ in range(_REPEATS):
            began = time.perf_counter()
            work()
            wait(place.device)
            best = min(best, time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return best


def wait(device: torch.device | str) -> None:
    """Wait until a GPU has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
