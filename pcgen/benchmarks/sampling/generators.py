"""The ways to draw images that `pcgen bench sampling` compares, trained where they need it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.baselines import fit_pca
from pcgen.benchmarks.sampling.vae import RATES, VAE, train_vae
from pcgen.benchmarks.table import Tell
from pcgen.benchmarks.training import best_rate, train_network
from pcgen.config import Recipe, units
from pcgen.data.images import Images
from pcgen.device import generator
from pcgen.learning.mixture_em import step_mixture
from pcgen.learning.validate import reconstructions
from pcgen.memory.latent_prior import fit_latent_prior
from pcgen.model.network import Network
from pcgen.model.prior import Mixture
from pcgen.sampling.draw import Chained, ancestral, chained

_VAE_EPOCHS = 40
_NOISELESS_EPOCHS = 10
# Steps of expectation maximisation that fit a mixture to the VAE's latents.
_FITTING_STEPS = 20
_CHAINED = Chained(chains=100, burn_in=1000, thin=20)


@dataclass(frozen=True, slots=True)
class Generator:
    """A way to draw images.

    Attributes:
        draw: from a number of images and a seed to the images (count, D).
        parameters: number of weights and biases, where it has such.
        seconds: of its training.
    """

    name: str
    draw: Callable[[int, int], Tensor]
    parameters: int | None
    seconds: float


def generators(
    recipe: Recipe, network: Network, images: Images, validation: Images, tell: Tell
) -> list[Generator]:
    """Return the network, its chains and their baselines, which learn from the same images.

    Args:
        network: trained by the recipe.
        validation: images on which every choice is made.
    """
    began = time.monotonic()
    components = units(recipe.model.layers[0])
    ppca = fit_pca(images, components)
    seconds = time.monotonic() - began

    def chains(count: int, seed: int) -> Tensor:
        return chained(network, recipe.inference, count, seed, _CHAINED).data_BD

    pcn = _of_network("pcn", network)
    return [
        pcn,
        Generator("pcn, chains", chains, pcn.parameters, 0.0),
        Generator(f"ppca-{components}", ppca.sample, None, seconds),
        *_vaes(recipe, images, validation, tell),
        _noiseless(recipe, images, validation, tell),
    ]


def _of_network(name: str, network: Network, seconds: float = 0.0) -> Generator:
    """Return the independent draws of a network."""
    parameters = sum(tensor.numel() for tensor in network.weights())
    return Generator(
        name, lambda count, seed: ancestral(network, count, seed).data_BD, parameters, seconds
    )


def best_vae(
    recipe: Recipe, images: Images, validation: Images, epochs: int, tell: Tell
) -> tuple[VAE, float]:
    """Return the VAE of the rate that is best on the validation split, and its training seconds."""
    train = partial(train_vae, recipe, images, validation, epochs)
    return best_rate(RATES, train, "VAE", epochs, tell)[:2]


def _vaes(recipe: Recipe, images: Images, validation: Images, tell: Tell) -> list[Generator]:
    """Return the VAE as it is, and with the PCN's mixture fitted to its latents afterwards."""
    vae, seconds = best_vae(recipe, images, validation, _VAE_EPOCHS, tell)
    parameters = sum(p.numel() for p in vae.decoder.parameters())
    plain = Generator("vae", vae.sample, parameters, seconds)
    began = time.monotonic()
    data_BD = images.rows(range(len(images))).pixels_BD
    noise_BL = torch.randn(len(data_BD), vae.latents, generator=generator(recipe.seed, "vae prior"))
    latents_BL = vae.encode(data_BD, noise_BL)
    mixture = Mixture.standard(max(2, recipe.model.causes), vae.latents, 0, latents_BL)
    for _ in range(_FITTING_STEPS):
        step_mixture(mixture, latents_BL, None, generator(recipe.seed, "vae causes"))

    def draw(count: int, seed: int) -> Tensor:
        source = generator(seed, "vae mixture")
        normal_BL = torch.randn(count, vae.latents, generator=source)
        uniform_B = torch.rand(count, generator=source)
        return torch.sigmoid(vae.decode(mixture.draw(normal_BL, uniform_B, None)))

    name = f"vae, {len(mixture.means_KL)} causes fitted after"
    return [plain, Generator(name, draw, parameters, seconds + time.monotonic() - began)]


def _noiseless(recipe: Recipe, images: Images, validation: Images, tell: Tell) -> Generator:
    """Return the same network trained at the least energy, not by samples, with a fitted prior."""
    began = time.monotonic()
    noiseless = msgspec.structs.replace(
        recipe,
        name="noiseless",
        model=msgspec.structs.replace(recipe.model, causes=1, start="linear"),
        inference=msgspec.structs.replace(recipe.inference, solver="errors", steps=4),
        learning=msgspec.structs.replace(recipe.learning, epochs=_NOISELESS_EPOCHS),
    )
    network = train_network(noiseless, images, validation, torch.device("cpu"), tell)
    latents_BL = torch.cat(
        [
            batch.equilibrium.states[network.latent]
            for batch in reconstructions(network, images.head(10_000), noiseless.inference)
        ]
    )
    fitted = fit_latent_prior(network, latents_BL)
    return _of_network("pcn without noise, whitened", fitted, time.monotonic() - began)
