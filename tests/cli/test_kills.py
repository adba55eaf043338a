"""A command that was killed at any moment, and is repeated, gives the right files and no others.

PCGEN_KILLS=60 pytest tests/cli/test_kills.py kills at 60 random moments.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli import killing
from tests.data.pictures import random_pixels

KEPT = Path(__file__).parents[1] / "golden" / "0.1.0"
COMMANDS = [
    "sample iris -n 5 --out drawn.csv",
    "report run --out page.html",
    "classify digits-classifier x.npy --out labels.csv",
    "memorise memory.safetensors x.npy --limit 2 --out larger.safetensors",
    "ood-score digits-ood photos --out scores.csv --heatmaps maps",
    "ood-calibrate digits-ood x.npy --out mine.safetensors",
]
RANDOM_KILLS = int(os.environ.get("PCGEN_KILLS", "1"))

Start = Callable[..., multiprocessing.process.BaseProcess]


@pytest.fixture(scope="module")
def start() -> Start:
    """Return a function that starts a command in a process that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        # The server finds the module by this path alone.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        context.set_forkserver_preload(["tests.cli.killing"])
        forkserver.ensure_running()

    def start(command: str, folder: Path, call: str | None = None, number: int = 1):  # type: ignore[no-untyped-def]
        process = context.Process(target=killing.run, args=(command, folder, call, number))
        process.start()
        return process

    return start


def with_inputs(folder: Path) -> Path:
    """Make a folder with inputs of the commands, and return it."""
    (folder / "photos").mkdir(parents=True)
    np.save(folder / "x.npy", random_pixels(60, 8, 8))
    for i in range(5):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / "photos" / f"{i}.png")
    shutil.copytree(KEPT / "run", folder / "run")
    shutil.copy(KEPT / "memory.safetensors", folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file; of metadata, which hold times, only the name."""
    return {
        str(path.relative_to(folder)): b"" if path.suffix == ".json" else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, start: Start
) -> Callable[[str], tuple[dict[str, bytes], float]]:
    """Return a function that gives the files after a command, and the seconds that it took."""
    known: dict[str, tuple[dict[str, bytes], float]] = {}

    def finished(command: str) -> tuple[dict[str, bytes], float]:
        if command not in known:
            folder = with_inputs(tmp_path_factory.mktemp("whole") / "work")
            began = time.monotonic()
            process = start(command, folder)
            process.join()
            assert process.exitcode == 0
            known[command] = files(folder), time.monotonic() - began
        return known[command]

    return finished


def repeat(start: Start, command: str, folder: Path) -> dict[str, bytes]:
    """Run a command after a kill, and return the files."""
    process = start(command, folder)
    process.join()
    assert process.exitcode == 0
    return files(folder)


@pytest.mark.parametrize(
    ("command", "call", "number"),
    [
        (COMMANDS[0], "fsync", 1),
        (COMMANDS[3], "replace", 1),
        (COMMANDS[4], "replace", 7),  # between the rows and their metadata
    ],
)
def test_a_command_that_was_killed_while_it_wrote_can_be_repeated(
    tmp_path: Path,
    start: Start,
    finished: Callable[[str], tuple[dict[str, bytes], float]],
    command: str,
    call: str,
    number: int,
) -> None:
    folder = with_inputs(tmp_path / "work")
    process = start(command, folder, call, number)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert any(name.endswith(".part") for name in files(folder))
    assert repeat(start, command, folder) == finished(command)[0]


@pytest.mark.parametrize("seed", range(RANDOM_KILLS))
def test_a_command_that_was_killed_at_any_moment_can_be_repeated(
    tmp_path: Path,
    start: Start,
    finished: Callable[[str], tuple[dict[str, bytes], float]],
    seed: int,
) -> None:
    command = COMMANDS[seed % len(COMMANDS)]
    whole, seconds = finished(command)
    folder = with_inputs(tmp_path / "work")
    process = start(command, folder)
    process.join(random.Random(seed).uniform(0, seconds))
    process.kill()
    process.join()
    assert repeat(start, command, folder) == whole
