"""`pcgen bench reconstruction`: test errors of a recipe beside its baselines and published ones."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

from pcgen.benchmarks.baselines import fit_pca, mean_squared_error, train_autoencoder
from pcgen.benchmarks.table import Measured, Tell
from pcgen.benchmarks.training import best_rate, seeded, train_network
from pcgen.config import Recipe, units
from pcgen.data.images import Images, split
from pcgen.learning.validate import measure

_PAPER = "Pinchetti et al. 2025, table 2"
# Their mean squared errors, chosen and averaged on the test set (best epoch, best 5 of 7 seeds).
PUBLISHED = {
    "mnist": {"PC": 9.25e-3, "iPC": 9.09e-3, "BP": 9.08e-3},
    "fashion-mnist": {"PC": 10.56e-3, "iPC": 10.11e-3, "BP": 10.04e-3},
}
# The backprop autoencoder's rates, between which the validation split chooses; its epochs for each
# epoch of the network, so that it never has less time.
_AUTOENCODER_RATES = (1e-3, 3e-3)
_AUTOENCODER_EPOCHS = 4


def reconstruction_rows(
    dataset: str,
    recipe: Recipe,
    images: Images,
    test: Images,
    seeds: int,
    device: torch.device,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Return the reconstruction table of one data set.

    Each seed has its own split, weights and order. Every choice (epoch, and the autoencoder's rate)
    is made on the validation split; the test set is used once per trained model.
    """
    published = PUBLISHED.get(dataset, {})
    latents, epochs = units(recipe.model.layers[0]), _AUTOENCODER_EPOCHS * recipe.learning.epochs
    decoded = Measured("pcn", "mse", [], published=published.get("PC"))
    last_hidden = Measured("pcn", "mse_last_hidden", [])
    backprop = Measured("backprop autoencoder, same decoder", "mse", [])
    backprop.published = published.get("BP")
    pca = Measured(f"pca-{latents}", "mse", [])
    clipped = Measured(f"pca-{latents}, clipped to [0, 1]", "mse", [])
    for seed in range(seeds):
        own = seeded(recipe, seed)
        kept, held_out = split(images, recipe.data.validation, seed)
        began = time.monotonic()
        network = train_network(own, kept, held_out, device, tell)
        decoded.seconds += (time.monotonic() - began) / seeds
        metrics = measure(network, test, own.inference)
        decoded.values.append(metrics.mse)
        last_hidden.values.append(metrics.mse_last_hidden)
        decoded.parameters = sum(tensor.numel() for tensor in network.weights())

        train = partial(train_autoencoder, own, kept, held_out, epochs, device)
        model, seconds = best_rate(_AUTOENCODER_RATES, train, "backprop autoencoder", epochs, tell)
        backprop.seconds += seconds / seeds
        backprop.values.append(mean_squared_error(model, test, device, clip=True))
        backprop.parameters = sum(tensor.numel() for tensor in model.parameters())

        began = time.monotonic()
        components = fit_pca(kept, latents)
        pca.seconds += (time.monotonic() - began) / seeds
        pca.values.append(mean_squared_error(components, test))
        clipped.values.append(mean_squared_error(components, test, clip=True))
    methods = [decoded, last_hidden, backprop, pca, clipped]
    for name, value in published.items():
        methods.append(Measured(f"published {name}", "mse", [], published=value, source=_PAPER))
    return [method.row(dataset) for method in methods]
