"""`pcgen bench reconstruction`: test errors of a recipe beside its baselines and published ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pcgen.benchmarks.baselines import (
    AutoDecoder,
    fit_pca,
    held,
    mean_squared_error,
    train_autoencoder,
    with_encoder,
)
from pcgen.benchmarks.table import Measured, Tell
from pcgen.benchmarks.training import best_rate, seeded, train_by, train_network
from pcgen.config import Recipe, units
from pcgen.data.images import Images, split
from pcgen.learning.credit import credit_of, parameters, without_start
from pcgen.learning.validate import measure
from pcgen.model.network import Network

_PAPER = "Pinchetti et al. 2025, table 2"
# Their mean squared errors, chosen and averaged on the test set (best epoch, best 5 of 7 seeds).
PUBLISHED = {
    "mnist": {"PC": 9.25e-3, "iPC": 9.09e-3, "BP": 9.08e-3},
    "fashion-mnist": {"PC": 10.56e-3, "iPC": 10.11e-3, "BP": 10.04e-3},
}
# The backprop autoencoder's rates, between which the validation split chooses; its epochs for each
# epoch of the network, so that it never has less time, and the fewest.
_AUTOENCODER_RATES = (1e-3, 3e-3)
_AUTOENCODER_EPOCHS, _AUTOENCODER_LEAST = 4, 40
# The auto-decoder's rates, as multiples of the recipe's; the first seed's validation split chooses.
_AUTO_DECODER_RATES = (0.5, 1.0, 2.0, 4.0)
# Held-out images on which the prior of the autoencoder's code is chosen.
_CHOOSING = 1000

Add = Callable[..., None]


@dataclass(frozen=True, slots=True)
class _Seed:
    """What all methods share for one seed.

    Attributes:
        images: to train on.
        validation: to choose on.
        test: to measure on, once for each trained model.
    """

    recipe: Recipe
    images: Images
    validation: Images
    test: Images
    device: torch.device
    tell: Tell


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

    Each seed has its own split, weights and order. Every choice (epoch, rate, prior of a code) is
    made on the validation split; the test set is used once per trained model. The difference of a
    row is its error minus the network's, paired by seeds.
    """
    methods: dict[tuple[str, str], Measured] = {}

    def add(
        method: str,
        metric: str,
        value: float,
        seconds: float = 0.0,
        parameters: int | None = None,
        note: str = "",
    ) -> None:
        row = methods.setdefault((method, metric), Measured(method, metric, []))
        row.values.append(value)
        row.seconds += seconds / seeds
        row.parameters = parameters
        row.note = note if note in (row.note, "") or not row.note else f"{row.note}; {note}"

    tried = [recipe.learning.rate * share for share in _AUTO_DECODER_RATES]
    # With the recipe's limit of the weights' norms, and without one.
    rates = dict.fromkeys((recipe.learning.max_norm, 0.0), tried)
    for seed in range(seeds):
        kept, held_out = split(images, recipe.data.validation, seed)
        place = _Seed(seeded(recipe, seed), kept, held_out, test, device, tell)
        _network(place, add)
        rates = {norm: [_auto_decoder(place, norm, own, add)] for norm, own in rates.items()}
        if not recipe.model.skips:
            _autoencoder(place, add)
        _pca(place, add)
    published, ours = PUBLISHED.get(dataset, {}), methods["pcn", "mse"]
    ours.published = published.get("PC")
    if not recipe.model.skips:
        methods["backprop autoencoder, same decoder", "mse"].published = published.get("BP")
    rows = [
        row.row(dataset) | (row.against(ours) if "mse" in metric and row is not ours else {})
        for (_, metric), row in methods.items()
    ]
    others = [
        Measured(f"published {name}", "mse", [], 0.0, None, value, _PAPER)
        for name, value in published.items()
    ]
    return rows + [other.row(dataset) for other in others]


def _network(place: _Seed, add: Add) -> None:
    """Train and measure the recipe's network."""
    recipe, table = place.recipe, place.recipe.inference
    began = time.monotonic()
    network = train_network(recipe, place.images, place.validation, place.device, place.tell)
    seconds, count = time.monotonic() - began, parameters(network)["whole"]
    metrics = measure(network, place.test, table)
    add("pcn", "mse", metrics.mse, seconds, parameters=count)
    add("pcn", "mse_last_hidden", metrics.mse_last_hidden)
    add("pcn", "mse_from_zero", measure(without_start(network), place.test, table).mse)
    credit = credit_of(network, recipe, place.validation)
    for name in ("hidden_share", "cosine_equilibrium", "cosine_backprop"):
        if getattr(credit, name) is not None:
            add("pcn", name, getattr(credit, name))


def _auto_decoder(place: _Seed, max_norm: float, rates: Sequence[float], add: Add) -> float:
    """Train and measure the same decoder by backprop, without an encoder; return its rate."""
    epochs, name = place.recipe.learning.epochs, "backprop auto-decoder, same decoder"
    name += "" if max_norm == place.recipe.learning.max_norm else ", no largest norm"

    def train(rate: float, on_epoch: Callable[[int], None]) -> tuple[Network, float]:
        def tell(stage: str, done: int, total: int) -> None:
            on_epoch(epochs * done // total)

        recipe = held(place.recipe, rate=rate, max_norm=max_norm)
        return train_by(AutoDecoder, recipe, place.images, place.validation, place.device, tell)

    stage = f"{name}, seed {place.recipe.seed}"
    network, seconds, rate = best_rate(rates, train, stage, epochs, place.tell)
    add(
        name,
        "mse",
        measure(network, place.test, held(place.recipe).inference).mse,
        seconds,
        parameters=parameters(network)["whole"],
        note=f"rate {rate:g}",
    )
    return rate


def _autoencoder(place: _Seed, add: Add) -> None:
    """Train the autoencoder, and measure it as it is and with inference of its code."""
    own, test, device = place.recipe, place.test, place.device
    epochs = max(_AUTOENCODER_EPOCHS * own.learning.epochs, _AUTOENCODER_LEAST)
    name = "backprop autoencoder, same decoder"
    train = partial(train_autoencoder, own, place.images, place.validation, epochs, device)
    stage = f"backprop autoencoder, seed {own.seed}"
    model, seconds, rate = best_rate(_AUTOENCODER_RATES, train, stage, epochs, place.tell)
    count = sum(tensor.numel() for tensor in model.parameters())
    error = mean_squared_error(model, test, device, clip=True)
    add(name, "mse", error, seconds, parameters=count, note=f"rate {rate:g}")

    recipe, few = held(own), place.validation.head(_CHOOSING)
    networks = {
        prior: with_encoder(recipe, model, place.images, prior)
        for prior in (own.model.precision.latent, 0.0)
    }
    errors = {p: measure(network, few, recipe.inference).mse for p, network in networks.items()}
    prior = min(errors, key=lambda p: errors[p])
    error = measure(networks[prior], test, recipe.inference).mse
    note = f"rate {rate:g}, prior {prior:g}"
    add(f"{name}, code inferred", "mse", error, seconds, parameters=count, note=note)


def _pca(place: _Seed, add: Add) -> None:
    """Measure principal components, as many as the network has latents."""
    latents, mirror = units(place.recipe.model.layers[0]), place.recipe.learning.mirror
    name = f"pca-{latents}, mirrored too" if mirror else f"pca-{latents}"
    began = time.monotonic()
    components = fit_pca(place.images, latents, mirror=mirror)
    error, seconds = mean_squared_error(components, place.test), time.monotonic() - began
    add(name, "mse", error, seconds)
    clipped = mean_squared_error(components, place.test, clip=True)
    add(f"{name}, clipped to [0, 1]", "mse", clipped)
