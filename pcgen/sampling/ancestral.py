"""Ancestral draws: from the latent downwards, each layer from its prediction and its own noise."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.model.network import Network
from pcgen.sampling.noise import SampleNoise


def draw_states(
    network: Network,
    noise: SampleNoise,
    latent_BD: Tensor | None = None,
    labels_BK: Tensor | None = None,
    classes_B: Tensor | None = None,
    temperature: float = 1.0,
) -> list[Tensor]:
    """Return states of all layers, data first: the data as predicted, all between drawn.

    Args:
        noise: its widths are those of layers 1 to the latent.
        latent_BD: the latent, if it is not to be drawn from its prior.
        labels_BK: the label layer of a network that has one.
        classes_B: of the causes of a network that has a mixture of them; all if not given.
    """
    drawn = noise.draw()
    states = [drawn[0]] * (network.depth + 1)
    if network.table.labels:
        assert labels_BK is not None
        states[-1] = labels_BK
    energies = network.energies()
    for i in range(network.latent, 0, -1):
        if i == network.latent and latent_BD is not None:
            states[i] = latent_BD
            continue
        deviation = (temperature * (-network.log_precisions[i]).exp()).sqrt()
        states[i] = drawn[i - 1] * deviation
        if i < network.depth:
            states[i] = energies[i].predict(network.drive(i, states)) + states[i]
        elif network.mixture is not None:
            states[i] = network.mixture.draw(drawn[i - 1], noise.uniform_B, classes_B)
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
