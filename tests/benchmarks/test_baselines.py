"""Baselines and the benchmark's arithmetic."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from sklearn import decomposition

from pcgen.benchmarks.baselines import (
    PCA,
    autoencoder,
    fit_pca,
    mean_squared_error,
    train_autoencoder,
)
from pcgen.benchmarks.table import interval
from pcgen.commands import bench_reconstruction as benchmarks
from pcgen.config import Recipe, from_dict
from pcgen.data.sources import open_data


def test_pca_is_as_good_as_scikit_learns() -> None:
    images, test = open_data("digits"), open_data("digits:test")
    pixels, held_out = images.rows(range(len(images))).pixels_BD, test.rows(range(len(test)))
    reference = decomposition.PCA(10).fit(pixels.numpy())
    data = held_out.pixels_BD.numpy()
    expected = ((reference.inverse_transform(reference.transform(data)) - data) ** 2).mean()
    assert mean_squared_error(fit_pca(images, 10), test) == pytest.approx(expected, rel=1e-5)


def test_ppca_has_the_covariance_of_its_closed_form() -> None:
    images = open_data("digits", limit=400)
    model = fit_pca(images, 5)
    pixels = images.rows(range(400)).pixels_BD.double()
    values = torch.linalg.eigvalsh(torch.cov(pixels.T, correction=0)).flip(0)
    torch.testing.assert_close(model.variances_K, values[:5])
    assert model.noise == pytest.approx(float(values[5:].mean()))


def test_samples_of_ppca_vary_as_its_components_do() -> None:
    components = torch.eye(3)[:2]
    variances = torch.tensor([0.02, 0.01], dtype=torch.float64)
    model = PCA(torch.full((3,), 0.5), components, variances, 0.005)
    drawn = model.sample(20_000, 0)
    expected = torch.tensor([0.015, 0.005, 0.0])
    torch.testing.assert_close(drawn.var(0), expected, rtol=0.05, atol=1e-6)
    assert torch.equal(drawn, model.sample(20_000, 0))


def test_the_autoencoder_has_the_recipes_decoder() -> None:
    recipe = from_dict({"model": {"layers": [3, 5], "activation": "gelu", "output": "sigmoid"}})
    model = autoencoder(recipe, (1, 1, 7))
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [(5, 7), (3, 5), (5, 3), (7, 5)]
    assert [type(m).__name__ for m in model if not list(m.parameters())] == [
        "GELU",
        "GELU",
        "Sigmoid",
    ]


def test_the_autoencoder_learns_and_returns_its_best_epoch() -> None:
    recipe = from_dict(
        {
            "model": {"layers": [8, 16], "output": "sigmoid"},
            "learning": {"batch_size": 20, "warmup": 0},
        }
    )
    images, test = open_data("digits", limit=300), open_data("digits:test", limit=100)
    cpu = torch.device("cpu")
    _, early = train_autoencoder(recipe, images, test, 1, cpu, 3e-3)
    model, best = train_autoencoder(recipe, images, test, 30, cpu, 3e-3)
    assert best < 0.7 * early
    assert mean_squared_error(model, test) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seeds", [2, 3, 10, 11, 30])
def test_the_interval_of_a_mean_is_students_for_any_number_of_seeds(seeds: int) -> None:
    values = [float(i**2) for i in range(seeds)]
    mean = sum(values) / seeds
    low, high = stats.t.interval(0.95, seeds - 1, loc=mean, scale=stats.sem(values))
    assert interval(values) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))


def test_one_seed_has_no_interval() -> None:
    assert interval([1.0]) == (None, None)


def test_a_network_is_compared_with_an_autoencoder_and_pca(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcgen.benchmarks.reconstruction._AUTOENCODER_EPOCHS", 1)
    resolve = benchmarks.resolve_recipe

    def short(name: str) -> Recipe:
        return resolve(resolve(name), settings=["learning.epochs=1"])

    monkeypatch.setattr(benchmarks, "resolve_recipe", short)
    rows = benchmarks.bench_reconstruction(["digits"], seeds=2)
    value = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert value["pcn", "mse_last_hidden"] < value["pcn", "mse"]
    assert value["pca-16, clipped to [0, 1]", "mse"] < value["pca-16", "mse"]
    assert value["pca-16", "mse"] < value["backprop autoencoder, same decoder", "mse"] < 0.2
    assert all(row["ci_low"] < row["value"] < row["ci_high"] for row in rows)
