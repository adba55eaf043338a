"""Commands never write over what they read, nor over what is no file, and lose no older file."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pcgen
from pcgen.cli.main import cli
from pcgen.errors import OutputError, RunError
from tests.data.pictures import random_pixels

KEPT = Path(__file__).parents[1] / "golden" / "0.1.0"
# Every command that writes, with the file that stands for its result.
WRITING = {
    "sample iris -n 5 --out drawn.csv": "drawn.csv",
    "sample iris -n 5 --out drawn.npz": "drawn.npz",
    "sample mnist-sampler -n 5 --out drawn.png": "drawn.png",
    "reconstruct digits x.npy --out shown": "shown/reconstructions.npz",
    "recall memory.safetensors x.npy --corrupt mask:top --limit 3 --out back": "back/recalled.png",
    "memorise memory.safetensors x.npy --limit 2 --out larger.safetensors": "larger.safetensors",
    "forget memory.safetensors 3 --out smaller.safetensors": "smaller.safetensors",
    "classify digits-classifier x.npy --out labels.csv": "labels.csv",
    "ood-calibrate digits-ood digits:test --out mine.safetensors": "mine.safetensors",
    "ood-score digits-ood x.npy --out scores.csv": "scores.csv",
    "report run --out page.html": "page.html",
}


def run(command: str) -> Result:
    return CliRunner().invoke(cli, command.split())


def contents() -> dict[str, bytes]:
    """Return the content of every file below the working folder; of a link, where it leads."""
    found = {}
    for path in Path().rglob("*"):
        if path.is_symlink():
            found[str(path)] = os.readlink(path).encode()
        elif path.is_file():
            found[str(path)] = path.read_bytes()
        elif not path.is_dir():
            found[str(path)] = str(path.lstat().st_mode).encode()
    return found


@pytest.fixture
def inputs() -> None:
    """Put inputs of every kind into the working folder."""
    np.save("x.npy", random_pixels(6, 8, 8))
    shutil.copytree(KEPT / "run", "run")
    for name in ("memory", "sampler", "detector", "classifier"):
        shutil.copy(KEPT / f"{name}.safetensors", ".")
    Path("photos/inner").mkdir(parents=True)
    for name in ("photos/a.png", "photos/inner/b.png", "reconstructions.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(name)
    Path("table.csv").write_text("a,b\n1,2\n3,4\n")
    Path("recipe.toml").write_text('[data]\nsource = "digits"\n')


@pytest.mark.parametrize("command", WRITING)
@pytest.mark.usefixtures("inputs")
def test_a_full_disk_loses_no_older_file(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(WRITING[command]).parent.mkdir(exist_ok=True)
    Path(WRITING[command]).write_bytes(b"an older result")
    before = contents()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = run(command)
    assert result.exit_code == 1, result.stderr
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    after = contents()
    # The rows so far stay, for --resume.
    after.pop("scores.csv.part", None)
    assert after == before
    result = run(command)
    assert result.exit_code == 0, result.stderr
    assert Path(WRITING[command]).read_bytes() != b"an older result"
    assert not [name for name in contents() if name.endswith(".part")]


@pytest.mark.parametrize(
    "command",
    [
        "ood-score detector.safetensors table.csv --out table.csv",
        "ood-score detector.safetensors x.npy table.csv --out ./photos/../table.csv",
        "ood-score digits-ood x.npz --out x.npz",
        "ood-score digits-ood link.csv --out table.csv",
        "ood-score digits-ood table.csv --out link.csv",
        "ood-score digits-ood table.csv --out hard.csv",
        "ood-score digits-ood scores.jsonl.meta.json --out scores.jsonl",
        "ood-score digits-ood photos --out s.csv --heatmaps photos",
        "ood-score digits-ood photos --out s.csv --heatmaps photos/maps",
        "ood-score digits-ood . --out s.csv --heatmaps maps",
        "ood-score digits-ood photos:test --out s.csv --heatmaps linked/maps",
        "ood-score digits-ood x.npy --out s.csv --heatmaps s.csv",
        "classify classifier.safetensors table.csv --out table.csv",
        "ood-calibrate digits-ood x.npy --out x.npy",
        "ood-calibrate run x.npy --out run/model.safetensors",
        "ood-calibrate run x.npy --classifier classifier.safetensors --out classifier.safetensors",
        "memorise memory.safetensors x.npy --out memory.safetensors",
        "memorise memory.safetensors x.npy --out x.npy",
        "forget memory.safetensors 3 --out memory.safetensors",
        "forget run 3 --out run",
        "sample sampler.safetensors --given x.npz --mask top --out x.npz",
        "sample sampler.safetensors --given photos --mask top --out photos/drawn.png",
        "reconstruct digits photos --out photos",
        "reconstruct digits photos --out photos/inner/new",
        "reconstruct digits reconstructions.png --out .",
        "recall memory.safetensors x.npy --corrupt mask:recalled.png --out .",
        "recall memory.safetensors x.npy --corrupt none --original recalled.npz --out .",
        "train recipe.toml --out .",
        "report run --out run/model.safetensors",
        "report run --out run/recipe.toml",
        "report table.csv --out table.csv",
        "report detector.safetensors --out detector.safetensors",
    ],
)
@pytest.mark.usefixtures("inputs")
def test_what_is_read_is_never_written(command: str) -> None:
    os.symlink("table.csv", "link.csv")
    os.link("table.csv", "hard.csv")
    os.symlink("photos", "linked")
    for name in ("x.npz", "recalled.npz"):
        np.savez(name, random_pixels(3, 8, 8))
    shutil.copy("photos/a.png", "recalled.png")
    Path("scores.jsonl.meta.json").write_text("{}")
    before = contents()
    result = run(command)
    assert result.exit_code == 2, result.stderr
    assert contents() == before
    assert len(result.stderr.splitlines()) <= 2
    assert "--out is the input" in result.stderr or "would" in result.stderr


@pytest.mark.usefixtures("inputs")
def test_a_picture_named_on_standard_input_is_not_written_over() -> None:
    before = contents()
    words = ["reconstruct", "digits", "-", "--out", "."]
    result = CliRunner().invoke(cli, words, input="photos/a.png\nreconstructions.png\n")
    assert result.exit_code == 2, result.stderr
    assert "--out is the input" in result.stderr
    assert contents() == before


@pytest.mark.usefixtures("inputs")
def test_heat_maps_do_not_replace_pictures_that_are_inputs() -> None:
    before = contents()
    with pytest.raises(OutputError, match="holds inputs"):
        pcgen.ood_score("digits-ood", ["photos/a.png"], heatmaps=".")
    assert contents() == before


@pytest.mark.parametrize("command", WRITING)
@pytest.mark.usefixtures("inputs")
def test_a_device_is_never_replaced(command: str) -> None:
    out = Path(WRITING[command])
    out.parent.mkdir(exist_ok=True)
    out.symlink_to("/dev/null")
    before = contents()
    result = run(command)
    assert result.exit_code == 1
    assert f"{out}: cannot be written: is a device" in result.stderr
    assert contents() == before
    assert not os.path.isfile("/dev/null")


@pytest.mark.usefixtures("inputs")
def test_a_table_beside_the_pictures_of_a_folder_is_no_input() -> None:
    for _ in range(2):
        result = run("ood-score digits-ood photos --out photos/scores.csv --heatmaps maps --json")
        assert result.exit_code == 0, result.stderr
        assert '"count": 2' in result.stdout


@pytest.mark.usefixtures("inputs")
def test_the_demo_does_not_replace_another_run() -> None:
    before = contents()
    with pytest.raises(RunError, match="not the demo's"):
        pcgen.demo("run")
    assert contents() == before


@pytest.mark.usefixtures("inputs")
def test_names_that_are_formulas_and_lines_are_rows_of_text() -> None:
    names = ["=cmd.png", "@SUM(1).png", "+1.png", "a\rb.png", 'q"u.png']
    for name in names:
        shutil.copy("photos/a.png", f"photos/{name}")
    assert run("ood-score digits-ood photos --out s.csv").exit_code == 0
    scored = {row["id"] for row in pcgen.storage.row_formats.read_rows(Path("s.csv"))}
    assert scored == {*names, "a.png", "inner/b.png"}
    cells = [line.split(",")[0] for line in Path("s.csv").read_bytes().decode().split("\n")]
    assert {"'=cmd.png", "'@SUM(1).png", "'+1.png", '"a\rb.png"'} <= set(cells)


def test_a_sampled_table_whose_columns_are_formulas_reads_back() -> None:
    rng = np.random.default_rng(0)
    lines = ["=a,-b"] + [f"{a:.4f},{b:.4f}" for a, b in rng.normal(size=(40, 2))]
    Path("table.csv").write_text("\n".join(lines))
    quick = ["learning.epochs=1", "data.validation=0", 'data.columns=["=a","-b"]']
    pcgen.train("iris", "run", data="table.csv", settings=quick)
    assert run("sample run -n 3 --out drawn.csv").exit_code == 0
    assert Path("drawn.csv").read_text().startswith("'=a,'-b\n")
    assert run("reconstruct run drawn.csv --out shown").exit_code == 0
