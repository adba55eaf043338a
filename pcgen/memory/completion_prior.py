"""The prior of completion: a mixture of Gaussians over what stored latents have in common.

    p(z) = sum_k w_k N(z; m_k, F_k F_k'),   F_k = Q C_k Q' + (1 - Q Q')

Q are the directions of the latent that change the data most. In them the mixture is fitted to the
stored latents; the others stay standard normal. It has far fewer components than stored images, so
it expects images of their kind, and none of them.

Source: Ghahramani and Hinton (1996), mixtures of factor analysers. Here the directions are shared,
and scikit-learn fits the mixture in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.inference.preconditioners import latent_curvature
from pcgen.memory.group_prior import Part
from pcgen.memory.latent_prior import fold
from pcgen.model.network import Network

PER_COMPONENT = 1500
"""Stored images of a component: with fewer, its covariance would be theirs, not their kind's."""
PER_UNIT = 10
"""Stored images for each latent unit, without which there is one Gaussian."""
# Components at most, directions, and stored images that the mixture is fitted to.
_MOST, _DIRECTIONS, _ROWS = 40, 64, 20_000
# The least variance in a direction, where the stored latents have 1; steps of the fit.
_LEAST, _STEPS = 1e-3, 30


@dataclass(frozen=True, slots=True)
class Component:
    """One Gaussian of the prior.

    Attributes:
        weight: w_k.
        mean_L: m_k.
        factor_LL: F_k.
    """

    weight: float
    mean_L: Tensor
    factor_LL: Tensor

    def over(self, network: Network) -> Network:
        """Return the network over c, z = m_k + F_k c."""
        folded = fold(network, self.mean_L, self.factor_LL)
        centred_LB = (network.typical_latents - self.mean_L).T
        folded.typical_latents = torch.linalg.solve(self.factor_LL, centred_LB).T.contiguous()
        return folded

    def latent(self, weights_BL: Tensor) -> Tensor:
        """Return z (B, L) of c."""
        return self.mean_L + weights_BL @ self.factor_LL.T

    def part(self, metric_LL: Tensor) -> Part:
        """Return the component as `Evidence` sees it, with s(z) = z R."""
        mean_L, factor_CL = self.mean_L.double(), self.factor_LL.double().T
        return Part(self.weight, mean_L, factor_CL, mean_L @ metric_LL, factor_CL @ metric_LL)


def fit_completion_prior(network: Network, stored_NL: Tensor) -> list[Component]:
    """Return the components; none if so few images are stored that they allow one Gaussian alone.

    Args:
        network: over standard normal latents.
        stored_NL: the stored latents, standard normal as a whole.
    """
    images, units = stored_NL.shape
    count = min(_MOST, images // PER_COMPONENT)
    if count < 2 or images < PER_UNIT * units:
        return []
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    directions_LQ = torch.linalg.eigh(latent_curvature(network).double()).eigenvectors
    directions_LQ = directions_LQ[:, -_DIRECTIONS:].to(stored_NL)
    step = -(-images // _ROWS)
    mixture = GaussianMixture(
        count, reg_covar=_LEAST, max_iter=_STEPS, init_params="k-means++", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # More steps change little.
        mixture.fit((stored_NL[::step] @ directions_LQ).cpu().numpy())
    rest_LL = torch.eye(len(directions_LQ)).to(stored_NL) - directions_LQ @ directions_LQ.T
    parts = zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
    return [
        Component(
            float(weight),
            directions_LQ @ torch.from_numpy(mean_Q).to(stored_NL),
            directions_LQ
            @ torch.linalg.cholesky(torch.from_numpy(covariance_QQ)).to(stored_NL)
            @ directions_LQ.T
            + rest_LL,
        )
        for weight, mean_Q, covariance_QQ in parts
    ]
