"""Inference under a prior that knows single latents: a mixture with one component for each.

    E_prior(z) = -log 1/N sum_n exp(-pi/2 ||z - z_n||^2),   dE/dz = pi (z - c(z))
    c(z) = sum_n r_n z_n,   r_n ~ exp(-pi/2 ||z - z_n||^2)

It is the prior under which a memory of N latents is most likely, and the energy of a modern
Hopfield network over latents: z <- c(z) is its retrieval step. Where the components are far apart
every stored latent is a minimum of the prior.

Source: Tomczak and Welling (2018), the aggregated posterior as a prior; Ramsauer et al. (2021), the
energy. Here the data's energy decides with it.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from pcgen.inference.directions import Conjugate, Direction
from pcgen.inference.errors import ErrorInference
from pcgen.inference.preconditioners import ErrorDiagonal, latent_curvature
from pcgen.inference.solvers import Method
from pcgen.inference.states import Position
from pcgen.model.network import Network

# Stored latents that retrieval tries for each image, by either rule.
_CANDIDATES = 4


def mixture(latent_BL: Tensor, stored_NL: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prior's energy (B,) in nats and the centre c(z) (B, L)."""
    squared_BN = (
        latent_BL.square().sum(1, keepdim=True)
        + stored_NL.square().sum(1)
        - 2 * latent_BL @ stored_NL.T
    )
    least_B1, nearest_B1 = squared_BN.min(1, keepdim=True)
    share_BN = -0.5 * precision * (squared_BN - least_B1)
    # The nearest distance as a difference: as a sum of products it is wrong by nats.
    distance_B = (latent_BL - stored_NL[nearest_B1[:, 0]]).square().sum(1)
    energy_B = 0.5 * precision * distance_B - share_BN.logsumexp(1) + math.log(len(stored_NL))
    return energy_B, share_BN.softmax(1) @ stored_NL


class MixtureErrors(ErrorInference):
    """The errors and latents of one batch under the mixture; the network's prior is its width."""

    def __init__(
        self,
        network: Network,
        states: list[Tensor],
        direction: Direction,
        mask_BD: Tensor | None = None,
        clamp_latent: bool = False,
        *,
        stored_NL: Tensor,
    ) -> None:
        self.stored_NL = stored_NL
        self.centre_BL = states[-1]
        super().__init__(network, states, direction, mask_BD, clamp_latent)

    def slopes(self) -> list[Tensor]:
        *slopes, latent = super().slopes()
        return [*slopes, latent - self.network.latent_precision() * self.centre_BL]

    def select(self, index: Tensor) -> None:
        super().select(index)
        self.centre_BL = self.centre_BL[index]

    def _add_up(self) -> None:
        precision = self.network.latent_precision()
        prior_B, self.centre_BL = mixture(self.states[-1], self.stored_NL, precision)
        self.energy_B = prior_B + sum(terms.energy_B for terms in self.terms)

    def put_back(self, before: Position, images_B: Tensor) -> None:
        super().put_back(before, images_B)
        precision = self.network.latent_precision()
        _, self.centre_BL = mixture(self.states[-1], self.stored_NL, precision)


def prepare_mixture(network: Network, stored_NL: Tensor) -> Method:
    """Return the solver `errors` under the mixture of latents, at the network's present weights.

    Args:
        network: its latent precision is each component's.
    """
    precondition = ErrorDiagonal(network)
    kind = partial(MixtureErrors, stored_NL=stored_NL)
    return Method(network, kind, lambda: Conjugate(precondition))


class Retrieval:
    """The step from where a Gaussian prior ends to the stored latent that explains the data best.

    Around the latent z that has the least energy under a Gaussian prior of precision 1, with the
    data's curvature C over the latent, another latent's data have

        E_data(z_n) = 1/2 (z_n - z)' (C + 1) (z_n - z) - 1/2 ||z_n||^2 + constant

    as far as decoding is linear. The few that are best by this are tried, and the few nearest to z:
    where decoding is not linear, the latents' own distances err less, and where little is visible,
    they count directions of which the data say nothing. Where the data have few units, every
    latent is decoded once for all images, and E_data needs no approximation.
    """

    def __init__(
        self, method: Method, gaussian: Network, stored_NL: Tensor, *, decodes: bool = False
    ) -> None:
        """Take the curvature at the Gaussian's network.

        Args:
            method: from `prepare_mixture`.
            decodes: every stored latent, with data of unit precision.
        """
        curvature_LL = latent_curvature(gaussian).double()
        curvature_LL.diagonal().add_(1.0)
        self.method = method
        self.stored_NL = stored_NL
        self.factor_LL = torch.linalg.cholesky(curvature_LL)
        self.seen_NL = stored_NL.double() @ self.factor_LL
        self.own_N = 0.5 * stored_NL.double().square().sum(1)
        self.decoded_ND = gaussian.decode(stored_NL).double() if decodes else None

    @property
    def evaluations(self) -> int:
        """Return how many evaluations of the network a step takes."""
        return 2 * min(_CANDIDATES, len(self.stored_NL))

    def nearest(self, states: list[Tensor]) -> Tensor:
        """Return numbers (B, K) of stored latents that may explain the data, the best first."""
        count = min(_CANDIDATES, len(self.stored_NL))
        if self.decoded_ND is not None:
            half_N = 0.5 * self.decoded_ND.square().sum(1)
            expected_BN = half_N - states[0].double() @ self.decoded_ND.T
        else:
            half_N = 0.5 * self.seen_NL.square().sum(1) - self.own_N
            expected_BN = half_N - states[-1].double() @ self.factor_LL @ self.seen_NL.T
        best = expected_BN.topk(count, largest=False).indices
        near = torch.cdist(states[-1], self.stored_NL).topk(count, largest=False).indices
        return torch.cat([best, near], 1)

    def __call__(self, states: list[Tensor], mask_BD: Tensor | None) -> Tensor:
        """Return the latents (B, L) after the step, which is taken where it lowers the energy.

        Args:
            states: of all layers, data first, at the least energy under the Gaussian.
        """
        latent_BL = states[-1]
        energy_B = self.method.at(states, mask_BD, clamp_latent=False).energy_B
        for number_B in self.nearest(states).T:
            tried_BL = self.stored_NL[number_B]
            tried_B = self.method.begin(states[0], mask_BD, tried_BL).energy_B
            latent_BL = torch.where((tried_B < energy_B)[:, None], tried_BL, latent_BL)
            energy_B = torch.minimum(tried_B, energy_B)
        return latent_BL
