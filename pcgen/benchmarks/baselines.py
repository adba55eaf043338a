"""What a reconstruction must beat: PCA, and a backprop autoencoder with the same decoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcgen.benchmarks.ood.baselines import moments
from pcgen.config import Recipe
from pcgen.data.images import Images, order
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.learning.optimiser import rate_at
from pcgen.model.layers import Layer, Shape, TransposedConvolution
from pcgen.model.network import build

_BATCH = 500
_MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "tanh": nn.Tanh,
    "hard_tanh": nn.Hardtanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
}


@dataclass(slots=True)
class PCA:
    """Principal components: the best linear code of its size.

    Attributes:
        mean_D: of the training images.
        components_KD: orthonormal.
    """

    mean_D: Tensor
    components_KD: Tensor

    def __call__(self, data_BD: Tensor) -> Tensor:
        """Return the reconstruction (B, D)."""
        code = (data_BD - self.mean_D) @ self.components_KD.T
        return torch.addmm(self.mean_D, code, self.components_KD)


def fit_pca(images: Images, components: int) -> PCA:
    """Return the principal components of all images, from their covariance in float64.

    Raises:
        DataError: an image that cannot be read.
    """
    mean_D, covariance_DD = moments(images)
    # Eigenvalues come in rising order.
    components_KD = torch.linalg.eigh(covariance_DD).eigenvectors[:, -components:].flip(1).T
    return PCA(mean_D.float(), components_KD.float())


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
    return nn.Sequential(*encoder[:-1], *decoder[:-1], _MODULES[recipe.model.output]())


def _upwards(layer: Layer) -> list[nn.Module]:
    """Return modules (B, D) -> (B, U) of a decoder layer's mirror image."""
    if not isinstance(layer, TransposedConvolution):
        return [nn.Linear(math.prod(layer.below), math.prod(layer.above))]
    kernel, stride, padding = layer.weight.shape[-1], layer.stride, layer.padding
    convolution = nn.Conv2d(layer.below[0], layer.above[0], kernel, stride, padding)
    return [nn.Unflatten(1, layer.below), convolution, nn.Flatten()]


def _downwards(layer: Layer) -> list[nn.Module]:
    """Return modules (B, U) -> (B, D) of a decoder layer."""
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
    rate: float,
    epochs: int,
    device: torch.device,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> tuple[nn.Module, float]:
    """Return the autoencoder of the best epoch, and its mean squared error on the validation split.

    Backpropagation of the summed squared error, AdamW, the recipe's batch size and schedule.
    """
    with torch.random.fork_rng(devices=[]):
        model = autoencoder(recipe, images.shape).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    table = recipe.learning
    updates, total = 0, epochs * -(-len(images) // table.batch_size)
    best, best_error = copy.deepcopy(model), float("inf")
    for epoch in range(epochs):
        for indices in torch.split(order(len(images), recipe.seed, epoch), table.batch_size):
            data_BD = images.rows(indices).pixels_BD.to(device)
            for group in optimiser.param_groups:
                group["lr"] = rate * rate_at(table, updates, total) / table.rate
            updates += 1
            optimiser.zero_grad()
            with torch.enable_grad():
                loss = 0.5 * (model(data_BD) - data_BD).square().sum(1).mean()
                loss.backward()
            optimiser.step()
        error = mean_squared_error(model, validation, device)
        if error < best_error:
            best, best_error = copy.deepcopy(model), error
        on_epoch(epoch + 1)
    return best, best_error


def mean_squared_error(
    reconstruct: Callable[[Tensor], Tensor],
    images: Images,
    device: torch.device | str = "cpu",
    *,
    clip: bool = False,
) -> float:
    """Return the squared error per pixel, mean over the readable images.

    Args:
        clip: bring reconstructions to [0, 1] first, which cannot hurt pixels.
    """
    total, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(images), _BATCH):
            rows = images.rows(range(first, min(first + _BATCH, len(images))))
            data_BD = rows.pixels_BD[rows.ok].to(device)
            found_BD = reconstruct(data_BD)
            found_BD = found_BD.clamp(0, 1) if clip else found_BD
            total += (found_BD - data_BD).square().mean(1).double().sum().item()
            count += len(data_BD)
    return total / count


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe with another seed."""
    import msgspec

    return msgspec.structs.replace(recipe, seed=seed)
