"""The log-likelihood part of `pcgen bench sampling`: a PCN and a VAE on binarised images."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.sampling.ais import log_likelihood
from pcgen.benchmarks.sampling.generators import best_vae
from pcgen.benchmarks.sampling.rows import row
from pcgen.benchmarks.table import Tell
from pcgen.benchmarks.training import train_network
from pcgen.config import Recipe
from pcgen.data.fit import binarised
from pcgen.data.images import Images, split

# Test images, spread evenly over the set; chains and temperatures of the annealed estimates, and
# draws of the importance-sampled ones.
_ROWS = 500
_CHAINS = 4
_TEMPERATURES = 1000
_DRAWS = 1000
_THRESHOLD = 0.5
_PCN_EPOCHS = 12
_VAE_EPOCHS = 25


def likelihood_rows(
    dataset: str, recipe: Recipe, images: Images, test: Images, tell: Tell
) -> list[dict[str, Any]]:
    """Return the log-likelihoods of binarised test images under a PCN and a VAE.

    Both are trained on binarised images. The rows are in nats per image, with 95 % intervals over
    the images. Both estimates are lower bounds on average; annealing, which estimates the PCN's,
    needs no encoder.
    """
    black, white = binarised(images, _THRESHOLD), binarised(test, _THRESHOLD)
    kept, held_out = split(black, recipe.data.validation, recipe.seed)
    began = time.monotonic()
    learning = msgspec.structs.replace(
        recipe.learning, epochs=min(recipe.learning.epochs, _PCN_EPOCHS)
    )
    own = msgspec.structs.replace(recipe, learning=learning)
    network = train_network(own, kept, held_out, torch.device("cpu"), tell)
    seconds = time.monotonic() - began
    vae, vae_seconds = best_vae(recipe, kept, held_out, _VAE_EPOCHS, tell)
    count = min(_ROWS, len(white))
    data_BD = white.rows(torch.arange(count) * (len(white) // count)).pixels_BD
    annealed_B = log_likelihood(
        network,
        recipe.inference,
        data_BD,
        chains=_CHAINS,
        temperatures=_TEMPERATURES,
        on_rows=lambda done: tell("annealing", done, count),
    )
    weighted_B = vae.log_likelihood(data_BD, _DRAWS, recipe.seed)
    return [
        _row("pcn", annealed_B, dataset, seconds),
        _row("vae", weighted_B, dataset, vae_seconds),
    ]


def _row(method: str, values_B: Tensor, dataset: str, seconds: float) -> dict[str, Any]:
    """Return the row of the mean over images; the normal interval holds for hundreds of them."""
    mean = float(values_B.mean())
    half = 1.96 * float(values_B.std()) / len(values_B) ** 0.5
    between = {"ci_low": mean - half, "ci_high": mean + half}
    return row(method, "log-likelihood", [mean], dataset, seconds) | between
