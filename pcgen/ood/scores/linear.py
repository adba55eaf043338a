"""Linear predictive coding networks in closed form, many at once.

The network x = m + W z + noise, z ~ N(0, 1), has its equilibrium in closed form. With the
eigenvectors V of the data's covariance, its Q largest eigenvalues v and the mean s of the others,
its free energy is, in nats and without 2 pi,

    E(x) = 1/2 sum_q (V'(x - m))_q^2 / v_q      the latent's part: an unusual shape
         + 1/2 |r|^2 / s                        the data's part: r is what V cannot reach of x - m
         + 1/2 sum_q log v_q + (D - Q)/2 log s

All networks see the data through the same P principal components; the rest of the data is noise
for each of them.

Source: Tipping and Bishop (1999), probabilistic PCA, whose negative log-likelihood this is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.device import generator
from pcgen.model import products

# Principal components that the networks see, at most; factors of a network, at most (and at most a
# quarter of the components).
_SEEN = 256
_FACTORS = 64
_OCTAVES = 4
# The covariance of the whole class counts as this number of images in a network's covariance.
_OF_CLASS = 200.0
# The least noise, as a share of the data's variance per unit: a constant pixel is not certain.
_FLOOR = 1e-4
# A difference of squares is not known better than this share of them.
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Window:
    """The first principal components of the data, through which the networks see it.

    Attributes:
        mean_D: of all known images.
        basis_DP: orthonormal.
    """

    mean_D: Tensor
    basis_DP: Tensor

    @classmethod
    def of(cls, data_ND: Tensor) -> Window:
        """Return the principal components of data, as half precision holds them.

        Source: for wide data Halko, Martinsson and Tropp (2011), with three power iterations.
        """
        count, units = data_ND.shape
        mean_D = data_ND.double().mean(0).to(data_ND.dtype)
        seen = min(_SEEN, units, max(1, count - 1))
        centred = data_ND - mean_D
        if units <= 4 * _SEEN:
            _, vectors = torch.linalg.eigh((centred.T @ centred).double() / count)
            basis = vectors.flip(1)[:, :seen].to(data_ND.dtype)
        else:
            basis = torch.randn(units, seen, generator=generator(0, "principal")).to(data_ND)
            for _ in range(3):
                basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
        return cls(mean_D, basis.half().to(data_ND.dtype).contiguous())

    def see(self, data_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return images through the window (B, P), and the squared length (B,) of the rest."""
        centred_BD = data_BD - self.mean_D
        seen_BP = products.product(centred_BD, self.basis_DP)
        length_B = centred_BD.square().sum(1)
        outside_B = length_B - seen_BP.square().sum(1)
        return seen_BP, outside_B.maximum(_ROUNDING * length_B)

    @property
    def is_whole(self) -> bool:
        """Return whether the window shows the whole data space."""
        return self.basis_DP.shape[1] == len(self.basis_DP)

    @property
    def factors(self) -> int:
        """Return Q, the factors that a network behind this window has."""
        return max(1, min(_FACTORS, self.basis_DP.shape[1] // 4))


@dataclass(frozen=True, slots=True)
class LinearNetworks:
    """E linear networks with Q factors each.

    Attributes:
        means_EP: m, through the window.
        factors_EPQ: V, likewise.
        variances_EQ: v.
        noise_E: s.
        constant_E: the parts of E that no image changes, less the log of the network's share.
    """

    means_EP: Tensor
    factors_EPQ: Tensor
    variances_EQ: Tensor
    noise_E: Tensor
    constant_E: Tensor

    def parts(self, seen_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent's energy by octaves (B, E, O), nats, and the seen |r|^2 (B, E).

        The octaves divide the factors, largest first, each as many as all before it.
        """
        experts, seen, factors = self.factors_EPQ.shape
        flat_PF = self.factors_EPQ.permute(1, 0, 2).reshape(seen, experts * factors)
        centres_EQ = torch.einsum("ep,epq->eq", self.means_EP, self.factors_EPQ)
        latents_BX = products.product(seen_BP, flat_PF)
        latents_BEQ = latents_BX.view(len(seen_BP), experts, factors) - centres_EQ
        squares_BEQ = latents_BEQ.square_()
        lengths_BE = seen_BP.square().sum(1, keepdim=True) + self.means_EP.square().sum(1)
        apart_BE = torch.addmm(lengths_BE, seen_BP, self.means_EP.T, alpha=-2)
        # Smaller values are rounding errors.
        rest_BE = (apart_BE - squares_BEQ.sum(2)).maximum(_ROUNDING * apart_BE)
        scaled_BEQ = squares_BEQ.mul_(0.5 / self.variances_EQ)
        octaves = [part.sum(2) for part in torch.split(scaled_BEQ, octaves_of(factors), 2)]
        return torch.stack(octaves, 2), rest_BE

    def energy(self, octaves_BEO: Tensor, rest_BE: Tensor, outside_B: Tensor) -> Tensor:
        """Return the free energy (B, E), nats, from its parts and what lies outside the window."""
        noise_BE = 0.5 * (rest_BE + outside_B[:, None]) / self.noise_E
        return octaves_BEO.sum(2) + noise_BE + self.constant_E


def octaves_of(factors: int) -> list[int]:
    """Return how many factors are in each octave, at most four."""
    edges = sorted({0, *(max(1, factors >> i) for i in range(_OCTAVES))})
    return [high - low for low, high in itertools.pairwise(edges)]


def fit_networks(
    seen_NP: Tensor, outside_N: Tensor, member_N: Tensor, class_PP: Tensor, window: Window
) -> LinearNetworks:
    """Return a network for each group of one class's images.

    Args:
        member_N: the group of each image; one that none belongs to gets no network.
        class_PP: the covariance within the class's groups, which those of few images are drawn to.
    """
    units, factors = len(window.mean_D), window.factors
    floor = _FLOOR * (class_PP.diagonal().sum() + outside_N.double().mean()) / units + 1e-12
    means, maps, variances, noises, constants = [], [], [], [], []
    for member in torch.unique(member_N):
        own = member_N == member
        own_NP, count = seen_NP[own], int(own.sum())
        centred = (own_NP - own_NP.mean(0)).double()
        weight = _OF_CLASS / (_OF_CLASS + count)
        covariance = (1 - weight) * (centred.T @ centred / count) + weight * class_PP
        values, vectors = torch.linalg.eigh(covariance)
        left = values[:-factors].sum() + outside_N[own].double().mean()
        noise = (left / max(1, units - factors)).clamp_min(floor)
        largest = values.flip(0)[:factors].clamp_min(noise)
        logs = largest.log().sum() + (units - factors) * noise.log()
        share = torch.tensor(count / len(member_N), dtype=logs.dtype, device=logs.device)
        means.append(own_NP.mean(0))
        maps.append(vectors.flip(1)[:, :factors])
        variances.append(largest)
        noises.append(noise)
        constants.append(0.5 * logs - share.log())
    like = seen_NP.dtype
    return LinearNetworks(
        torch.stack(means),
        # As half precision holds them, so that what is stored is what was fitted.
        torch.stack(maps).half().to(like),
        torch.stack(variances).to(like),
        torch.stack(noises).to(like),
        torch.stack(constants).to(like),
    )
