"""The network before learning: random weights, and the data's mean as the first prediction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcgen.config import Recipe
from pcgen.data.images import Images, Shape, mirrored, order, require_readable
from pcgen.device import generator, require_memory
from pcgen.errors import RecipeError
from pcgen.learning.latent_regression import principal_components
from pcgen.model.layers import Dense
from pcgen.model.network import Network, build, tensor_size

# Enough images for a mean that is right to 1 % of a standard deviation, in at most 128 MiB; twice
# as many values for principal components, which small samples overfit.
_SAMPLE = 20_000
_SAMPLE_VALUES = 2**25
# A component of less deviation is rounding.
_LEAST_DEVIATION = 1e-6


def initial_network(recipe: Recipe, sample_BD: Tensor, shape: Shape, classes: int = 0) -> Network:
    """Return a new network whose prediction from a latent of 0 is near the sample's mean.

    Args:
        sample_BD: from `sample`.
        shape: channels, height and width of the data.
        classes: of the labels, 0 where there are none.

    Raises:
        RecipeError: a network that these data do not fit.
    """
    require_memory(tensor_size(recipe.model, shape, classes))
    network = build(recipe.model, shape, generator(recipe.seed, "weights"), classes)
    if recipe.learning.mirror:
        sample_BD = torch.cat([sample_BD, mirrored(sample_BD, shape)])
    mean_D = sample_BD.mean(0)
    if recipe.model.likelihood == "categorical":
        bias_D = mean_D.clamp_min(1e-3).log()
    elif recipe.model.likelihood == "bernoulli" or recipe.model.output == "sigmoid":
        bias_D = mean_D.clamp(0.01, 0.99).logit()
    elif recipe.model.output == "tanh":
        bias_D = mean_D.clamp(-0.99, 0.99).atanh()
    else:
        bias_D = mean_D
    network.layers[0].set_prediction(bias_D)
    if network.upward is not None:
        network.upward.expected_D.copy_(mean_D)
    if recipe.model.weights == "principal":
        begin_at_components(network, sample_BD)
    return network


def take_over(network: Network, trained: Network, name: str) -> None:
    """Copy the downward chain and the prior of a trained network into a new one.

    Args:
        name: of the trained network, for the error.

    Raises:
        RecipeError: networks whose layers, precisions or classes differ.
    """
    if network.mixture is not None and trained.mixture is not None:
        # A file of version 0.1.0 has none.
        network.mixture.of_classes = network.mixture.of_classes[: len(trained.mixture.of_classes)]
    given = {k: tensor for k, tensor in trained.tensors().items() if not k.startswith("upward.")}
    own = {k: tensor for k, tensor in network.tensors().items() if not k.startswith("upward.")}
    shapes, wanted = ({k: tuple(t.shape) for k, t in part.items()} for part in (given, own))
    if shapes != wanted:
        key = min(k for k in wanted.keys() | shapes.keys() if wanted.get(k) != shapes.get(k))
        raise RecipeError(
            f"learning.downward: {key} of {name} is {shapes.get(key, 'missing')}, the recipe's "
            f"network needs {wanted.get(key, 'none')}",
            f"Show its model table: pcgen info {name}",
        )
    for k, tensor in own.items():
        tensor.copy_(given[k])


def begin_at_components(network: Network, sample_BD: Tensor) -> None:
    """Begin the map from the latent to the data at the data's principal components.

    With the components U (D, L) and their variances V, the map is U V^1/2 and the latent's start
    V^-1/2 U' (x - mean), so that each latent has variance 1. The layer above the data begins at 0.

    Raises:
        RecipeError: the network has no linear, dense map from the latent to the data.
    """
    table, maps = network.table, dict(network.inputs[0])
    layer = maps.get(network.latent)
    linear = table.likelihood == "gaussian" and table.output == "linear"
    if not (linear and isinstance(network.layers[0], Dense) and isinstance(layer, Dense)):
        raise RecipeError(
            "model.weights: principal components need a linear dense map from latent to data",
            f"Use --set model.output=linear --set 'model.skips=[[0,{len(table.layers)}]]'",
        )
    mean_D = sample_BD.mean(0)
    basis_DL, variances_L = principal_components(sample_BD - mean_D, layer.weight.shape[1])
    deviations_L = variances_L.sqrt()
    network.layers[0].weight.zero_()
    found = len(deviations_L)  # fewer than latents where the sample has fewer rows
    layer.weight.zero_()
    layer.weight[:, :found] = basis_DL * deviations_L
    if network.start is not None:
        network.start[:-1, :found] = basis_DL / deviations_L.clamp_min(_LEAST_DEVIATION)
        network.start[-1] = -mean_D @ network.start[:-1]


def sample(images: Images, seed: int, weights: str = "random") -> Tensor:
    """Return enough images (B, D) to estimate the mean and covariance of all.

    Args:
        weights: where the recipe's weights begin.

    Raises:
        DataError: an image that cannot be read.
    """
    values = 2 * _SAMPLE_VALUES if weights == "principal" else _SAMPLE_VALUES
    count = max(1, min(_SAMPLE, values // math.prod(images.shape)))
    rows = images.rows(order(len(images), seed, -1)[:count].sort().values)
    require_readable(rows, images)
    return rows.pixels_BD
