"""Local gradients in closed form: from a layer's own error and the activity above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcgen.model.energy import Terms, slope_of
from pcgen.model.network import Network


def weight_gradients(
    network: Network, states: Sequence[Tensor], terms: Sequence[Terms] | None = None
) -> list[Tensor]:
    """Return dE/dW and dE/db of every layer as in `Network.downward_weights`, batch means.

        dE/dW_{l+1} = -(Pi_l eps_l * f'(a_l)) x_{l+1}'

    Each is local: it needs the error of its own layer and the states of the layer above.

    Args:
        states: (B, D_l) of every layer, data first.
        terms: the energies and slopes at these states, if they are known.

    Source: Rao and Ballard (1999), eq. 9, with the slope of f at the drive and not at the response.

    Example:
        >>> import pcgen, torch
        >>> network = pcgen.Network([4, 16, 64])
        >>> states = pcgen.infer(network, torch.rand(10, 64)).states
        >>> gradients = pcgen.weight_gradients(network, states)
        >>> [tuple(gradient.shape) for gradient in gradients]
        [(64, 16), (64,), (16, 4), (16,)]
    """
    terms = network.terms(states) if terms is None else terms
    gradients: list[Tensor] = []
    for layer, term, above in zip(network.layers, terms, states[1:], strict=True):
        gradients.extend(layer.gradients(term.signal_BD, above))
    for skip in network.skips:
        signal_BD = terms[skip.target].signal_BD
        gradients.extend(skip.layer.gradients(signal_BD, states[skip.source]))
    return gradients


def backprop_gradients(network: Network, data_BD: Tensor, latent_BL: Tensor) -> list[Tensor]:
    """Return the gradients of backprop, in the order of `Network.downward_weights`, batch means.

    The loss is the data layer's energy where the latent alone decides all other layers, so that
    hidden errors are zero. One sweep carries its slopes up through all layers, which is not local.
    """
    states = network.states_from(latent_BL, data_BD)
    terms = network.terms(states)
    signals = [terms[0].signal_BD]
    for i in range(1, network.latent):
        signals.append(network.adjoint(i, signals) * slope_of(terms[i]))
    # A label layer drives the latent, which is given here.
    signals += [torch.zeros_like(term.signal_BD) for term in terms[network.latent :]]
    carried = [replace(term, signal_BD=s) for term, s in zip(terms, signals, strict=True)]
    return weight_gradients(network, states, carried)


def precision_gradients(
    network: Network, states: Sequence[Tensor], terms: Sequence[Terms]
) -> list[Tensor | None]:
    """Return dE/dlog pi of every layer below the top, batch means; None where there is none.

        dE/dlog pi_l = 1/2 (pi_l eps_l^2 - 1), summed over the units that share pi_l

    Source: Friston (2005), factorised form, in log pi instead of log sigma^2.
    """
    gradients: list[Tensor | None] = []
    for i, (log_precision, term) in enumerate(zip(network.log_precisions[:-1], terms, strict=True)):
        if i == 0 and network.table.likelihood != "gaussian":
            gradients.append(None)
            continue
        surprise_D = (term.pull_BD * (states[i] - term.prediction_BD)).mean(0)
        gradient_D = 0.5 * (surprise_D - 1)
        gradients.append(gradient_D if log_precision.ndim else gradient_D.sum())
    return gradients
