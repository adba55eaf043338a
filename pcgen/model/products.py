"""Matrix products, by the operation that is fastest on this processor.

torch multiplies float32 matrices on a CPU with MKL, which reaches less than half of the speed of
some processors. The product of oneDNN is also in torch, as a private operation without autograd.
It serves where it exists, agrees with torch's own product and was chosen for this process with
`use`. The commands choose (`pcgen.commands.session`); from Python, plain torch serves until then.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pcgen.errors import DeviceError

TORCH, ONEDNN = "torch", "onednn"

# Products of fewer multiply-adds stay with torch: there a call of oneDNN costs more than it wins.
LEAST = 2**21
# oneDNN is chosen if it is so many times as fast, so that noise does not change the choice.
CLEARLY = 1.2
# Candidates are timed on the product of two matrices of this side. It is the same for all networks,
# so that the choice depends on the machine alone.
SIDE = 256
_TURNS = _IN_A_ROW = 4
# The largest difference from torch's own product, relative to its largest number.
_AGREES = 1e-4

# The time of this thread alone, where the clock is fine enough: other processes do not count.
_clock = time.perf_counter if sys.platform == "win32" else time.thread_time

_Operation = Callable[..., Tensor]
_chosen: _Operation | None = None


def chosen() -> str:
    """Return the name of the operation that large products use in this process."""
    return TORCH if _chosen is None else ONEDNN


def exists() -> bool:
    """Return whether oneDNN's product exists here and agrees with torch's."""
    return _operation() is not None


def use(name: str) -> None:
    """Use `torch` or `onednn` for the large products of this process from now on.

    Raises:
        DeviceError: oneDNN's product does not exist here, or differs from torch's.
    """
    global _chosen
    assert name in (TORCH, ONEDNN)
    name = resolve(name)
    _chosen = _operation() if name == ONEDNN else None


def resolve(setting: str, preferred: str | None = None) -> str:
    """Return the operation for a setting: `torch`, `onednn`, or `auto` for the fastest here.

    Args:
        preferred: the operation for `auto`, if it exists here.

    Raises:
        DeviceError: oneDNN's product does not exist here, or differs from torch's.
    """
    if setting == ONEDNN and not exists():
        raise DeviceError(
            f"PCGEN_PRODUCTS=onednn: not in torch {torch.__version__} on this processor, or not "
            "equal to torch's own products",
            "Use PCGEN_PRODUCTS=torch or PCGEN_PRODUCTS=auto",
        )
    if setting != "auto":
        return setting
    if preferred is None:
        return fastest()
    return preferred if preferred == TORCH or exists() else TORCH


@contextmanager
def restored_products() -> Iterator[None]:
    """Restore the process's choice when the block ends."""
    before = chosen()
    try:
        yield
    finally:
        use(before)


def fastest() -> str:
    """Return the operation to use on this processor."""
    measured = rates()
    return ONEDNN if measured.get(ONEDNN, 0.0) > CLEARLY * measured[TORCH] else TORCH


def rates() -> dict[str, float]:
    """Return each operation's rate in GFLOP/s on one thread, on matrices of SIDE x SIDE."""
    return dict(_rates())


def linear(x_BU: Tensor, weight_DU: Tensor, bias_D: Tensor | None = None) -> Tensor:
    """Return x weight' + bias (B, D)."""
    if _serves(x_BU, weight_DU, len(weight_DU)):
        return _fast(x_BU, weight_DU, bias_D)
    if bias_D is None:
        return x_BU @ weight_DU.T
    return torch.addmm(bias_D, x_BU, weight_DU.T)


def product(x_BD: Tensor, weight_DU: Tensor) -> Tensor:
    """Return x weight (B, U)."""
    if _serves(x_BD, weight_DU, weight_DU.shape[1]):
        return _fast(x_BD, weight_DU.T)
    return x_BD @ weight_DU


def transposed_product(x_BD: Tensor, y_BU: Tensor) -> Tensor:
    """Return x' y (D, U)."""
    return product(x_BD.T, y_BU)


def minus_product(start_BU: Tensor, x_BD: Tensor, weight_DU: Tensor) -> Tensor:
    """Return start - x weight (B, U)."""
    if _serves(x_BD, weight_DU, weight_DU.shape[1]):
        # oneDNN can subtract in the same operation, but first copies `start` to the result.
        moved_BU = _fast(x_BD, weight_DU.T)
        return torch.sub(start_BU, moved_BU, out=moved_BU)
    return torch.addmm(start_BU, x_BD, weight_DU, alpha=-1)


def _serves(x: Tensor, weight: Tensor, units: int) -> bool:
    """Return whether the chosen operation makes this product of so many units a row."""
    return (
        _chosen is not None
        and x.numel() * units >= LEAST
        and x.dtype == weight.dtype == torch.float32
        and x.is_cpu
        and weight.is_cpu
        # With gaps between the rows, oneDNN takes up to a thousand times as long.
        and (weight.is_contiguous() or weight.T.is_contiguous())
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


def _fast(x_BU: Tensor, weight_DU: Tensor, bias_D: Tensor | None = None) -> Tensor:
    assert _chosen is not None
    return _chosen(x_BU, weight_DU, bias_D, "none", [], "")


@functools.cache
def _operation() -> _Operation | None:
    """Return oneDNN's product; None where torch lacks it, or it fails or differs."""
    torch_ops: Any = torch.ops
    source = torch.Generator().manual_seed(0)
    x_BU, weight_DU = (torch.randn(48, 40, generator=source) for _ in range(2))
    bias_D = torch.randn(48, generator=source)
    try:
        operation: _Operation = torch_ops.mkldnn._linear_pointwise
        with torch.no_grad():
            for matrix in (weight_DU, weight_DU.T.contiguous().T):
                result = operation(x_BU, matrix, bias_D, "none", [], "")
                expected = torch.addmm(bias_D, x_BU, weight_DU.T)
                if not (result - expected).abs().max() <= _AGREES * expected.abs().max():
                    return None
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return None
    return operation


@functools.cache
def _rates() -> dict[str, float]:
    """Return each operation's rate in GFLOP/s: the best of several rounds."""
    ones = torch.ones(SIDE, SIDE)
    candidates: dict[str, Callable[[], Tensor]] = {TORCH: lambda: ones @ ones.T}
    operation = _operation()
    if operation is not None:
        candidates[ONEDNN] = lambda: operation(ones, ones, None, "none", [], "")
    best = dict.fromkeys(candidates, float("inf"))
    threads = torch.get_num_threads()
    # A busy machine delays threads that wait for each other, and the choice must not depend on it.
    torch.set_num_threads(1)
    try:
        for _ in range(_TURNS):
            for name, run in candidates.items():
                # Several in a row: the first ones find other data in the cache.
                for _ in range(_IN_A_ROW):
                    began = _clock()
                    run()
                    best[name] = min(best[name], _clock() - began)
    finally:
        torch.set_num_threads(threads)
    return {name: 2e-9 * SIDE**3 / seconds for name, seconds in best.items()}
