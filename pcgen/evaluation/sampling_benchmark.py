"""`pcgen bench sampling`: samples beside those of a VAE, of PPCA and of a PCN without noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from pcgen.config import Recipe, units
from pcgen.data.binary import binarised
from pcgen.data.images import Images, split
from pcgen.device import generator
from pcgen.evaluation.ais import log_likelihood
from pcgen.evaluation.benchmark import Measured, Tell, train_network
from pcgen.evaluation.generation import (
    earth_movers_distance,
    frechet_distance,
    histogram_distance,
    inception_score,
    nearest,
    precision_recall,
)
from pcgen.evaluation.generators import RATES, VAE, fit_ppca, train_vae
from pcgen.learning.causes import step_causes
from pcgen.learning.validate import reconstructions
from pcgen.learning.whiten import whiten
from pcgen.model.network import Network
from pcgen.model.prior import Mixture
from pcgen.tasks.sample import ancestral

_PCX = "Pinchetti et al. 2025"
_MCPC = "Oliviers et al. 2024, recomputed"
# Published on other features, samples and models: only the ratios compare.
PUBLISHED = {
    ("pcn", "frechet"): (2.53, f"{_PCX}, text; their features, 900 samples"),
    ("vae", "frechet"): (4.19, f"{_PCX}, text; their features, 900 samples"),
    ("pcn", "inception score"): (7.13, f"{_PCX}, text"),
    ("vae", "inception score"): (7.91, f"{_PCX}, text"),
    ("pcn", "log-likelihood"): (-144.8, f"{_MCPC}; 5,000 samples"),
    ("vae", "log-likelihood"): (-125.8, f"DLGM, {_MCPC}; 5,000 samples"),
    ("pcn", "emd"): (0.06, "authors' notebook, best run"),
}
_VAE_EPOCHS = 40
_NOISELESS_EPOCHS = 10
# Rows and chains of the annealed estimates, and draws of the importance-sampled ones.
_ROWS = 200
_CHAINS = 8
_TEMPERATURES = 1000
_DRAWS = 1000
_SETS = 20


class Features(Protocol):
    """A classifier as it is asked here."""

    def features(self, data_BD: Tensor) -> Tensor: ...

    def logits_of(self, features_BF: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Generator:
    """A way to draw images: so many, with a seed."""

    name: str
    draw: Callable[[int, int], Tensor]
    parameters: int | None
    seconds: float


def image_rows(
    dataset: str,
    recipe: Recipe,
    network: Network,
    images: Images,
    test: Images,
    classifier: Features,
    samples: int,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Return the table of an image set: every choice on the validation split, test data once.

    Args:
        network: trained by the recipe.
        classifier: whose features compare samples with the test images.
    """
    kept, held_out = split(images, recipe.data.validation, recipe.seed)
    makers = [_of_network("pcn", network, 0.0)]
    makers += _vaes(recipe, kept, held_out, tell)
    makers.append(_noiseless(recipe, kept, held_out, tell))
    began = time.monotonic()
    ppca = fit_ppca(kept, units(recipe.model.layers[0]))
    makers.append(
        Generator(f"ppca-{len(ppca.weight_KD)}", ppca.sample, None, time.monotonic() - began)
    )
    real = test.rows(range(min(samples, len(test))))
    reference = _features(classifier, real.pixels_BD)
    train = kept.rows(range(len(kept)))
    floor = _features(classifier, train.pixels_BD[: len(real.pixels_BD)])
    rows = [
        measured("training images", "frechet", frechet_distance(floor[0], reference[0]), dataset),
        measured("test images", "inception score", inception_score(reference[1])[0], dataset),
    ]
    usual = float(nearest(real.pixels_BD[:1000], train.pixels_BD)[0].median())
    for i, maker in enumerate(makers):
        tell("judging samples", i + 1, len(makers))
        drawn = maker.draw(samples, recipe.seed)
        rows += _judged(maker, drawn, classifier, reference, dataset)
        distance = float(nearest(drawn[:1000], train.pixels_BD)[0].median())
        rows.append(measured(maker.name, "nearest training image", distance / usual, dataset))
        if real.labels_B is not None:
            shares = [
                torch.bincount(labels, minlength=10) / len(labels)
                for labels in (_features(classifier, drawn)[1].argmax(1), real.labels_B)
            ]
            off = 0.5 * float((shares[0] - shares[1]).abs().sum())
            rows.append(measured(maker.name, "class frequencies off by", off, dataset))
    return rows


def likelihood_rows(
    dataset: str, recipe: Recipe, images: Images, test: Images, tell: Tell
) -> list[dict[str, Any]]:
    """Return the log-likelihoods of binarised test images, of a PCN and a VAE trained on such."""
    black, white = binarised(images, 0.5), binarised(test, 0.5)
    kept, held_out = split(black, recipe.data.validation, recipe.seed)
    began = time.monotonic()
    network = train_network(recipe, kept, held_out, torch.device("cpu"), tell)
    seconds = time.monotonic() - began
    vae, vae_seconds = _best_vae(recipe, kept, held_out, tell)
    data_BD = white.rows(range(_ROWS)).pixels_BD
    tell("annealing", 0, 1)
    found = log_likelihood(
        network, recipe.inference, data_BD, chains=_CHAINS, temperatures=_TEMPERATURES
    )
    tell("annealing", 1, 1)
    bound = vae.log_likelihood(data_BD, _DRAWS, recipe.seed)
    rows = [
        measured("pcn", "log-likelihood", float(found.mean()), dataset, seconds),
        measured("vae", "log-likelihood", float(bound.mean()), dataset, vae_seconds),
    ]
    for row, values in zip(rows, (found, bound), strict=True):
        half = 1.96 * float(values.std()) / len(values) ** 0.5
        row["ci_low"], row["ci_high"] = row["value"] - half, row["value"] + half
    return rows


def table_rows(dataset: str, network: Network, images: Images, tell: Tell) -> list[dict[str, Any]]:
    """Return how far samples are from a table's rows, as published, and what two halves differ by.

    Columns are standardised; distances are means over sets of as many samples as there are rows.
    """
    real = images.rows(range(len(images))).pixels_BD
    count = len(real)
    distances, halves, resampled, histograms = [], [], [], []
    source = generator(0, "halves")
    for i in range(_SETS):
        tell("earth mover's distance", i + 1, _SETS)
        drawn = ancestral(network, count, i, draw=True).data_BD
        distances.append(earth_movers_distance(drawn, real))
        histograms.append(histogram_distance(drawn, real))
        mixed = real[torch.randperm(count, generator=source)]
        halves.append(
            earth_movers_distance(mixed[: count // 2], mixed[count // 2 : count // 2 * 2])
        )
        again = real[torch.randint(count, (count,), generator=source)]
        resampled.append(earth_movers_distance(again, real))
    rows = [
        averaged("pcn", "emd", distances, dataset),
        averaged("two halves of the data", "emd", halves, dataset),
        averaged("data resampled", "emd", resampled, dataset),
    ]
    names = images.columns or []
    for name, values in zip(names, zip(*histograms, strict=True), strict=False):
        rows.append(averaged("pcn", f"histogram of {name}", list(values), dataset))
    return rows


def _of_network(name: str, network: Network, seconds: float) -> Generator:
    parameters = sum(tensor.numel() for tensor in network.weights())
    return Generator(
        name, lambda count, seed: ancestral(network, count, seed).data_BD, parameters, seconds
    )


def _best_vae(recipe: Recipe, images: Images, validation: Images, tell: Tell) -> tuple[VAE, float]:
    """Return the VAE of the rate that is better on the validation split, and its seconds."""
    found = []
    for rate in RATES:
        began = time.monotonic()

        def told(epoch: int, rate: float = rate) -> None:
            tell(f"VAE, rate {rate:g}", epoch, _VAE_EPOCHS)

        model, loss = train_vae(recipe, images, validation, rate, _VAE_EPOCHS, told)
        found.append((loss, model, time.monotonic() - began))
    _, model, seconds = min(found, key=lambda entry: entry[0])
    return model, seconds


def _vaes(recipe: Recipe, images: Images, validation: Images, tell: Tell) -> list[Generator]:
    """Return the VAE as it is, and with the PCN's mixture fitted to its latents afterwards."""
    vae, seconds = _best_vae(recipe, images, validation, tell)
    parameters = sum(p.numel() for p in vae.decoder.parameters())
    plain = Generator("vae", vae.sample, parameters, seconds)
    began = time.monotonic()
    data_BD = images.rows(range(len(images))).pixels_BD
    noise = torch.randn(len(data_BD), vae.latents, generator=generator(recipe.seed, "vae prior"))
    latents = vae.encode(data_BD, noise)
    mixture = Mixture.standard(max(2, recipe.model.causes), vae.latents, 0, latents)
    for _ in range(20):
        step_causes(mixture, latents, None, generator(recipe.seed, "vae causes"))

    def fitted(count: int, seed: int) -> Tensor:
        source = generator(seed, "vae mixture")
        normal = torch.randn(count, vae.latents, generator=source)
        uniform = torch.rand(count, generator=source)
        return torch.sigmoid(vae.decode(mixture.draw(normal, uniform, None)))

    name = f"vae, {len(mixture.means_KL)} causes fitted after"
    return [plain, Generator(name, fitted, parameters, seconds + time.monotonic() - began)]


def _noiseless(recipe: Recipe, images: Images, validation: Images, tell: Tell) -> Generator:
    """Return the same PCN trained at the least energy instead of by samples, its prior whitened."""
    began = time.monotonic()
    tables = msgspec.structs.replace(
        recipe,
        name="noiseless",
        model=msgspec.structs.replace(recipe.model, causes=1, start="linear"),
        inference=msgspec.structs.replace(recipe.inference, solver="errors", steps=4),
        learning=msgspec.structs.replace(recipe.learning, epochs=_NOISELESS_EPOCHS),
    )
    device = torch.device("cpu")
    network = train_network(tables, images, validation, device, tell)
    latents = [
        part.equilibrium.states[network.latent]
        for part in reconstructions(network, images.head(10_000), tables.inference)
    ]
    found = whiten(network, torch.cat(latents))
    return _of_network("pcn without noise, whitened", found, time.monotonic() - began)


def _features(classifier: Features, data_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (B, F) and logits (B, K)."""
    features = torch.cat(
        [classifier.features(part.clamp(0, 1)) for part in torch.split(data_BD, 1000)]
    )
    return features, classifier.logits_of(features)


def _judged(
    maker: Generator,
    drawn_BD: Tensor,
    classifier: Features,
    reference: tuple[Tensor, Tensor],
    dataset: str,
) -> list[dict[str, Any]]:
    """Return what a classifier's features say of samples."""
    features, logits = _features(classifier, drawn_BD)
    score, _ = inception_score(logits)
    precision, recall = precision_recall(features, reference[0])
    values = {
        "frechet": frechet_distance(features, reference[0]),
        "inception score": score,
        "precision": precision,
        "recall": recall,
    }
    rows = [
        measured(maker.name, key, value, dataset, maker.seconds) for key, value in values.items()
    ]
    for row in rows:
        row["parameters"] = maker.parameters
    return rows


def measured(
    method: str, metric: str, value: float, dataset: str, seconds: float = 0.0
) -> dict[str, Any]:
    published, source = PUBLISHED.get((method, metric), (None, "measured"))
    return Measured(method, metric, [value], seconds, None, published, source).row(dataset)


def averaged(method: str, metric: str, values: list[float], dataset: str) -> dict[str, Any]:
    published, source = PUBLISHED.get((method, metric), (None, "measured"))
    return Measured(method, metric, values, 0.0, None, published, source).row(dataset)
