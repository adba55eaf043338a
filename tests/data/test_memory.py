"""Data larger than the memory that is set aside for them pass through it."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Prints the most memory (MiB) that a training run has held; VmHWM is this process's alone.
PEAK = """
import sys
from pathlib import Path
import pcgen
data, memory, out = sys.argv[1:]
settings = [
    f"data.memory={memory}", "data.validation=100", "model.layers=[2]", "learning.epochs=1",
    "model.start=zero", "inference.steps=1", "inference.test_steps=1", "learning.batch_size=100",
]
pcgen.train("digits", out, data=data, settings=settings, device="cpu")
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""
MIB = 2**20


def peak(data: Path, memory: int, out: Path) -> float:
    words = [sys.executable, "-c", PEAK, str(data), str(memory), str(out)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return int(said.split()[-1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_on_a_mapped_array_four_times_the_limit_stays_within_it(tmp_path: Path) -> None:
    # 64 MiB may stay in memory, of 256; both files have more images than the sample that training
    # begins with.
    limit, width = 64, 3 * 64 * 64
    for name, size in (("small", 36), ("large", 4 * limit)):
        rows = size * MIB // width
        array = np.lib.format.open_memmap(
            tmp_path / f"{name}.npy", "w+", np.uint8, (rows, 64, 64, 3)
        )
        array[:] = np.arange(rows, dtype=np.uint8)[:, None, None, None]
        array.flush()
        del array
    least = peak(tmp_path / "small.npy", limit, tmp_path / "a")
    bounded = peak(tmp_path / "large.npy", limit, tmp_path / "b")
    free = peak(tmp_path / "large.npy", 1024, tmp_path / "c")
    # Half as much again: the system counts pages of the file that it has not dropped yet.
    assert bounded < least + 1.5 * limit
    assert free > least + 2 * limit


# Opens each file and prints the most memory (MiB) that this takes above the imports.
REFUSALS = """
import sys
from pathlib import Path
from pcgen.data.sources import open_data
from pcgen.errors import DataError

def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024

small, *files = sys.argv[1:]
open_data(small, size=(8, 8)).rows([0])
before = most()
for file in files:
    try:
        open_data(file, size=(8, 8)).rows([0])
    except DataError as error:
        print(file, error)
print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_refusal_and_a_picture_of_64_million_pixels_take_less_than_500_mib(
    tmp_path: Path,
) -> None:
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**16, 64, 64)
    (tmp_path / "x.idx.gz").write_bytes(gzip.compress(header + bytes(2**28), 1))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", gzip.decompress((tmp_path / "x.idx.gz").read_bytes()))
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    Image.new("RGB", (8192, 8192), (1, 2, 3)).save(tmp_path / "large.png", compress_level=1)
    names = ["small.png", "x.idx.gz", "x.npz", "large.png"]
    words = [sys.executable, "-c", REFUSALS, *(str(tmp_path / name) for name in names)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(said) == 3
    assert int(said[-1]) < 500
