"""What samples must beat: a variational autoencoder of the same size, and probabilistic PCA."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcgen.benchmarks.baselines import fit_pca
from pcgen.config import Recipe, units
from pcgen.data.images import Images, order
from pcgen.device import generator
from pcgen.learning.optimiser import rate_at

_BATCH = 500
# Rates of the optimiser, between which the validation split chooses.
RATES = (1e-3, 2e-3, 4e-3)


class VAE(nn.Module):
    """A variational autoencoder: the recipe's decoder, its mirror image as encoder, SiLU units.

    Source: Kingma and Welling (2014), with the published activation (Pinchetti et al., 2025).
    """

    def __init__(self, layers: list[int], data: int) -> None:
        """Take the recipe's layers, the latent first, and the data's units."""
        super().__init__()
        self.latents = layers[0]
        down = [*layers, data]
        up = [*reversed(down)]
        self.encoder = _stack([*up[:-1], 2 * layers[0]])
        self.decoder = _stack(down)

    def loss(self, data_BD: Tensor, noise_BL: Tensor) -> Tensor:
        """Return minus the evidence lower bound, in nats, mean over the batch."""
        mean_BL, log_var_BL = self.encoder(data_BD).chunk(2, 1)
        logits_BD = self.decoder(mean_BL + noise_BL * (0.5 * log_var_BL).exp())
        cost_B = (functional.softplus(logits_BD) - data_BD * logits_BD).sum(1)
        prior_B = 0.5 * (mean_BL.square() + log_var_BL.exp() - log_var_BL - 1).sum(1)
        return (cost_B + prior_B).mean()

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """Return what so many latents from N(0, 1) decode to, (B, D)."""
        latents = torch.randn(count, self.latents, generator=generator(seed, "vae samples"))
        return torch.sigmoid(self.decode(latents.to(next(self.parameters()))))

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
        """Return log p(data) (B,) by importance sampling from the encoder.

        Source: Burda, Grosse and Salakhutdinov (2016), eq. 8.
        """
        noise = generator(seed, "vae likelihood")
        found = []
        for row in torch.split(data_BD, 1):
            mean, log_var = self.encoder(row).chunk(2, 1)
            xi = torch.randn(draws, self.latents, generator=noise).to(mean)
            latent = mean + xi * (0.5 * log_var).exp()
            logits = self.decode(latent)
            likelihood = -(functional.softplus(logits) - row * logits).sum(1)
            prior = -0.5 * latent.square().sum(1)
            proposal = -0.5 * (xi.square() + log_var).sum(1)
            found.append(torch.logsumexp(likelihood + prior - proposal, 0) - math.log(draws))
        return torch.stack(found)


def _stack(sizes: list[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for above, below in itertools.pairwise(sizes):
        modules += [nn.Linear(above, below), nn.SiLU()]
    return nn.Sequential(*modules[:-1])


def train_vae(
    recipe: Recipe,
    images: Images,
    validation: Images,
    rate: float,
    epochs: int,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> tuple[VAE, float]:
    """Return the autoencoder of the best epoch, and its bound on the validation split in nats."""
    layers = [units(entry) for entry in recipe.model.layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = VAE(layers, math.prod(images.shape))
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    table, noise = recipe.learning, generator(recipe.seed, "vae")
    held_out = validation.rows(range(len(validation))).pixels_BD
    still = torch.randn(len(held_out), layers[0], generator=generator(recipe.seed, "vae held out"))
    updates, total = 0, epochs * math.ceil(len(images) / table.batch_size)
    best, best_loss = copy.deepcopy(model), math.inf
    for epoch in range(epochs):
        for indices in torch.split(order(len(images), recipe.seed, epoch), table.batch_size):
            data_BD = images.rows(indices).pixels_BD
            optimiser.param_groups[0]["lr"] = rate * rate_at(table, updates, total) / table.rate
            updates += 1
            xi = torch.randn(len(data_BD), layers[0], generator=noise)
            optimiser.zero_grad()
            with torch.enable_grad():
                model.loss(data_BD, xi).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            loss = float(model.loss(held_out, still))
        if loss < best_loss:
            best, best_loss = copy.deepcopy(model), loss
        on_epoch(epoch + 1)
    return best, best_loss


@dataclass(slots=True)
class PPCA:
    """Probabilistic principal components: x = m + W z + noise, in closed form.

    Source: Tipping and Bishop (1999), eq. 7.
    """

    mean_D: Tensor
    weight_KD: Tensor
    variance: float

    def sample(self, count: int, seed: int) -> Tensor:
        """Return what so many latents from N(0, 1) are predicted to, within [0, 1]."""
        latents = torch.randn(count, len(self.weight_KD), generator=generator(seed, "ppca"))
        return (self.mean_D + latents @ self.weight_KD).clamp(0, 1)


def fit_ppca(images: Images, components: int) -> PPCA:
    """Return the maximum-likelihood model of all images."""
    pca = fit_pca(images, components)
    size = len(pca.mean_D)
    scores, total = [], 0.0
    for first in range(0, len(images), _BATCH):
        rows = images.rows(range(first, min(first + _BATCH, len(images))))
        centred = rows.pixels_BD - pca.mean_D
        scores.append(centred @ pca.components_KD.T)
        total += float(centred.double().square().sum())
    variances_K = torch.cat(scores).double().square().mean(0)
    rest = (total / len(images) - float(variances_K.sum())) / (size - components)
    scale = (variances_K - rest).clamp_min(0).sqrt().float()
    return PPCA(pca.mean_D, scale[:, None] * pca.components_KD, rest)
