"""Baselines of the tables: PCA, and decoders like the network's that learn by backprop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor, nn

from pcgen.benchmarks.ood.baselines import moments
from pcgen.benchmarks.training import train_by_backprop
from pcgen.config import Recipe
from pcgen.data.images import Images, mirrored
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.learning.gradients import backprop_gradients
from pcgen.learning.posterior import Drawn
from pcgen.learning.predictive_coding import Equilibrium, PredictiveCoding
from pcgen.model.layers import Layer, Shape, TransposedConvolution
from pcgen.model.network import TYPICAL, Network, build

_BATCH = 500
# So high a precision keeps hidden errors at zero, to a millionth: the latent alone moves.
_HELD = 1e6
_MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "tanh": nn.Tanh,
    "hard_tanh": nn.Hardtanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True, slots=True)
class PCA:
    """Principal components of images, also as the model of probabilistic PCA: x = m + W z + noise.

    Attributes:
        mean_D: mean of the training images.
        components_KD: orthonormal, the largest variance first.
        variances_K: of the training images along each component.
        noise: variance that is left in each other direction.
    """

    mean_D: Tensor
    components_KD: Tensor
    variances_K: Tensor
    noise: float

    def __call__(self, data_BD: Tensor) -> Tensor:
        """Return the reconstruction (B, D) from K components."""
        codes_BK = (data_BD - self.mean_D) @ self.components_KD.T
        return torch.addmm(self.mean_D, codes_BK, self.components_KD)

    def sample(self, count: int, seed: int) -> Tensor:
        """Return the predictions (count, D) of latents drawn from N(0, 1), within [0, 1].

        Source: Tipping and Bishop (1999), eq. 7. We leave out the noise of the pixels.
        """
        deviations_K = (self.variances_K - self.noise).clamp_min(0).sqrt().float()
        latents_BK = torch.randn(count, len(deviations_K), generator=generator(seed, "ppca"))
        weights_KD = deviations_K[:, None] * self.components_KD
        return (self.mean_D + latents_BK @ weights_KD).clamp(0, 1)


def fit_pca(images: Images, components: int, *, mirror: bool = False) -> PCA:
    """Return the principal components of all images, from their covariance in float64.

    Args:
        mirror: of the images and their mirror images, left to right.

    Raises:
        DataError: an image that cannot be read.
    """
    mean_D, covariance_DD = moments(images)
    if mirror:
        (turned,) = mirrored(torch.arange(len(mean_D))[None], images.shape)
        covariance_DD += torch.outer(mean_D, mean_D)
        covariance_DD = 0.5 * (covariance_DD + covariance_DD[turned][:, turned])
        mean_D = 0.5 * (mean_D + mean_D[turned])
        covariance_DD -= torch.outer(mean_D, mean_D)
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)  # in rising order
    return PCA(
        mean_D.float(),
        vectors_DD[:, -components:].flip(1).T.float(),
        values_D[-components:].flip(0),
        float(values_D[:-components].mean()),
    )


def autoencoder(recipe: Recipe, shape: Shape) -> nn.Module:
    """Return a new autoencoder whose decoder is the recipe's and whose encoder mirrors it."""
    if recipe.model.skips or recipe.model.labels:
        raise RecipeError("model: the backprop autoencoder has no skip connections and no labels")
    layers = build(recipe.model, shape, generator(recipe.seed)).layers
    hidden = _MODULES[recipe.model.activation]
    torch.manual_seed(recipe.seed)
    encoder: list[nn.Module] = []
    for layer in layers:
        encoder += [*_upwards(layer), hidden()]
    decoder: list[nn.Module] = []
    for layer in reversed(layers):
        decoder += [*_downwards(layer), hidden()]
    decoder[-1] = _MODULES[recipe.model.output]()
    return nn.Sequential(nn.Sequential(*encoder[:-1]), nn.Sequential(*decoder))


def _upwards(layer: Layer) -> list[nn.Module]:
    """Return the modules (B, D) -> (B, U) that mirror a decoder layer."""
    if not isinstance(layer, TransposedConvolution):
        return [nn.Linear(math.prod(layer.below), math.prod(layer.above))]
    kernel, stride, padding = layer.weight.shape[-1], layer.stride, layer.padding
    convolution = nn.Conv2d(layer.below[0], layer.above[0], kernel, stride, padding)
    return [nn.Unflatten(1, layer.below), convolution, nn.Flatten()]


def _downwards(layer: Layer) -> list[nn.Module]:
    """Return the modules (B, U) -> (B, D) of a decoder layer."""
    if not isinstance(layer, TransposedConvolution):
        return [nn.Linear(math.prod(layer.above), math.prod(layer.below))]
    convolution = nn.ConvTranspose2d(
        layer.above[0],
        layer.below[0],
        layer.weight.shape[-1],
        layer.stride,
        layer.padding,
        layer.output_padding,
    )
    return [nn.Unflatten(1, layer.above), convolution, nn.Flatten()]


def train_autoencoder(
    recipe: Recipe,
    images: Images,
    validation: Images,
    epochs: int,
    device: torch.device,
    rate: float,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> tuple[nn.Module, float]:
    """Return the autoencoder of the best epoch, and its mean squared error on the validation split.

    Backpropagation of the summed squared error, AdamW, the recipe's batch size and schedule.
    """
    with torch.random.fork_rng(devices=[]):
        model = autoencoder(recipe, images.shape).to(device)

    def loss(data_BD: Tensor) -> Tensor:
        return 0.5 * (model(data_BD) - data_BD).square().sum(1).mean()

    return train_by_backprop(
        model,
        torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0),
        recipe,
        images,
        epochs,
        loss,
        lambda: mean_squared_error(model, validation, device),
        on_epoch,
    )


class AutoDecoder(PredictiveCoding):
    """Learns a decoder by backprop from the latents that inference finds, without an encoder."""

    def _gradients(self, states: Equilibrium | Drawn, learned: bool) -> list[Tensor | None]:
        latent_BL = states.states[self.network.latent]
        return [*backprop_gradients(self.network, states.states[0], latent_BL)]


def held(recipe: Recipe, **learning: float) -> Recipe:
    """Return the recipe with hidden errors held at zero, for `AutoDecoder` and `with_encoder`.

    Args:
        learning: keys of the learning table to replace.
    """
    change = msgspec.structs.replace
    precision = change(recipe.model.precision, hidden=_HELD, learned=False)
    return change(
        recipe,
        model=change(recipe.model, precision=precision),
        inference=change(recipe.inference, solver="errors", test_solver=""),
        learning=change(recipe.learning, **learning),
    )


class Encoded(Network):
    """A decoder whose latent starts at the code of an encoder."""

    encoder: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def start_latent(self, data_BD: Tensor, mask_BD: Tensor | None = None) -> Tensor:
        """Return the code (B, D_latent) of the data."""
        assert mask_BD is None
        return self.encoder(data_BD)[:, _channels_last(self.layers[-1].above)]


@torch.no_grad()
def with_encoder(recipe: Recipe, model: nn.Module, images: Images, prior: float) -> Encoded:
    """Return an autoencoder as a network, for inference of its code.

    Args:
        recipe: from `held`.
        model: from `train_autoencoder`.
        images: the first ones give the typical codes with which inference is prepared.
        prior: the precision of the code's prior; 0 for none.
    """
    encoder, decoder = model.children()
    kinds = nn.Linear | nn.ConvTranspose2d
    maps = [module for module in decoder.children() if isinstance(module, kinds)]
    own = build(recipe.model, images.shape, generator(recipe.seed)).to(maps[0].weight.device)
    for i, (layer, module) in enumerate(zip(own.layers, reversed(maps), strict=True)):
        weight, bias = module.weight, module.bias
        assert bias is not None
        assert layer.bias is not None
        if not isinstance(layer, TransposedConvolution):
            weight = weight[:, _channels_last(layer.above)]
            order = _channels_last(layer.below) if i else slice(None)
            weight, bias = weight[order], bias[order]
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    own.log_precisions[-1].fill_(prior).log_()
    network = Encoded.of(own.table, own.layers, own.log_precisions)
    network.encoder = encoder
    data_BD = images.rows(range(min(TYPICAL, len(images)))).pixels_BD.to(own.layers[0].weight)
    network.typical_latents[: len(data_BD)] = network.start_latent(data_BD)
    return network


def _channels_last(shape: Shape) -> Tensor:
    """Return the order in which a network's hidden layer has the units of an autoencoder's map."""
    return torch.arange(math.prod(shape)).view(shape).permute(1, 2, 0).flatten()


def mean_squared_error(
    reconstruct: Callable[[Tensor], Tensor],
    images: Images,
    device: torch.device | str = "cpu",
    *,
    clip: bool = False,
) -> float:
    """Return the squared error per pixel, mean over the readable images.

    Args:
        clip: limits reconstructions to [0, 1] first, which can only lower the error.
    """
    total, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(images), _BATCH):
            rows = images.rows(range(first, min(first + _BATCH, len(images))))
            data_BD = rows.pixels_BD[rows.ok].to(device)
            output_BD = reconstruct(data_BD)
            output_BD = output_BD.clamp(0, 1) if clip else output_BD
            total += (output_BD - data_BD).square().mean(1).double().sum().item()
            count += len(data_BD)
    return total / count
