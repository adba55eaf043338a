"""The coordinates of `errors`: hidden errors and the latent, which determine all states.

x_L = z,   x_l = f_l(W x_{l+1} + b) + eps_l
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pcgen.model.energy import Terms, slope_of
from pcgen.model.network import Network


def determined_states(
    network: Network,
    data_BD: Tensor,
    latent_BD: Tensor,
    errors: Sequence[Tensor],
    mask_BD: Tensor | None,
) -> tuple[list[Tensor], list[Terms]]:
    """Return the states and terms of all layers, data first.

    Args:
        latent_BD: the states of the uppermost layer.
        errors: of the layers 1 to L - 1.
    """
    states = [data_BD] + [latent_BD] * network.depth
    terms: list[Terms] = []
    data, hidden = network.energies()[0], network.hidden_energies()
    for i in range(network.depth - 1, 0, -1):
        drive = network.drive(i, states)
        terms.insert(0, hidden[i - 1].terms_at_error(errors[i - 1], drive))
        states[i] = terms[0].prediction_BD + errors[i - 1]
    terms.insert(0, data.terms(data_BD, network.drive(0, states), mask_BD))
    return states, terms


def error_slopes(
    network: Network,
    terms: Sequence[Terms],
    prior_pull_BL: Tensor,
    last_free: int,
    images: Tensor | None = None,
) -> list[Tensor]:
    """Return dE/du: the slopes (B, D_l) in the errors of layers 1 to L - 1, then in the latent.

    Slopes are carried from the data up through all layers. A clamped latent has none.

    Args:
        images: the numbers of the images whose slopes are wanted; all without it.
    """

    def chosen(tensor: Tensor) -> Tensor:
        return tensor if images is None else tensor.index_select(0, images)

    slopes, carried = [], [chosen(terms[0].signal_BD)]
    for i in range(1, network.depth):
        arrived = network.adjoint(i, carried)
        slopes.append(chosen(terms[i].pull_BD) - arrived)
        carried.append(network.through(i, arrived, chosen(slope_of(terms[i]))))
    if last_free == network.depth:
        slopes.append(chosen(prior_pull_BL) - network.adjoint(network.depth, carried))
    return slopes
