"""Run folders: whatever interrupts a run, it ends bit for bit where an uninterrupted one ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pcgen
from pcgen.commands.progress import Event
from pcgen.errors import DataError, DivergenceError, RecipeError, RunError
from pcgen.learning.train import Progress, Training
from pcgen.model import products
from pcgen.storage import runs

QUICK = [
    "data.limit=300",
    "learning.epochs=3",
    "learning.batch_size=60",
    "inference.steps=2",
    "inference.test_steps=5",
]
PATH = ["model.layers=[8,16]", "model.skips=[[0,2]]", "model.output=linear"]
FILES = ("model.safetensors", "last.safetensors")


class CrashError(Exception):
    """Stands for a crash."""


def train(out: Path, *settings: str, seed: int = 0, stop_after: int | None = None) -> None:
    seen = 0

    def watch(event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_after:
            raise CrashError

    pcgen.train("digits", out, settings=[*QUICK, *settings], seed=seed, on_progress=watch)


def same(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in FILES)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["learning.optimiser=sgd", "model.start=zero", "inference.solver=majorise"],
        ["learning.incremental=true"],
        ["model.precision.learned=true", "model.precision.diagonal=true"],
        ["inference.solver=newton", "model.precision.hidden=1.0"],
        ["inference.schedule=[[2,1],[3,4]]", "learning.incremental=true"],
        ["inference.starts=[0,0.5,1]", "inference.keep_latents=true"],
        ["model.weights=principal", "learning.mirror=true", *PATH],
    ],
    ids=["errors", "sgd", "incremental", "learned", "newton", "schedule", "kept", "principal"],
)
@pytest.mark.parametrize("stop_after", [2, 5, 9])
def test_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], stop_after: int
) -> None:
    monkeypatch.setattr(runs, "_SAVE_EVERY", 0.0)
    train(tmp_path / "whole", *settings)
    with pytest.raises(CrashError):
        train(tmp_path / "cut", *settings, stop_after=stop_after)
    pcgen.train(None, tmp_path / "cut", resume=True)
    assert same(tmp_path / "whole", tmp_path / "cut")
    epochs = [line["epoch"] for line in runs.read_metrics(tmp_path / "cut")]
    assert epochs == [1, 2, 3]


@pytest.mark.skipif(not products.exists(), reason="needs oneDNN in torch")
def test_a_resumed_run_keeps_its_matrix_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_SAVE_EVERY", 0.0)
    whole, cut, wide = tmp_path / "whole", tmp_path / "cut", "model.layers=[16,600]"
    monkeypatch.setenv("PCGEN_PRODUCTS", "onednn")
    train(whole, wide)
    with pytest.raises(CrashError):
        train(cut, wide, stop_after=4)
    shutil.copytree(cut, tmp_path / "moved")
    monkeypatch.setenv("PCGEN_PRODUCTS", "torch")
    assert not pcgen.train(None, cut, resume=True).notes
    assert same(whole, cut)
    train(tmp_path / "torch", wide)
    ends = [runs.read_metrics(run)[-1]["energy"] for run in (whole, tmp_path / "torch")]
    assert ends[0] != ends[1]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)

    monkeypatch.setattr(products, "exists", lambda: False)
    (note,) = pcgen.train(None, tmp_path / "moved", resume=True).notes
    assert "onednn, which is not usable here" in note
    assert runs.RunFolder(tmp_path / "moved").products == "torch"


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, seed=seed)
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    train(tmp_path / "run")
    before = [(tmp_path / "run" / name).read_bytes() for name in FILES]
    pcgen.train(None, tmp_path / "run", resume=True)
    assert [(tmp_path / "run" / name).read_bytes() for name in FILES] == before


SLOW = """
import sys, time
from pcgen.storage import runs
from pcgen.learning.predictive_coding import PredictiveCoding
runs._SAVE_EVERY = 0.0
learn = PredictiveCoding.learn
def slowly(self, *args):
    sums = learn(self, *args)
    print("batch", flush=True)
    time.sleep(0.2)
    return sums
PredictiveCoding.learn = slowly
from pcgen.cli.main import main
sys.argv = ["pcgen", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, number: signal.Signals) -> None:
    train(tmp_path / "whole")
    words = ["train", "digits", "--out", str(tmp_path / "cut")]
    for setting in QUICK:
        words += ["--set", setting]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    for _ in range(7):
        assert process.stdout.readline() == "batch\n"
    time.sleep(0.05)
    process.send_signal(number)
    _, story = process.communicate(timeout=600)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert str(tmp_path / "cut" / "last.safetensors") in story
        assert "--resume" in story
        assert "Traceback" not in story
    else:
        assert process.returncode == -signal.SIGKILL
    pcgen.train(None, tmp_path / "cut", resume=True)
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        train(tmp_path / "run")


def test_resuming_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run to resume"):
        pcgen.train(None, tmp_path, resume=True)


def test_resuming_with_other_data_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = [f"{i % 7},{i % 5},{i % 3}" for i in range(60)]
    table.write_text("\n".join(["a,b,c", *rows]))
    settings = ["learning.epochs=1", "model.output=linear", "model.layers=[2,4]"]
    pcgen.train("digits", tmp_path / "run", data=str(table), settings=settings)
    table.write_text("\n".join(["a,b,c", *rows[:-1], "9,9,9"]))
    with pytest.raises(DataError, match="not the data"):
        pcgen.train(None, tmp_path / "run", resume=True)


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    train(tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"epoch": 4, "ener')
    assert len(runs.read_metrics(tmp_path / "run")) == 3
    assert all(json.loads(line) for line in metrics.read_text().splitlines()[:3])


def test_progress_counts_every_image_once_an_epoch(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run = Training.run

    def watch(self: Training, *args: object) -> object:
        for progress in run(self, *args):  # type: ignore[arg-type]
            seen.append(progress)
            yield progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "run", watch)
        train(tmp_path / "run")
    ends = [p for p in seen if p.ends_epoch]
    assert [p.epoch for p in ends] == [1, 2, 3]
    assert len({p.images for p in ends}) == 1
    assert ends[0].images == 255


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    folder = runs.RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(RunError, match=f"process {os.getpid()} on .* writes here"):
        train(folder.path)
    assert os.listdir(folder.path) == []
    with pytest.raises(CrashError):
        train(folder.path, stop_after=7)
    with folder.locked(), pytest.raises(RunError, match="writes here"):
        pcgen.train(None, folder.path, resume=True)
    pcgen.train(None, folder.path, resume=True)
    assert "run.lock" not in os.listdir(folder.path)


@pytest.mark.parametrize("setting", ["learning.weight_decay=1e30", "learning.rate=1e30"])
def test_a_model_that_diverged_in_its_last_batch_is_an_error(tmp_path: Path, setting: str) -> None:
    once = ["data.limit=60", "learning.epochs=1", setting]
    with pytest.raises(DivergenceError, match="not finite"):
        pcgen.train("digits-classifier", tmp_path / "run", settings=once)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_network_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    for layers in ("[9223372036854775807]", "[1000000000]"):
        with pytest.raises(RecipeError, match="to learn them takes"):
            pcgen.train("digits", tmp_path / "run", settings=[f"model.layers={layers}"])
