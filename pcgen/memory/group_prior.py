"""The prior of groups: a mixture with one Gaussian for each group of stored images.

    p(z) = sum_k w_k N(z; m_k, F_k F_k'),   z = m_k + F_k c,   c ~ N(0, 1)

A group is about `GROUP` stored images in a row, m_k the mean of their latents and F_k F_k' the
covariance. Its component spans the group, and inference of c weighs its images against one another.
Which component a cue belongs to follows from their evidence: the probability of the visible data
with c integrated out. No stored latent is tried on its own, but the factors F_k are the group's
centred latents, so the mixture has as many numbers as the stored latents.

Source: Ghahramani and Hinton (1996), mixtures of factor analysers. Here the groups are given, so
that the fit is one step in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.memory.latent_prior import fold
from pcgen.model.network import TYPICAL, Network

GROUP = 20
"""Stored images of a group: far fewer than visible pixels, which must tell them apart."""


@dataclass(frozen=True, slots=True)
class Group:
    """One component of the prior.

    Attributes:
        first: number of its first stored image.
        latents_NL: of its images.
    """

    first: int
    latents_NL: Tensor

    @property
    def mean_L(self) -> Tensor:
        """Return m_k."""
        return self.latents_NL.mean(0)

    def factor(self, rows_ND: Tensor) -> Tensor:
        """Return the factor (N, D) of the covariance of the group's rows: F_k' for its latents."""
        return (rows_ND - rows_ND.mean(0)) / math.sqrt(len(rows_ND))

    def over(self, network: Network) -> Network:
        """Return the network over c."""
        network = fold(network, self.mean_L, self.factor(self.latents_NL).T)
        count = len(self.latents_NL)
        weights_NN = math.sqrt(count) * torch.eye(count).to(self.latents_NL)
        network.typical_latents = (weights_NN - weights_NN.mean(0))[:TYPICAL]
        return network

    def latent(self, weights_BN: Tensor) -> Tensor:
        """Return z (B, L) of c."""
        return self.mean_L + weights_BN @ self.factor(self.latents_NL)

    def part(self, seen_NP: Tensor) -> Part:
        """Return the component as `Evidence` sees it, from all stored latents as they are seen."""
        count = len(self.latents_NL)
        rows_NP = seen_NP[self.first : self.first + count].double()
        latents_NL = self.latents_NL.double()
        share, seen_CP = count / len(seen_NP), self.factor(rows_NP)
        return Part(share, latents_NL.mean(0), self.factor(latents_NL), rows_NP.mean(0), seen_CP)


def groups_of(stored_NL: Tensor) -> list[Group]:
    """Return the groups of stored latents, all about equally large."""
    parts = stored_NL.tensor_split(max(1, math.ceil(len(stored_NL) / GROUP)))
    firsts = torch.tensor([0, *map(len, parts)]).cumsum(0).tolist()
    return [Group(first, part) for first, part in zip(firsts, parts, strict=False)]


class Part(NamedTuple):
    """A component: its weight w_k, m_k, F_k', and both as they are seen, s_k and A'."""

    weight: float
    mean_L: Tensor
    factor_CL: Tensor
    seen_P: Tensor
    seen_CP: Tensor


class Evidence:
    """The evidence of each component for data, where decoding is linear within it.

    The data's energy over the latent is 1/2 ||t - s(z)||^2 - a/2 ||z||^2 + constant, as `Retrieval`
    explains, with s(z) either the decoded data (a = 0) or the latent in the metric of the curvature
    (a = 1). With s(z) = s_k + A c for a component,

        -log p = 1/2 ||t - s_k||^2 - a/2 ||m_k||^2 - 1/2 b' M^-1 b + 1/2 log det M - log w_k
        M = A'A - a F'F + 1,   b = A'(t - s_k) + a F' m_k
    """

    def __init__(self, parts: Iterable[Part], *, own: float) -> None:
        """Prepare for the components of a mixture.

        Args:
            own: a.
        """
        self.parts: list[tuple[Tensor, ...]] = []
        for weight, mean_L, factor_CL, seen_P, seen_CP in parts:
            matrix_CC = seen_CP @ seen_CP.T - own * factor_CL @ factor_CL.T
            matrix_CC.diagonal().add_(1.0)
            factor_CC = torch.linalg.cholesky(matrix_CC)
            constant = factor_CC.diagonal().log().sum() - math.log(weight)
            constant = constant - 0.5 * own * mean_L.square().sum()
            self.parts.append((seen_P, seen_CP, own * factor_CL @ mean_L, factor_CC, constant))

    def best(self, target_BP: Tensor) -> Tensor:
        """Return the number (B,) of the component with the most evidence."""
        return self.energy(target_BP).argmin(1)

    def energy(self, target_BP: Tensor) -> Tensor:
        """Return -log p (B, K) of the data and each component, up to a constant."""
        evidence = []
        for seen_P, seen_CP, own_C, factor_CC, constant in self.parts:
            rest_BP = target_BP.double() - seen_P
            pull_BC = rest_BP @ seen_CP.T + own_C
            known_CB = torch.linalg.solve_triangular(factor_CC, pull_BC.T, upper=False)
            lost_B = rest_BP.square().sum(1) - known_CB.square().sum(0)
            evidence.append(0.5 * lost_B + constant)
        return torch.stack(evidence, 1)
