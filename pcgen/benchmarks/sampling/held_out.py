"""How good a model's samples are: compared with held-out rows, for pictures and tables of any kind.

The features are linear: the standardised columns of a table, or the pixels' principal components,
fitted to training rows. No classifier is needed. A Gaussian with the training rows' mean and
covariance has a small Frechet distance here by construction, so precision and recall stand beside
it: they see shape, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pcgen.benchmarks.sampling.generation import frechet_distance, precision_recall
from pcgen.data.images import Images, order
from pcgen.device import generator
from pcgen.learning.latent_regression import principal_components
from pcgen.model.network import Network
from pcgen.sampling.draw import ancestral

LEAST_ROWS = 10
"""Held-out rows without which samples are not judged."""
# Held-out rows, and training rows that features and baselines are fitted to.
_MOST_ROWS = 5000
_FEATURES = 64
_CHUNK = 1000
_RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Judgement:
    """How samples compare with held-out rows.

    Attributes:
        features: the space of the distances, in words.
        count: the rows of each set.
        methods: a row for the model, each baseline, and training rows: their Frechet distance to
            the held-out rows, the share of them among the held-out rows (precision), and of the
            held-out rows among them (recall).
    """

    features: str
    count: int
    methods: list[dict[str, Any]]


def judge(network: Network, images: Images, held_out: Images, causes: int, seed: int) -> Judgement:
    """Return how samples of a network compare with held-out rows, beside baselines.

    Args:
        images: the training rows.
        causes: the components of the Gaussian mixture that is fitted to a table.
    """
    count = min(_MOST_ROWS, len(held_out), len(images))
    real_BD = _some(held_out, count, seed)
    training_ND = _some(images, _MOST_ROWS, seed)
    samples_BD = ancestral(network, count, seed, draw=images.is_table).data_BD
    if images.is_table:
        basis, words = torch.eye(real_BD.shape[1]), "standardised columns"
    else:
        samples_BD = samples_BD.clamp(0, 1)
        centred_ND = training_ND - training_ND.mean(0)
        basis, _ = principal_components(centred_ND, min(_FEATURES, count // 4))
        words = f"{basis.shape[1]} principal components of {len(training_ND):,} training images"
    real_BF, training_NF = real_BD @ basis, training_ND @ basis
    ways = {"model": samples_BD.cpu() @ basis, "Gaussian": _gaussian(training_NF, count, seed)}
    if images.is_table and causes > 1:
        mixture = GaussianMixture(causes, reg_covar=_RIDGE, random_state=seed)
        drawn, _ = mixture.fit(training_NF.double().numpy()).sample(count)
        ways[f"mixture of {causes} Gaussians"] = torch.from_numpy(drawn).float()
    ways["training rows"] = training_NF[:count]
    return Judgement(words, count, [_row(name, way, real_BF) for name, way in ways.items()])


def nearest_rows(samples_BD: Tensor, images: Images) -> Tensor:
    """Return the row (B, D) of all these images that is nearest to each sample."""
    best_B = torch.full_like(samples_BD[:, 0], torch.inf)
    nearest_BD = torch.zeros_like(samples_BD)
    for first in range(0, len(images), _CHUNK):
        rows_ND = images.rows(range(first, min(first + _CHUNK, len(images)))).pixels_BD
        distance_B, place_B = torch.cdist(samples_BD, rows_ND).min(1)
        nearer_B = distance_B < best_B
        best_B = torch.where(nearer_B, distance_B, best_B)
        nearest_BD[nearer_B] = rows_ND[place_B[nearer_B]]
    return nearest_BD


def _row(name: str, drawn_BF: Tensor, real_BF: Tensor) -> dict[str, Any]:
    precision, recall = precision_recall(drawn_BF, real_BF)
    distance = frechet_distance(drawn_BF, real_BF)
    return {"method": name, "frechet": distance, "precision": precision, "recall": recall}


def _some(images: Images, count: int, seed: int) -> Tensor:
    """Return so many rows (B, D) at random, or all."""
    return images.rows(order(len(images), seed, -1)[:count]).pixels_BD


def _gaussian(data_NF: Tensor, count: int, seed: int) -> Tensor:
    """Return draws of the Gaussian with the rows' mean and covariance."""
    values_F, vectors_FF = torch.linalg.eigh(torch.cov(data_NF.T).reshape(data_NF.shape[1], -1))
    normal_BF = torch.randn(count, len(values_F), generator=generator(seed, "gaussian"))
    return data_NF.mean(0) + (normal_BF * values_F.clamp_min(0).sqrt()) @ vectors_FF.T
