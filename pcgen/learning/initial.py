"""Where learning starts: random weights, and the data's mean as the first prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.config import Recipe
from pcgen.data.images import Images, order, require_ok
from pcgen.device import generator
from pcgen.model.network import Network, build

# Enough images for a mean that 1 % of a standard deviation does not change.
_SAMPLE = 10_000
_BATCH = 500


def initial_network(recipe: Recipe, images: Images) -> Network:
    """Return a new network whose prediction from a latent of 0 is near the images' mean.

    Raises:
        DataError: an image that cannot be read.
        RecipeError: a network that these data do not fit.
    """
    network = build(
        recipe.model, images.shape[0] * images.shape[1] * images.shape[2],
        generator(recipe.seed, "weights"),
    )
    mean_D = _mean(images, recipe.seed)
    if recipe.model.likelihood == "categorical":
        bias_D = mean_D.clamp_min(1e-3).log()
    elif recipe.model.likelihood == "bernoulli" or recipe.model.output == "sigmoid":
        bias_D = mean_D.clamp(0.01, 0.99).logit()
    elif recipe.model.output == "tanh":
        bias_D = mean_D.clamp(-0.99, 0.99).atanh()
    else:
        bias_D = mean_D
    network.layers[0].bias.copy_(bias_D)
    return network


def _mean(images: Images, seed: int) -> Tensor:
    chosen = order(len(images), seed, -1)[:_SAMPLE]
    total_D = torch.zeros(images.shape[0] * images.shape[1] * images.shape[2])
    for indices in chosen.split(_BATCH):
        rows = images.rows(indices)
        require_ok(rows, images)
        total_D += rows.pixels_BD.sum(0)
    return total_D / len(chosen)
