"""The linear start: a running regression of the latents at equilibrium on their data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcgen.device import generator
from pcgen.model import products
from pcgen.model.network import Network

_DECAY = 0.98
_RIDGE = 0.01
_EVERY = 10
# Up to _WIDE data units the whole covariance is inverted; wider data are first projected onto
# _COMPONENTS principal components.
_WIDE = 4096
_COMPONENTS = 512
# Components are exact to rounding if the random projection keeps this many more than twice them.
_MORE = 32


class StartRegression:
    """Keeps `network.start` at the least-squares map from data to latent.

    The data's covariance is fixed, so it is inverted once. Its covariance with the latents follows
    the weights as a running mean. The energy does not depend on this map, only where inference
    starts. Wide data are projected onto their principal components.

    Where the weights begin at principal components, the start begins at their scores. The
    regression then learns the latents' distance from the scores, on the scores.

    Source: the amortised inference of Tschantz et al. (2023), with a linear map in closed form.
    """

    def __init__(self, network: Network, sample_BD: Tensor) -> None:
        """Begin a regression.

        Args:
            network: with a `start`.
            sample_BD: data whose mean and covariance stand for all.
        """
        assert network.start is not None
        self.network = network
        self.mean_D = sample_BD.mean(0)
        centred = sample_BD - self.mean_D
        self.begins_at_scores = network.table.weights == "principal"
        self.basis_DK: Tensor | None = None
        if self.begins_at_scores:
            self.basis_DK = network.start[:-1].clone()
        elif sample_BD.shape[1] > _WIDE:
            self.basis_DK = _principal(centred)
        features = self._features(sample_BD)
        covariance = features.T @ features / len(features)
        covariance.diagonal().add_(_RIDGE)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        # Rows: the covariance of each feature with the latents, then the latents' mean.
        self.moments = sample_BD.new_zeros(features.shape[1] + 1, network.sizes[network.latent])
        self.weight = sample_BD.new_zeros(())

    def sums(self, data_BD: Tensor, latent_BD: Tensor) -> Tensor:
        """Return a batch's sums (F + 1, D_latent) of feature times latent, and of the latents."""
        features_BF = self._features(data_BD)
        if self.begins_at_scores:
            latent_BD = latent_BD - features_BF
        product_FL = products.transposed_product(features_BF, latent_BD)
        return torch.cat([product_FL, latent_BD.sum(0, keepdim=True)])

    def take_in(self, sums: Tensor, count: int, updates: int) -> None:
        """Learn from the sums of a batch of `count` images."""
        self.weight.mul_(_DECAY).add_(1 - _DECAY)
        self.moments.mul_(_DECAY).add_(sums, alpha=(1 - _DECAY) / count)
        if updates % _EVERY == 0:
            self._renew()

    def _features(self, data_BD: Tensor) -> Tensor:
        centred = data_BD - self.mean_D
        return centred if self.basis_DK is None else centred @ self.basis_DK

    def _renew(self) -> None:
        """Solve the regression, and set the network's start."""
        assert self.network.start is not None
        slope = products.product(self.inverse, self.moments[:-1]) / self.weight
        if self.begins_at_scores:
            slope.diagonal().add_(1.0)
        if self.basis_DK is not None:
            slope = self.basis_DK @ slope
        self.network.start[:-1] = slope
        self.network.start[-1] = self.moments[-1] / self.weight - self.mean_D @ slope

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a resumed run needs, by name."""
        return {"start_moments": self.moments, "start_weight": self.weight}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors()` returned."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


def of_least_energy(network: Network, data_BD: Tensor, starts: Sequence[Tensor]) -> Tensor:
    """Return of each image the one of several latents (B, D_latent) that has the least energy.

    The energy is that of the states that a latent predicts, without hidden errors and without an
    upward chain.
    """
    latents = torch.stack([*starts])
    states = [network.states_from(latent_BD, data_BD) for latent_BD in latents]
    energies = torch.stack([network.energy(each, guided=False) for each in states])
    rows = torch.arange(len(data_BD), device=data_BD.device)
    return latents[energies.argmin(0), rows]


def principal_components(centred_BD: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the data's largest principal components (D, K), orthonormal, and their variances (K,).

    K is `count`, or less where there are fewer rows or columns.
    """
    basis_DK = _principal(centred_BD, 2 * count + _MORE)
    scores_BK = (centred_BD @ basis_DK).double()
    variances_K, turn_KK = torch.linalg.eigh(scores_BK.T @ scores_BK / len(scores_BK))
    largest = turn_KK.flip(1)[:, :count].to(basis_DK)
    return basis_DK @ largest, variances_K.flip(0)[:count].clamp_min(0).to(basis_DK)


def _principal(centred_BD: Tensor, count: int = _COMPONENTS) -> Tensor:
    """Return the space of the data's largest principal components (D, K), by a random projection.

    Source: Halko, Martinsson and Tropp (2011), with two power iterations.
    """
    count = min(count, *centred_BD.shape)
    draw = torch.randn(centred_BD.shape[1], count, generator=generator(0, "principal"))
    basis = draw.to(centred_BD)
    for _ in range(3):
        basis = torch.linalg.qr(centred_BD.T @ (centred_BD @ basis)).Q
    return basis
