"""A mixture of Gaussians over rows of numbers, such as latents: each component is a *cause*.

    E(x) = -log sum_k w_k det(S_k)^(-1/2) exp(-1/2 (x - m_k)' S_k^-1 (x - m_k))

As the prior of a latent, it makes the layer above it a variable that names the cause, summed out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pcgen.learning.mixture_em import k_means

# Steps of expectation maximisation, at most; they end when the mean energy falls by less nats.
_STEPS = 40
_ENOUGH = 1e-3
# Values at once: sums over rows go through them in blocks.
_BLOCK = 2**22
# Rows that a cause has at least.
_LEAST_COUNT = 1e-3


@dataclass(frozen=True, slots=True)
class Causes:
    """A mixture of K Gaussians over L numbers.

    Attributes:
        log_weights_K: their exponentials sum to 1.
        means_KL: m_k.
        roots_KLL: R_k with R_k R_k' = S_k^-1. Its columns are the principal directions of S_k, each
            divided by the deviation along it, largest first.
    """

    log_weights_K: Tensor
    means_KL: Tensor
    roots_KLL: Tensor
    _log_dets_K: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # det R_k is positive or negative: its columns are directions.
        object.__setattr__(self, "_log_dets_K", torch.linalg.slogdet(self.roots_KLL).logabsdet)

    def whitened(self, rows_BL: Tensor) -> Tensor:
        """Return rows (B, K, L) in the deviations of every cause along its principal directions."""
        causes, units = self.means_KL.shape
        flat_LX = self.roots_KLL.permute(1, 0, 2).reshape(units, causes * units)
        offsets_X = torch.einsum("kl,klm->km", self.means_KL, self.roots_KLL).flatten()
        return torch.addmm(offsets_X, rows_BL, flat_LX, beta=-1).view(-1, causes, units)

    def squares(self, rows_BL: Tensor) -> Tensor:
        """Return the squared Mahalanobis length (B, K) of rows within every cause."""
        blocks = torch.split(rows_BL, max(1, _BLOCK // self.means_KL.numel()))
        return torch.cat([self.whitened(block).square_().sum(2) for block in blocks])

    def log_joint(self, squares_BK: Tensor) -> Tensor:
        """Return log w_k N(x; m_k, S_k) (B, K), without the 2 pi, from `squares`."""
        return self.log_weights_K + self._log_dets_K - 0.5 * squares_BK

    def energy(self, rows_BL: Tensor) -> Tensor:
        """Return the energy (B,) of rows in nats, without the 2 pi."""
        return -torch.logsumexp(self.log_joint(self.squares(rows_BL)), 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {"log_weights": self.log_weights_K, "means": self.means_KL, "roots": self.roots_KLL}


def fit_causes(
    rows_NL: Tensor, count: int, *, shrink: float, floor: float, generator: torch.Generator
) -> Causes:
    """Return the causes of rows, by expectation maximisation from k-means.

        S_k = (scatter_k + c P) / (N_k + c)

    P is half the covariance pooled within all causes, and half its mean variance in every
    direction. So a cause of few rows has a covariance like that of the others.

    Args:
        rows_NL: without missing values.
        count: K; at most the number of rows.
        shrink: c, the number of rows that P counts as.
        floor: the least variance along any direction.
        generator: chooses the first means.

    Source: Dempster, Laird and Rubin (1977); the prior on covariances as in Fraley and Raftery
    (2007).
    """
    count = min(count, len(rows_NL))
    _, nearest_N = k_means(rows_NL, count, generator)
    causes = _maximised(rows_NL, one_hot(nearest_N, count).to(rows_NL), shrink, floor, None)
    before = torch.inf
    for _ in range(_STEPS if count > 1 else 0):
        joint_NK = causes.log_joint(causes.squares(rows_NL))
        energy = float(-torch.logsumexp(joint_NK, 1).mean())
        if not energy < before - _ENOUGH:
            break
        before = energy
        causes = _maximised(rows_NL, joint_NK.softmax(1), shrink, floor, causes)
    return causes


def _blocks(rows_NL: Tensor) -> tuple[Tensor, ...]:
    return torch.split(rows_NL, max(1, _BLOCK // rows_NL.shape[1]))


def _maximised(
    rows_NL: Tensor, shares_NK: Tensor, shrink: float, floor: float, before: Causes | None
) -> Causes:
    """Return the likeliest causes, given each row's share in every cause."""
    counts_K = shares_NK.double().sum(0).clamp_min(_LEAST_COUNT)
    means_KL = (shares_NK.T @ rows_NL).double() / counts_K[:, None]
    if before is not None:
        is_empty_K = counts_K <= _LEAST_COUNT
        means_KL[is_empty_K] = before.means_KL[is_empty_K].double()
    scatter_KLL = torch.stack(
        [
            _scatter(rows_NL, mean_L.to(rows_NL), share_N)
            for mean_L, share_N in zip(means_KL, shares_NK.T, strict=True)
        ]
    )
    units = rows_NL.shape[1]
    pooled_LL = scatter_KLL.sum(0) / len(rows_NL)
    eye = torch.eye(units).to(pooled_LL)
    usual_LL = 0.5 * pooled_LL + 0.5 * pooled_LL.diagonal().mean() * eye
    covariance = (scatter_KLL + shrink * usual_LL) / (counts_K + shrink)[:, None, None]
    variances_KL, directions_KLL = torch.linalg.eigh(covariance)
    deviations_KL = variances_KL.flip(1).clamp_min(floor).sqrt()
    roots_KLL = directions_KLL.flip(2) / deviations_KL[:, None]
    log_weights_K = (counts_K / counts_K.sum()).log()
    like = rows_NL.dtype
    return Causes(log_weights_K.to(like), means_KL.to(like), roots_KLL.to(like))


def _scatter(rows_NL: Tensor, mean_L: Tensor, share_N: Tensor) -> Tensor:
    """Return the weighted sum (L, L) of squares around a mean, in float64."""
    found = torch.zeros(rows_NL.shape[1], rows_NL.shape[1]).to(rows_NL).double()
    blocks = zip(_blocks(rows_NL), _blocks(share_N[:, None].expand_as(rows_NL)), strict=True)
    for part_BL, share_BL in blocks:
        centred_BL = part_BL - mean_L
        found += ((centred_BL * share_BL).T @ centred_BL).double()
    return found
