"""A mixture of Gaussians as the latent's prior: causes that exclude one another, above the latent.

    E(z) = -log sum_k w_k det(P_k) exp(-1/2 |(z - m_k) P_k|^2),   precision of cause k: P_k P_k'

The pull of a cause is its precision-weighted error, weighted by how likely the cause is. With equal
causes N(0, 1) it is the simple prior, from which training begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class Mixture:
    """The causes' weights, means and precisions; K causes, Y classes, L latent units.

    Attributes:
        log_weights_YK: of each class, where the data have some; else one row. Rows sum to 1.
        log_classes_Y: how frequent the classes are.
        means_KL: of the latent, given its cause.
        roots_KLL: P_k, lower triangular.
    """

    log_weights_YK: Tensor
    log_classes_Y: Tensor
    means_KL: Tensor
    roots_KLL: Tensor
    _made: tuple[Tensor, Tensor, Tensor, int] | None = field(default=None, repr=False)
    _last: tuple[Tensor, int, Tensor] | None = field(default=None, repr=False)

    @classmethod
    def standard(cls, causes: int, units: int, classes: int, like: Tensor) -> Mixture:
        """Return equal causes N(0, 1)."""
        rows = max(1, classes)
        return cls(
            like.new_full((rows, causes), -math.log(causes)),
            like.new_full((rows,), -math.log(rows)),
            like.new_zeros(causes, units),
            torch.eye(units, dtype=like.dtype, device=like.device).repeat(causes, 1, 1),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all it is made of, by name."""
        return {
            "prior.log_weights": self.log_weights_YK,
            "prior.log_classes": self.log_classes_Y,
            "prior.means": self.means_KL,
            "prior.roots": self.roots_KLL,
        }

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Mixture:
        """Return a copy on a device."""
        weights, classes, means, roots = (
            tensor.to(device, dtype, copy=True) for tensor in self.tensors().values()
        )
        return Mixture(weights, classes, means, roots)

    def energy(self, latent_BL: Tensor) -> Tensor:
        """Return the energy (B,) in nats, without the 2 pi."""
        return -torch.logsumexp(self._log_joint(latent_BL), 1)

    def pull(self, latent_BL: Tensor) -> Tensor:
        """Return dE/dz (B, L)."""
        shares_BK = self._log_joint(latent_BL).softmax(1)
        _, precisions_KX, pulls_KL, _ = self._tables()
        mean_BLL = (shares_BK @ precisions_KX).view(*latent_BL.shape, -1)
        return torch.einsum("blm,bm->bl", mean_BLL, latent_BL) - shares_BK @ pulls_KL

    def curvature(self, latent_BL: Tensor, move_BL: Tensor) -> Tensor:
        """Return the second derivative (B,) along a move, the causes held at their shares."""
        shares_BK = self._log_joint(latent_BL).softmax(1)
        _, precisions_KX, _, _ = self._tables()
        return (shares_BK * (_outer(move_BL) @ precisions_KX.T)).sum(1)

    def mean_precision(self) -> Tensor:
        """Return the mean (L, L) of the causes' precisions."""
        _, precisions_KX, _, _ = self._tables()
        return (self.log_weights().exp() @ precisions_KX).view(self.roots_KLL.shape[1:])

    def log_joint(self, latent_BL: Tensor, classes_B: Tensor | None = None) -> Tensor:
        """Return log p(k, z) (B, K) without the 2 pi.

        Args:
            classes_B: of each latent, where known.
        """
        joint_BK = self._log_joint(latent_BL)
        if classes_B is None:
            return joint_BK
        return joint_BK - self.log_weights() + self.log_weights_YK[classes_B]

    def _log_joint(self, latent_BL: Tensor) -> Tensor:
        # Energy and pull are asked for at the same place, one after the other.
        version = self._version()
        if self._last is None or self._last[0] is not latent_BL or self._last[1] != version:
            offset_K, precisions_KX, pulls_KL, _ = self._tables()
            joint_BK = torch.addmm(offset_K, latent_BL, pulls_KL.T) - 0.5 * (
                _outer(latent_BL) @ precisions_KX.T
            )
            self._last = (latent_BL, version, joint_BK)
        return self._last[2]

    def _tables(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return what does not depend on z of log p(k, z), precisions, and precisions m_k."""
        version = self._version()
        if self._made is None or self._made[3] != version:
            precisions_KLL = self.roots_KLL @ self.roots_KLL.mT
            pulls_KL = torch.einsum("klm,km->kl", precisions_KLL, self.means_KL)
            log_det_K = self.roots_KLL.diagonal(dim1=1, dim2=2).log().sum(1)
            far_K = torch.linalg.vecdot(pulls_KL, self.means_KL)
            offset_K = self.log_weights() + log_det_K - 0.5 * far_K
            self._made = (offset_K, precisions_KLL.flatten(1), pulls_KL, version)
        return self._made

    def _version(self) -> int:
        """Return a number that rises whenever one of the tensors is written to."""
        return sum(tensor._version for tensor in self.tensors().values())

    def log_weights(self) -> Tensor:
        """Return the causes' weights (K,) over all classes."""
        return torch.logsumexp(self.log_weights_YK + self.log_classes_Y[:, None], 0)

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
        edges = (rows / temperature).softmax(1).cumsum(1)
        component_B = (uniform_B[:, None] > edges).sum(1).clamp_max(edges.shape[1] - 1)
        eye = torch.eye(self.roots_KLL.shape[1]).to(self.roots_KLL)
        spread_KLL = torch.linalg.solve_triangular(self.roots_KLL, eye, upper=False)
        offset_BL = torch.bmm(normal_BL[:, None], spread_KLL[component_B])[:, 0]
        return self.means_KL[component_B] + temperature**0.5 * offset_BL


def _outer(latent_BL: Tensor) -> Tensor:
    """Return z z' of each row, flat (B, L^2)."""
    return (latent_BL[:, :, None] * latent_BL[:, None]).flatten(1)
