"""Several processes: they find what one does, write once, and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcgen
from pcgen.commands.progress import Event
from pcgen.data.images import order
from pcgen.distributed import share
from pcgen.learning.initial import _SAMPLE
from pcgen.storage.checkpoint import read_header
from pcgen.storage.runs import read_metrics

WORKER = Path(__file__).with_name("distributed_worker.py")


class StoppedError(Exception):
    """Stands for a crash."""


def environments(processes: int) -> list[dict[str, str]]:
    """Return the environment that a launcher gives to each process."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    own["WORLD_SIZE"] = str(processes)
    return [
        os.environ | own | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)
    ]


def start(words: list[str], processes: int) -> list[subprocess.Popen[str]]:
    return [launch(words, environment) for environment in environments(processes)]


def launch(
    words: list[str], environment: dict[str, str], folder: Path | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str, str]:
    """Return the exit codes, and what all said together."""
    said = [process.communicate(timeout=600) for process in processes]
    codes = [process.returncode for process in processes]
    return codes, "".join(out for out, _ in said), "".join(err for _, err in said)


@given(count=st.integers(0, 1000), size=st.integers(1, 20))
def test_the_shares_are_all_rows_once_in_order_and_equal_within_one(count: int, size: int) -> None:
    shares = [share(count, rank, size) for rank in range(size)]
    assert [row for part in shares for row in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


ERRORS = {
    "model": {
        "layers": [16, 64, 64],
        "activation": "gelu",
        "output": "sigmoid",
        "start": "linear",
        "precision": {"hidden": 100.0, "latent": 0.01},
    },
    "inference": {"solver": "errors", "steps": 4, "test_steps": 20},
    "learning": {"epochs": 1, "batch_size": 50, "rate": 3e-3},
}
MAJORISE = {
    "model": {"layers": [16, 32]},
    "inference": {"solver": "majorise", "steps": 5, "test_steps": 20},
    "learning": {"epochs": 1, "batch_size": 40, "incremental": True},
}
LEARNED = {
    "model": {
        "layers": [8, 16],
        "start": "linear",
        "precision": {"learned": True, "diagonal": True, "warmup": 0},
    },
    "inference": {
        "solver": "newton",
        "steps": 5,
        "test_steps": 20,
        "starts": [0, 0.5, 1],
        "keep_latents": True,
    },
    "learning": {"epochs": 2, "batch_size": 50, "optimiser": "sgd", "momentum": 0.9},
}
SAMPLED = {
    "model": {
        "layers": [4, 16],
        "likelihood": "bernoulli",
        "causes": 3,
        "precision": {"hidden": 50.0, "latent": 1.0},
    },
    "inference": {
        "solver": "kinetic",
        "test_steps": 20,
        "sampling": {
            "coordinates": "errors",
            "metropolis": True,
            "persistent": True,
            "warm": 3,
            "burn_in": 2,
            "samples": 2,
            "relax": 1,
        },
    },
    "learning": {"epochs": 2, "batch_size": 40, "causes_warmup": 0},
}
BOTH_WAYS = {
    "model": {
        "layers": [8, 24],
        "upward": [20],
        "activation": "gelu",
        "output": "sigmoid",
        "precision": {"data": 30.0, "hidden": 100.0, "latent": 1.0},
    },
    "inference": {"solver": "errors", "steps": 3, "test_steps": 20},
    "learning": {"epochs": 1, "batch_size": 40, "rate": 3e-3, "hide": 0.9},
}
# 201 = 5 * 40 + 1: a last batch with fewer images than there are processes. In float64, and few
# batches: where a move neither lowers nor raises an image's energy, rounding decides whether it is
# refused, and the two ways end far apart.
JOBS = {
    "errors": {"recipe": ERRORS, "limit": 401, "held_out": 101},
    "majorise": {"recipe": MAJORISE, "limit": 201, "held_out": 1},
    "learned": {"recipe": LEARNED, "limit": 333, "held_out": 33},
    "sampled": {"recipe": SAMPLED, "limit": 201, "held_out": 21},
    "both ways": {"recipe": BOTH_WAYS, "limit": 201, "held_out": 21},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, torch.Tensor]]]:
    """Return every job's tensors of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("tensors")
    words = [str(WORKER), json.dumps(list(JOBS.values())), str(folder / "of")]
    subprocess.run([sys.executable, *words], check=True)
    codes, _, said = end(start(words, 2))
    assert codes == [0, 0], said
    return [torch.load(folder / f"of{rank}") for rank in ("", "0", "1")]


@pytest.mark.parametrize("job", JOBS)
def test_two_processes_find_what_one_does(found: list[list[dict[str, Any]]], job: str) -> None:
    one, two, _ = (each[list(JOBS).index(job)] for each in found)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        scale = tensor.nan_to_num(posinf=0.0, neginf=0.0).abs().max().item()
        assert torch.allclose(two[name], tensor, rtol=0, atol=1e-6 * scale), name
    assert torch.allclose(two["validated"], two["alone"], rtol=1e-6)


@pytest.mark.parametrize("job", JOBS)
def test_both_processes_hold_the_same_to_the_bit(
    found: list[list[dict[str, Any]]], job: str
) -> None:
    _, first, second = (each[list(JOBS).index(job)] for each in found)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


QUICK = [
    *("--set", "data.limit=300"),
    *("--set", "learning.epochs=3"),
    *("--set", "learning.batch_size=60"),
    *("--set", "inference.test_steps=5"),
]
PCGEN = ["-m", "pcgen", "train"]

# A program whose process 1 does what the command line's first word says, after its third batch.
TROUBLE = """
import os, signal, sys, time
from pcgen.storage import runs
from pcgen.learning.predictive_coding import PredictiveCoding
runs._SAVE_EVERY = 0.0
trouble = sys.argv.pop(1)
learn, batches = PredictiveCoding.learn, 0
def troubled(self, *args):
    global batches
    sums = learn(self, *args)
    batches += 1
    if os.environ.get("RANK") == "1" and batches == 3:
        if trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "memory":
            PredictiveCoding.learn = without_memory
    if trouble == "slowly":
        print("batch", flush=True)
        time.sleep(0.2)
    return sums
def without_memory(self, rows, *args):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
begin = PredictiveCoding.fits
def fits(self, data_BD):
    return len(data_BD) <= 10 and begin(self, data_BD)
PredictiveCoding.fits = fits
PredictiveCoding.learn = troubled
from pcgen.cli.main import main
main()
"""


def errors_in(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("Error: ")]


def test_only_one_process_writes_and_speaks(tmp_path: Path) -> None:
    words = [*PCGEN, "digits", "--out", str(tmp_path / "run"), *QUICK, "--json"]
    codes, out, said = end(start(words, 2))
    assert codes == [0, 0], said
    assert json.loads(out)["epochs"] == 3
    assert said.count("epoch 3/3") == 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "recipe.toml",
        "environment.json",
        "metrics.jsonl",
        "last.safetensors",
        "model.safetensors",
    }


def test_two_processes_train_the_classifier_that_one_trains(tmp_path: Path) -> None:
    settings = ["data.limit=200", "learning.epochs=2", "classifier.channels=[4]"]
    words = ["digits-classifier", "--json", *(word for s in settings for word in ("--set", s))]
    energies = []
    for processes in (1, 2):
        run = ["--out", str(tmp_path / str(processes))]
        codes, out, said = end(start([*PCGEN, *words, *run], processes))
        assert codes == [0] * processes, said
        energies.append(json.loads(out)["metrics"]["energy"])
    assert energies[1] == pytest.approx(energies[0], rel=1e-4)


def test_a_process_that_dies_ends_the_run_with_one_message_and_another_number_resumes(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    words = ["-c", TROUBLE, "die", "train", "digits", "--out", str(run), *QUICK, "--json"]
    processes = start(words, 2)
    processes[1].wait(timeout=600)
    began = time.monotonic()
    processes[0].wait(timeout=600)
    # The rest of a process's patience with a silent partner is ten minutes.
    assert time.monotonic() - began < 60
    codes, _, said = end(processes)
    assert codes == [1, -signal.SIGKILL]
    error = json.loads(said)["error"]
    assert error["kind"] == "distributed"
    assert "lost another" in error["message"]
    assert f"pcgen train --resume --out {run}" in error["hint"]
    # What one process saved of two, one alone continues.
    resumed = pcgen.train(None, run, resume=True)
    whole = pcgen.train("digits", tmp_path / "whole", settings=QUICK[1::2])
    assert resumed.metrics["energy"] == pytest.approx(whole.metrics["energy"], rel=1e-3)
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2, 3]


def test_a_run_of_one_process_is_continued_by_two(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def watch(event: Event) -> None:
        if event.note:
            raise StoppedError

    with pytest.raises(StoppedError):
        pcgen.train("digits", run, settings=QUICK[1::2], on_progress=watch)
    codes, _, said = end(start([*PCGEN, "--resume", "--out", str(run)], 2))
    assert codes == [0, 0], said
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2, 3]


def test_an_image_that_cannot_be_read_ends_all_with_its_name_said_once(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((21_000, 4, 4), dtype=np.float32)
    # Beyond the sample that training begins with, so that one process alone finds it.
    first = set(order(len(images), 0, -1)[:_SAMPLE].tolist())
    bad = next(row for row in range(len(images)) if row not in first)
    images[bad] = np.nan
    np.save(tmp_path / "bad.npy", images)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        "[data]\nvalidation = 0\n[model]\nlayers = [2]\n[learning]\nbatch_size = 2000"
    )
    words = [*PCGEN, str(recipe), "--data", str(tmp_path / "bad.npy"), "--out", str(tmp_path / "r")]
    codes, _, said = end(start(words, 2))
    assert codes == [1, 1]
    assert len(errors_in(said)) == 1
    assert f"bad.npy[{bad}]" in errors_in(said)[0]
    assert "Traceback" not in said


def test_a_process_without_memory_names_the_batch_that_fits(tmp_path: Path) -> None:
    words = ["-c", TROUBLE, "memory", "train", "digits", "--out", str(tmp_path / "run"), *QUICK]
    codes, _, said = end(start(words, 2))
    assert codes == [1, 1]
    # Of 30 images a process 7 fit, which is 14 of two.
    assert errors_in(said) == [
        "Error: a batch of 60 images does not fit into the memory, one of 14 does"
    ]
    assert "--set learning.batch_size=14" in said


def test_an_interrupt_of_one_process_stops_all_at_the_same_batch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["-c", TROUBLE, "slowly", "train", "digits", "--out", str(run), *QUICK]
    processes = start(words, 2)
    assert processes[1].stdout is not None
    processes[1].stdout.readline()
    processes[1].send_signal(signal.SIGINT)
    codes, out, said = end(processes)
    assert codes == [130, 130], said
    assert said.count("Interrupted. Saved:") == 1
    batches = read_header(run / "last.safetensors")["counters"]["updates"]
    # One line was read above.
    assert out.count("batch") == 2 * batches - 1


def test_processes_with_other_data_are_refused(tmp_path: Path) -> None:
    one, other = environments(2)
    for rank, environment in enumerate((one, other)):
        folder = tmp_path / str(rank)
        folder.mkdir()
        np.save(folder / "x.npy", np.full((40, 2, 2), rank, np.uint8))
        environment["FOLDER"] = str(folder)
    words = ["--data", "x.npy", "--out", str(tmp_path / "run"), *QUICK]
    processes = [
        launch([*PCGEN, "digits", *words], environment, Path(environment["FOLDER"]))
        for environment in (one, other)
    ]
    codes, _, said = end(processes)
    assert codes == [1, 1]
    assert len(errors_in(said)) == 1
    assert "differ in their data" in said


def test_two_processes_reconstruct_what_one_does(tmp_path: Path) -> None:
    words = ["-m", "pcgen", "reconstruct", "digits", "digits:test", "--limit", "31", "--jsonl"]
    codes, alone, _ = end([launch(words, dict(os.environ))])
    assert codes == [0]
    codes, shared, said = end(start([*words, "--out", str(tmp_path / "out")], 2))
    assert codes == [0, 0], said
    rows, others = ([json.loads(line) for line in text.splitlines()] for text in (alone, shared))
    assert [row["id"] for row in others] == [row["id"] for row in rows]
    for row, other in zip(rows, others, strict=True):
        assert other["energy"] == pytest.approx(row["energy"], rel=1e-4)
    assert (tmp_path / "out" / "reconstructions.png").exists()


def test_more_processes_than_images_reconstruct(tmp_path: Path) -> None:
    words = ["-m", "pcgen", "reconstruct", "digits", "digits:test", "--limit", "1", "--json"]
    words += ["--out", str(tmp_path / "out")]
    codes, out, said = end(start(words, 2))
    assert codes == [0, 0], said
    assert json.loads(out)["count"] == 1


@pytest.mark.parametrize("out", [True, False])
def test_two_processes_score_what_one_does(out: bool, tmp_path: Path) -> None:
    words = ["-m", "pcgen", "ood-score", "digits-ood", "digits:test", "--jsonl"]
    codes, alone, _ = end([launch(words, dict(os.environ))])
    assert codes == [0]
    file = tmp_path / "rows.csv"
    codes, shared, said = end(start([*words, *(["--out", str(file)] if out else [])], 2))
    assert codes == [0, 0], said
    rows, others = ([json.loads(line) for line in text.splitlines()] for text in (alone, shared))
    assert [row["id"] for row in others] == [row["id"] for row in rows]
    assert [row["q_value_bh"] for row in others] == pytest.approx(
        [row["q_value_bh"] for row in rows], abs=0.01
    )
    if out:
        assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "rows.csv.meta.json"}
