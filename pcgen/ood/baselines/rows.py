"""Reading the images that a scorer is fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pcgen.data.images import Images, require_ok
from pcgen.device import generator

BATCH = 500


def chosen_rows(images: Images, most: int) -> Tensor:
    """Return the numbers of at most so many rows, drawn with one seed, in rising order."""
    if len(images) <= most:
        return torch.arange(len(images))
    drawn = torch.randperm(len(images), generator=generator(0, "scorer"))
    return drawn[:most].sort().values


def batches(images: Images, numbers: Tensor) -> Iterator[Tensor]:
    """Yield the images of these numbers (B, D).

    Raises:
        DataError: an image that cannot be read.
    """
    for part in torch.split(numbers, BATCH):
        rows = images.rows(part)
        require_ok(rows, images)
        yield rows.pixels_BD


def moments(images: Images) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the covariance (D, D) of all images, in float64.

    The images are read batch by batch; the covariance of D pixels takes 8 D^2 bytes.

    Raises:
        DataError: an image that cannot be read.
    """
    size = math.prod(images.shape)
    total_D = torch.zeros(size, dtype=torch.float64)
    products_DD = torch.zeros(size, size, dtype=torch.float64)
    for data_BD in batches(images, torch.arange(len(images))):
        pixels_BD = data_BD.double()
        total_D += pixels_BD.sum(0)
        products_DD.addmm_(pixels_BD.T, pixels_BD)
    mean_D = total_D / len(images)
    return mean_D, products_DD / len(images) - torch.outer(mean_D, mean_D)
