"""Scores without a classifier: probabilistic PCA, an autoencoder, statistics without a model.

In every one a higher score is more unusual, and an image's score depends on that image alone.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcgen.data.images import Images, Shape
from pcgen.ood.scoring import chosen_rows, readable_batches

# A pixel with this value or more counts as bright.
_BRIGHT = 0.5
# Added to a variance, as a share of it: a statistic may be the same in all images.
_RIDGE = 1e-6
# Known images that the trivial statistics are fitted to, at most.
_FITTED = 20_000


def moments(images: Images) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the covariance (D, D) of all images, in float64.

    The images are read batch by batch; the covariance of D pixels takes 8 D^2 bytes.

    Raises:
        DataError: an image cannot be read.
    """
    size = math.prod(images.shape)
    total_D = torch.zeros(size, dtype=torch.float64)
    products_DD = torch.zeros(size, size, dtype=torch.float64)
    for data_BD in readable_batches(images, torch.arange(len(images))):
        pixels_BD = data_BD.double()
        total_D += pixels_BD.sum(0)
        products_DD.addmm_(pixels_BD.T, pixels_BD)
    mean_D = total_D / len(images)
    return mean_D, products_DD / len(images) - torch.outer(mean_D, mean_D)


@dataclass(frozen=True, slots=True)
class PPCAScorer:
    """The negative log-likelihood of probabilistic PCA: the free energy of a linear network.

        x ~ N(mean, C),  C = U (L - s I) U' + s I

    U and L are the leading eigenvectors and eigenvalues of the data's covariance, s the mean of
    the others. scikit-learn's PCA has the same likelihood, but needs all images in memory.

    Source: Tipping and Bishop (1999), eqs. 7 to 9.

    Attributes:
        mean_D: the mean of the known images.
        components_QD: rows scaled so that the distance is a difference of two sums of squares.
        noise: s, the variance outside the components.
        constant: half of log det C + D log(2 pi).
    """

    mean_D: Tensor
    components_QD: Tensor
    noise: float
    constant: float
    names: tuple[str, ...] = ("ppca",)

    @classmethod
    def fit(cls, images: Images, components: int) -> PPCAScorer:
        """Return the model of known images with this number of components, in float64.

        Raises:
            DataError: an image cannot be read.
        """
        mean_D, covariance_DD = moments(images)
        size = len(mean_D)
        values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
        count = min(components, size - 1)
        least = 1e-9 * float(values_D[-1])
        noise = max(float(values_D[: size - count].mean()), least)
        kept_Q = values_D[size - count :].clamp_min(noise)
        # x' C^-1 x = (|x|^2 - sum_q (1 - s / l_q) (u_q' x)^2) / s
        components_QD = (1 - noise / kept_Q).sqrt()[:, None] * vectors_DD[:, size - count :].T
        log_det = float(kept_Q.log().sum()) + (size - count) * math.log(noise)
        constant = 0.5 * (log_det + size * math.log(2 * math.pi))
        return cls(mean_D, components_QD, noise, constant)

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return -log p (B,) in nats."""
        centred_BD = data_BD.cpu().double() - self.mean_D
        explained_B = (centred_BD @ self.components_QD.T).square().sum(1)
        distance_B = (centred_BD.square().sum(1) - explained_B) / self.noise
        return {"ppca": 0.5 * distance_B + self.constant}


@dataclass(frozen=True, slots=True)
class AutoencoderScorer:
    """Half the squared error (B,) of an autoencoder: nats at unit precision."""

    model: nn.Module
    device: torch.device | str = "cpu"
    names: tuple[str, ...] = ("autoencoder",)

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return the error of each image."""
        with torch.no_grad():
            data_BD = data_BD.to(self.device)
            error_BD = (self.model(data_BD).clamp(0, 1) - data_BD).double()
        return {"autoencoder": 0.5 * error_BD.square().sum(1).cpu()}


def statistics(data_BD: Tensor, shape: Shape) -> dict[str, Tensor]:
    """Return three statistics of each image that need no model, (B,) each, in float64.

    `trivial-bright`: the share of bright pixels. `trivial-zlib`: bytes of the 8-bit image,
    compressed. `trivial-variation`: the mean difference of neighbouring pixels.
    """
    data_BD = data_BD.cpu()
    maps = data_BD.reshape(-1, *shape).double()
    down, across = maps.diff(dim=2).abs().flatten(1), maps.diff(dim=3).abs().flatten(1)
    bytes_BD = (data_BD * 255).round().to(torch.uint8).numpy()
    sizes = [float(len(zlib.compress(row.tobytes(), 9))) for row in bytes_BD]
    return {
        "trivial-bright": (data_BD >= _BRIGHT).double().mean(1),
        "trivial-zlib": torch.tensor(sizes, dtype=torch.float64),
        "trivial-variation": torch.cat([down, across], 1).mean(1),
    }


@dataclass(frozen=True, slots=True)
class TrivialScorer:
    """Statistics without a model, and the distance of all three from those of known images.

    Attributes:
        shape: channels, height, width of the images.
        mean_3: the mean statistics of the known images.
        precision_33: their inverse covariance.
    """

    shape: Shape
    mean_3: Tensor
    precision_33: Tensor
    names: tuple[str, ...] = (
        "trivial-bright",
        "trivial-zlib",
        "trivial-variation",
        "trivial-distance",
    )

    @classmethod
    def fit(cls, images: Images) -> TrivialScorer:
        """Return the scorer of known images.

        Raises:
            DataError: an image cannot be read.
        """
        batches = readable_batches(images, chosen_rows(images, _FITTED))
        table_N3 = torch.cat([_table(statistics(data_BD, images.shape)) for data_BD in batches])
        covariance_33 = torch.cov(table_N3.T)
        scale = covariance_33.diagonal().clamp_min(1e-12)
        covariance_33 = covariance_33 + torch.diag(_RIDGE * scale)
        return cls(images.shape, table_N3.mean(0), torch.linalg.inv(covariance_33))

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return a column (B,) for each of `names`."""
        columns = statistics(data_BD, self.shape)
        centred_B3 = _table(columns) - self.mean_3
        distance_B = ((centred_B3 @ self.precision_33) * centred_B3).sum(1)
        return {**columns, "trivial-distance": distance_B}


def _table(columns: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(columns.values()), 1)
