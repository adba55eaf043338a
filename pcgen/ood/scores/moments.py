"""What is usual of known images' numbers: their mean and spread, and their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Added to variances, as a share of their mean: numbers that depend on one another.
_RIDGE = 1e-4
# The neighbour whose distance counts; a single one may be a stray.
_NEIGHBOUR = 5
# Distances at once: 64 MiB.
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
        """Return the Gaussian of these rows; of fewer than two, one of unit variance."""
        features = features_BF.double()
        mean_F = features.mean(0) if len(features) else features.new_zeros(features.shape[1])
        covariance = torch.eye(features.shape[1], dtype=torch.float64, device=features.device)
        if len(features) > 1:
            covariance = (features - mean_F).T @ (features - mean_F) / (len(features) - 1)
        return cls.with_covariance(mean_F, covariance, features_BF.dtype)

    @classmethod
    def with_covariance(cls, mean_F: Tensor, covariance_FF: Tensor, dtype: torch.dtype) -> Normal:
        """Return the Gaussian of this mean and covariance."""
        ridge = _RIDGE * covariance_FF.diagonal().mean() + 1e-12
        eye = torch.eye(len(mean_F), dtype=covariance_FF.dtype, device=mean_F.device)
        root_FF = torch.linalg.cholesky(torch.linalg.inv(covariance_FF + ridge * eye))
        return cls(mean_F.to(dtype), root_FF.to(dtype))

    def whitened(self, features_BF: Tensor) -> Tensor:
        """Return the rows (B, F) with mean 0 and covariance 1."""
        return (features_BF - self.mean_F) @ self.root_FF

    def length(self, features_BF: Tensor) -> Tensor:
        """Return the squared Mahalanobis length (B,)."""
        return self.whitened(features_BF).square().sum(1)


def neighbour_distance(points_BF: Tensor, bank_NF: Tensor) -> Tensor:
    """Return the distance (B,) of each point to its fifth nearest in the bank."""
    nearest = min(_NEIGHBOUR, len(bank_NF))
    blocks = torch.split(points_BF, max(1, _BLOCK // len(bank_NF)))
    return torch.cat(
        [torch.cdist(block, bank_NF).topk(nearest, largest=False).values[:, -1] for block in blocks]
    )
