"""The ways to draw images that `pcgen bench sampling` compares, trained where they need it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.reconstruction import Tell, train_network
from pcgen.benchmarks.sampling.generators import RATES, VAE, fit_ppca, train_vae
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
# Of chains: how they draw, and how long.
_CHAINED = Chained(chains=100, burn_in=1000, thin=20)


@dataclass(frozen=True, slots=True)
class Generator:
    """A way to draw images: so many, with a seed."""

    name: str
    draw: Callable[[int, int], Tensor]
    parameters: int | None
    seconds: float


def makers(
    recipe: Recipe, network: Network, images: Images, validation: Images, tell: Tell
) -> list[Generator]:
    """Return the network, its chains and their baselines, which learn from the same images.

    Args:
        network: trained by the recipe.
        validation: where every choice is made.
    """
    began = time.monotonic()
    ppca = fit_ppca(images, units(recipe.model.layers[0]))
    name = f"ppca-{len(ppca.weight_KD)}"
    return [
        _of_network("pcn", network),
        _of_chains("pcn, chains", network, recipe),
        Generator(name, ppca.sample, None, time.monotonic() - began),
        *_vaes(recipe, images, validation, tell),
        _noiseless(recipe, images, validation, tell),
    ]


def _of_network(name: str, network: Network, seconds: float = 0.0) -> Generator:
    parameters = sum(tensor.numel() for tensor in network.weights())
    return Generator(
        name, lambda count, seed: ancestral(network, count, seed).data_BD, parameters, seconds
    )


def _of_chains(name: str, network: Network, recipe: Recipe) -> Generator:
    """Return the network's chains, which begin at independent draws."""
    parameters = sum(tensor.numel() for tensor in network.weights())
    return Generator(
        name,
        lambda count, seed: chained(network, recipe.inference, count, seed, _CHAINED).data_BD,
        parameters,
        0.0,
    )


def best_vae(
    recipe: Recipe, images: Images, validation: Images, epochs: int, tell: Tell
) -> tuple[VAE, float]:
    """Return the VAE of the rate that is better on the validation split, and its seconds."""
    found = []
    for rate in RATES:
        began = time.monotonic()

        def told(epoch: int, rate: float = rate) -> None:
            tell(f"VAE, rate {rate:g}", epoch, epochs)

        model, loss = train_vae(recipe, images, validation, rate, epochs, told)
        found.append((loss, model, time.monotonic() - began))
    _, model, seconds = min(found, key=lambda entry: entry[0])
    return model, seconds


def _vaes(recipe: Recipe, images: Images, validation: Images, tell: Tell) -> list[Generator]:
    """Return the VAE as it is, and with the PCN's mixture fitted to its latents afterwards."""
    vae, seconds = best_vae(recipe, images, validation, _VAE_EPOCHS, tell)
    parameters = sum(p.numel() for p in vae.decoder.parameters())
    plain = Generator("vae", vae.sample, parameters, seconds)
    began = time.monotonic()
    data_BD = images.rows(range(len(images))).pixels_BD
    noise = torch.randn(len(data_BD), vae.latents, generator=generator(recipe.seed, "vae prior"))
    latents = vae.encode(data_BD, noise)
    mixture = Mixture.standard(max(2, recipe.model.causes), vae.latents, 0, latents)
    for _ in range(_FITTING_STEPS):
        step_mixture(mixture, latents, None, generator(recipe.seed, "vae causes"))

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
    found = fit_latent_prior(network, torch.cat(latents))
    return _of_network("pcn without noise, whitened", found, time.monotonic() - began)
