"""Baselines of a memory: Hopfield networks, which store the images, and principal components.

Modern and universal Hopfield networks keep every image. They are look-ups: they show the best that
a memory could restore, and they need the bytes of all images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pcgen.memory.corruptions import Cues

Similarity = Literal["dot", "l1", "l2"]

_AT_ONCE = 16  # cues: L1 distances take memory for all pairs of pixels and stored images


@dataclass(frozen=True, slots=True)
class Hopfield:
    """Retrieval z = X' sep(sim(X, q)) over the visible pixels, one step.

    Attributes:
        stored_ND: the images.
        similarity: the dot product, or minus the L1 or squared L2 distance, over visible pixels.
        sharpness: factor before the softmax; None takes the most similar image.

    Source: Ramsauer et al. (2021) for the softmax of dot products; Millidge et al. (2022) for the
    others, whose separation is the maximum here.
    """

    stored_ND: Tensor
    similarity: Similarity
    sharpness: float | None = None

    @property
    def bytes(self) -> int:
        """Return the number of stored bytes."""
        return self.stored_ND.numel() * self.stored_ND.element_size()

    def __call__(self, cues: Cues) -> Tensor:
        """Return the retrieved images (B, D)."""
        if self.sharpness is None:
            return self.stored_ND[self.items(cues)[:, 0]]
        weights = [(self.sharpness * x).softmax(1) @ self.stored_ND for x in self._parts(cues)]
        return torch.cat(weights)

    def items(self, cues: Cues, count: int = 1) -> Tensor:
        """Return the numbers (B, count) of the most similar stored images, the nearest first."""
        order = [x.sort(dim=1, descending=True, stable=True).indices for x in self._parts(cues)]
        return torch.cat(order)[:, :count]

    def _parts(self, cues: Cues) -> Iterator[Tensor]:
        for first in range(0, len(cues.pixels_BD), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            yield self._likeness(cues.pixels_BD[part], cues.visible_BD[part])

    def _likeness(self, pixels_BD: Tensor, visible_BD: Tensor) -> Tensor:
        seen_BD = visible_BD.to(pixels_BD.dtype)
        if self.similarity == "l1" and bool((visible_BD == visible_BD[0]).all()):
            return -torch.cdist(pixels_BD * seen_BD, self.stored_ND * seen_BD[0], p=1)
        if self.similarity == "l1":
            likeness = [
                -((self.stored_ND - pixels).abs() @ seen)
                for pixels, seen in zip(pixels_BD, seen_BD, strict=True)
            ]
            return torch.stack(likeness)
        products_BN = (pixels_BD * seen_BD) @ self.stored_ND.T
        if self.similarity == "dot":
            return products_BN
        return 2 * products_BN - seen_BD @ self.stored_ND.square().T


@dataclass(frozen=True, slots=True)
class PrincipalMemory:
    """Principal components as a memory: a linear network with its exact posterior mean.

    Attributes:
        mean_D: of the images.
        loadings_DK: components times their standard deviations, so that codes are standard normal.
    """

    mean_D: Tensor
    loadings_DK: Tensor

    @property
    def bytes(self) -> int:
        """Return the number of stored bytes."""
        return (self.mean_D.numel() + self.loadings_DK.numel()) * 4

    def __call__(self, cues: Cues, least_noise: float = 0.01) -> Tensor:
        """Return the expected images (B, D), given the visible pixels and their noise."""
        variance = max(cues.noise, least_noise) ** 2
        parts = []
        shared = bool((cues.visible_BD == cues.visible_BD[0]).all())
        groups = [slice(None)] if shared else [slice(i, i + 1) for i in range(len(cues.pixels_BD))]
        for group in groups:
            seen_D = cues.visible_BD[group][0]
            loadings_VK = self.loadings_DK[seen_D].double()
            precision_KK = loadings_VK.T @ loadings_VK / variance
            precision_KK.diagonal().add_(1.0)
            centred_BV = (cues.pixels_BD[group][:, seen_D] - self.mean_D[seen_D]).double()
            pulled_KB = loadings_VK.T @ centred_BV.T / variance
            codes_KB = torch.cholesky_solve(pulled_KB, torch.linalg.cholesky(precision_KK))
            parts.append(self.mean_D + (self.loadings_DK @ codes_KB.to(self.loadings_DK)).T)
        return torch.cat(parts)


def principal_memory(images_ND: Tensor, components: int) -> PrincipalMemory:
    """Return the principal components of images as a memory."""
    from sklearn.decomposition import PCA

    count = min(components, len(images_ND) - 1)
    pca = PCA(count, random_state=0).fit(images_ND.numpy())
    deviations_K1 = torch.from_numpy(pca.explained_variance_).sqrt()[:, None]
    loadings_KD = torch.from_numpy(pca.components_) * deviations_K1
    return PrincipalMemory(torch.from_numpy(pca.mean_).float(), loadings_KD.T.float())
