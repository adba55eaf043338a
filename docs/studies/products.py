"""Measure how far energies move if matrix products round their factors as a GPU's fast modes do.

    python docs/studies/products.py

The rounding is emulated on the CPU: factors keep 10 bits (tf32) or 7 bits (bfloat16) of mantissa,
sums stay float32. Prints the mean and the largest relative error of the energies after 40 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pcgen.benchmarks.speed.workloads import WORKLOADS, prepared
from pcgen.commands.session import open_model
from pcgen.config import InferenceTable
from pcgen.data.sources import open_data
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network

_BITS = {"tf32": 10, "bfloat16": 7}


def rounded(value: Tensor, bits: int) -> Tensor:
    """Return float32 values rounded to the nearest with so many bits of mantissa."""
    drop = 23 - bits
    whole = value.contiguous().view(torch.int32) + (1 << (drop - 1))
    return (whole & ~((1 << drop) - 1)).view(torch.float32)


@contextmanager
def rounding(bits: int) -> Iterator[None]:
    """Make every dense product round its factors."""

    def product(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda a, b: plain(rounded(a, bits), rounded(b, bits))

    def added(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda c, a, b, **scale: plain(c, rounded(a, bits), rounded(b, bits), **scale)

    where: list[tuple[Any, str, Callable[[Callable[..., Tensor]], Callable[..., Tensor]]]] = [
        (torch.Tensor, "__matmul__", product),
        (torch, "addmm", added),
        (torch.Tensor, "addmm", added),
        (torch.Tensor, "addmm_", added),
    ]
    patches = [patch.object(owner, name, make(getattr(owner, name))) for owner, name, make in where]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def study(name: str, network: Network, data_BD: Tensor, table: InferenceTable) -> None:
    """Print the errors of one network's energies."""
    exact = infer(prepare(network, table), data_BD, steps=40).energy_B
    for mode, bits in _BITS.items():
        with rounding(bits):
            inference = infer(prepare(network, table), data_BD, steps=40)
        true_B = network.energy(inference.states)
        reported_B, excess_B = (inference.energy_B / true_B - 1).abs(), true_B / exact - 1
        print(
            f"{name}, {table.solver}, {mode}: energy as reported {reported_B.mean():.1e} "
            f"({reported_B.max():.1e}), above float32's {excess_B.mean():.1e} "
            f"({excess_B.max():.1e})"
        )


def main() -> None:
    """Study a network of unit precisions and the shipped model `mnist`."""
    network, data_BD = prepared(WORKLOADS["W1"])
    for solver in ("majorise", "newton"):
        study("W1", network, data_BD, InferenceTable(solver=solver))
    model = open_model("mnist")
    data_BD = open_data("mnist:test", limit=200).rows(range(200)).pixels_BD
    study("mnist", model.network, data_BD, model.recipe.inference)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        main()
