"""How credit is assigned: what a network learns from, beside its equilibrium and backprop.

Where hidden errors are zero, or so small that only the data layer's error counts, predictive coding
is backprop in other words. These measures tell how far a network is from that.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.config import Recipe
from pcgen.data.images import Images, Rows
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.gradients import backprop_gradients, weight_gradients
from pcgen.learning.latent_regression import of_least_energy
from pcgen.learning.predictive_coding import clamped_labels
from pcgen.learning.validate import measure
from pcgen.model.network import Network

_Shares = tuple[float | None, float | None, float | None, float | None]
# Few, because the measure takes seconds at the end of a training of seconds.
IMAGES = 200
# The steps to the batch's own equilibrium, for each step that the recipe allows in use.
_LONGER = 5


@dataclass(frozen=True, slots=True)
class Credit:
    """How a network's weights get their gradient, measured on one batch.

    The first four are None where the weights learn from drawn states instead of inferred ones.

    Attributes:
        images: of the batch.
        hidden_share: the hidden layers' part of the whole energy (data, hidden layers and prior;
            without the term of learned precisions) where inference with the training solver and
            its last epoch's steps ends. It begins where training does, without kept latents.
        cosine_equilibrium: of the weight gradient there with that of the batch's equilibrium.
        equilibrium_converged: the share of the images whose equilibrium is certified.
        cosine_backprop: of the same gradient with backprop's at the same latent.
        mse: per pixel, decoded from the latent, with the solver for use.
        mse_from_zero: the same where inference starts at a latent of zero, the prior's mean.
        parameters: numbers in the weights and biases, the linear start, the prior's mixture, and
            the learned precisions.
    """

    images: int
    hidden_share: float | None
    cosine_equilibrium: float | None
    equilibrium_converged: float | None
    cosine_backprop: float | None
    mse: float
    mse_from_zero: float
    parameters: dict[str, int]


def credit_of(network: Network, recipe: Recipe, images: Images) -> Credit:
    """Return how a network's weights get their gradient, on the first images.

    Raises:
        DataError: no image that can be read.
    """
    images = images.head(IMAGES)
    mse = measure(network, images, recipe.inference).mse
    from_zero = mse
    if network.start is not None:
        from_zero = measure(without_start(network), images, recipe.inference).mse
    rows = images.rows(range(len(images)))
    shares: _Shares = (None, None, None, None)
    if not recipe.inference.draws:
        shares = _shares(network, recipe, rows)
    return Credit(len(images), *shares, mse, from_zero, parameters(network))


def without_start(network: Network) -> Network:
    """Return the same network, whose latent starts at zero, the prior's mean."""
    plain = copy.copy(network)
    plain.start = None
    return plain


def parameters(network: Network) -> dict[str, int]:
    """Return how many numbers each part of a network has learned; `whole` is their sum."""
    learned = network.log_precisions[:-1] if network.table.precision.learned else []
    mixture = {} if network.mixture is None else network.mixture.tensors()
    counts = {
        "weights": _count(network.weights()),
        "start": 0 if network.start is None else network.start.numel(),
        "prior": _count([*mixture.values()]),
        "precisions": _count(learned),
    }
    return {**counts, "whole": sum(counts.values())}


def _shares(network: Network, recipe: Recipe, rows: Rows) -> _Shares:
    """Return the first four measures of `Credit`."""
    table = recipe.inference
    data_BD = rows.pixels_BD[rows.ok].to(network.layers[0].weight)
    labels_B = None if rows.labels_B is None else rows.labels_B[rows.ok]
    labels_BK = clamped_labels(network, labels_B)
    steps = recipe.steps_in(recipe.learning.epochs)
    starts = [share * network.start_latent(data_BD) for share in table.starts]
    trained = prepare(network, table).begin(
        data_BD,
        latent_BD=of_least_energy(network, data_BD, starts),
        steps=steps,
        labels_BK=labels_BK,
    )
    latent_BL = trained.states[network.latent]
    hidden = sum(term.energy_B.sum() for term in trained.terms[1 : network.latent])
    gradient = weight_gradients(network, trained.states, trained.terms)
    own = infer(
        prepare(network, table.for_use()),
        data_BD,
        steps=_LONGER * table.test_steps,
        tolerance=table.tolerance,
        latent_BD=latent_BL,
        labels_BK=labels_BK,
    )
    equilibrium = weight_gradients(network, own.states, network.terms(own.states))
    backprop = backprop_gradients(network, data_BD, latent_BL)
    return (
        float(hidden / trained.energy_B.sum()),
        cosine(gradient, equilibrium),
        float(own.converged_B.double().mean()),
        cosine(gradient, backprop),
    )


def cosine(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Return the cosine of two lists of tensors, each taken as one vector; 0 if one is zero."""
    a, b = (torch.cat([part.flatten().double() for part in parts]) for parts in (left, right))
    return float(functional.cosine_similarity(a, b, dim=0))


def _count(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
