"""The Gaussian of known images' features, and the distance to their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Added to the variances, as a share of their mean: features may depend linearly on one another.
_RIDGE = 1e-4
# The distance to this neighbour counts, because the nearest one may be an outlier itself.
_NEIGHBOUR = 5
# Distances computed at once: 64 MiB in float32.
_BLOCK = 2**24


@dataclass(frozen=True, slots=True)
class Normal:
    """A Gaussian of F features, as a mean and the root of its precision.

    Attributes:
        mean_F: the mean.
        root_FF: R with R R' = covariance^-1.
    """

    mean_F: Tensor
    root_FF: Tensor

    @classmethod
    def of(cls, features_BF: Tensor) -> Normal:
        """Return the Gaussian of these rows; one of unit variance if there are fewer than two."""
        features = features_BF.double()
        mean_F = features.mean(0) if len(features) else features.new_zeros(features.shape[1])
        covariance = torch.eye(features.shape[1], dtype=torch.float64, device=features.device)
        if len(features) > 1:
            covariance = (features - mean_F).T @ (features - mean_F) / (len(features) - 1)
        return cls.with_covariance(mean_F, covariance, features_BF.dtype)

    @classmethod
    def with_covariance(
        cls, mean_F: Tensor, covariance_FF: Tensor, dtype: torch.dtype, ridge: float = _RIDGE
    ) -> Normal:
        """Return the Gaussian of this mean and covariance.

        Args:
            ridge: added to the variances, as a share of their mean.
        """
        added = ridge * (covariance_FF.diagonal().mean() + 1e-8)
        eye = torch.eye(len(mean_F), dtype=covariance_FF.dtype, device=mean_F.device)
        root_FF = torch.linalg.cholesky(torch.linalg.inv(covariance_FF + added * eye))
        return cls(mean_F.to(dtype), root_FF.to(dtype))

    def whitened(self, features_BF: Tensor) -> Tensor:
        """Return the rows (B, F) with mean 0 and covariance 1."""
        return (features_BF - self.mean_F) @ self.root_FF

    def length(self, features_BF: Tensor) -> Tensor:
        """Return the squared Mahalanobis length (B,)."""
        return self.whitened(features_BF).square().sum(1)


def neighbour_distance(points_BF: Tensor, known_NF: Tensor) -> Tensor:
    """Return the distance (B,) of each point to its fifth nearest neighbour among known points."""
    nearest = min(_NEIGHBOUR, len(known_NF))
    blocks = torch.split(points_BF, max(1, _BLOCK // len(known_NF)))
    return torch.cat(
        [
            torch.cdist(block, known_NF).topk(nearest, largest=False).values[:, -1]
            for block in blocks
        ]
    )
