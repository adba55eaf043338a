"""Ancestral draws: from the latent downwards, each layer from its prediction and its own noise."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.inference.noise import SampleNoise
from pcgen.model.network import Network


def draw_latent(network: Network, noise: SampleNoise, temperature: float = 1.0) -> Tensor:
    """Return latents (B, D_L) from the prior N(0, T / pi_L)."""
    (latent,) = noise.draw()
    return latent * (temperature / network.latent_precision()).sqrt()


def draw_hidden(
    network: Network, latent_BD: Tensor, noise: SampleNoise, temperature: float = 1.0
) -> list[Tensor]:
    """Return states of all layers, data first: hidden ones drawn, the data as it is predicted.

    Args:
        noise: its widths are those of layers 1 to L - 1.
    """
    states = [latent_BD] * (network.depth + 1)
    drawn = noise.draw() if network.depth > 1 else []
    energies = network.energies()
    for i in range(network.depth - 1, 0, -1):
        deviation = (temperature * (-network.log_precisions[i]).exp()).sqrt()
        states[i] = energies[i].predict(network.drive(i, states)) + drawn[i - 1] * deviation
    states[0] = energies[0].predict(network.drive(0, states))
    return states


def draw_data(network: Network, prediction_BD: Tensor, noise: SampleNoise) -> Tensor:
    """Return data (B, D_0) with the output's own noise around what is predicted.

    Args:
        noise: its one width is that of the data.
    """
    (normal_BD,) = noise.draw()
    if network.table.likelihood == "gaussian":
        return prediction_BD + normal_BD * (-0.5 * network.log_precisions[0]).exp()
    uniform_BD = torch.special.ndtr(normal_BD)
    if network.table.likelihood == "bernoulli":
        return (uniform_BD < prediction_BD).to(prediction_BD)
    # The largest of log p plus Gumbel noise is a draw from p.
    chosen_B = (prediction_BD.log() - (-uniform_BD.log()).log()).argmax(1)
    return torch.nn.functional.one_hot(chosen_B, prediction_BD.shape[1]).to(prediction_BD)
