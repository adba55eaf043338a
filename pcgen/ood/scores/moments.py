"""The Gaussian of known images' features, the distance to their neighbours, and their density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Added to the variances, as a share of their mean: features may depend linearly on one another.
_RIDGE = 1e-4
# The distance to this neighbour counts, because the nearest one may be an outlier itself.
_NEIGHBOUR = 5
# Neighbours that tell the density around a point.
_AROUND = 10
# Added to a distance: known points may lie at the same place.
_APART = 1e-10
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
    blocks = torch.split(points_BF, _rows_at_once(known_NF))
    return torch.cat(
        [
            torch.cdist(block, known_NF).topk(nearest, largest=False).values[:, -1]
            for block in blocks
        ]
    )


@dataclass(frozen=True, slots=True)
class LocalDensity:
    """How dense known points lie around each of them, beside which a new point is judged.

    The density at a point is 1 over the mean of d(x, o) over its ten nearest known points o. As a
    distance d(x, o) counts at least o's own distance to its tenth neighbour, so that chance hardly
    matters.

    Source: the local outlier factor of Breunig, Kriegel, Ng and Sander (2000).

    Attributes:
        scales_F: points are divided by them before distances are taken.
        points_NF: the known points over these scales, rounded to half precision as in a file.
        reach_N: each one's distance to its tenth neighbour among the others.
        density_N: the density at each.
    """

    scales_F: Tensor
    points_NF: Tensor
    reach_N: Tensor
    density_N: Tensor

    @classmethod
    def of(cls, known_NF: Tensor, scales_F: Tensor | None = None) -> LocalDensity:
        """Return the densities at two known points or more.

        Args:
            scales_F: 1 if not given.
        """
        scales_F = torch.ones_like(known_NF[0]) if scales_F is None else scales_F
        points_NF = (known_NF / scales_F).half().to(known_NF)
        nearest = min(_AROUND, len(points_NF) - 1)
        found = []
        numbers_N = torch.arange(len(points_NF), device=points_NF.device)
        for own_B in torch.split(numbers_N, _rows_at_once(points_NF)):
            distance = torch.cdist(points_NF[own_B], points_NF)
            distance.scatter_(1, own_B[:, None], torch.inf)
            found.append(distance.topk(nearest, largest=False))
        distance_NM = torch.cat([block.values for block in found])
        index_NM = torch.cat([block.indices for block in found])
        reach_N = distance_NM[:, -1]
        return cls(scales_F, points_NF, reach_N, _density(distance_NM, reach_N[index_NM]))

    def factor(self, points_BF: Tensor) -> Tensor:
        """Return the density (B,) around a point's neighbours over that at the point itself."""
        nearest = min(_AROUND, len(self.points_NF))
        factors = []
        for block in torch.split(points_BF / self.scales_F, _rows_at_once(self.points_NF)):
            distance, index = torch.cdist(block, self.points_NF).topk(nearest, largest=False)
            own_B = _density(distance, self.reach_N[index])
            factors.append(self.density_N[index].mean(1) / own_B)
        return torch.cat(factors)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {
            "scales": self.scales_F,
            "points": self.points_NF.half(),
            "reach": self.reach_N,
            "density": self.density_N,
        }

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> LocalDensity:
        """Return the densities whose `tensors()` these are."""
        return cls(*(tensors[name] for name in ("scales", "points", "reach", "density")))


def _density(distance_BM: Tensor, reach_BM: Tensor) -> Tensor:
    """Return the density (B,) from the distances to neighbours and the neighbours' own reach."""
    return 1 / (torch.maximum(distance_BM, reach_BM).mean(1) + _APART)


def _rows_at_once(points_NF: Tensor) -> int:
    return max(1, _BLOCK // len(points_NF))
