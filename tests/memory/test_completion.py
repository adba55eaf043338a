"""The variance of completion: the error of leaving one image out, in closed form."""

from __future__ import annotations

import torch

from pcgen.memory import completion
from pcgen.model.network import Network
from tests import oracle

COUNT = 30


def linear() -> tuple[Network, torch.Tensor]:
    network = oracle.network(layers=(6,), shape=12, data=1.0, latent=1.0)
    source = torch.Generator().manual_seed(2)
    return network, torch.randn(COUNT, 6, generator=source, dtype=torch.float64)


def left_out(network: Network, stored_NL: torch.Tensor, variance: float) -> float:
    """Return the error of predicting each image's hidden pixels from all others."""
    visible, errors = torch.arange(12) < 5, []
    for i in range(COUNT):
        others = torch.arange(COUNT) != i
        mean_L = stored_NL[others].mean(0)
        centred_NL = stored_NL - mean_L
        y_NP = centred_NL @ network.layers[0].weight[visible].T
        moment = y_NP[others].T @ y_NP[others]
        moment += COUNT * variance * torch.eye(5, dtype=torch.float64)
        z_L = y_NP[i] @ torch.linalg.solve(moment, y_NP[others].T @ centred_NL[others])
        errors.append((z_L - centred_NL[i]) @ network.layers[0].weight[~visible].T)
    return float(torch.stack(errors).square().mean())


def test_the_chosen_variance_predicts_left_out_images_best() -> None:
    network, stored_NL = linear()
    visible = torch.arange(12) < 5
    seen_NP = network.decode(stored_NL)[:, visible]
    chosen = completion.completion_variance(network, stored_NL, seen_NP, ~visible, 1.0)
    errors = {v: left_out(network, stored_NL, v) for v in completion._VARIANCES}
    assert chosen == min(errors, key=errors.__getitem__)


def test_fewer_images_need_a_larger_variance() -> None:
    network, stored_NL = linear()
    visible = torch.arange(12) < 5
    few, all_ = (
        completion.completion_variance(
            network, z_NL, network.decode(z_NL)[:, visible], ~visible, 1.0
        )
        for z_NL in (stored_NL[:6], stored_NL)
    )
    assert few >= all_
