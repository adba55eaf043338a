"""Commands from end to end on embedded data: what they print, write and leave alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pcgen.cli.main import cli

EVERY_DOCUMENT = {"pcgen", "schema", "command", "model", "seed", "device", "inference"}
TINY = """
name = "tiny"
[data]
source = "digits"
limit = 200
[model]
layers = [4, 16]
[learning]
epochs = 2
batch_size = 50
"""


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def document(*words: str | Path) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    assert found.keys() >= EVERY_DOCUMENT
    assert found["schema"] == 1
    assert found["command"] == words[0]
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def trained(recipe: Path) -> Path:
    out = recipe.parent / "run"
    result = run("train", recipe, "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    return out


def test_train_leaves_a_run_folder_and_says_what_next(trained: Path, recipe: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        "recipe.toml",
        "metrics.jsonl",
        "last.safetensors",
        "model.safetensors",
        "environment.json",
    }
    other = recipe.parent / "other"
    result = run("train", recipe, "--out", other)
    assert "checkpoint" in result.stdout
    assert "epoch 2/2" in result.stderr
    assert f"pcgen report {other}" in result.stderr


def test_train_gives_the_promised_keys_and_no_story_when_quiet(recipe: Path) -> None:
    result = run("train", recipe, "--out", recipe.parent / "quiet", "-q", "--json", "--seed", "3")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found.keys() >= EVERY_DOCUMENT | {"checkpoint", "epochs", "images_per_second", "metrics"}
    assert found["metrics"].keys() >= {"energy", "mse"}
    assert found["seed"] == 3
    assert found["inference"].keys() >= {"solver", "steps", "converged"}


def test_a_run_is_not_written_over(trained: Path, recipe: Path) -> None:
    before = (trained / "model.safetensors").read_bytes()
    result = run("train", recipe, "--out", trained)
    assert result.exit_code == 1
    assert "--resume" in result.stderr
    assert (trained / "model.safetensors").read_bytes() == before


def test_resume_needs_nothing_restated_and_heeds_no_environment(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCGEN_SEED", "99")
    monkeypatch.setenv("PCGEN_SET_LEARNING__EPOCHS", "9")
    assert document("train", "--resume", "--out", trained)["seed"] == 0


def test_resume_refuses_other_settings(trained: Path) -> None:
    result = run("train", "--resume", "--out", trained, "--seed", "1")
    assert result.exit_code == 2


def test_check_writes_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = document("train", recipe, "--check")
    assert found["sizes"] == [64, 16, 4]
    assert list(tmp_path.iterdir()) == []


def test_info_shows_the_header(trained: Path) -> None:
    found = document("info", trained / "model.safetensors")
    assert found["header"]["sizes"] == [64, 16, 4]
    text = run("info", trained / "model.safetensors").stdout
    assert "digits" in text
    assert "64 16 4" in text


def test_info_of_a_classifier_shows_no_network() -> None:
    text = run("info", "digits-classifier").stdout
    assert "classifier.channels" in text
    assert "model.precision" not in text


def test_info_imports_neither_torch_nor_numpy(trained: Path) -> None:
    file = str(trained / "model.safetensors")
    code = (
        "import sys\nfrom pcgen.cli.main import cli\n"
        f"try: cli.main(['info', {file!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_reconstruct_gives_the_promised_keys_and_the_picture(trained: Path, tmp_path: Path) -> None:
    words = ("reconstruct", trained, "digits", "--limit", "30", "--out", tmp_path / "out")
    found = document(*words)
    assert found.keys() >= {"count", "mse", "mse_last_hidden", "energy"}
    assert found["count"] == 30
    assert (tmp_path / "out" / "reconstructions.png").stat().st_size > 1000


def test_json_lines_are_a_row_for_every_input(trained: Path) -> None:
    result = run("reconstruct", trained, "digits", "--limit", "7", "--jsonl", "-q")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 7
    assert all(row["status"] == "ok" for row in rows)


def test_report_of_a_real_run(trained: Path) -> None:
    page = Path(document("report", trained)["page"])
    assert "<svg" in page.read_text()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("reconstruct", "no-such-model", "digits"), 1),
        (("info", "no-such-file"), 1),
        (("info", __file__), 1),
        (("train", "RECIPE", "--out", "OUT", "--data", "no-such-data"), 1),
        (("train", "RECIPE", "--out", "OUT", "--device", "cuda:99"), 1),
        (("train", "RECIPE", "--out", "OUT", "--device", "abacus"), 1),
        (("train", "--resume", "--out", "OUT"), 1),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    words: tuple[str, ...], code: int, recipe: Path, tmp_path: Path
) -> None:
    places = {"RECIPE": str(recipe), "OUT": str(tmp_path / "out")}
    result = run(*(places.get(word, word) for word in words))
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["datasets", "recipes", "doctor"])
def test_lists_are_tables_and_documents(name: str) -> None:
    rows = document(name)[name]
    assert rows
    text = run(name).stdout
    assert len(text.splitlines()) >= len(rows) + 2


def test_a_shipped_recipe_is_shown_in_full() -> None:
    from pcgen import config, shipped

    for name in shipped.names():
        shown = config.from_toml(run("recipes", name).stdout)
        assert shown == config.from_dict(config.read(shipped.recipe_path(name)))
