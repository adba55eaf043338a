"""Scores without a classifier: probabilistic PCA, an autoencoder, statistics without a model."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcgen.data.images import Images, Shape
from pcgen.ood.baselines.rows import batches, chosen_rows, moments

# A pixel from here on is bright.
_BRIGHT = 0.5
# Added to a variance, as a share of the mean one: pixels that never change have none.
_RIDGE = 1e-6


class PPCAScorer:
    """The negative log-likelihood of probabilistic PCA: the free energy of a linear network.

        x ~ N(mean, C),  C = U (L - s I) U' + s I

    U and L are the leading eigenvectors and eigenvalues of the data's covariance, s the mean of
    the others.

    Source: Tipping and Bishop (1999), eqs. 7 to 9.

    Attributes:
        mean_D: of the known images.
        components_QD: rows scaled so that the distance is the sum of two squares.
        noise: s, the variance beside the components.
        constant: log det C and 2 pi, halved.
    """

    names = ("ppca",)

    def __init__(
        self, mean_D: Tensor, components_QD: Tensor, noise: float, constant: float
    ) -> None:
        self.mean_D = mean_D
        self.components_QD = components_QD
        self.noise = noise
        self.constant = constant

    @classmethod
    def fit(cls, images: Images, components: int) -> PPCAScorer:
        """Return the model of known images, with so many components, in float64.

        Raises:
            DataError: an image that cannot be read.
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

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a file must hold."""
        numbers = torch.tensor([self.noise, self.constant], dtype=torch.float64)
        return {"mean": self.mean_D, "components": self.components_QD, "numbers": numbers}

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> PPCAScorer:
        """Return the scorer whose `tensors()` these are."""
        noise, constant = tensors["numbers"].tolist()
        return cls(tensors["mean"], tensors["components"], noise, constant)


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

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a file must hold."""
        return dict(self.model.state_dict())


def statistics(data_BD: Tensor, shape: Shape) -> dict[str, Tensor]:
    """Return what needs no model: columns (B,) in float64, more of each being more unusual.

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


class TrivialScorer:
    """Statistics without a model, and how far the three together are from known images.

    Attributes:
        mean_3: of the statistics of known images.
        precision_33: their inverse covariance.
    """

    names = ("trivial-bright", "trivial-zlib", "trivial-variation", "trivial-distance")

    def __init__(self, shape: Shape, mean_3: Tensor, precision_33: Tensor) -> None:
        self.shape = shape
        self.mean_3 = mean_3
        self.precision_33 = precision_33

    @classmethod
    def fit(cls, images: Images) -> TrivialScorer:
        """Return the scorer of known images.

        Raises:
            DataError: an image that cannot be read.
        """
        numbers = chosen_rows(images, 20_000)
        parts = [_columns(data_BD, images.shape) for data_BD in batches(images, numbers)]
        table_N3 = torch.cat(parts)
        covariance_33 = torch.cov(table_N3.T)
        scale = covariance_33.diagonal().clamp_min(1e-12)
        covariance_33 = covariance_33 + torch.diag(_RIDGE * scale)
        return cls(images.shape, table_N3.mean(0), torch.linalg.inv(covariance_33))

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return a column (B,) for each of `names`."""
        found = statistics(data_BD, self.shape)
        centred_B3 = torch.stack(list(found.values()), 1) - self.mean_3
        distance_B = ((centred_B3 @ self.precision_33) * centred_B3).sum(1)
        return {**found, "trivial-distance": distance_B}

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a file must hold."""
        shape = torch.tensor(self.shape)
        return {"shape": shape, "mean": self.mean_3, "precision": self.precision_33}

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> TrivialScorer:
        """Return the scorer whose `tensors()` these are."""
        channels, height, width = tensors["shape"].tolist()
        return cls((channels, height, width), tensors["mean"], tensors["precision"])


def _columns(data_BD: Tensor, shape: Shape) -> Tensor:
    return torch.stack(list(statistics(data_BD, shape).values()), 1)
