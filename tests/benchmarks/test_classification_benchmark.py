"""The table of classifiers: every variant is one setting, and its rows say what they compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import pcgen
from pcgen.benchmarks.classification import PUBLISHED, SETTINGS, VARIANTS, variant
from pcgen.cli.main import cli
from pcgen.commands.progress import Event
from pcgen.commands.recipes import resolve_recipe
from pcgen.errors import RecipeError

QUICK = ["data.limit=300", "data.validation=50", "learning.epochs=2"]


@pytest.mark.parametrize("dataset", ["digits", *SETTINGS])
def test_variants_share_network_epochs_and_batches(dataset: str) -> None:
    recipe = resolve_recipe(f"{dataset}-pc-classifier")
    made = {name: variant(recipe, dataset, name) for name in VARIANTS}
    shared = set()
    for each in made.values():
        table = each.classifier
        assert table is not None
        network = (table.kind, tuple(table.channels), tuple(table.hidden))
        shared.add((*network, table.weights, each.learning.epochs, each.learning.batch_size))
        assert each.data == recipe.data
    assert len(shared) == 1
    assert made["iPC"].learning.incremental
    for name in ("BP-SE", "PN", "CN"):
        assert not made[name].learning.incremental
    assert all(names.keys() == VARIANTS.keys() for names in PUBLISHED.values())


def test_rows_compare_with_backprop_of_the_same_label_energy(tmp_path: Path) -> None:
    names = ["PC-CE", "NN", "BP-SE"]
    rows = pcgen.bench_classification(
        ["digits"], variants=names, seeds=2, settings=QUICK, out=tmp_path
    )
    assert [row["method"] for row in rows] == ["BP-SE", "PC-CE", "NN"]
    assert "difference" not in rows[0]
    assert "difference" not in rows[1]
    assert rows[2]["difference"] == pytest.approx(rows[2]["value"] - rows[0]["value"])
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in rows)
    assert json.loads((tmp_path / "classification.json").read_text()) == rows
    assert "test error" in (tmp_path / "index.html").read_text()


def test_one_seed_at_a_time_gives_the_values_of_all_seeds_at_once(tmp_path: Path) -> None:
    words = {"variants": ["PC-SE", "BP-SE"], "settings": QUICK}
    notes, written = [], []

    def listen(event: Event) -> None:
        if event.note:
            notes.append(event.note)
            rows = json.loads((tmp_path / "classification.json").read_text())
            written.append([len(row["values"]) for row in rows])

    both = pcgen.bench_classification(
        ["digits"], seeds=2, out=tmp_path, on_progress=listen, **words
    )
    second = pcgen.bench_classification(["digits"], seeds=1, seed=1, **words)
    assert [row["values"][1:] for row in both] == [row["values"] for row in second]
    assert second[0]["seed"] == 1
    assert written == [[1], [2], [2, 1], [2, 2]]
    assert notes[1] == f"digits, BP-SE, seed 1: accuracy {second[0]['value']:.4f}"


def test_what_cannot_be_compared_is_refused_before_training() -> None:
    with pytest.raises(RecipeError, match="no variant XY"):
        pcgen.bench_classification(["digits"], variants=["XY"])
    with pytest.raises(RecipeError, match="letters-pc-classifier: no such recipe"):
        pcgen.bench_classification(["letters"])
    with pytest.raises(RecipeError, match=r"inference.steps: expected `int` >= 1"):
        pcgen.bench_classification(["digits"], settings=["inference.steps=0"])


def test_the_command_prints_the_table() -> None:
    words = ["bench", "classification", "--data", "digits", "--variants", "PC-SE,BP-SE", "-q"]
    settings = [word for each in QUICK for word in ("--set", each)]
    result = CliRunner().invoke(cli, [*words, "--seeds", "1", *settings, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["table"]
    assert [row["method"] for row in rows] == ["BP-SE", "PC-SE"]
