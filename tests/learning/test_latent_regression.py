"""The linear start: what a regression of latents on their data finds."""

from __future__ import annotations

import pytest
import torch

from pcgen.config import ModelTable
from pcgen.device import generator
from pcgen.learning.latent_regression import StartRegression, of_least_energy
from pcgen.model.network import build


@pytest.mark.parametrize("width", [40, 5000], ids=["narrow", "by principal components"])
def test_latents_that_are_linear_in_the_data_are_found(width: int) -> None:
    source = generator(0, "amortise")
    network = build(ModelTable(layers=[3, 5], start="linear"), width, source)
    patterns = torch.randn(8, width, generator=source)
    data_BD = torch.randn(400, 8, generator=source) @ patterns + 1
    latent_BD = data_BD @ torch.randn(width, 3, generator=source) / width + 2
    start = StartRegression(network, data_BD)
    for update in range(0, 200, 10):
        start.take_in(start.sums(data_BD, latent_BD), len(data_BD), update)
    found = network.start_latent(data_BD)
    assert (found - latent_BD).square().mean() < 1e-4 * latent_BD.var()


def test_each_image_starts_at_the_share_of_least_energy() -> None:
    network = build(ModelTable(layers=[1], start="linear"), 1, generator(0, "shares"))
    layer = network.layers[0]
    layer.weight.fill_(1.0)
    layer.bias.zero_()
    # The start doubles the data, so half of it explains them; a prior prefers less.
    network.start.copy_(torch.tensor([[2.0], [0.0]]))
    data_BD = torch.tensor([[1.0], [-3.0], [0.0]])
    starts = [share * network.start_latent(data_BD) for share in (0.0, 0.5, 1.0)]
    best_BD = of_least_energy(network, data_BD, starts)
    assert best_BD[:, 0].tolist() == [1.0, -3.0, 0.0]
    network.log_precisions[-1].fill_(6.0)
    assert of_least_energy(network, data_BD, starts).tolist() == [[0.0], [0.0], [0.0]]
