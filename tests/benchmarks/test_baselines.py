"""Baselines and the benchmark's arithmetic."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from sklearn import decomposition

from pcgen.benchmarks.baselines import autoencoder, fit_pca, mean_squared_error, train_autoencoder
from pcgen.benchmarks.reconstruction import interval
from pcgen.commands import bench_reconstruction as benchmarks
from pcgen.config import from_dict
from pcgen.data.sources import open_data


def test_pca_is_as_good_as_scikit_learns() -> None:
    images, test = open_data("digits"), open_data("digits:test")
    pixels, held_out = images.rows(range(len(images))).pixels_BD, test.rows(range(len(test)))
    reference = decomposition.PCA(10).fit(pixels.numpy())
    data = held_out.pixels_BD.numpy()
    expected = ((reference.inverse_transform(reference.transform(data)) - data) ** 2).mean()
    assert mean_squared_error(fit_pca(images, 10), test) == pytest.approx(expected, rel=1e-5)


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
    _, early = train_autoencoder(recipe, images, test, 3e-3, 1, cpu)
    model, best = train_autoencoder(recipe, images, test, 3e-3, 30, cpu)
    assert best < 0.7 * early
    assert mean_squared_error(model, test) == pytest.approx(best, rel=1e-6)


def test_the_interval_is_students() -> None:
    values = [1.0, 2.0, 4.0]
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values))
    assert interval(values) == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))
    assert interval([1.0]) == (None, None)


def test_the_reconstruction_table_has_the_promised_columns_and_baselines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import msgspec

    from pcgen.benchmarks import reconstruction as benchmark

    monkeypatch.setattr(benchmark, "_AUTOENCODER_EPOCHS", 1)
    resolve = benchmarks.resolve_recipe

    def short(name: str) -> object:
        recipe = resolve(name)
        quick = msgspec.structs.replace(recipe.learning, epochs=1)
        return msgspec.structs.replace(recipe, learning=quick)

    monkeypatch.setattr(benchmarks, "resolve_recipe", short)
    rows = benchmarks.bench_reconstruction(["digits"], seeds=2)
    promised = {"dataset", "method", "metric", "value", "ci_low", "ci_high", "published"}
    assert all(promised | {"source", "seconds"} <= row.keys() for row in rows)
    methods = [row["method"] for row in rows]
    assert methods[0] == "pcn"
    assert any(method.startswith("backprop") for method in methods)
    assert any(method.startswith("pca-16") for method in methods)
    assert all(row["ci_low"] < row["value"] < row["ci_high"] for row in rows)
