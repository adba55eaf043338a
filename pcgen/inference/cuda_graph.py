"""A loop of many small operations as one CUDA graph: the launches are paid once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Work = Callable[[Tensor, Sequence[Tensor]], None]
"""Does its work on a batch's data and start; results stay in the worker's own buffers."""

_WARM_UPS = 2


def capture(work: Work, data_BD: Tensor, start: Sequence[Tensor]) -> Work:
    """Return the same work as a graph, which copies its arguments in and is replayed.

    The work must not depend on their values in its order, and may read weights that change in
    place. Nothing in it waits for the host.

    Raises:
        RuntimeError: an operation that cannot be captured.
    """
    data = data_BD.clone()
    first = [state.clone() for state in start]
    # Libraries set themselves up at the first calls, which a graph must not hold.
    side = torch.cuda.Stream(data.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(data.device))
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            work(data, first)
    torch.cuda.current_stream(data.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work(data, first)

    def replay(data_BD: Tensor, start: Sequence[Tensor]) -> None:
        data.copy_(data_BD)
        for mine, theirs in zip(first, start, strict=True):
            mine.copy_(theirs)
        graph.replay()

    return replay
