"""`pcgen train`: its settings, where they come from, and nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcgen.cli.main import cli
from pcgen.cli.options import settings_of

RECIPE = """
name = "tiny"
seed = 7
[learning]
epochs = 3
batch_size = 50
"""


def run(*words: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(cli, ["train", *words])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(RECIPE)
    return str(path)


def shown(*words: str, **environment: str) -> dict[str, tuple[object, str]]:
    result = run(*words, "--show-settings", "--json", **environment)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["settings"]
    return {row["setting"]: (row["value"], row["from"]) for row in rows}


def test_a_later_layer_wins_and_its_name_is_shown(recipe: str) -> None:
    found = shown(
        recipe,
        "--set",
        "inference.steps=40",
        PCGEN_SET_INFERENCE__STEPS="30",
        PCGEN_SET_LEARNING__BATCH_SIZE="20",
    )
    assert found["inference.steps"] == (40, "flag")
    assert found["learning.batch_size"] == (20, "environment")
    assert found["learning.epochs"] == (3, "recipe")
    assert found["learning.optimiser"] == ("adamw", "default")


def test_the_seed_and_the_data_are_settings_too(recipe: str) -> None:
    assert shown(recipe)["seed"] == (7, "recipe")
    assert shown(recipe, PCGEN_SEED="8")["seed"] == (8, "environment")
    found = shown(recipe, "--seed", "9", "--data", "2024", PCGEN_SEED="8")
    assert found["seed"] == (9, "flag")
    assert found["data.source"] == ("2024", "flag")


def test_the_last_of_two_settings_wins(recipe: str) -> None:
    words = ("--set", "learning.epochs=1", "--set", "learning.epochs=2")
    assert shown(recipe, *words)["learning.epochs"] == (2, "flag")


def test_settings_show_as_a_table(recipe: str) -> None:
    output = run(recipe, "--show-settings").stdout
    assert "learning.batch_size" in output
    assert "recipe" in output


def test_all_unknown_keys_are_reported_at_once(recipe: str) -> None:
    words = ("--set", "inference.stepps=3", "--set", "lerning.epochs=3", "--show-settings")
    result = run(recipe, *words)
    assert result.exit_code == 2
    assert "did you mean inference.steps?" in result.stderr
    assert "did you mean learning?" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "Missing RECIPE"),
        (("digits",), "Missing --out"),
        (("--resume", "--check"), "--resume goes without"),
        (("digits", "--out", "x", "--seed", "-1"), "--seed"),
        (("missing.toml", "--out", "x"), "missing.toml"),
        (("folder/missing", "--out", "x"), "cannot be read"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_a_usage_error(
    words: tuple[str, ...], says: str
) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


# Texts near to what a user may mistype, and any text at all.
KEYS = st.sampled_from(
    [
        "seed",
        "name",
        "data",
        "data.limit",
        "model.layers",
        "model.precision.hidden",
        "inference.steps",
        "learning.rate",
        "learning",
        "model.precision",
        "data.size",
        "inference.solver",
        "",
    ]
)
VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "nan", "inf", "-1", "1e999", "[", "[[]]", "{}", '"', "'''", "1979-05-27"]),
    st.sampled_from(
        ["x\ny=1", "[1,2]", "true", "0x", "9" * 400, "[" * 300, "{a={}}", "\x00", "[0]"]
    ),
    st.integers().map(str),
    st.floats().map(str),
)
NONSENSE = st.one_of(
    st.builds("{}={}".format, KEYS, VALUES),
    st.text(max_size=30),
    st.builds("{}={}".format, st.text(max_size=15), VALUES),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(words=st.lists(NONSENSE, min_size=1, max_size=3))
def test_nonsense_settings_never_show_a_traceback(recipe: str, words: list[str]) -> None:
    flags = [part for word in words for part in ("--set", word)]
    result = run(recipe, "--show-settings", "--json", *flags)
    assert result.exit_code in (0, 2), result.output
    if result.exit_code == 2:
        assert json.loads(result.stderr)["error"]["kind"] in ("recipe", "usage")
    else:
        json.loads(result.stdout)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_a_nonsense_recipe_file_never_shows_a_traceback(recipe: str, text: str | bytes) -> None:
    path = Path(recipe).with_name("nonsense.toml")
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    result = run(str(path), "--show-settings", "--json")
    assert result.exit_code in (0, 2), result.output


def test_an_environment_setting_names_a_nested_key() -> None:
    environment = {"PCGEN_SET_MODEL__PRECISION__HIDDEN": "10", "PCGEN_DATA": "x", "HOME": "y"}
    assert settings_of(environment) == ["model.precision.hidden=10"]
