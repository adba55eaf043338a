"""Scores within a cause: a mixture over a network's latents, and what is usual in each cause.

The mixture divides known images into causes. An image is judged by the cause in which it is least
unusual, and on both sides: errors that are too small are unusual too.

    z    the latent at equilibrium, less its mean and over its deviations
    d    r z / |z|, its *direction*, with r^2 the number of latent units. A pale or blurred image
         has a short latent, near which a mixture over z is densest
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pcgen.data.images import Shape
from pcgen.device import generator
from pcgen.model import products
from pcgen.ood.scores.causes import Causes, fit_causes
from pcgen.ood.scores.moments import Normal
from pcgen.ood.scores.stored import Stored, choose_stored, fit_stored

# Known images for each cause, and causes at most.
_IMAGES = 100
_CAUSES = 80
# The covariance of all causes counts as this number of images for each latent unit.
_SHRINK = 1.0
_FLOOR = 1e-4
# The moments of all causes' features count as this number of images.
_OF_ALL = 60.0
# The data's errors are seen in a grid of as many cells a side.
_GRID = 4
# The least mean square that has a log; added to that of a cell of the data.
_LEAST, _OF_CELL = 1e-9, 3e-5
# A latent's principal directions are seen in bands that end at these sixteenths of them.
_BANDS = (1, 3, 7, 16)
# Of a root: half precision holds no more.
_LARGEST = 6e4
# Images at once.
_BATCH = 500


@dataclass(frozen=True, slots=True)
class View:
    """What a network makes of images at its equilibrium.

    Attributes:
        squares_BF: the mean square error of each layer, the data's first.
        cells_BC: that of the data in each cell of the image; (B, 0) for a table.
        latent_BL: the latent.
    """

    squares_BF: Tensor
    cells_BC: Tensor
    latent_BL: Tensor

    @classmethod
    def of(cls, errors: list[Tensor], latent_BL: Tensor, shape: Shape) -> View:
        """Return the view of the errors (B, D_l) of every layer, of images (C, H, W)."""
        squares_BF = torch.stack([error_BD.square().mean(1) for error_BD in errors], 1)
        cells_BC = errors[0].new_zeros(len(latent_BL), 0)
        if min(shape[1:]) >= _GRID:
            square_BCHW = errors[0].square().view(-1, *shape).mean(1, keepdim=True)
            cells_BC = adaptive_avg_pool2d(square_BCHW, _GRID).flatten(1)
        return cls(squares_BF, cells_BC, latent_BL)

    @classmethod
    def joined(cls, views: list[View]) -> View:
        """Return the view of all images of several."""
        return cls(
            torch.cat([view.squares_BF for view in views]),
            torch.cat([view.cells_BC for view in views]),
            torch.cat([view.latent_BL for view in views]),
        )

    def logs(self) -> Tensor:
        """Return the logs (B, F) of the mean squares, those of layers first."""
        layers_BF = self.squares_BF.clamp_min(_LEAST).log()
        return torch.cat([layers_BF, (self.cells_BC + _OF_CELL).log()], 1)


@dataclass(frozen=True, slots=True)
class LinearTwin:
    """A linear network in closed form, with as many latent units as a deep one.

    Its weights are principal components of known images, and its latent is exact.

    Attributes:
        mean_D: of the known images.
        basis_DL: orthonormal, the largest variance first.
    """

    mean_D: Tensor
    basis_DL: Tensor

    def view(self, data_BD: Tensor, shape: Shape) -> View:
        """Return what the network makes of images."""
        centred_BD = data_BD - self.mean_D
        latent_BL = products.product(centred_BD, self.basis_DL)
        error_BD = centred_BD - products.product(latent_BL, self.basis_DL.T)
        return View.of([error_BD], latent_BL, shape)


def scales_of(latent_NL: Tensor) -> Tensor:
    """Return (L,) the root of the product of each latent unit's deviation and of all units'.

    Divided by them, units of large variance count more, but less than in the latent itself.
    """
    return (latent_NL.std() * latent_NL.std(0)).sqrt().clamp_min(1e-6)


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory of known latents, each a narrow cause, on the CPU in float64.

    Attributes:
        scales_L: of `scales_of` the known latents.
        stored: the known latents over these scales.
    """

    scales_L: Tensor
    stored: Stored

    @classmethod
    def fit(cls, view: View) -> Memory:
        """Return the memory of known images."""
        latent_NL = view.latent_BL.cpu().double()
        scales_L = scales_of(latent_NL)
        rows_NL = latent_NL / scales_L
        choice = choose_stored(rows_NL, generator(0, "memory"))
        return cls(scales_L, fit_stored(rows_NL, *choice))

    def energy(self, view: View) -> Tensor:
        """Return the energy (B,) of images' latents, nats."""
        rows_BL = view.latent_BL.cpu().double() / self.scales_L
        return self.stored.energy(rows_BL).to(view.latent_BL)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {"scales": self.scales_L} | self.stored.tensors()

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> Memory:
        """Return the memory whose `tensors()` these are."""
        return cls(tensors["scales"], Stored.load(tensors))


@dataclass(frozen=True, slots=True)
class CauseScores:
    """What is usual of one network's latent and errors in each of K causes.

    Attributes:
        directed: whether the causes are of directions d, and not of latents z.
        mean_L, deviation_L: of the known latents.
        causes: the mixture.
        means_KF, roots_KFF: of the features that `_features` returns: means, roots of precisions.
    """

    directed: bool
    mean_L: Tensor
    deviation_L: Tensor
    causes: Causes
    means_KF: Tensor
    roots_KFF: Tensor

    @classmethod
    def fit(cls, view: View, *, directed: bool) -> CauseScores:
        """Return the scores of known images."""
        mean_L = view.latent_BL.mean(0)
        deviation_L = view.latent_BL.std(0, correction=0).clamp_min(1e-6)
        rows_NL, shared_NF = _seen(view, mean_L, deviation_L, directed)
        count, units = rows_NL.shape
        causes = fit_causes(
            rows_NL,
            max(1, min(_CAUSES, count // _IMAGES)),
            shrink=_SHRINK * units,
            floor=_FLOOR,
            generator=generator(0, "causes"),
        )
        causes = replace(causes, roots_KLL=_as_stored(causes.roots_KLL))
        batches = zip(torch.split(rows_NL, _BATCH), torch.split(shared_NF, _BATCH), strict=True)
        features_NKF = torch.cat(
            [_features(causes.whitened(rows).square_(), shared) for rows, shared in batches]
        )
        shares_NK = causes.log_joint(causes.squares(rows_NL)).softmax(1)
        means_KF, roots_KFF = _moments(features_NKF, shares_NK)
        return cls(directed, mean_L, deviation_L, causes, means_KF, _as_stored(roots_KFF))

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """Return how unusual images are, (B,) each.

        First the squared Mahalanobis length of the features, the least over causes. Then the
        mixture's energy, nats.
        """
        rows_BL, shared_BF = _seen(view, self.mean_L, self.deviation_L, self.directed)
        squares_BKL = self.causes.whitened(rows_BL).square_()
        apart_BKF = _features(squares_BKL, shared_BF) - self.means_KF
        lengths_BK = (apart_BKF.transpose(0, 1) @ self.roots_KFF).square_().sum(2).T
        joint_BK = self.causes.log_joint(squares_BKL.sum(2))
        return lengths_BK.amin(1), -torch.logsumexp(joint_BK, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, the largest in half precision."""
        named = self.causes.tensors() | {"mean": self.mean_L, "deviation": self.deviation_L}
        named |= {"feature_means": self.means_KF, "feature_roots": self.roots_KFF}
        return named | {name: named[name].half() for name in ("roots", "feature_roots")}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], *, directed: bool) -> CauseScores:
        """Return the scores whose `tensors()` these are."""
        causes = Causes(*(tensors[name] for name in ("log_weights", "means", "roots")))
        rest = ("mean", "deviation", "feature_means", "feature_roots")
        mean_L, deviation_L, means_KF, roots_KFF = (tensors[name] for name in rest)
        return cls(directed, mean_L, deviation_L, causes, means_KF, roots_KFF)


def _as_stored(roots: Tensor) -> Tensor:
    """Return roots as half precision holds them, so that what is stored is what was fitted."""
    return roots.clamp(-_LARGEST, _LARGEST).half().to(roots.dtype)


def _seen(view: View, mean_L: Tensor, deviation_L: Tensor, directed: bool) -> tuple[Tensor, Tensor]:
    """Return z or d (B, L), and the features (B, F) that are the same in every cause."""
    latent_BL = (view.latent_BL - mean_L) / deviation_L
    length_B1 = latent_BL.norm(dim=1, keepdim=True).clamp_min(1e-6)
    shared_BF = torch.cat([view.logs(), 2 * length_B1.log()], 1)
    if directed:
        latent_BL = latent_BL * (latent_BL.shape[1] ** 0.5 / length_B1)
    return latent_BL, shared_BF


def _features(squares_BKL: Tensor, shared_BF: Tensor) -> Tensor:
    """Return the features (B, K, F) of rows in every cause: the shared ones, then the bands.

    Args:
        squares_BKL: of the rows in the deviations of every cause.
        shared_BF: the features that are the same in every cause.
    """
    units = squares_BKL.shape[2]
    edges = sorted({0, *(round(units * edge / _BANDS[-1]) for edge in _BANDS)})
    bands = [squares_BKL[:, :, a:b].sum(2) for a, b in itertools.pairwise(edges)]
    bands_BKF = torch.stack(bands, 2).clamp_min(_LEAST).log()
    shared_BKF = shared_BF[:, None].expand(-1, squares_BKL.shape[1], -1)
    return torch.cat([shared_BKF, bands_BKF], 2)


def _moments(features_NKF: Tensor, shares_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return means (K, F) and precision roots (K, F, F) of features, weighted by the shares."""
    counts_K = shares_NK.sum(0).clamp_min(1e-9)
    means_KF = torch.einsum("nk,nkf->kf", shares_NK, features_NKF) / counts_K[:, None]
    scatter = []
    for k, mean_F in enumerate(means_KF):
        centred_NF = (features_NKF[:, k] - mean_F).double()
        scatter.append((centred_NF * shares_NK[:, k : k + 1]).T @ centred_NF)
    scatter_KFF = torch.stack(scatter)
    pooled_FF = scatter_KFF.sum(0) / len(features_NKF)
    covariance_KFF = (scatter_KFF + _OF_ALL * pooled_FF) / (counts_K + _OF_ALL)[:, None, None]
    dtype = features_NKF.dtype
    pairs = zip(means_KF, covariance_KFF, strict=True)
    roots = [Normal.with_covariance(mean, own, dtype).root_FF for mean, own in pairs]
    return means_KF, torch.stack(roots)
