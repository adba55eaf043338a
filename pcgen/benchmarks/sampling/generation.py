"""How good samples are: distances between sets, on plain columns or on a classifier's features.

The features are those of a classifier that pcgen trained and ships. Its distances compare methods
within one table; they are not the FID of other papers, whose features are another network's.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_NEIGHBOURS = 5  # that decide how far the set reaches around each of its points
_CHUNK = 1000  # points whose distances to the other set are in memory at once


def frechet_distance(left_BF: Tensor, right_BF: Tensor) -> float:
    """Return the Frechet distance of two sets' Gaussians.

        |m - n|^2 + tr(A + B - 2 (A B)^1/2)

    Source: Dowson and Landau (1982); on a network's features: Heusel et al. (2017).
    """
    left, right = left_BF.double(), right_BF.double()
    means = (left.mean(0) - right.mean(0)).square().sum()
    a, b = (torch.cov(side.T).reshape(side.shape[1], -1) for side in (left, right))
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    return float(means + a.trace() + b.trace() - 2 * cross)


def inception_score(logits_BK: Tensor, splits: int = 10) -> float:
    """Return exp of the mean divergence of p(class | sample) from p(class), mean over splits.

    It is at most the number of classes.

    Source: Salimans et al. (2016), with our classifier instead of Inception.
    """
    scores = []
    for part in logits_BK.double().log_softmax(1).chunk(splits):
        mean = part.exp().mean(0, keepdim=True).log()
        scores.append((part.exp() * (part - mean)).sum(1).mean().exp())
    return float(torch.stack(scores).mean())


def precision_recall(samples_BF: Tensor, data_BF: Tensor) -> tuple[float, float]:
    """Return the share of samples among the data, and of the data among the samples.

    A point is among a set if it is nearer to one of its points than that point's 5th neighbour.

    Source: Kynkaanniemi et al. (2019), k = 5.
    """
    return _share_among(samples_BF, data_BF), _share_among(data_BF, samples_BF)


def nearest_distance(samples_BD: Tensor, data_ND: Tensor) -> Tensor:
    """Return the distance (B,) of each sample to its nearest row of the data."""
    parts = torch.split(samples_BD, _CHUNK)
    return torch.cat([torch.cdist(part, data_ND).amin(1) for part in parts])


def earth_movers_distance(left_ND: Tensor, right_ND: Tensor) -> float:
    """Return the least mean squared distance that moves one set onto another of the same size.

    Equal weights and equal sizes: the optimal transport is an assignment.

    Source: the published protocol (Pinchetti et al., 2025) takes POT's emd2 with this cost.
    """
    assert len(left_ND) == len(right_ND)
    cost = torch.cdist(left_ND.double(), right_ND.double()).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def histogram_distance(left_ND: Tensor, right_ND: Tensor, bins: int = 15) -> list[float]:
    """Return for each column half the sum of the differences of two histograms, from 0 to 1."""
    distances = []
    for left, right in zip(left_ND.double().T, right_ND.double().T, strict=True):
        low, high = float(right.min()), float(right.max())
        counts = [
            torch.histc(part.clamp(low, high), bins, low, high) / len(part)
            for part in (left, right)
        ]
        distances.append(0.5 * float((counts[0] - counts[1]).abs().sum()))
    return distances


def _share_among(points_BF: Tensor, set_NF: Tensor) -> float:
    radius_N = torch.cat(
        [
            torch.cdist(part, set_NF).kthvalue(_NEIGHBOURS + 1, 1).values
            for part in torch.split(set_NF, _CHUNK)
        ]
    )
    among = [
        (torch.cdist(part, set_NF) <= radius_N).any(1) for part in torch.split(points_BF, _CHUNK)
    ]
    return float(torch.cat(among).double().mean())
