"""Scores of a network: known equalities, what is unusual to them, what they must not see."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import Tensor

import pcgen
from pcgen.config import InferenceTable, ModelTable, PrecisionTable
from pcgen.data.arrays import images_of
from pcgen.data.images import Images, split
from pcgen.data.request import DataRequest
from pcgen.data.sources import open_data
from pcgen.device import generator
from pcgen.errors import DataError
from pcgen.model.network import Network, build
from pcgen.ood import scores
from pcgen.ood.scores import PCScorer
from pcgen.storage.checkpoint import load_model

TABLE = InferenceTable(test_steps=100, tolerance=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Images, Images]:
    """Return a small network of digits, what it was trained on, and held-out digits."""
    run = tmp_path_factory.mktemp("run")
    settings = ["learning.epochs=15", "data.validation=0.3", "data.calibration=0"]
    result = pcgen.train("digits-ood", run / "digits", settings=settings, device="cpu")
    network = load_model(result.checkpoint).network
    kept, held_out = split(open_data("digits"), 0.3, result.recipe.seed)
    return network, kept, held_out


@pytest.fixture(scope="module")
def scorer(trained: tuple[Network, Images, Images]) -> PCScorer:
    network, kept, _ = trained
    return scores.fit(network, kept, TABLE)


def _pixels(images: Images) -> Tensor:
    return images.rows(range(len(images))).pixels_BD


def _auroc(known: Tensor, unusual: Tensor) -> float:
    truth = [0] * len(known) + [1] * len(unusual)
    return float(roc_auc_score(truth, torch.cat([known, unusual]).numpy()))


def _array(rows: Tensor) -> Images:
    return images_of(rows.numpy().reshape(-1, 8, 8), "rows", DataRequest("rows"))


def test_a_linear_networks_free_energy_is_the_likelihood_of_ppca() -> None:
    data = _pixels(open_data("digits")).double()
    data = data + 0.05 * torch.randn(data.shape, dtype=torch.float64, generator=generator(0))
    data = data.clamp(0, 1)
    fitted = PCA(10).fit(data.numpy())
    noise = float(fitted.noise_variance_)
    table = ModelTable(layers=[10], precision=PrecisionTable(data=1 / noise, latent=1.0))
    network = build(table, 64, generator(0)).to("cpu", torch.float64)
    loadings = fitted.components_.T * np.sqrt(fitted.explained_variance_ - noise)
    network.layers[0].weight.copy_(torch.from_numpy(loadings))
    network.layers[0].set_prediction(torch.from_numpy(fitted.mean_))
    covariance = loadings @ loadings.T + noise * np.eye(64)
    constant = 0.5 * (64 * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1])
    exact = InferenceTable(test_steps=200, tolerance=1e-9)
    found = scores.fit(network, _array(data.float()), exact)(data[:100])["free-energy"]
    expected = -fitted.score_samples(data[:100].numpy()) - constant
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_every_score_calls_noise_unusual(
    scorer: PCScorer, trained: tuple[Network, Images, Images]
) -> None:
    known = scorer(_pixels(trained[2]))
    strange = scorer(torch.rand(300, 64, generator=torch.Generator().manual_seed(0)))
    for name in scorer.names:
        assert _auroc(known[name], strange[name]) > 0.9, name


def test_two_halves_of_the_known_images_cannot_be_told_apart(
    scorer: PCScorer, trained: tuple[Network, Images, Images]
) -> None:
    found = scorer(_pixels(trained[2]))
    for name in scorer.names:
        first, second = found[name][::2], found[name][1::2]
        # Three standard errors of an AUROC of .5 with 269 and 270 images.
        assert abs(_auroc(first, second) - 0.5) < 0.075, name


def test_images_that_are_too_easy_have_little_energy_and_unusual_layers(
    scorer: PCScorer, trained: tuple[Network, Images, Images]
) -> None:
    known = scorer(_pixels(trained[2]))
    mean = _pixels(trained[1]).mean(0)
    easy = scorer(mean + 0.02 * torch.rand(100, 64, generator=torch.Generator().manual_seed(0)))
    assert _auroc(known["free-energy"], easy["free-energy"]) < 0.1
    assert _auroc(known["energy-layers"], easy["energy-layers"]) > 0.95


def test_the_class_of_least_energy_is_mostly_the_digit(
    scorer: PCScorer, trained: tuple[Network, Images, Images]
) -> None:
    held_out = trained[2]
    assert held_out.labels is not None
    found = scorer(_pixels(held_out))["class_argmin"]
    assert (found == held_out.labels).double().mean() > 0.95


@pytest.mark.parametrize("size", [1, 7, 40])
def test_an_images_scores_do_not_depend_on_its_batch(
    scorer: PCScorer, trained: tuple[Network, Images, Images], size: int
) -> None:
    data = _pixels(trained[2])[:40]
    whole = scorer(data)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(size))
    parts = [scorer(part) for part in torch.split(data[order], size)]
    for name, column in whole.items():
        again = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(again, column[order], rtol=1e-3, atol=1e-3, msg=name)


def test_the_layers_energies_add_up_to_the_free_energy(
    scorer: PCScorer, trained: tuple[Network, Images, Images]
) -> None:
    found = scorer(_pixels(trained[2]))
    layers = sum(column for name, column in found.items() if name.startswith("energy_layer_"))
    assert isinstance(layers, Tensor)
    torch.testing.assert_close(layers, found["free_energy_nats"], rtol=1e-4, atol=1e-4)
    assert (found["delta_energy_nats"] >= 0).all()


def test_stored_scores_are_the_same_to_the_bit(
    scorer: PCScorer, trained: tuple[Network, Images, Images]
) -> None:
    network, _, held_out = trained
    again = scores.load(network, TABLE, scorer.tensors(), scorer.shape)
    data = _pixels(held_out)[:100]
    found, expected = again(data), scorer(data)
    assert set(found) == set(expected)
    for name, column in expected.items():
        assert torch.equal(found[name], column), name


def test_the_heat_map_is_the_size_of_the_prediction_error(
    scorer: PCScorer, trained: tuple[Network, Images, Images]
) -> None:
    data = _pixels(trained[2])[:5]
    found = scorer.heatmap(data)
    assert found.shape == (5, 64)
    found_energy = 0.5 * found.square().sum(1) * trained[0].log_precisions[0].exp()
    torch.testing.assert_close(found_energy, scorer(data)["energy_layer_0"], rtol=1e-4, atol=1e-5)


def test_without_labels_there_is_no_class(trained: tuple[Network, Images, Images]) -> None:
    network, kept, held_out = trained
    found = scores.fit(network, _array(_pixels(kept)), TABLE)(_pixels(held_out)[:10])
    assert "class_argmin" not in found
    assert found["class-energy"].isfinite().all()


def test_a_network_with_a_label_layer_is_scored_with_its_labels_free() -> None:
    images = open_data("digits", limit=200)
    table = ModelTable(layers=[8, 16], labels=True, precision=PrecisionTable(latent=1.0))
    network = build(table, images.shape, generator(0), 10)
    found = scores.fit(network, images, TABLE)(_pixels(images)[:20])
    assert all(column.isfinite().all() for column in found.values())


@pytest.mark.parametrize(("hidden", "looked_at"), [(1.0, [0, 1, 2]), (1e6, [0, 2])])
def test_layers_that_hold_no_energy_to_speak_of_are_not_looked_at(
    hidden: float, looked_at: list[int]
) -> None:
    images = open_data("digits", limit=100)
    precision = PrecisionTable(hidden=hidden, latent=1.0)
    network = build(ModelTable(layers=[8, 16], precision=precision), images.shape, generator(0))
    table = InferenceTable(solver="errors", test_steps=100)
    found = scores.fit(network, images, table)
    assert found.counted_F.tolist() == looked_at
    assert found(_pixels(images))["energy-layers"].isfinite().all()


def test_scores_of_a_single_image_are_refused(trained: tuple[Network, Images, Images]) -> None:
    network, kept, _ = trained
    with pytest.raises(DataError, match="two images or more"):
        scores.fit(network, kept.head(1), TABLE)


def test_the_combined_scores_parts_are_scores(scorer: PCScorer) -> None:
    assert set(scorer.components) < set(scorer.names)


@pytest.mark.data
def test_the_shipped_model_tells_clothes_from_digits(real_data: Path) -> None:
    from pcgen import shipped

    path = shipped.model_path("mnist-ood")
    assert path is not None
    model = load_model(path)
    digits = open_data("mnist:test", data_dir=real_data, limit=500)
    clothes = open_data("fashion-mnist:test", data_dir=real_data, limit=500)
    known = open_data("mnist", data_dir=real_data, limit=2000)
    found = scores.fit(model.network, known, model.recipe.inference)
    usual, strange = found(_pixels(digits)), found(_pixels(clothes))
    assert _auroc(usual["free-energy"], strange["free-energy"]) > 0.99
    assert _auroc(usual["class-energy"], strange["class-energy"]) > 0.97


def test_the_number_of_known_images_decides_on_memory_and_densities(
    trained: tuple[Network, Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, kept, held_out = trained
    known, new = _pixels(held_out)[:60], 1 - _pixels(held_out)[:60]

    def has(dense: int, few: int, own: tuple[str, ...], parts: tuple[str, ...]) -> None:
        monkeypatch.setattr("pcgen.ood.scores.scorer._DENSE", dense)
        monkeypatch.setattr("pcgen.ood.scores.scorer._FEW", few)
        fitted = scores.fit(network, kept.head(200), TABLE)
        loaded = scores.load(network, TABLE, fitted.tensors(), held_out.shape)
        assert fitted.components == loaded.components == parts
        assert (fitted.alarms == scores.ALARMS_OF_FEW) == (parts == scores.COMPONENTS_OF_FEW)
        optional = {"twin-memory", "latent-density", "twin-density"}
        assert optional & {*fitted.names} == optional & {*fitted(known)} == {*own}
        for name in own:
            found = [fitted(part)[name] for part in (known, new)]
            assert _auroc(*found) > 0.95
            assert torch.equal(loaded(known)[name], found[0])

    has(500, 5000, ("twin-memory",), scores.COMPONENTS_OF_VERY_FEW)
    has(200, 5000, ("latent-density", "twin-density"), scores.COMPONENTS_OF_FEW)
    has(200, 200, ("twin-density",), scores.COMPONENTS)
