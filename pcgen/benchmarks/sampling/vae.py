"""The baseline of `pcgen bench sampling`: a variational autoencoder of the network's size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from pcgen.benchmarks.baselines import held
from pcgen.benchmarks.training import train_by_backprop
from pcgen.config import Recipe, units
from pcgen.data.images import Images
from pcgen.device import generator
from pcgen.model.layers import Shape
from pcgen.model.network import Network, build

_BATCH = 500
# Rates of the optimiser, between which the validation split chooses.
RATES = (1e-3, 2e-3, 4e-3)


class VAE(nn.Module):
    """A variational autoencoder: the recipe's decoder, its mirror image as encoder, SiLU units.

    Source: Kingma and Welling (2014), with the published activation (Pinchetti et al., 2025).
    """

    def __init__(self, layers: list[int], data: int) -> None:
        """Build it from the units of the recipe's layers, the latent first, and of the data."""
        super().__init__()
        self.latents = layers[0]
        down = [*layers, data]
        up = [*reversed(down)]
        self.encoder = _stack([*up[:-1], 2 * layers[0]])
        self.decoder = _stack(down)

    def loss(self, data_BD: Tensor, noise_BL: Tensor) -> Tensor:
        """Return minus the evidence lower bound, in nats per image, mean over the batch."""
        mean_BL, log_var_BL = self.encoder(data_BD).chunk(2, 1)
        logits_BD = self.decoder(mean_BL + noise_BL * (0.5 * log_var_BL).exp())
        cost_B = (functional.softplus(logits_BD) - data_BD * logits_BD).sum(1)
        prior_B = 0.5 * (mean_BL.square() + log_var_BL.exp() - log_var_BL - 1).sum(1)
        return (cost_B + prior_B).mean()

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """Return the images (count, D) that latents drawn from N(0, 1) decode to."""
        latents_BL = torch.randn(count, self.latents, generator=generator(seed, "vae samples"))
        return torch.sigmoid(self.decode(latents_BL.to(next(self.parameters()))))

    @torch.no_grad()
    def encode(self, data_BD: Tensor, noise_BL: Tensor) -> Tensor:
        """Return a draw (B, L) of each row's latent."""
        mean_BL, log_var_BL = self.encoder(data_BD).chunk(2, 1)
        return mean_BL + noise_BL * (0.5 * log_var_BL).exp()

    @torch.no_grad()
    def decode(self, latent_BL: Tensor) -> Tensor:
        """Return the logits (B, D) of the data."""
        return torch.cat([self.decoder(part) for part in torch.split(latent_BL, _BATCH)])

    @torch.no_grad()
    def log_likelihood(self, data_BD: Tensor, draws: int, seed: int) -> Tensor:
        """Return log p(data) (B,) in nats, by importance sampling from the encoder.

        Source: Burda, Grosse and Salakhutdinov (2016), eq. 8.
        """
        noise = generator(seed, "vae likelihood")
        log_likelihoods = []
        for row in torch.split(data_BD, 1):
            mean, log_var = self.encoder(row).chunk(2, 1)
            xi = torch.randn(draws, self.latents, generator=noise).to(mean)
            latent = mean + xi * (0.5 * log_var).exp()
            logits = self.decode(latent)
            likelihood = -(functional.softplus(logits) - row * logits).sum(1)
            prior = -0.5 * latent.square().sum(1)
            proposal = -0.5 * (xi.square() + log_var).sum(1)
            total = torch.logsumexp(likelihood + prior - proposal, 0)
            log_likelihoods.append(total - math.log(draws))
        return torch.stack(log_likelihoods)


def as_network(recipe: Recipe, vae: VAE, shape: Shape) -> Network:
    """Return the VAE's decoder as a network whose hidden errors are held at zero.

    It has the prior N(0, 1), and no encoder.
    """
    precision = msgspec.structs.replace(recipe.model.precision, latent=1.0)
    table = msgspec.structs.replace(
        recipe.model, activation="silu", likelihood="bernoulli", causes=1, precision=precision
    )
    own = held(msgspec.structs.replace(recipe, model=table))
    network = build(own.model, shape, generator(recipe.seed))
    maps = [module for module in vae.decoder if isinstance(module, nn.Linear)]
    for layer, module in zip(network.layers, reversed(maps), strict=True):
        assert layer.bias is not None
        layer.weight.copy_(module.weight)
        layer.bias.copy_(module.bias)
    source = generator(recipe.seed, "typical")
    network.typical_latents.normal_(generator=source)
    return network


def _stack(sizes: list[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for above, below in itertools.pairwise(sizes):
        modules += [nn.Linear(above, below), nn.SiLU()]
    return nn.Sequential(*modules[:-1])


def train_vae(
    recipe: Recipe,
    images: Images,
    validation: Images,
    epochs: int,
    rate: float,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> tuple[VAE, float]:
    """Return the autoencoder of the best epoch, and its bound on the validation split in nats."""
    layers = [units(entry) for entry in recipe.model.layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = VAE(layers, math.prod(images.shape))
    noise = generator(recipe.seed, "vae")
    held_out_BD = validation.rows(range(len(validation))).pixels_BD
    fixed_BL = torch.randn(
        len(held_out_BD), layers[0], generator=generator(recipe.seed, "vae held out")
    )

    def loss(data_BD: Tensor) -> Tensor:
        return model.loss(data_BD, torch.randn(len(data_BD), layers[0], generator=noise))

    return train_by_backprop(
        model,
        torch.optim.Adam(model.parameters(), lr=rate, fused=True),
        recipe,
        images,
        epochs,
        loss,
        lambda: float(model.loss(held_out_BD, fixed_BL)),
        on_epoch,
    )
