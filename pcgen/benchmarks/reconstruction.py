"""`pcgen bench`: tables re-measured beside their baselines and the published values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pcgen.benchmarks.baselines import fit_pca, mean_squared_error, seeded, train_autoencoder
from pcgen.config import Recipe, units
from pcgen.data.images import Images, split
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.learning.validate import measure
from pcgen.model.network import Network

_PAPER = "Pinchetti et al. 2025, table 2"
# Their mean squared errors, chosen and averaged on the test set (best epoch, best 5 of 7 seeds).
PUBLISHED = {
    "mnist": {"pc": 9.25e-3, "ipc": 9.09e-3, "backprop": 9.08e-3},
    "fashion-mnist": {"pc": 10.56e-3, "ipc": 10.11e-3, "backprop": 10.04e-3},
}
# The backprop autoencoder's rates, chosen on the validation split; its epochs per PC epoch, so that
# it never has less time than the PCN.
_AUTOENCODER_RATES = (1e-3, 3e-3)
_AUTOENCODER_EPOCHS = 4
# 97.5 % points of Student's t for 1, 2, .. degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Tell = Callable[[str, int, int], None]


@dataclass(slots=True)
class Measured:
    """One method's errors, a value per seed."""

    method: str
    metric: str
    values: list[float]
    seconds: float
    parameters: int | None = None
    published: float | None = None
    source: str = "measured"

    def row(self, dataset: str) -> dict[str, Any]:
        """Return the row of the table, with a 95 % interval over seeds where there are several."""
        low, high = interval(self.values)
        return {
            "dataset": dataset,
            "method": self.method,
            "metric": self.metric,
            "value": sum(self.values) / len(self.values) if self.values else None,
            "ci_low": low,
            "ci_high": high,
            "published": self.published,
            "source": self.source,
            "seconds": self.seconds or None,
            "seeds": len(self.values) or None,
            "parameters": self.parameters,
        }


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the mean (Student's t), or nothing for fewer than two values."""
    n = len(values)
    if n < 2:
        return None, None
    mean = sum(values) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    t = _STUDENT[n - 2] if n - 2 < len(_STUDENT) else 1.96
    half = t * deviation / math.sqrt(n)
    return mean - half, mean + half


def train_network(
    recipe: Recipe,
    images: Images,
    validation: Images,
    device: torch.device,
    tell: Tell = lambda stage, done, total: None,
) -> Network:
    """Return the network of the epoch that is best on the validation split; a sampler's last."""
    sample_BD = sample(images, recipe.seed)
    network = initial_network(recipe, sample_BD, images.shape, images.class_count).to(device)
    best, best_mse = network.to(device), math.inf
    for progress in Training(PredictiveCoding(network, recipe, sample_BD)).run(images, validation):
        done = (progress.epoch - 1) * len(images) + progress.images
        tell(f"training, seed {recipe.seed}", done, progress.epochs * len(images))
        if progress.validation is not None and (
            progress.validation.mse < best_mse or recipe.inference.draws
        ):
            best, best_mse = network.to(device), progress.validation.mse
    return best


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
    decoded, last_hidden = (
        Measured("pcn", "mse", [], 0.0),
        Measured("pcn", "mse_last_hidden", [], 0.0),
    )
    backprop = Measured("backprop autoencoder, same decoder", "mse", [], 0.0)
    latents = units(recipe.model.layers[0])
    pca = Measured(f"pca-{latents}", "mse", [], 0.0)
    clipped = Measured(f"pca-{latents}, clipped to [0, 1]", "mse", [], 0.0)
    published = PUBLISHED.get(dataset, {})
    decoded.published, backprop.published = published.get("pc"), published.get("backprop")
    for seed in range(seeds):
        mine = seeded(recipe, seed)
        kept, held_out = split(images, recipe.data.validation, seed)
        began = time.monotonic()
        network = train_network(mine, kept, held_out, device, tell)
        decoded.seconds += (time.monotonic() - began) / seeds
        metrics = measure(network, test, mine.inference)
        decoded.values.append(metrics.mse)
        last_hidden.values.append(metrics.mse_last_hidden)
        decoded.parameters = sum(tensor.numel() for tensor in network.weights())

        began = time.monotonic()
        model, parameters = _best_autoencoder(mine, kept, held_out, device, tell)
        backprop.seconds += (time.monotonic() - began) / seeds / len(_AUTOENCODER_RATES)
        backprop.values.append(mean_squared_error(model, test, device, clip=True))
        backprop.parameters = parameters

        began = time.monotonic()
        components = fit_pca(kept, latents)
        pca.seconds += (time.monotonic() - began) / seeds
        pca.values.append(mean_squared_error(components, test))
        clipped.values.append(mean_squared_error(components, test, clip=True))
    rows = [m.row(dataset) for m in (decoded, last_hidden, backprop, pca, clipped)]
    names = {"pc": "PC", "ipc": "iPC", "backprop": "BP"}
    for key, value in published.items():
        name = f"published {names[key]}"
        rows.append(Measured(name, "mse", [], 0.0, None, value, _PAPER).row(dataset))
    return rows


def _best_autoencoder(
    recipe: Recipe, images: Images, validation: Images, device: torch.device, tell: Tell
) -> tuple[Any, int]:
    epochs = _AUTOENCODER_EPOCHS * recipe.learning.epochs
    found = []
    for rate in _AUTOENCODER_RATES:

        def told(epoch: int, rate: float = rate) -> None:
            tell(f"backprop autoencoder, rate {rate:g}", epoch * len(images), epochs * len(images))

        found.append(train_autoencoder(recipe, images, validation, rate, epochs, device, told))
    model = min(found, key=lambda pair: pair[1])[0]
    return model, sum(tensor.numel() for tensor in model.parameters())
