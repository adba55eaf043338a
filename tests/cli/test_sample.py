"""`pcgen sample` from end to end on embedded data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pcgen
from pcgen import config
from pcgen.cli.main import cli
from pcgen.commands.sample import sample
from tests.learning.test_posterior import recipe


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a tiny sampler of digits."""
    out = tmp_path_factory.mktemp("digits") / "run"
    pcgen.train(recipe(), out, device="cpu")
    return out


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a tiny sampler of two columns of iris."""
    out = tmp_path_factory.mktemp("flowers") / "run"
    columns = ["sepal length (cm)", "petal length (cm)"]
    tables = config.to_dict(recipe())
    tables["data"] = {"source": "iris", "columns": columns, "validation": 0}
    tables["model"] |= {"likelihood": "gaussian", "layers": [2, 8]}
    tables["learning"] |= {"epochs": 20, "batch_size": 150}
    pcgen.train(config.from_dict(tables), out, device="cpu")
    return out


def test_images_are_drawn_into_a_picture_and_into_an_array(digits: Path, tmp_path: Path) -> None:
    for name in ("new/samples.png", "samples.npz"):
        result = run("sample", digits, "-n", "30", "--out", tmp_path / name, "--json", "-q")
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        keys = {"count", "out", "ess", "rhat", "acceptance", "pcgen", "schema", "seed", "device"}
        assert found.keys() >= keys
        assert found["count"] == 30
        assert found["ess"] is found["rhat"] is found["acceptance"] is None
    with Image.open(tmp_path / "new" / "samples.png") as picture:
        assert picture.width > 200
    with np.load(tmp_path / "samples.npz") as file:
        samples = file["samples"]
    assert samples.shape == (30, 1, 8, 8)
    assert 0 <= samples.min() <= samples.max() <= 1
    assert samples.std(0).mean() > 0.01


def test_a_table_is_drawn_in_the_units_of_its_columns(flowers: Path, tmp_path: Path) -> None:
    out = tmp_path / "flowers.csv"
    assert run("sample", flowers, "-n", "200", "--out", out).exit_code == 0
    with out.open() as file:
        header, *rows = csv.reader(file)
    assert header == ["sepal length (cm)", "petal length (cm)"]
    values = np.array(rows, dtype=float)
    assert values.shape == (200, 2)
    assert 5 < values[:, 0].mean() < 6.6
    assert 2.5 < values[:, 1].mean() < 5
    # It reads back as data, by the columns' names, also out of a wider table.
    assert run("reconstruct", flowers, out, "--limit", "5").exit_code == 0
    assert run("reconstruct", flowers, "iris", "--limit", "5").exit_code == 0


def test_a_model_that_did_not_learn_to_sample_says_so() -> None:
    result = run("sample", "digits", "-n", "3", "--json")
    assert result.exit_code == 0, result.stderr
    assert "learnt to reconstruct" in json.loads(result.stdout)["warning"]
    assert "Warning: The model learnt to reconstruct" in result.stderr


def test_chains_say_how_they_mixed(digits: Path) -> None:
    words = ("--mode", "chain", "--chains", "8", "--burn-in", "60", "--thin", "5")
    result = run("sample", digits, "-n", "40", *words, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["count"] == 40
    assert found["ess"] > 0
    assert found["rhat"] >= 0.99
    assert 0.4 < found["acceptance"] <= 1
    assert "sampling" in result.stderr
    assert (found["warning"] is not None) == (found["rhat"] > 1.05)


def test_chains_that_have_not_mixed_are_warned_of_in_words(digits: Path) -> None:
    words = ("--mode", "chain", "--chains", "6", "--burn-in", "0", "--thin", "2")
    still = ("--set", "inference.sampling.step=1e-4")
    result = run("sample", digits, "-n", "30", *words, *still)
    assert result.exit_code == 0, result.stderr
    assert "Warning: The chains have not mixed: R-hat is" in result.stderr


def test_the_same_seed_draws_the_same_and_another_does_not(digits: Path) -> None:
    first, again, other = (
        sample(digits, 9, seed=seed, mode=mode, burn_in=10, thin=2).samples.data_BD  # type: ignore[arg-type]
        for seed, mode in ((1, "ancestral"), (1, "ancestral"), (2, "ancestral"))
    )
    assert (first == again).all()
    assert (first != other).any()
    more = sample(digits, 12, seed=1).samples.data_BD[:9]
    np.testing.assert_allclose(more, first, rtol=1e-5, atol=1e-6)


def test_a_class_is_drawn_by_number_or_by_name(digits: Path) -> None:
    by_number = sample(digits, 20, label=3).samples.data_BD
    assert (by_number == sample(digits, 20, label="3").samples.data_BD).all()
    assert (by_number != sample(digits, 20).samples.data_BD).any()


def test_a_label_layer_is_clamped_to_the_class_that_is_asked_for(tmp_path: Path) -> None:
    tables = config.to_dict(recipe())
    tables["model"] |= {"labels": True, "causes": 1}
    tables["learning"] |= {"epochs": 30, "warmup": 0}
    pcgen.train(config.from_dict(tables), tmp_path / "run", device="cpu")
    zeros, ones = (sample(tmp_path / "run", 100, label=k).samples.data_BD for k in (0, 1))
    # The middle of a nought is empty, that of a one is not.
    middle = [27, 28, 35, 36]
    assert zeros[:, middle].mean() < ones[:, middle].mean() - 0.1
    mixed = sample(tmp_path / "run", 100, mode="chain", chains=10, burn_in=20, thin=2)
    assert mixed.samples.data_BD.shape == (100, 64)
    assert sample(tmp_path / "run", 7).samples.data_BD.shape == (7, 64)


def test_what_is_hidden_is_drawn_and_what_is_seen_stays(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "completed.npz"
    words = ("--given", "digits:test", "--mask", "top", "--limit", "3", "--burn-in", "20")
    result = run("sample", digits, "-n", "4", *words, "--thin", "2", "--out", out)
    assert result.exit_code == 0, result.stderr
    with np.load(out) as file:
        samples = file["samples"].reshape(3, 4, 8, 8)
    assert (samples[:, :1, 4:] == samples[:, 1:, 4:]).all()
    assert (samples[:, :1, :4] != samples[:, 1:, :4]).any()


def test_a_picture_of_completed_images_shows_the_input_and_what_was_hidden(
    digits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "completed.png"
    words = ("--given", "digits:test", "--mask", "top", "--limit", "2", "--burn-in", "2")
    result = run("sample", digits, "-n", "1", *words, "--thin", "2", "--out", out)
    assert result.exit_code == 0, result.stderr
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("L"))
    # Three rows: the input, the input with its upper half grey, and the sample.
    grey = (pixels == 128).mean(1) > 0.2
    assert pixels.shape[0] // 6 < grey.sum() * 1.5 < pixels.shape[0] // 3
    assert not grey[: pixels.shape[0] // 4].any()


def test_a_column_is_drawn_given_the_other(flowers: Path) -> None:
    words = ("--given", "iris", "--mask", "petal length (cm)", "--limit", "2", "--burn-in", "50")
    result = run("sample", flowers, "-n", "5", *words, "--json", "-q")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["count"] == 10


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-n", "0"), 2, "at least one sample"),
        (("--chains", "0", "--mode", "chain"), 2, "--chains 0: at least 1"),
        (("--label", "17"), 2, "knows 10 classes, 0 to 9"),
        (("--label", "seven"), 2, "no such class"),
        (("--out", "x.gif"), 2, "written as"),
        (("--out", "x.csv"), 2, "draws images"),
        (("--given", "digits"), 2, "--mask go together"),
        (("--given", "digits", "--mask", "middle"), 2, "one of top"),
        (("--set", "model.layers=[2]"), 2, "only inference"),
        (
            (
                *("--mode", "chain", "--set", "inference.sampling.step=9"),
                *("--set", "inference.sampling.metropolis=false"),
            ),
            1,
            "the largest stable one here is",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(
    digits: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    result = run("sample", digits, *words)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_without_a_prior_is_no_distribution(tmp_path: Path) -> None:
    tables = {"data": {"source": "digits", "limit": 50}, "learning": {"epochs": 1}}
    pcgen.train(config.from_dict(tables), tmp_path / "run", device="cpu")
    result = run("sample", tmp_path / "run", "-n", "2")
    assert result.exit_code == 1
    assert "has no prior" in result.stderr
    assert "pcgen train mnist-sampler" in result.stderr


def test_a_table_with_a_missing_value_or_without_the_column_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "holes.csv"
    table.write_text("a,b\n1,2\n3,\n5,7\n")
    result = run("train", "iris", "--data", table, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "no column 'sepal length (cm)'" in result.stderr
    words = ("--data", table, "--set", 'data.columns=["a", "b"]', "--out", tmp_path / "run")
    result = run("train", "iris", *words)
    assert result.exit_code == 1
    assert "holes.csv" in result.stderr
    assert "line 3" in result.stderr


def test_free_chains_of_a_mixture_do_not_mix_and_say_so() -> None:
    free = sample("iris", 60, mode="chain").samples
    assert free.jump_acceptance is None
    assert free.r_hat is not None
    assert free.r_hat > 1.3
    assert "--mode ancestral" in free.warning


def test_chains_given_a_column_mix_by_jumps_between_modes() -> None:
    """At a sepal of 4.9 cm there are flowers with short and with long petals."""
    data = np.array([[4.9, 0.0]], dtype=np.float32)
    jumping, still = (
        sample(
            "iris",
            40,
            given=data,
            mask="petal length (cm)",
            chains=4,
            burn_in=100,
            thin=40,
            settings=[f"inference.sampling.jump={jump}"],
        ).samples
        for jump in (1, 0)
    )
    assert jumping.r_hat is not None
    assert still.r_hat is not None
    assert jumping.jump_acceptance is not None
    assert jumping.jump_acceptance > 0.1
    assert jumping.r_hat < 1.05 < still.r_hat
    assert not jumping.warning
