"""Memories from the command line: trained, recalled from, written to, made to forget."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_commands import document, run

MEMORY = """
name = "tiny-memory"
[data]
source = "digits"
limit = 24
validation = 0
[model]
layers = [32, 48, 48]
[model.precision]
hidden = 1000.0
learned = true
floor = 1e-6
[inference]
solver = "errors"
steps = 5
test_steps = 50
[learning]
epochs = 2
optimiser = "least-squares"
memory = true
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "memory.toml"
    path.write_text(MEMORY)
    return path


@pytest.fixture(scope="module")
def memory(recipe: Path) -> Path:
    out = recipe.parent / "run"
    result = run("train", recipe, "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    return out


def rows(*words: str | Path) -> list[dict[str, Any]]:
    result = run(*words, "--jsonl", "-q")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_recall_gives_the_promised_keys_and_the_picture(memory: Path, tmp_path: Path) -> None:
    words = ("recall", memory, "digits", "--limit", "24", "--corrupt", "mask:bottom")
    found = document(*words, "--out", tmp_path / "out")
    assert found.keys() >= {"count", "mse", "mse_hidden", "exact", "steps", "seconds"}
    assert (found["count"], found["exact"], found["known"]) == (24, 1.0, 1.0)
    assert found["mse"] < 1e-5
    assert found["most_steps"] <= 50
    assert (tmp_path / "out" / "recalled.png").stat().st_size > 1000
    with np.load(tmp_path / "out" / "recalled.npz") as arrays:
        assert set(arrays) == {"cues", "recalled", "originals"}
    assert len((tmp_path / "out" / "recalled.jsonl").read_text().splitlines()) == 24


def test_a_seed_decides_what_is_hidden(memory: Path) -> None:
    words = ("recall", memory, "digits", "--limit", "5", "--corrupt", "noise:0.3")
    first, again = (document(*words, "--seed", "1") for _ in range(2))
    other = document(*words, "--seed", "2")
    assert first["energy"] == again["energy"]
    assert first["energy"] != other["energy"]


def test_cues_in_files_recall_and_are_compared_with_their_originals(
    memory: Path, tmp_path: Path
) -> None:
    from pcgen.data.sources import open_data

    pixels = open_data("digits", limit=3).rows(range(3)).pixels_BD.reshape(3, 8, 8).numpy()
    source = np.random.default_rng(0)
    for i, image in enumerate(pixels):
        noisy = image + 0.1 * source.standard_normal(image.shape)
        for folder, values in (("cues", noisy), ("originals", image)):
            (tmp_path / folder).mkdir(exist_ok=True)
            grey = (255 * values.clip(0, 1)).round().astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / folder / f"{i}.png")
    words = ("recall", memory, tmp_path / "cues", "--corrupt", "none", "--noise", "0.1")
    bare = rows(*words)
    assert [row["item"] for row in bare] == [0, 1, 2]
    assert all(row["known"] and "mse" not in row for row in bare)
    found = document(*words, "--original", tmp_path / "originals")
    assert found["mse"] < 1e-3
    result = run(*words, "--original", "digits")
    assert result.exit_code == 1
    assert "originals for 3 cues" in result.stderr


def test_a_mask_in_a_file_hides_what_is_dark(memory: Path, tmp_path: Path) -> None:
    mask = np.full((8, 8), 255, np.uint8)
    mask[:, :3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ("recall", memory, "digits", "--limit", "6", "--corrupt", f"mask:{tmp_path}/mask.png")
    assert document(*words)["exact"] == 1.0


def test_writing_and_forgetting(memory: Path, tmp_path: Path) -> None:
    larger, smaller = tmp_path / "larger.safetensors", tmp_path / "smaller.safetensors"
    written = document("memorise", memory, "digits:test", "--limit", "4", "--out", larger)
    assert (written["changed"], written["stored"]) == (4, 28)
    assert written["old_change"] < 1e-8
    words = ("digits:test", "--limit", "4", "--corrupt", "mask:top")
    assert [row["item"] for row in rows("recall", larger, *words)] == [24, 25, 26, 27]
    found = document("forget", larger, "24", "26", "--out", smaller)
    assert (found["changed"], found["stored"]) == (2, 26)
    assert [row["known"] for row in rows("recall", smaller, *words)] == [False, True, False, True]
    assert document("info", smaller)["header"]["data"]["count"] == 26
    assert document("recall", memory, *words)["known"] == 0.0


def test_a_check_tells_the_cost_of_a_write_and_leaves_every_file(
    memory: Path, tmp_path: Path
) -> None:
    before = (memory / "model.safetensors").read_bytes()
    fits = document("memorise", memory, "digits:test", "--limit", "4", "--check")
    assert (fits["room"], fits["written"], fits["out"]) == (4, False, None)
    assert fits["old_change"] < 1e-8
    full = document("memorise", memory, "digits:test", "--limit", "60", "--check")
    assert (full["room"], full["stored"]) == (24, 84)
    assert full["mse"] > fits["mse"]
    assert "36 of 60 images beyond the 48" in full["notes"][-1]
    assert (memory / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_the_older_name_of_the_look_up_prior_still_works(memory: Path) -> None:
    words = ("recall", memory, "digits", "--limit", "3", "--corrupt", "mask:bottom")
    old, new = (document(*words, "--prior", name) for name in ("mixture", "lookup"))
    assert old["prior"] == new["prior"] == "lookup"
    assert old["energy"] == new["energy"]
    default = document(*words)
    assert (default["prior"], default["completed"]) == ("auto", 0.0)


def test_images_of_another_size_are_refused(memory: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "large.png")
    result = run("recall", memory, tmp_path / "large.png", "--corrupt", "mask:top")
    assert result.exit_code == 1
    assert "images 9x9, the memory holds 8x8" in result.stderr


def test_a_memory_of_resized_pictures_takes_cues_like_them(recipe: Path, tmp_path: Path) -> None:
    source = np.random.default_rng(1)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        pixels = source.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    words = ("--data", folder, "--set", "data.size=[12,10]")
    assert run("train", recipe, "--out", tmp_path / "run", *words).exit_code == 0
    found = document("recall", tmp_path / "run", folder, "--corrupt", "mask:left")
    assert found["exact"] == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recall", "digits", "digits", "--corrupt", "none"), "holds no memory"),
        (("recall", "MEMORY", "digits", "--corrupt", "blur"), "no such corruption"),
        (("recall", "MEMORY", "digits", "--corrupt", "mask:100%"), "hides every pixel"),
        (("recall", "MEMORY", "iris", "--corrupt", "none"), "the model takes images"),
        (("forget", "MEMORY", "24", "--out", "OUT"), "no stored image 24"),
        (("memorise", "digits", "digits", "--out", "OUT"), "holds no memory"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: tuple[str, ...], said: str, memory: Path, tmp_path: Path
) -> None:
    places = {"MEMORY": str(memory), "OUT": str(tmp_path / "out")}
    result = run(*(places.get(word, word) for word in words))
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [("memorise", "x", "y"), ("forget", "x", "1"), ("recall", "x", "y")]
)
def test_what_is_missing_is_usage(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_a_killed_run_resumes_to_the_same_bytes(recipe: Path, memory: Path, tmp_path: Path) -> None:
    settings = ["--set", "learning.epochs=60", "--set", "data.limit=200"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("train", recipe, "--out", whole, *settings).exit_code == 0
    program = [sys.executable, "-m", "pcgen", "train", str(recipe), "--out", str(cut), "-q"]
    killed = subprocess.Popen([*program, *settings])
    last = cut / "last.safetensors"
    for _ in range(12_000):
        if last.exists() or killed.poll() is not None:
            break
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert run("train", "--resume", "--out", cut).exit_code == 0
    for name in ("model.safetensors", "last.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
