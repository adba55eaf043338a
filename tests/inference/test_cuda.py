"""A GPU finds the energies that the CPU finds."""

from __future__ import annotations

import pytest
import torch

from pcgen.commands.session import open_model
from pcgen.data.sources import open_data
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a cuda device"),
]


@pytest.mark.parametrize("name", ["digits", "digits-ood"])
@pytest.mark.parametrize(
    ("dtype", "steps", "close"), [(torch.float64, 20, 1e-9), (torch.float32, 8, 1e-5)]
)
def test_energies_are_those_of_the_cpu(
    name: str, dtype: torch.dtype, steps: int, close: float
) -> None:
    model = open_model(name)
    data_BD = open_data("digits:test", limit=200).rows(range(200)).pixels_BD
    energies = []
    for device in ("cpu", "cuda"):
        network = model.network.to(device, dtype)
        method = prepare(network, model.recipe.inference)
        energies.append(infer(method, data_BD.to(device, dtype), steps=steps).energy_B.cpu())
    torch.testing.assert_close(energies[1], energies[0], rtol=close, atol=0)
