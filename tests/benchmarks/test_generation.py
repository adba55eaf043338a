"""Distances between sets of samples: closed forms, and peers where they are installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pcgen.benchmarks.sampling.generation import (
    earth_movers_distance,
    frechet_distance,
    histogram_distance,
    inception_score,
    nearest_distance,
    precision_recall,
)
from pcgen.benchmarks.sampling.vae import train_vae
from pcgen.config import from_dict
from pcgen.data.images import split
from pcgen.data.sources import open_data


def normal(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_earth_movers_distance_is_that_of_the_peer() -> None:
    left, right = normal(40, 2, 0), 0.5 + normal(40, 2, 1)
    ot = pytest.importorskip("ot")
    cost = ot.dist(left.double().numpy(), right.double().numpy())
    weights = np.full(40, 1 / 40)
    expected = ot.emd2(weights, weights, cost)
    assert earth_movers_distance(left, right) == pytest.approx(float(expected), rel=1e-9)
    assert earth_movers_distance(left, left[torch.randperm(40)]) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_of_gaussians_is_their_closed_form() -> None:
    left = normal(50_000, 3, 0)
    right = normal(50_000, 3, 1) * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(left, right) == pytest.approx(1 + 0 + 1 + 4, rel=0.03)
    assert frechet_distance(left, left) == pytest.approx(0, abs=1e-8)


def test_inception_score_is_the_number_of_classes_that_are_sure_and_even() -> None:
    sure = 50 * torch.eye(4).repeat(50, 1)
    assert inception_score(sure, 5) == pytest.approx(4, rel=1e-6)
    assert inception_score(torch.zeros(100, 4)) == pytest.approx(1)
    assert inception_score(50 * torch.eye(4)[:1].repeat(100, 1)) == pytest.approx(1, rel=1e-6)


def test_precision_and_recall_see_what_is_missing_on_either_side() -> None:
    data = torch.cat([normal(300, 2, 0), 20 + normal(300, 2, 1)])
    half = normal(300, 2, 2)
    precision, recall = precision_recall(half, data)
    assert precision > 0.9
    assert 0.4 < recall < 0.6
    precision, recall = precision_recall(torch.cat([data, 100 + normal(600, 2, 3)]), data)
    assert 0.45 < precision < 0.55
    assert recall > 0.95


def test_a_copy_has_distance_zero_to_its_original() -> None:
    data = normal(50, 4, 0)
    assert float(nearest_distance(data[[7, 3]], data).max()) < 1e-2
    assert float(nearest_distance(data[:1] + 3, data)) > 1


def test_histograms_of_the_same_rows_agree() -> None:
    data = normal(500, 2, 0)
    assert histogram_distance(data, data) == [0, 0]
    assert histogram_distance(data + 100, data)[0] > 0.9


def test_the_vae_learns_and_its_likelihood_is_above_its_bound() -> None:
    kept, held_out = split(open_data("digits", limit=300), 60, 0)
    recipe = from_dict({"model": {"layers": [3, 32]}, "learning": {"batch_size": 60}})
    _, first = train_vae(recipe, kept, held_out, 1, 3e-3)
    model, best = train_vae(recipe, kept, held_out, 15, 3e-3)
    assert best < first
    data = (held_out.rows(range(20)).pixels_BD > 0.5).float()
    with torch.no_grad():
        bound = -model.loss(data, normal(20, 3, 0))
        exact = model.log_likelihood(data, 200, 0).mean()
        assert exact > bound - 0.5
        assert model.sample(5, 0).shape == (5, 64)
