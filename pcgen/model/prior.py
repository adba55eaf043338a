"""A mixture of Gaussians as the latent's prior: a class variable above the latent, summed out.

    E(z) = -log sum_k w_k det(P_k) exp(-1/2 |(z - m_k) P_k|^2),   precision of component k: P_k P_k'

The slope of E is the sum of the components' precision-weighted errors, each times the probability
of its component given z. Equal components N(0, 1) are the simple prior, from which training begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class Mixture:
    """The weights, means and precisions of K components; Y classes, L latent units.

    A memory's prior has one narrow component for each of many stored latents. It is another
    function (`memory.stored_prior`), because it needs no L x L matrices, and distances without
    cancellation.

    Attributes:
        log_weights_YK: of the components in each class, or one row without classes. Rows sum to 1.
        log_classes_Y: log frequencies of the classes.
        means_KL: of the latent in each component.
        roots_KLL: P_k, lower triangular.
        of_classes: for each class a mixture of its latents alone, from which samples of the class
            are drawn. It is no part of the energy. Empty without classes.
    """

    log_weights_YK: Tensor
    log_classes_Y: Tensor
    means_KL: Tensor
    roots_KLL: Tensor
    of_classes: list[Mixture] = field(default_factory=list)

    @classmethod
    def standard(cls, components: int, units: int, classes: int, like: Tensor) -> Mixture:
        """Return equal components N(0, 1), of the type and on the device of `like`."""
        rows = max(1, classes)
        return cls(
            like.new_full((rows, components), -math.log(components)),
            like.new_full((rows,), -math.log(rows)),
            like.new_zeros(components, units),
            torch.eye(units, dtype=like.dtype, device=like.device).repeat(components, 1, 1),
            [
                cls.standard(components_of_class(components, classes), units, 0, like)
                for _ in range(classes)
            ],
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their names in a checkpoint."""
        named = {
            "prior.log_weights": self.log_weights_YK,
            "prior.log_classes": self.log_classes_Y,
            "prior.means": self.means_KL,
            "prior.roots": self.roots_KLL,
        }
        for y, mixture in enumerate(self.of_classes):
            own = mixture.tensors()
            named |= {f"prior.{y}.{key.removeprefix('prior.')}": own[key] for key in own}
        return named

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Mixture:
        """Return a copy on a device."""
        own = (self.log_weights_YK, self.log_classes_Y, self.means_KL, self.roots_KLL)
        weights, classes, means, roots = (x.to(device, dtype, copy=True) for x in own)
        of_classes = [mixture.to(device, dtype) for mixture in self.of_classes]
        return Mixture(weights, classes, means, roots, of_classes)

    def of_class(self, label: int) -> Mixture:
        """Return the mixture from which samples of a class are drawn.

        A class whose own has not been learned, for lack of rows or before the last epoch, has all
        components with its weights.
        """
        if self.of_classes and self.of_classes[label].means_KL.any():
            return self.of_classes[label]
        return Mixture(
            self.log_weights_YK[label : label + 1],
            torch.zeros_like(self.log_classes_Y[:1]),
            self.means_KL,
            self.roots_KLL,
        )

    def energy(self, latent_BL: Tensor) -> Tensor:
        """Return the energy (B,) in nats, without the 2 pi."""
        return -torch.logsumexp(self.log_joint(latent_BL), 1)

    def terms(self, latent_BL: Tensor, more_BK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the energy (B,) in nats, without the 2 pi, and its slope dE/dz (B, L).

        Args:
            more_BK: what each latent adds to the log weights of the components.
        """
        joint_BK, precisions_KX, pulls_KL = self._joint(latent_BL)
        joint_BK = joint_BK if more_BK is None else joint_BK + more_BK
        shares_BK = joint_BK.softmax(1)
        mean_BLL = (shares_BK @ precisions_KX).view(*latent_BL.shape, -1)
        pull_BL = torch.einsum("blm,bm->bl", mean_BLL, latent_BL) - shares_BK @ pulls_KL
        return -torch.logsumexp(joint_BK, 1), pull_BL

    def curvature(
        self, latent_BL: Tensor, move_BL: Tensor, more_BK: Tensor | None = None
    ) -> Tensor:
        """Return the second derivative (B,) along a move, at fixed component probabilities."""
        joint_BK, precisions_KX, _ = self._joint(latent_BL)
        joint_BK = joint_BK if more_BK is None else joint_BK + more_BK
        return (joint_BK.softmax(1) * (_outer(move_BL) @ precisions_KX.T)).sum(1)

    def precision(self, latent_BL: Tensor) -> Tensor:
        """Return the second derivative (B, L, L), at fixed component probabilities."""
        joint_BK, precisions_KX, _ = self._joint(latent_BL)
        return (joint_BK.softmax(1) @ precisions_KX).view(*latent_BL.shape, -1)

    def mean_precision(self) -> Tensor:
        """Return the weighted mean (L, L) of the components' precisions."""
        precisions_KLL = self.roots_KLL @ self.roots_KLL.mT
        return torch.tensordot(self.log_weights().exp(), precisions_KLL, 1)

    def log_joint(self, latent_BL: Tensor) -> Tensor:
        """Return log p(k, z) (B, K) over all classes, without the 2 pi."""
        return self._joint(latent_BL)[0]

    def _joint(self, latent_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p(k, z) (B, K), the precisions (K, L^2) and precision times mean (K, L)."""
        precisions_KLL = self.roots_KLL @ self.roots_KLL.mT
        precisions_KX = precisions_KLL.flatten(1)
        pulls_KL = torch.einsum("klm,km->kl", precisions_KLL, self.means_KL)
        log_det_K = self.roots_KLL.diagonal(dim1=1, dim2=2).log().sum(1)
        far_K = torch.linalg.vecdot(pulls_KL, self.means_KL)
        offset_K = self.log_weights() + log_det_K - 0.5 * far_K
        squares_BK = _outer(latent_BL) @ precisions_KX.T
        joint_BK = torch.addmm(offset_K, latent_BL, pulls_KL.T) - 0.5 * squares_BK
        return joint_BK, precisions_KX, pulls_KL

    def log_weights(self) -> Tensor:
        """Return the log weights (K,) of the components over all classes."""
        return torch.logsumexp(self.log_weights_YK + self.log_classes_Y[:, None], 0)

    def log_classes(self, latent_BL: Tensor) -> Tensor:
        """Return log p(y, z) (B, Y) of each class, without the 2 pi."""
        of_components_BK = self._joint(latent_BL)[0] - self.log_weights()
        rows_YK = self.log_weights_YK + self.log_classes_Y[:, None]
        return torch.logsumexp(of_components_BK[:, None] + rows_YK, 2)

    def draw(
        self,
        normal_BL: Tensor,
        uniform_B: Tensor,
        classes_B: Tensor | None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Return latents (B, L) made of standard normal numbers and of uniform ones in [0, 1).

        A temperature T multiplies each component's standard deviations by sqrt(T) and raises the
        weights to the power 1 / T. Where components overlap, this is not exactly exp(-E / T).

        Args:
            uniform_B: chooses each latent's component.
            classes_B: the class of each latent; without it, latents are drawn from all classes.
        """
        rows = self.log_weights()[None] if classes_B is None else self.log_weights_YK[classes_B]
        component_B = choose(rows / temperature, uniform_B)
        eye = torch.eye(self.roots_KLL.shape[1]).to(self.roots_KLL)
        spread_KLL = torch.linalg.solve_triangular(self.roots_KLL, eye, upper=False)
        offset_BL = torch.bmm(normal_BL[:, None], spread_KLL[component_B])[:, 0]
        return self.means_KL[component_B] + temperature**0.5 * offset_BL


def components_of_class(components: int, classes: int) -> int:
    """Return how many of a mixture's components each class has in its own one."""
    return max(1, components // classes)


def choose(log_weights_BJ: Tensor, uniform_B: Tensor) -> Tensor:
    """Return a number (B,) from 0 to J - 1 for each row, drawn by its weights.

    Args:
        log_weights_BJ: they need not sum to 1. One row (1, J) serves all.
        uniform_B: random numbers in [0, 1).
    """
    edges_BJ = log_weights_BJ.softmax(1).cumsum(1)
    return (uniform_B[:, None] > edges_BJ).sum(1).clamp_max(edges_BJ.shape[1] - 1)


def _outer(latent_BL: Tensor) -> Tensor:
    """Return z z' of each row, flat (B, L^2)."""
    return (latent_BL[:, :, None] * latent_BL[:, None]).flatten(1)
