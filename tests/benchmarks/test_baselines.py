"""Baselines and the benchmark's arithmetic."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from sklearn import decomposition

import pcgen
from pcgen.benchmarks.baselines import (
    PCA,
    AutoDecoder,
    autoencoder,
    fit_pca,
    held,
    mean_squared_error,
    train_autoencoder,
    with_encoder,
)
from pcgen.benchmarks.table import Measured, interval
from pcgen.benchmarks.training import train_by
from pcgen.config import from_dict
from pcgen.data.sources import open_data
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.validate import measure


def test_pca_is_as_good_as_scikit_learns() -> None:
    images, test = open_data("digits"), open_data("digits:test")
    pixels, held_out = images.rows(range(len(images))).pixels_BD, test.rows(range(len(test)))
    reference = decomposition.PCA(10).fit(pixels.numpy())
    data = held_out.pixels_BD.numpy()
    expected = ((reference.inverse_transform(reference.transform(data)) - data) ** 2).mean()
    assert mean_squared_error(fit_pca(images, 10), test) == pytest.approx(expected, rel=1e-5)


def test_mirrored_pca_is_that_of_the_images_and_their_mirror_images() -> None:
    images = open_data("digits", limit=300)
    pixels = images.rows(range(300)).pixels_BD.view(-1, 8, 8)
    both = open_data(torch.cat([pixels, pixels.flip(2)]).numpy())
    expected = fit_pca(both, 10)(pixels.flatten(1))
    found = fit_pca(images, 10, mirror=True)(pixels.flatten(1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


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
    leaves = [m for m in model.modules() if not list(m.children()) and not list(m.parameters())]
    assert [type(m).__name__ for m in leaves] == ["GELU", "GELU", "Sigmoid"]


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


def test_the_auto_decoder_moves_the_latent_alone_to_the_least_energy() -> None:
    recipe = from_dict(
        {
            "model": {"layers": [4, 16, 16], "start": "linear", "precision": {"latent": 0.1}},
            "learning": {"epochs": 4, "batch_size": 50, "warmup": 0},
        }
    )
    images, test = open_data("digits", limit=200), open_data("digits:test", limit=50)
    recipe = held(recipe, rate=6e-3)
    cpu = torch.device("cpu")
    network, error = train_by(AutoDecoder, recipe, images, test, cpu, lambda *_: None)
    found = measure(network, test, recipe.inference)
    assert found.mse == pytest.approx(error)
    assert found.mse == pytest.approx(found.mse_last_hidden, rel=1e-4)
    assert error < 0.9 * float(test.rows(range(50)).pixels_BD.var(0).mean())

    data_BD = test.rows(range(50)).pixels_BD
    end = infer(prepare(network, recipe.inference), data_BD, steps=300, tolerance=1e-7)
    latent = end.states[-1].requires_grad_()
    loss = 0.5 * (network.decode(latent) - data_BD).square().sum() + 0.05 * latent.square().sum()
    (slope,) = torch.autograd.grad(loss, latent)
    assert slope.abs().max() < 0.02
    assert loss.item() == pytest.approx(float(end.energy_B.sum()), rel=1e-4)


@pytest.mark.parametrize(
    "layers",
    [[3, 5], [6, [2, 2, 2], [3, 4, 4], 5], [[3, 2, 2], [2, 4, 4]]],
    ids=["dense", "mixed", "maps"],
)
def test_an_autoencoder_as_a_network_decodes_its_code(layers: list[int | list[int]]) -> None:
    recipe = from_dict({"model": {"layers": layers, "output": "sigmoid"}})
    images = open_data(torch.rand(5, 8, 8, 3))
    assert images.shape == (3, 8, 8)
    model = autoencoder(recipe, images.shape)
    data_BD = images.rows(range(5)).pixels_BD
    network = with_encoder(held(recipe), model, images, prior=0.0)
    decoded = network.decode(network.start_latent(data_BD))
    torch.testing.assert_close(decoded, model(data_BD).detach(), rtol=1e-4, atol=1e-5)


def test_inference_of_the_code_improves_an_autoencoder() -> None:
    table = {"layers": [8, 16], "precision": {"latent": 0.01}}
    recipe = from_dict({"model": table, "learning": {"batch_size": 20, "warmup": 0}})
    images, test = open_data("digits", limit=200), open_data("digits:test", limit=100)
    model, _ = train_autoencoder(recipe, images, test, 5, torch.device("cpu"), 1e-2)
    network = with_encoder(held(recipe), model, images, prior=0.01)
    plain = mean_squared_error(model, test)
    assert measure(network, test, held(recipe).inference).mse < 0.95 * plain


def test_a_difference_is_paired_by_seeds() -> None:
    ours, other = Measured("a", "mse", [1.0, 3.0, 5.0]), Measured("b", "mse", [2.0, 4.5, 6.5])
    low, high = stats.t.interval(0.95, 2, loc=4 / 3, scale=stats.sem([1.0, 1.5, 1.5]))
    expected = {"difference": 4 / 3, "difference_low": low, "difference_high": high}
    assert other.against(ours) == pytest.approx(expected)


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
    monkeypatch.setattr("pcgen.benchmarks.reconstruction._AUTOENCODER_LEAST", 1)
    short = ["learning.epochs=1", "inference.test_steps=20"]
    rows = pcgen.bench_reconstruction(["digits"], seeds=2, settings=short)
    value = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert value["pcn", "mse_last_hidden"] < value["pcn", "mse"]
    assert value["pca-16, clipped to [0, 1]", "mse"] < value["pca-16", "mse"]
    assert value["pca-16", "mse"] < value["backprop autoencoder, same decoder", "mse"] < 0.2
    inferred = value["backprop autoencoder, same decoder, code inferred", "mse"]
    assert inferred < value["backprop autoencoder, same decoder", "mse"]
    assert 0 < value["pcn", "hidden_share"] < 1
    # The recipe sets no largest norm, so there is one auto-decoder.
    (decoder,) = (row for row in rows if "auto-decoder" in row["method"])
    assert decoder["difference"] == pytest.approx(decoder["value"] - value["pcn", "mse"])
    assert decoder["note"] in {"rate 0.0015", "rate 0.003", "rate 0.006", "rate 0.012"}
    assert "difference" not in rows[0]
    assert all(row["ci_low"] < row["value"] < row["ci_high"] for row in rows)
