"""A memory's prior on the latent: a mixture with one narrow component for each stored latent.

    E_prior(z) = -log 1/N sum_n exp(-pi/2 ||z - z_n||^2),   dE/dz = pi (z - c(z))
    c(z) = sum_n r_n z_n,   r_n ~ exp(-pi/2 ||z - z_n||^2)

Under this prior the N stored latents are most likely. It is also the energy of a modern Hopfield
network over latents: z <- c(z) is its retrieval step. Where the components are far apart, every
stored latent is a minimum of the prior.

Source: Tomczak and Welling (2018), the aggregated posterior as a prior; Ramsauer et al. (2021), the
energy. Here the minimum is that of the prior and the data's energy together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcgen.inference.preconditioners import latent_curvature
from pcgen.inference.solvers import Method
from pcgen.model.network import Network
from pcgen.model.upward import Guide

# Stored latents that retrieval tries for each image, by either rule.
_CANDIDATES = 4


def stored_terms(latent_BL: Tensor, stored_NL: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prior's energy (B,) in nats and its slope dE/dz (B, L).

    `model.prior.Mixture` has other components: few of them, each with its own full covariance.

    Args:
        precision: pi (), of every component.
    """
    squared_BN = (
        latent_BL.square().sum(1, keepdim=True)
        + stored_NL.square().sum(1)
        - 2 * latent_BL @ stored_NL.T
    )
    least_B1, nearest_B1 = squared_BN.min(1, keepdim=True)
    exponent_BN = -0.5 * precision * (squared_BN - least_B1)
    # The nearest distance as a difference: as a sum of products it is wrong by nats.
    distance_B = (latent_BL - stored_NL[nearest_B1[:, 0]]).square().sum(1)
    energy_B = 0.5 * precision * distance_B - exponent_BN.logsumexp(1) + math.log(len(stored_NL))
    return energy_B, precision * (latent_BL - exponent_BN.softmax(1) @ stored_NL)


class MemoryNetwork(Network):
    """A network, its weights shared, whose prior has one component for each stored latent."""

    def __init__(self, network: Network, stored_NL: Tensor, precision: float) -> None:
        """Take the stored latents and the precision of every component."""
        last = torch.full_like(network.log_precisions[-1], math.log(precision))
        log_precisions = [*network.log_precisions[:-1], last]
        self._assemble(network.table, network.layers, log_precisions, network.skips)
        self.typical_latents = network.typical_latents
        self.stored_NL = stored_NL

    def prior_terms(self, latent_BD: Tensor, guide: Guide | None = None) -> tuple[Tensor, Tensor]:
        assert guide is None
        return stored_terms(latent_BD, self.stored_NL, self.latent_precision())

    def prior_energy(self, latent_BD: Tensor) -> Tensor:
        return self.prior_terms(latent_BD)[0]


class Seen:
    """Stored latents in units in which the data's energy is a squared distance.

        E_data(z) = 1/2 ||t - s(z)||^2 - own/2 ||z||^2 + constant

    Where the data have few units and precision 1, s(z) are the decoded data and t the data, and
    own is 0. Otherwise, around the latent z_0 that has the least energy under a Gaussian prior of
    precision 1, with the data's curvature C over the latent, s(z) = R z and t = R z_0 with
    R'R = C + 1, and own is 1. That is exact if decoding is linear and nothing is hidden.

    Attributes:
        rows_NP: s(z) of the stored latents.
        own: as above.
    """

    def __init__(self, gaussian: Network, stored_NL: Tensor, *, decodes: bool) -> None:
        """Compute the stored rows.

        Args:
            gaussian: the network under the Gaussian prior.
            decodes: whether s(z) are the decoded data.
        """
        self.factor_LL: Tensor | None = None
        self.own = 0.0 if decodes else 1.0
        if decodes:
            self.rows_NP = gaussian.decode(stored_NL).double()
        else:
            curvature_LL = latent_curvature(gaussian).double()
            curvature_LL.diagonal().add_(1.0)
            self.factor_LL = torch.linalg.cholesky(curvature_LL)
            self.rows_NP = stored_NL.double() @ self.factor_LL

    def target(self, states: list[Tensor]) -> Tensor:
        """Return t (B, P) for states of least energy under the Gaussian prior."""
        if self.factor_LL is None:
            return states[0].double()
        return states[-1].double() @ self.factor_LL


class Retrieval:
    """A step from the minimum under a Gaussian prior to the stored latent that fits the data best.

    The step tries the few latents with the least data energy as `Seen` has it, and the few nearest
    to z: where decoding is not linear, the distance between latents errs less, and where little is
    visible, it also counts directions that the data do not determine.
    """

    def __init__(self, method: Method, seen: Seen, stored_NL: Tensor) -> None:
        """Take the stored latents as they are and as they are seen.

        Args:
            method: a solver at the `MemoryNetwork`.
        """
        self.method = method
        self.seen = seen
        self.stored_NL = stored_NL
        own_N = seen.own * stored_NL.double().square().sum(1)
        self.half_N = 0.5 * (seen.rows_NP.square().sum(1) - own_N)

    @property
    def evaluations(self) -> int:
        """Return the number of energy evaluations of a step."""
        return 2 * min(_CANDIDATES, len(self.stored_NL))

    def nearest(self, states: list[Tensor]) -> Tensor:
        """Return the numbers (B, K) of the stored latents to try, the best by either rule first."""
        count = min(_CANDIDATES, len(self.stored_NL))
        expected_BN = self.half_N - self.seen.target(states) @ self.seen.rows_NP.T
        best = expected_BN.topk(count, largest=False).indices
        near = torch.cdist(states[-1], self.stored_NL).topk(count, largest=False).indices
        return torch.cat([best, near], 1)

    def __call__(self, states: list[Tensor], mask_BD: Tensor | None) -> Tensor:
        """Return the latents (B, L) after the step; an image whose energy would rise stays.

        Args:
            states: of all layers, data first, at the least energy under the Gaussian prior.
        """
        latent_BL = states[-1]
        energy_B = self.method.at(states, mask_BD, clamp_latent=False).energy_B
        for number_B in self.nearest(states).T:
            tried_BL = self.stored_NL[number_B]
            tried_B = self.method.begin(states[0], mask_BD, tried_BL).energy_B
            latent_BL = torch.where((tried_B < energy_B)[:, None], tried_BL, latent_BL)
            energy_B = torch.minimum(tried_B, energy_B)
        return latent_BL
