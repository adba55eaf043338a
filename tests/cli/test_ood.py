"""`ood-calibrate` and `ood-score` from end to end on embedded data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pcgen.cli.main import cli
from pcgen.commands.demo import _RUNS
from pcgen.data.sources import open_data
from pcgen.ood.job import Job
from pcgen.ood.rows import most_unusual
from pcgen.storage.row_formats import read_rows
from tests.data.pictures import random_pixels

PROMISED = {"count", "flagged", "threshold", "statement", "out"}
ALWAYS = {"pcgen", "schema", "command", "model", "seed", "device", "inference"}


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "digits.safetensors"
    result = run("ood-calibrate", "digits", "digits", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "statement" in result.stdout
    assert f"pcgen ood-score {out}" in result.stderr
    assert "Note: inference.solver = errors" in result.stderr
    return out


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "noise.npy"
    np.save(path, random_pixels(30, 8, 8))
    return path


def test_calibrate_gives_the_promised_keys(detector: Path) -> None:
    out = detector.with_name("other.safetensors")
    result = run("ood-calibrate", "digits", "digits:test", "--out", out, "--json", "-q")
    document = json.loads(result.stdout)
    assert document.keys() >= ALWAYS | {
        "detector",
        "scores",
        "part_a",
        "part_b",
        "statement",
        "warnings",
    }
    assert document["scores"][0] == "pc-fisher"
    assert result.stderr == ""


def test_score_gives_the_promised_keys_and_file(
    detector: Path, noise: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    result = run("ood-score", detector, "digits:test", noise, "--out", out, "--json", "-q")
    document = json.loads(result.stdout)
    assert document.keys() >= ALWAYS | PROMISED
    assert document["inference"].keys() >= {"solver", "steps", "converged"}
    assert (document["count"], document["out"]) == (389, str(out))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 389
    assert sum(row["is_ood"] == "true" for row in rows) == document["flagged"]


def test_without_out_the_most_unusual_rows_are_shown_and_a_new_file_is_written(
    detector: Path, noise: Path
) -> None:
    shown = run("ood-score", detector, noise).stdout
    rows = list(read_rows(Path("scores.csv")))
    scores = sorted((row["score"] for row in rows), reverse=True)
    assert len(rows) == 30
    for row in rows:
        assert (row["id"] in shown) == (row["score"] >= scores[9])
    lines = run("ood-score", detector, noise, "--jsonl", "-q").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"noise.npy[{i}]" for i in range(30)]


def test_flagged_inputs_fail_only_if_asked_to(detector: Path, noise: Path) -> None:
    assert run("ood-score", detector, noise, "-q").exit_code == 0
    assert run("ood-score", detector, noise, "-q", "--fail-on-ood").exit_code == 3


@pytest.mark.parametrize(("share", "code"), [("0.6", 0), ("0.2", 4)])
def test_a_share_of_flagged_inputs_fails_only_above_the_one_allowed(
    detector: Path, tmp_path: Path, share: str, code: int
) -> None:
    pixels = open_data("digits:test").rows(range(30)).pixels_BD.reshape(30, 8, 8).numpy()
    pixels[::2] = 1 - pixels[::2]
    np.save(tmp_path / "x.npy", pixels)
    words = ("ood-score", detector, tmp_path / "x.npy", "-q", "--json", "--fail-above", share)
    result = run(*words, "--fail-on-ood")
    assert result.exit_code == (code or 3)
    assert run(*words).exit_code == code
    document = json.loads(result.stdout)
    assert document["batch"]["p_value"] < 1e-6
    assert [row["id"] for row in document["most_unusual"]] == [
        row["id"] for row in most_unusual(read_rows(Path(document["out"])))
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--fpr", "0.01"), 1, "299 are needed"),
        (("--score", "nonsense"), 1, "no score nonsense"),
        (("--fpr", "2"), 2, "not between 0 and 1"),
        (("--fail-above", "1"), 2, "not between 0 and 1"),
        (("--out", "rows.txt"), 2, "must end in"),
        (("--resume",), 2, "--resume needs --out"),
        (("--guarantee", "faith"), 2, "faith"),
        (("--score", ","), 2, "nothing named"),
    ],
)
def test_what_cannot_be_done_is_said(
    detector: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    result = run("ood-score", detector, "digits:test", *words)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_says_what_is_there_and_how_to_go_on(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Job.steps

    def some(self: Job, *arguments: Any) -> Any:
        yield next(iter(whole(self, *arguments)))
        raise KeyboardInterrupt

    out = tmp_path / "rows.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(Job, "steps", some)
        result = run("ood-score", detector, "digits", "--out", out, "-q")
    assert result.exit_code == 130
    assert "Interrupted. 500 of 1,438 rows" in result.stderr
    assert "--resume" in result.stderr
    assert len(out.read_text().splitlines()) == 500
    result = run("ood-score", detector, "digits", "--out", out, "-q", "--resume")
    assert result.exit_code == 0, result.stderr
    assert len(out.read_text().splitlines()) == 1438


def test_detectors_and_scores_have_pages(detector: Path, noise: Path, tmp_path: Path) -> None:
    page = Path(json.loads(run("report", detector, "--json").stdout)["page"])
    text = page.read_text()
    assert "95 % confidence" in text
    assert "<svg" in text
    out = tmp_path / "rows.csv"
    words = ("ood-score", detector, "digits:test", noise, "--out", out)
    assert run(*words, "--heatmaps", tmp_path / "maps").exit_code == 0
    text = Path(run("report", out).stdout.strip()).read_text()
    for part in ("noise.npy[0]", "The most unusual", "data:image/png", "exchangeable"):
        assert part in text
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    result = run("report", other)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr


def test_the_demo_shows_a_settling_digit_and_every_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, epochs in (("", 4), ("sampler", 2)):
        recipe, words = _RUNS[name]
        monkeypatch.setitem(_RUNS, name, (recipe, [*words, f"learning.epochs={epochs}"]))
    document = json.loads(run("demo", "--out", tmp_path, "--json", "-q").stdout)
    flagged = {kind: int(words.split()[0]) for kind, words in document["flagged"].items()}
    assert flagged["digits"] <= 6
    assert min(flagged[kind] for kind in ("noise", "negative", "constant")) >= 36
    assert document["recalled"] == 1.0
    text = (tmp_path / "index.html").read_text()
    headings = ("One digit settles", "Reconstruct", "Sample", "Recall", "Notice strange inputs")
    for words in (*headings, "prior of the latent", "threshold", "noise"):
        assert words in text
    assert "not shown because" not in text
    for name in ("detector.safetensors", "scores.csv", "sampler/samples.png", "recalled.png"):
        assert (tmp_path / name).is_file()
