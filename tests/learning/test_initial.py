"""Weights that begin at principal components: PCA before the first update, and better after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcgen.benchmarks.baselines import fit_pca, mean_squared_error
from pcgen.config import Recipe, from_dict
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import RecipeError
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.learning.validate import measure
from pcgen.model.network import Network

MODEL = {"layers": [8, 24], "skips": [[0, 2]], "weights": "principal", "activation": "gelu"}


def recipe(**model: Any) -> Recipe:
    return from_dict(
        {
            "model": MODEL | model,
            "inference": {"solver": "newton", "steps": 4, "test_steps": 50, "tolerance": 1e-8},
            "learning": {"epochs": 5, "batch_size": 50, "rate": 1e-3, "warmup": 0},
        }
    )


@pytest.fixture(scope="module")
def images() -> Images:
    return open_data("digits", limit=400)


def network(images: Images, **model: Any) -> Network:
    return initial_network(recipe(**model), sample(images, 0), images.shape)


@pytest.mark.parametrize("model", [{}, {"layers": [8], "skips": []}], ids=["path", "one layer"])
@pytest.mark.parametrize("start", ["zero", "linear"])
def test_the_first_reconstruction_is_that_of_pca(
    images: Images, model: dict[str, Any], start: str
) -> None:
    begun = network(images, start=start, **model)
    expected = mean_squared_error(fit_pca(images, 8), images, clip=True)
    with torch.no_grad():
        found = measure(begun, images, recipe().inference)
    assert found.mse == pytest.approx(expected, rel=1e-6)
    assert found.mse_last_hidden == pytest.approx(expected, rel=1e-6)


def test_the_linear_start_is_the_scores_of_unit_variance(images: Images) -> None:
    begun, data_BD = network(images, start="linear"), sample(images, 0)
    latent_BL = begun.start_latent(data_BD)
    torch.testing.assert_close(latent_BL.T @ latent_BL / 400, torch.eye(8), atol=1e-4, rtol=0)
    scores_BL = (data_BD - data_BD.mean(0)) @ fit_pca(images, 8).components_KD.T
    assert (scores_BL * latent_BL).mean(0).square().sum() == pytest.approx(
        float(scores_BL.square().mean(0).sum()), rel=1e-4
    )


def test_fewer_rows_than_latents_leave_latents_without_effect(images: Images) -> None:
    few = images.head(5)
    begun = network(few, start="linear")
    assert torch.equal(begun.skips[0].layer.weight[:, 5:], torch.zeros(64, 3))
    torch.testing.assert_close(begun.decode(begun.start_latent(sample(few, 0))), sample(few, 0))


@pytest.mark.parametrize("start", ["zero", "linear"])
def test_learning_makes_it_better_than_pca(images: Images, start: str) -> None:
    found, sample_BD = recipe(start=start), sample(images, 0)
    training = Training(PredictiveCoding(network(images, start=start), found, sample_BD))
    with torch.no_grad():
        *_, last = training.run(images, images)
    assert last.validation is not None
    assert last.validation.mse < 0.97 * mean_squared_error(fit_pca(images, 8), images, clip=True)


@pytest.mark.parametrize(
    "model",
    [{"skips": []}, {"output": "sigmoid"}, {"likelihood": "bernoulli"}, {"layers": [8, [2, 4, 4]]}],
)
def test_components_need_a_linear_path_to_the_data(images: Images, model: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="linear dense map from latent to data"):
        network(images, **model)
