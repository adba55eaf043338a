"""Ancestral draws: from the latent downwards, each layer is its prediction plus noise."""

from __future__ import annotations

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
    """Return states of all layers, data first. The data are predicted, the hidden layers drawn.

    Args:
        noise: its widths are those of layers 1 to the latent.
        latent_BD: the latent; drawn from its prior if not given.
        labels_BK: the label layer, for a network that has one.
        classes_B: the class of each sample, for a mixture prior that knows classes; all classes
            if not given.
        temperature: multiplies all variances.
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
            states[i] = network.mixture.draw(drawn[i - 1], noise.uniform_B, classes_B, temperature)
    states[0] = energies[0].predict(network.drive(0, states))
    return states


def draw_data(network: Network, prediction_BD: Tensor, noise: SampleNoise) -> Tensor:
    """Return data (B, D_0) drawn around their prediction, as the likelihood says.

    Args:
        noise: its only width is that of the data.
    """
    (normal_BD,) = noise.draw()
    return network.energies()[0].draw(prediction_BD, normal_BD)
