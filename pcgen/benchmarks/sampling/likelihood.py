"""The log-likelihood part of `pcgen bench sampling`: a PCN and a VAE on binarised images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.sampling.ais import Simulated, bounds, simulate
from pcgen.benchmarks.sampling.generators import best_vae
from pcgen.benchmarks.sampling.rows import row
from pcgen.benchmarks.sampling.vae import as_network
from pcgen.benchmarks.table import Tell
from pcgen.benchmarks.training import train_network
from pcgen.config import InferenceTable, Recipe
from pcgen.data.fit import binarised
from pcgen.data.images import Images, split
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network

# Test images, spread evenly over the set, and images simulated from each model.
_ROWS = 500
_SIMULATED = 100
# Of the annealed bounds, the same for both models.
_CHAINS = 4
_TEMPERATURES = 200
# Draws of the importance-weighted bound.
_DRAWS = 1000
_THRESHOLD = 0.5
_PCN_EPOCHS = 12
_VAE_EPOCHS = 25


@dataclass(frozen=True, slots=True)
class Annealed:
    """A model whose likelihood is bounded by annealing.

    Attributes:
        held: the network is a plain decoder, without noise in its hidden layers.
        seconds: of its training.
    """

    name: str
    network: Network
    held: bool
    seconds: float


def likelihood_rows(
    dataset: str, recipe: Recipe, images: Images, test: Images, tell: Tell, most: int = _ROWS
) -> list[dict[str, Any]]:
    """Return the log-likelihoods of binarised test images under a PCN and a VAE.

    Both are trained on binarised images. The rows are in nats per image, with 95 % intervals over
    the images.

    Args:
        most: test images, at most.
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
    decoder = as_network(recipe, vae, images.shape)
    count = min(_ROWS, most, len(white))
    data_BD = white.rows(torch.arange(count) * (len(white) // count)).pixels_BD
    rows, lower_B = annealed_rows(
        dataset, Annealed("pcn", network, False, seconds), recipe.inference, data_BD, tell
    )
    vae_rows, vae_lower_B = annealed_rows(
        dataset, Annealed("vae", decoder, True, vae_seconds), recipe.inference, data_BD, tell
    )
    weighted_B = vae.log_likelihood(data_BD, _DRAWS, recipe.seed)
    return [
        *rows,
        _row("pcn", "log-likelihood minus the VAE's", lower_B - vae_lower_B, dataset),
        *vae_rows,
        _row("vae, weighted draws of its encoder", "log-likelihood", weighted_B, dataset),
    ]


def annealed_rows(
    dataset: str, model: Annealed, table: InferenceTable, data_BD: Tensor, tell: Tell
) -> tuple[list[dict[str, Any]], Tensor]:
    """Return the rows of real images' lower bound, and of simulated images' bounds and gap.

    The gap bounds how far the lower bound can be from the likelihood, on average, on images that
    the model makes. Of real images no exact draw from the posterior is known, so there is no upper
    bound. The second value is the lower bound (B,) of each real image, in nats.
    """
    method = prepare(model.network, table.for_use())
    simulated = simulate(model.network, min(_SIMULATED, len(data_BD)), seed=1)

    def of(rows: Tensor | Simulated, count: int, stage: str) -> Any:
        return bounds(
            method,
            rows,
            chains=_CHAINS,
            temperatures=_TEMPERATURES,
            held=model.held,
            on_rows=lambda done: tell(f"annealing, {model.name}, {stage}", done, count),
        )

    real = of(data_BD, len(data_BD), "real images")
    both = of(simulated, len(simulated.data_BD), "simulated images")
    values: dict[str, Tensor] = {
        "log-likelihood": real.lower_B,
        "log-likelihood of simulated images, lower bound": both.lower_B,
        "log-likelihood of simulated images, upper bound": both.upper_B,
        "gap of the bounds": both.upper_B - both.lower_B,
    }
    rows = [
        _row(model.name, metric, values_B, dataset, model.seconds)
        for metric, values_B in values.items()
    ]
    return rows, real.lower_B


def _row(
    method: str, metric: str, values_B: Tensor, dataset: str, seconds: float = 0.0
) -> dict[str, Any]:
    """Return the row of the mean over images; the normal interval holds for hundreds of them."""
    mean = float(values_B.mean())
    half = 1.96 * float(values_B.std()) / len(values_B) ** 0.5
    between = {"ci_low": mean - half, "ci_high": mean + half}
    return row(method, metric, [mean], dataset, seconds) | between
