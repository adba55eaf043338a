"""The benchmark of unusual data: its sets, its methods, its table and the scores that it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pcgen.benchmarks.ood import families
from pcgen.benchmarks.ood.families import Recipes, dense_recipe
from pcgen.benchmarks.ood.family_scores import KNOWN, PART_A, PART_B, FamilyScores
from pcgen.benchmarks.ood.metrics import METRICS
from pcgen.benchmarks.ood.sets import Known, left_out, unusual_sets
from pcgen.benchmarks.ood.table import combined
from pcgen.cli.main import cli
from pcgen.commands import bench_ood as benchmarks
from pcgen.config import from_dict
from pcgen.data.shifts import SHIFTS
from pcgen.data.sources import open_data
from pcgen.errors import DataError, RecipeError
from pcgen.ood.conformal import fisher

SILENT = lambda *words: None  # noqa: E731
CPU = torch.device("cpu")


class TwoStatistics:
    """Stands for the network's scores: how bright an image is, and how rough."""

    names = ("free-energy", "roughness")
    components = ("free-energy", "roughness")

    def __call__(self, data_BD: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "free-energy": data_BD.double().sum(1),
            "roughness": data_BD.double().diff(dim=1).abs().sum(1),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the network by a stand-in and shorten training; return the trained families."""
    trained: list[str] = []

    def watched(name: str, family: families.Family) -> families.Family:
        def run(*arguments: Any) -> Any:
            trained.append(name)
            return TwoStatistics() if name == "pc" else family.train(*arguments)

        return replace(family, train=run)

    for name, family in list(families.FAMILIES.items()):
        monkeypatch.setitem(families.FAMILIES, name, watched(name, family))
    resolve = benchmarks.resolve_recipe

    def short(name: str) -> Any:
        return resolve(resolve(name), settings=["learning.epochs=2"])

    monkeypatch.setattr(benchmarks, "resolve_recipe", short)
    return trained


def test_the_split_loses_and_repeats_no_image() -> None:
    images, test = open_data("digits"), open_data("digits:test")
    known = Known.of("digits", images, test, 100, 3)
    parts = [known.kept, known.validation, known.part_a, known.part_b]
    assert [len(part) for part in parts] == [1050, 100, 144, 144]
    rows = [part.index for part in parts]
    assert all(row is not None for row in rows)
    assert sorted(torch.cat([r for r in rows if r is not None]).tolist()) == list(range(1438))


def test_the_unusual_sets_are_those_that_are_here_and_the_shifts() -> None:
    test = open_data("digits:test")
    found = unusual_sets("digits", test, lambda name: None, 50, 0)
    assert [one.name for one in found] == list(SHIFTS)
    assert all(len(one.images) == 50 for one in found)
    other = unusual_sets("mnist", test, lambda name: test if name == "usps" else None, 50, 0)
    assert [(one.name, one.kind) for one in other if one.kind != "shift"] == [("usps", "same")]
    swapped = unusual_sets("mnist", test, lambda name: test, 50, 0)
    assert "fashion-mnist, brightness matched" in [one.name for one in swapped]


def test_a_class_left_out_is_in_no_part_of_the_known() -> None:
    images, test = open_data("digits"), open_data("digits:test")
    known, (unusual,) = left_out("digits", images, test, 100, 1000, 3)
    assert known.kept.class_count == 9
    assert unusual.images.labels is not None
    assert set(unusual.images.labels.tolist()) == {3}
    assert len(known.test) + len(unusual.images) == len(test)


def test_a_dense_classifier_has_the_networks_number_of_weights() -> None:
    images = open_data("digits", limit=100)
    known = Known.of("digits", images, images, 10, 0)
    classifier = from_dict({"classifier": {}})
    mirrored = dense_recipe(
        Recipes(from_dict({"model": {"layers": [8, 32]}}), classifier), known, "pc"
    )
    assert mirrored.classifier is not None
    assert (mirrored.classifier.hidden, mirrored.classifier.rule) == ([32, 8], "pc")
    maps = from_dict({"model": {"layers": [8, [4, 4, 4]], "kernel": 3}})
    equal = dense_recipe(Recipes(maps, classifier), known, "backprop").classifier
    assert equal is not None
    first, second = equal.hidden
    assert 64 * first + first * second == pytest.approx(8 * 64 + 4 * 9 + 64 + 1, rel=0.15)


@pytest.mark.parametrize("family", ["autoencoder", "mlp", "discriminative-pcn"])
def test_each_baseline_trains_and_scores_noise_above_digits(family: str) -> None:
    images, test = open_data("digits"), open_data("digits:test")
    known = Known.of("digits", images, test, 100, 0)
    learning = {"epochs": 1, "batch_size": 100}
    network = from_dict({"model": {"layers": [8, 32]}, "learning": learning})
    classifier = from_dict({"classifier": {}, "learning": {"epochs": 2, "rate": 3e-3}})
    scorer = families.FAMILIES[family].train(known, Recipes(network, classifier), CPU, SILENT)
    digits = scorer(test.rows(range(50)).pixels_BD)
    noise = scorer(torch.rand(50, 64, generator=torch.Generator().manual_seed(0)))
    assert all(column.isfinite().all() for column in [*digits.values(), *noise.values()])
    assert any(noise[name].median() > digits[name].median() for name in scorer.names)


def test_the_network_is_compared_with_its_baselines(quick: list[str], tmp_path: Path) -> None:
    methods = ["pc", "convnet", "ppca", "trivial"]
    rows = benchmarks.bench_ood(["digits"], seeds=2, methods=methods, limit=100, out=tmp_path)
    noise = [r for r in rows if r["dataset"] == "digits vs noise" and r["method"] == "pc-fisher"]
    assert {row["metric"]: row["value"] for row in noise}["auroc"] > 0.95
    for row in rows:
        if row["ci_low"] is not None and row["metric"] in METRICS:
            # Percentiles of draws with ties may miss the value itself by a little.
            assert row["ci_low"] - 0.02 <= row["value"] <= row["ci_high"] + 0.02
    assert "convnet msp" in {row["against"] for row in noise}
    assert {"convnet fisher", "ppca"} <= {row["method"] for row in rows}
    accuracy = [row["value"] for row in rows if row["metric"] == "accuracy"]
    assert all(0.1 < value <= 1 for value in accuracy)
    assert "convnet msp" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "ood.json").read_text()) == rows
    # Two seeds of the whole set, and two without one class.
    assert quick.count("convnet") == 4


@pytest.mark.parametrize("alarms", [0, 1])
def test_a_classifiers_scores_are_combined_as_the_networks_are(alarms: int) -> None:
    source = np.random.default_rng(0)
    parts = families.FAMILIES["convnet"].parts
    sets = {
        key: {name: source.normal(size=40) + shift for name in (*parts, "msp")}
        for key, shift in ((KNOWN, 0), (PART_A, 0), (PART_B, 0), ("noise", 3))
    }
    scores = FamilyScores("convnet", (*parts, "msp"), parts, parts[:alarms], sets, 1.0, 1.0, {})
    columns = combined(scores)
    stacked = [np.column_stack([sets[key][n] for n in parts]) for key in ("noise", PART_A)]
    are_alarms = [name in parts[:alarms] for name in parts]
    assert columns["noise"]["fisher"] == pytest.approx(fisher(*stacked, are_alarms))
    assert columns[KNOWN]["fisher"].max() < np.median(columns["noise"]["fisher"])


def test_kept_scores_are_used_again_for_the_same_images_alone(
    quick: list[str], tmp_path: Path
) -> None:
    def run(limit: int) -> list[dict[str, Any]]:
        quick.clear()
        return benchmarks.bench_ood(
            ["digits"], seeds=2, methods=["ppca"], limit=limit, out=tmp_path
        )

    rows = run(50)
    assert quick == ["ppca"] * 4
    assert run(50) == rows
    assert quick == []
    (tmp_path / "scores" / "digits-ppca-1.npz").write_bytes(b"cut short")
    run(50)
    assert quick == ["ppca"]
    run(40)
    assert quick == ["ppca"] * 4


def test_the_command_shows_the_table(quick: list[str]) -> None:
    words = ["bench", "ood", "--data", "digits", "--seeds", "1", "--methods", "pc,trivial"]
    words += ["--limit", "100"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "pc-fisher" in result.stdout
    as_json = CliRunner().invoke(cli, [*words, "--json", "-q"])
    assert "pc-fisher" in {row["method"] for row in json.loads(as_json.stdout)["table"]}


def test_unknown_families_and_data_without_recipes_are_refused() -> None:
    with pytest.raises(RecipeError, match="no methods pcc"):
        benchmarks.bench_ood(["digits"], methods=["pcc"])
    with pytest.raises(RecipeError, match="iris"):
        benchmarks.bench_ood(["iris"])


def test_an_image_that_cannot_be_read_stops_the_benchmark(quick: list[str], tmp_path: Path) -> None:
    from pcgen.benchmarks.ood.family_scores import score_sets
    from pcgen.data.arrays import images_of
    from pcgen.data.request import DataRequest

    values = np.random.default_rng(0).random((60, 8, 8)).astype(np.float32)
    labels = np.arange(60) % 3
    good = images_of(values, "good", DataRequest("good"), labels=labels)
    values = values.copy()
    values[7] = np.nan
    broken = images_of(values, "broken", DataRequest("broken"), labels=labels)
    known = Known.of("good", good, broken, 10, 0)
    recipe = from_dict({})
    with pytest.raises(DataError, match=r"broken\[7\]"):
        score_sets("trivial", known, [], Recipes(recipe, recipe), CPU, SILENT)
