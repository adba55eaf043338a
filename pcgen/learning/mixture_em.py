"""Expectation maximisation of the latent's mixture prior, from the present states of the chains.

The chains of all training images are a sample of the posterior, averaged over the data. One step
computes the probability of each component given each latent, and sets each component's mean and
covariance to those of its latents. This is the exact maximum of the expected log-prior, and it is
as local as the learning of the weights.

Source: Dempster, Laird and Rubin (1977); a fitted prior on an autoencoder's latent: Ghosh et al.
(2020). Here the prior is part of the energy, and the chains continue under it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pcgen.model.prior import Mixture

# The step goes through the latents in chunks of this size.
_CHUNK = 4096
# A component's covariance is shrunk to the mean covariance, which counts as this many latents for
# each unit.
_SHRINK = 0.25
# Added to the variances, in units of the prior's own.
_RIDGE = 1e-3
# Latents that each component has at least, divided among the classes.
_LEAST_COUNT = 1e-3
# Steps of k-means before the first step.
_MEANS_STEPS = 10
# Steps that are taken the first time, and of the mixture of a class.
_FIRST_STEPS = 8


def step_mixture(
    mixture: Mixture, latents_NL: Tensor, classes_N: Tensor | None, generator: torch.Generator
) -> None:
    """Take one step of expectation maximisation in place, and several the first time.

    The components depend on the latents alone. Classes only divide each component's weight among
    them, by the classes of the latents that the component explains.

    Args:
        latents_NL: of the training images.
        classes_N: of the images, if they have any: each class has its own component weights.
        generator: chooses the first means.
    """
    if len(latents_NL) <= len(mixture.means_KL):
        return
    if not mixture.means_KL.any():
        _begin(mixture, latents_NL, generator)
        for _ in range(_FIRST_STEPS - 1):
            _step(mixture, latents_NL, classes_N)
    _step(mixture, latents_NL, classes_N)


def fit_classes(
    mixture: Mixture, latents_NL: Tensor, classes_N: Tensor, generator: torch.Generator
) -> None:
    """Fit the mixture of each class (`Mixture.of_classes`) to its latents alone, from the start.

    A class with too few latents keeps what it has.

    Args:
        latents_NL: of the training images.
        classes_N: of the images.
        generator: chooses the first means.
    """
    for y, own in enumerate(mixture.of_classes):
        own_NL = latents_NL[classes_N == y]
        if len(own_NL) > len(own.means_KL):
            _begin(own, own_NL, generator)
            for _ in range(_FIRST_STEPS):
                _step(own, own_NL, None)


def _begin(mixture: Mixture, latents_NL: Tensor, generator: torch.Generator) -> None:
    """Set means to those of k-means, covariances to that of the latents around, weights equal."""
    means_KL, nearest_N = k_means(latents_NL, len(mixture.means_KL), generator)
    around_NL = latents_NL - means_KL[nearest_N]
    covariance = (around_NL.T @ around_NL).double() / len(latents_NL)
    mixture.log_weights_YK.fill_(-math.log(len(means_KL)))
    mixture.means_KL.copy_(means_KL)
    mixture.roots_KLL.copy_(_roots(covariance[None]).expand_as(mixture.roots_KLL))


def k_means(rows_NL: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the means (K, L) of `count` groups of rows, and the nearest mean of each row (N,).

    Source: Lloyd (1982), ten steps from the start of k-means++.
    """
    means_KL = rows_NL[_apart(rows_NL, count, generator)]
    for _ in range(_MEANS_STEPS):
        own_NK = one_hot(_nearest(rows_NL, means_KL), count).to(rows_NL)
        means_KL = (own_NK.T @ rows_NL) / own_NK.sum(0).clamp_min(1)[:, None]
    return means_KL, _nearest(rows_NL, means_KL)


def _nearest(rows_NL: Tensor, means_KL: Tensor) -> Tensor:
    return torch.cdist(rows_NL, means_KL).argmin(1)


def _apart(latents_NL: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Return `count` row numbers, of rows near which all others are.

    Each is the best of a few candidates, which are drawn far from the rows chosen before.

    Source: greedy k-means++ of Arthur and Vassilvitskii (2007), as scikit-learn has it.
    """
    chosen = [int(torch.randint(len(latents_NL), (1,), generator=generator))]
    candidates = 2 + int(math.log(count))
    distance_N = (latents_NL - latents_NL[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        edges = distance_N.double().cumsum(0)
        places_C = torch.rand(candidates, generator=generator, dtype=torch.float64).to(edges)
        rows_C = torch.searchsorted(edges, places_C * edges[-1]).clamp_max(len(latents_NL) - 1)
        distances_CN = torch.cdist(latents_NL[rows_C], latents_NL).square().minimum(distance_N)
        best = int(distances_CN.sum(1).argmin())
        chosen.append(int(rows_C[best]))
        distance_N = distances_CN[best]
    return chosen


def _step(mixture: Mixture, latents_NL: Tensor, classes_N: Tensor | None) -> None:
    components, units = mixture.means_KL.shape
    rows = len(mixture.log_weights_YK)
    counts_YK = latents_NL.new_zeros(rows, components, dtype=torch.float64)
    sums_KL = latents_NL.new_zeros(components, units, dtype=torch.float64)
    squares_KLL = latents_NL.new_zeros(components, units, units, dtype=torch.float64)
    for first in range(0, len(latents_NL), _CHUNK):
        latents = latents_NL[first : first + _CHUNK]
        classes = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        if classes_N is not None:
            classes = classes_N[first : first + _CHUNK].to(classes)
        shares_BK = mixture.log_joint(latents).softmax(1)
        counts_YK.index_add_(0, classes, shares_BK.double())
        sums_KL += (shares_BK.T @ latents).double()
        weighted = (shares_BK[:, :, None] * latents[:, None]).flatten(1)
        squares_KLL += (weighted.T @ latents).view(components, units, units).double()
    counts_K = counts_YK.sum(0)
    means_KL = sums_KL / counts_K.clamp_min(1e-9)[:, None]
    scatter = squares_KLL - counts_K[:, None, None] * means_KL[:, :, None] * means_KL[:, None]
    common = scatter.sum(0) / len(latents_NL)
    extra = _SHRINK * units
    covariance = (scatter + extra * common) / (counts_K + extra)[:, None, None]
    mixture.means_KL.copy_(means_KL)
    mixture.roots_KLL.copy_(_roots(covariance))
    counts_YK = counts_YK + _LEAST_COUNT / rows
    totals_Y = counts_YK.sum(1)
    mixture.log_weights_YK.copy_((counts_YK / totals_Y[:, None]).log())
    mixture.log_classes_Y.copy_((totals_Y / totals_Y.sum()).log())


def _roots(covariance_KLL: Tensor) -> Tensor:
    """Return lower triangular P with P P' the inverse of each covariance."""
    covariance_KLL = covariance_KLL.clone()
    covariance_KLL.diagonal(dim1=1, dim2=2).add_(_RIDGE)
    return torch.linalg.cholesky(torch.linalg.inv(covariance_KLL))
