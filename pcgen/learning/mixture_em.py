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

from pcgen.model.prior import Mixture

# The step goes through the latents in chunks of this size.
_CHUNK = 4096
# A component's covariance is shrunk to the mean covariance, which counts as this many latents for
# each unit.
_SHRINK = 0.25
# Added to the variances, in units of the prior's own.
_RIDGE = 1e-3
# Steps that are taken the first time.
_FIRST_STEPS = 8


def step_mixture(
    mixture: Mixture, latents_NL: Tensor, classes_N: Tensor | None, generator: torch.Generator
) -> None:
    """Take one step of expectation maximisation in place, and several the first time.

    Args:
        latents_NL: of the training images.
        classes_N: of the images, if they have any: each class has its own component weights.
        generator: chooses the first means.
    """
    if len(latents_NL) <= len(mixture.means_KL):
        return
    if not mixture.means_KL.any():
        _begin(mixture, latents_NL, classes_N, generator)
        for _ in range(_FIRST_STEPS - 1):
            _step(mixture, latents_NL, classes_N)
    _step(mixture, latents_NL, classes_N)


def _begin(
    mixture: Mixture, latents_NL: Tensor, classes_N: Tensor | None, generator: torch.Generator
) -> None:
    """Set the means to latents far from one another, the covariances to half of the whole.

    If there are at least as many components as classes, each class begins with its own components.
    """
    components, classes = len(mixture.means_KL), len(mixture.log_weights_YK)
    if classes_N is None or components < classes:
        mixture.means_KL.copy_(latents_NL[_apart(latents_NL, components, generator)])
    else:
        own_K = torch.arange(components, device=latents_NL.device) * classes // components
        for label in range(classes):
            own = own_K == label
            rows_N = (classes_N.to(own_K) == label).nonzero().squeeze(1)
            within = latents_NL[rows_N] if len(rows_N) else latents_NL
            mixture.means_KL[own] = within[_apart(within, int(own.sum()), generator)]
            mixture.log_weights_YK[label] = torch.where(own, -math.log(int(own.sum())), -math.inf)
    covariance = torch.cov(latents_NL.T).double()
    # With many components, about half of the variance is left within each.
    roots = _roots(0.5 * covariance[None])
    mixture.roots_KLL.copy_(roots.expand_as(mixture.roots_KLL))


def _apart(latents_NL: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Return `count` row numbers, each of a row far from the ones chosen before.

    Source: k-means++ of Arthur and Vassilvitskii (2007).
    """
    chosen = [int(torch.randint(len(latents_NL), (1,), generator=generator))]
    distance_N = torch.full_like(latents_NL[:, 0], torch.inf)
    while len(chosen) < count:
        last = (latents_NL - latents_NL[chosen[-1]]).square().sum(1)
        distance_N = torch.minimum(distance_N, last)
        edges = distance_N.double().cumsum(0)
        place = torch.rand((), generator=generator, dtype=torch.float64) * edges[-1].cpu()
        row = int(torch.searchsorted(edges, place.to(edges)))
        chosen.append(min(row, len(latents_NL) - 1))
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
        shares_BK = mixture.log_joint(latents, classes).softmax(1)
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
    counts_YK = counts_YK + 1e-3
    totals_Y = counts_YK.sum(1)
    mixture.log_weights_YK.copy_((counts_YK / totals_Y[:, None]).log())
    mixture.log_classes_Y.copy_((totals_Y / totals_Y.sum()).log())


def _roots(covariance_KLL: Tensor) -> Tensor:
    """Return lower triangular P with P P' the inverse of each covariance."""
    covariance_KLL = covariance_KLL.clone()
    covariance_KLL.diagonal(dim1=1, dim2=2).add_(_RIDGE)
    return torch.linalg.cholesky(torch.linalg.inv(covariance_KLL))
