"""The ways to draw images that `pcgen bench sampling` compares, trained where they need it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.baselines import PCA, AutoDecoder, fit_pca, held
from pcgen.benchmarks.sampling.vae import RATES, VAE, train_vae
from pcgen.benchmarks.table import Tell
from pcgen.benchmarks.training import best_rate, train_by
from pcgen.config import Recipe, units
from pcgen.data.images import Images
from pcgen.device import generator
from pcgen.learning.credit import parameters
from pcgen.learning.mixture_em import step_mixture
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.validate import reconstructions
from pcgen.model.network import Network
from pcgen.model.prior import Mixture
from pcgen.sampling.draw import ancestral

_VAE_EPOCHS = 40
_DECODER_EPOCHS = 10
# Steps of expectation maximisation that fit a mixture to a baseline's latents, and images whose
# latents a network infers for it.
_FITTING_STEPS = 20
_INFERRED = 10_000


@dataclass(frozen=True, slots=True)
class Generator:
    """A way to draw images.

    Attributes:
        draw: from a number of images and a seed to the images (count, D).
        parameters: all numbers that were learned, with those of the prior, the linear start of
            inference or the encoder.
        seconds: of its training.
    """

    name: str
    draw: Callable[[int, int], Tensor]
    parameters: int
    seconds: float


def generators(
    recipe: Recipe, network: Network, images: Images, validation: Images, tell: Tell
) -> list[Generator]:
    """Return the network and its baselines, which learn from the same images.

    Each baseline stands there with the prior N(0, 1), where it has that, and with a mixture of as
    many components as the network's prior has, fitted to its latents without labels.

    Args:
        network: trained by the recipe.
        validation: images on which every choice is made.
    """
    count = parameters(network)["whole"]
    return [
        Generator("pcn", lambda n, seed: ancestral(network, n, seed).data_BD, count, 0.0),
        *_causes_alone(network, count),
        *_ppcas(recipe, images),
        *_vaes(recipe, images, validation, tell),
        _decoder("auto-decoder", AutoDecoder, held(recipe), images, validation, tell),
        _decoder("pcn without noise", PredictiveCoding, recipe, images, validation, tell),
    ]


def _causes_alone(network: Network, count: int) -> list[Generator]:
    """Return the draws of a mixture's means: what the prior has learned without the components."""
    mixture = network.mixture
    if mixture is None:
        return []

    def draw(n: int, seed: int) -> Tensor:
        weights_K = mixture.log_weights().exp()
        chosen_B = torch.multinomial(weights_K, n, True, generator=generator(seed, "causes"))
        return network.decode(mixture.means_KL[chosen_B])

    return [Generator("pcn, means of its causes alone", draw, count, 0.0)]


def _with_mixture(
    name: str,
    recipe: Recipe,
    latents_NL: Tensor,
    decode: Callable[[Tensor], Tensor],
    count: int,
    began: float,
) -> Generator:
    """Return a decoder whose prior is a mixture, fitted to its latents without labels.

    Args:
        latents_NL: of training images.
        count: numbers that the decoder has learned.
        began: when its training began, on the clock of `time.monotonic`.
    """
    units = latents_NL.shape[1]
    mixture = Mixture.standard(max(2, recipe.model.causes), units, 0, latents_NL)
    source = generator(recipe.seed, "causes fitted after")
    for _ in range(_FITTING_STEPS):
        step_mixture(mixture, latents_NL, None, source)

    def draw(n: int, seed: int) -> Tensor:
        source = generator(seed, "mixture")
        normal_BL = torch.randn(n, units, generator=source)
        return decode(mixture.draw(normal_BL, torch.rand(n, generator=source), None))

    whole = count + sum(tensor.numel() for tensor in mixture.tensors().values())
    causes = f"{name}, {len(mixture.means_KL)} causes fitted after"
    return Generator(causes, draw, whole, time.monotonic() - began)


def _ppcas(recipe: Recipe, images: Images) -> list[Generator]:
    """Return probabilistic PCA with as many components as latents, as it is and with a mixture."""
    began, components = time.monotonic(), units(recipe.model.layers[0])
    ppca: PCA = fit_pca(images, components)
    name, count = f"ppca-{components}", ppca.mean_D.numel() + ppca.components_KD.numel()
    plain = Generator(name, ppca.sample, count + components + 1, time.monotonic() - began)
    data_BD = images.rows(range(len(images))).pixels_BD
    codes_BK = (data_BD - ppca.mean_D) @ ppca.components_KD.T

    def decode(codes_BK: Tensor) -> Tensor:
        return torch.addmm(ppca.mean_D, codes_BK, ppca.components_KD).clamp(0, 1)

    return [plain, _with_mixture(name, recipe, codes_BK, decode, count, began)]


def best_vae(
    recipe: Recipe, images: Images, validation: Images, epochs: int, tell: Tell
) -> tuple[VAE, float]:
    """Return the VAE of the rate that is best on the validation split, and its training seconds."""
    train = partial(train_vae, recipe, images, validation, epochs)
    return best_rate(RATES, train, "VAE", epochs, tell)[:2]


def _vaes(recipe: Recipe, images: Images, validation: Images, tell: Tell) -> list[Generator]:
    """Return the VAE as it is, and with a mixture fitted to draws of its encoder."""
    vae, seconds = best_vae(recipe, images, validation, _VAE_EPOCHS, tell)
    began, count = time.monotonic() - seconds, sum(p.numel() for p in vae.parameters())
    data_BD = images.rows(range(len(images))).pixels_BD
    noise_BL = torch.randn(len(data_BD), vae.latents, generator=generator(recipe.seed, "vae prior"))
    latents_BL = vae.encode(data_BD, noise_BL)

    def decode(latents_BL: Tensor) -> Tensor:
        return torch.sigmoid(vae.decode(latents_BL))

    plain = Generator("vae", vae.sample, count, seconds)
    return [plain, _with_mixture("vae", recipe, latents_BL, decode, count, began)]


def _decoder(
    name: str,
    learner: type[PredictiveCoding],
    recipe: Recipe,
    images: Images,
    validation: Images,
    tell: Tell,
) -> Generator:
    """Return the same decoder learned at the least energy, not by samples, with a mixture.

    Args:
        learner: takes the weights' gradients from hidden errors, or by backprop (`AutoDecoder`).
    """
    began = time.monotonic()
    noiseless = msgspec.structs.replace(
        recipe,
        name="noiseless",
        model=msgspec.structs.replace(recipe.model, causes=1, start="linear"),
        inference=msgspec.structs.replace(recipe.inference, solver="errors", steps=4),
        learning=msgspec.structs.replace(recipe.learning, epochs=_DECODER_EPOCHS),
    )
    network, _ = train_by(learner, noiseless, images, validation, torch.device("cpu"), tell)
    few = images.head(_INFERRED)
    latents_BL = torch.cat(
        [
            batch.equilibrium.states[network.latent]
            for batch in reconstructions(network, few, noiseless.inference)
        ]
    )
    count = parameters(network)["whole"]
    return _with_mixture(name, recipe, latents_BL, network.decode, count, began)
