"""The sampling table, small: every row is there, and says what it should of known generators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pcgen.data.images import split
from pcgen.data.sources import open_data
from pcgen.evaluation import sampling_benchmark as benchmark
from pcgen.evaluation.benchmark import train_network
from pcgen.evaluation.sampling_speed import chain_rows
from pcgen.model.network import Network
from tests.learning.test_posterior import recipe

SILENT = lambda stage, done, total: None  # noqa: E731
CPU = torch.device("cpu")


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


def test_every_method_is_judged_in_the_same_way(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_VAE_EPOCHS", "_NOISELESS_EPOCHS"):
        monkeypatch.setattr(benchmark, name, 1)
    model = recipe(data={"limit": 300, "validation": 60})
    test = open_data("digits:test", limit=200)
    images = open_data("digits", limit=300)
    rows = benchmark.image_rows("digits", model, network, images, test, Classifier(), 200, SILENT)
    methods = {row["method"] for row in rows}
    assert methods >= {"pcn", "vae", "ppca-3", "pcn without noise, whitened", "training images"}
    of_pcn = {row["metric"]: row["value"] for row in rows if row["method"] == "pcn"}
    assert of_pcn.keys() == {
        *("frechet", "inception score", "precision", "recall"),
        *("nearest training image", "class frequencies off by"),
    }
    found = {(row["method"], row["metric"]): row for row in rows}
    floor = found["training images", "frechet"]["value"]
    assert floor < min(found[m, "frechet"]["value"] for m in methods if (m, "recall") in found)
    assert found["vae", "frechet"]["published"] == 4.19


def test_likelihoods_have_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_VAE_EPOCHS", 1), ("_ROWS", 4), ("_TEMPERATURES", 30), ("_DRAWS", 50)):
        monkeypatch.setattr(benchmark, name, value)
    model = recipe(data={"limit": 200, "validation": 40}, learning={"epochs": 2})
    images, test = open_data("digits", limit=200), open_data("digits:test", limit=20)
    rows = benchmark.likelihood_rows("digits", model, images, test, SILENT)
    assert [row["method"] for row in rows] == ["pcn", "vae"]
    for row in rows:
        assert -64 < row["ci_low"] < row["value"] < row["ci_high"] < 0


def test_chains_are_timed_beside_the_published_sampler(network: Network) -> None:
    model = recipe(data={"limit": 300, "validation": 60})
    rows = chain_rows("digits", model, network, 60, SILENT)
    names = [row["method"] for row in rows]
    assert names == ["kinetic, errors", "kinetic, states", "momentum, published"]
    assert all(row["value"] > 0 for row in rows)


def test_a_table_is_compared_with_its_own_halves() -> None:
    images = open_data("iris", columns=["sepal length (cm)", "petal length (cm)"])
    model = recipe(
        data={"source": "iris", "validation": 0},
        model={"likelihood": "gaussian", "layers": [2, 8]},
        learning={"epochs": 5, "batch_size": 150},
    )
    small = train_network(model, images, images.head(10), CPU)
    rows = benchmark.table_rows("iris", small, images, SILENT)
    found = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert 0.03 < found["data resampled", "emd"] < 0.15
    assert found["two halves of the data", "emd"] > found["data resampled", "emd"]
    assert found["pcn", "emd"] > 0
    assert 0 <= found["pcn", "histogram of petal length (cm)"] <= 1
