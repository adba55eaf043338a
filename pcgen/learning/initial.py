"""The network before learning: random weights, and the data's mean as the first prediction."""

from __future__ import annotations

import math

from torch import Tensor

from pcgen.config import Recipe
from pcgen.data.images import Images, Shape, order, require_readable
from pcgen.device import generator, require_memory
from pcgen.model.network import Network, build, tensor_size

# Enough images for a mean that is right to 1 % of a standard deviation, in at most 128 MiB.
_SAMPLE = 20_000
_SAMPLE_VALUES = 2**25


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
    return network


def sample(images: Images, seed: int) -> Tensor:
    """Return enough images (B, D) to estimate the mean and covariance of all.

    Raises:
        DataError: an image that cannot be read.
    """
    count = max(1, min(_SAMPLE, _SAMPLE_VALUES // math.prod(images.shape)))
    rows = images.rows(order(len(images), seed, -1)[:count].sort().values)
    require_readable(rows, images)
    return rows.pixels_BD
