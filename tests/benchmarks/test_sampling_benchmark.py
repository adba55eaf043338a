"""The sampling table, small: its values for generators whose quality is known."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import pcgen
from pcgen.benchmarks.sampling import emd, generators, likelihood
from pcgen.benchmarks.sampling.benchmark import _Judge, image_rows
from pcgen.benchmarks.sampling.generators import Generator
from pcgen.benchmarks.sampling.speed import chain_rows
from pcgen.benchmarks.training import train_network
from pcgen.cli.main import cli
from pcgen.data.images import split
from pcgen.data.sources import open_data
from pcgen.model.network import Network
from tests.learning.test_posterior import recipe

SILENT = lambda stage, done, total: None  # noqa: E731
CPU = torch.device("cpu")
# Of the distances of a table.
SMALL = (("_LARGER", 3), ("_SPLITS", 1))


class Classifier:
    """The pixels as features, and ten of their sums as logits."""

    def features(self, data_BD: Tensor) -> Tensor:
        return data_BD

    def logits_of(self, features_BF: Tensor) -> Tensor:
        return features_BF.view(len(features_BF), -1)[:, :60].view(-1, 10, 6).sum(2)


@pytest.fixture(scope="module")
def network() -> Network:
    model = recipe(data={"limit": 300, "validation": 60})
    kept, held_out = split(open_data("digits", limit=300), 60, 0)
    return train_network(model, kept, held_out, CPU)


@torch.no_grad()
def test_training_images_are_nearer_to_the_test_images_than_any_samples(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_VAE_EPOCHS", "_DECODER_EPOCHS", "_FITTING_STEPS"):
        monkeypatch.setattr(generators, name, 1)
    model = recipe(data={"limit": 300, "validation": 60})
    test, images = open_data("digits:test", limit=200), open_data("digits", limit=300)
    rows = image_rows("digits", model, network, images, test, Classifier(), 200, SILENT)
    frechet = {row["method"]: row["value"] for row in rows if row["metric"] == "frechet"}
    names = {"pcn", "pcn, means of its causes alone", "ppca-3", "vae"}
    fitted = {"ppca-3", "vae", "auto-decoder", "pcn without noise"}
    assert names | {f"{name}, 4 causes fitted after" for name in fitted} < frechet.keys()
    numbers = {row["method"]: row["parameters"] for row in rows if row["metric"] == "frechet"}
    mixture = 4 * (1 + 3 + 9) + 1
    assert numbers["ppca-3"] == 64 + 3 * 64 + 4
    assert numbers["ppca-3, 4 causes fitted after"] == 64 + 3 * 64 + mixture
    weights, start = sum(tensor.numel() for tensor in network.weights()), 65 * 3
    assert numbers["auto-decoder, 4 causes fitted after"] == weights + start + mixture
    assert numbers["pcn"] > weights + mixture - 1
    assert frechet["training images"] == min(frechet.values())
    # A network that samples its states learns a better prior than one epoch of its baselines.
    assert frechet["pcn"] < frechet["vae"]


@torch.no_grad()
def test_copies_and_missing_classes_show_in_the_table() -> None:
    images, test = open_data("digits", limit=400), open_data("digits:test", limit=300)
    train = images.rows(range(400)).pixels_BD
    judge = _Judge(Classifier(), test.rows(range(300)), train, "digits")

    def values(drawn: Tensor) -> dict[str, float]:
        rows = judge.rows(Generator("a", lambda count, seed: drawn, None, 0.0), drawn)
        return {row["metric"]: row["value"] for row in rows}

    copies, real = values(train[:300]), values(test.rows(range(300)).pixels_BD)
    near = "as near as the nearest 1 % of test images"
    assert copies["nearest training image"] < 0.05
    assert copies[near] == 1
    assert real["nearest training image"] == 1
    assert real[near] < 0.02
    assert real["frechet"] == pytest.approx(0, abs=1e-4)
    one = values(train[:1].expand(300, -1))
    # All samples are of one class, of which about a tenth of the data is.
    assert one["class frequencies off by"] > 0.8
    assert one["inception score"] == pytest.approx(1, abs=1e-6)
    assert one["recall"] < 0.1


@torch.no_grad()
def test_likelihoods_have_bounds_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "_VAE_EPOCHS", 1)
    for name, value in (("_ROWS", 20), ("_TEMPERATURES", 10), ("_DRAWS", 200)):
        monkeypatch.setattr(likelihood, name, value)
    model = recipe(data={"limit": 200, "validation": 40}, learning={"epochs": 2})
    images, test = open_data("digits", limit=200), open_data("digits:test", limit=20)
    rows = likelihood.likelihood_rows("digits", model, images, test, SILENT)
    value = {(row["method"], row["metric"]): row["value"] for row in rows}
    for row in rows:
        assert row["ci_low"] < row["value"] < row["ci_high"]
    for method in ("pcn", "vae"):
        assert -64 < value[method, "log-likelihood"] < 0
        simulated = "log-likelihood of simulated images"
        gap = (
            value[method, f"{simulated}, upper bound"] - value[method, f"{simulated}, lower bound"]
        )
        assert value[method, "gap of the bounds"] == pytest.approx(gap, abs=1e-4)
        assert -0.2 < gap < 1
    # The same decoder by another estimate.
    paired = value["pcn", "log-likelihood minus the VAE's"]
    apart = value["pcn", "log-likelihood"] - value["vae", "log-likelihood"]
    assert paired == pytest.approx(apart, abs=1e-3)
    weighted = value["vae, weighted draws of its encoder", "log-likelihood"]
    assert value["vae", "log-likelihood"] == pytest.approx(weighted, abs=0.3)


@torch.no_grad()
def test_chains_are_timed_beside_the_published_sampler(network: Network) -> None:
    model = recipe(data={"limit": 300, "validation": 60})
    rows = chain_rows("digits", model, network, open_data("digits:test"), SILENT, steps=200)
    targets = {"free": False, "given an image": True, "given half an image": True}
    for target, jumps in targets.items():
        speeds = {
            r["method"]: r["value"] for r in rows if r["metric"].endswith(f"second, {target}")
        }
        assert min(speeds.values()) > 0
        assert ("kinetic, jumps between modes" in speeds) == jumps
        ratio = speeds["kinetic"] / speeds["momentum, published"]
        assert speeds["kinetic over momentum, published"] == pytest.approx(ratio)
    mixed = {r["method"]: r["value"] for r in rows if r["metric"] == "r-hat, given half an image"}
    assert 0.99 < mixed["kinetic, jumps between modes"] < mixed["momentum, published"]
    accepted = [r["value"] for r in rows if r["metric"].startswith("accepted jumps")]
    assert min(accepted) > 0.05


@torch.no_grad()
def test_a_table_is_compared_with_its_own_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL:
        monkeypatch.setattr(emd, name, value)
    images = open_data("iris", columns=["sepal length (cm)", "petal length (cm)"])
    model = recipe(
        data={"source": "iris", "validation": 0},
        model={"likelihood": "gaussian", "layers": [2, 8]},
        learning={"epochs": 5, "batch_size": 150},
    )
    small = train_network(model, images, images.head(10), CPU)
    rows = emd.table_rows("iris", model, small, images, SILENT, sets=20)
    value = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert 0.03 < value["data resampled", "emd"] < 0.15
    assert value["two halves of the data", "emd"] > value["data resampled", "emd"]
    assert value["data resampled", "emd, 3 samples a row"] < value["data resampled", "emd"]
    assert value["pcn", "emd"] > value["data resampled", "emd"]
    assert value["pcn trained on one half", "emd to the other half"] > 0.05
    likely = {r["method"]: r for r in rows if r["metric"] == "held-out log-likelihood"}
    assert len(likely) == 4
    assert likely["pcn"]["difference"] == 0
    few = likely["Gaussian mixture, 3 components"]
    assert few["difference"] == pytest.approx(few["value"] - likely["pcn"]["value"])
    assert "Gaussian mixture, one component a row" in likely
    assert few["parameters"] == 17
    assert value["pcn", "emd, best set"] <= value["pcn", "emd"]
    assert 0 <= value["pcn", "histogram of petal length (cm)"] <= 1


def test_the_command_measures_the_shipped_iris(monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(pcgen.bench_sampling, sets=20)
    monkeypatch.setattr(pcgen, "bench_sampling", few, raising=False)
    for name, value in SMALL:
        monkeypatch.setattr(emd, name, value)
    monkeypatch.setattr(emd, "_halves_rows", lambda *words: [])
    result = CliRunner().invoke(cli, ["bench", "sampling", "--data", "iris", "--json", "-q"])
    assert result.exit_code == 0, result.stderr
    cells = {(r["method"], r["metric"]): r for r in json.loads(result.stdout)["table"]}
    assert cells["pcn", "emd"]["value"] < 0.1
    assert cells["pcn", "emd"]["published"] == 0.06
    assert cells["pcn", "emd"]["value"] < cells["two halves of the data", "emd"]["value"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "letters"), "letters: no such sampler"),
        (("--methods", "looks"), "looks: no such part"),
        (("--data", "iris,mnist", "--model", "iris"), "--model has learned one data set"),
        (("--data", "digits", "--model", "iris"), "iris: has learned iris, not digits"),
    ],
)
def test_unknown_samplers_and_parts_are_refused(words: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(cli, ["bench", "sampling", *words])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
