"""Where tensors live, and the only source of randomness: seeded generators."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from pcgen.errors import DeviceError

# Multiply-adds of a batch's largest product below which a second thread waits more than it works.
# Two threads on a busy machine took 6 times as long as one for the digits recipe (0.2 million).
_WORTH_SHARING = 4_000_000


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; `auto` takes a GPU where there is one.

    Raises:
        DeviceError: a name torch does not know, or a device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"{name}: no such device", "Show the devices: pcgen doctor") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            there = f"{count} CUDA device{'s' * (count != 1)} here"
            raise DeviceError(f"{name}: not on this machine ({there})", "Use --device cpu")
    elif device.type != "cpu":
        raise DeviceError(f"{name}: not supported", "Use --device cpu or --device cuda")
    return device


def choose_threads(multiply_adds: int) -> None:
    """Use one CPU thread where batches are small; `OMP_NUM_THREADS`, where set, decides instead.

    Args:
        multiply_adds: of the largest matrix product of a batch.
    """
    if multiply_adds < _WORTH_SHARING and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)


_MATMUL = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}


def choose_products(name: str) -> None:
    """Round the factors of matrix products and convolutions to `float32`, `tf32` or `bfloat16`."""
    torch.set_float32_matmul_precision(_MATMUL[name])
    # cuDNN rounds convolutions to tf32 unless it is told not to; it has no bfloat16 for them.
    torch.backends.cudnn.allow_tf32 = name != "float32"


def free_memory(
    device: torch.device,
    system: Path = Path("/proc/meminfo"),
    container: Path = Path("/sys/fs/cgroup"),
) -> int | None:
    """Return the bytes of memory that a device has left; None where the system does not say.

    Args:
        system: what Linux says of the whole machine.
        container: where it says what this container may take, if there is a limit.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = system.read_text().splitlines()
        found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        found = []
    try:
        used = int((container / "memory.current").read_text())
        # Files that were read lately count as used, but are let go when memory is needed.
        for line in (container / "memory.stat").read_text().splitlines():
            used -= int(line.split()[1]) if line.startswith("inactive_file ") else 0
        # A ValueError where the limit is "max".
        found.append(int((container / "memory.max").read_text()) - used)
    except (OSError, ValueError):
        pass
    return max(0, min(found)) if found else None


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a generator that depends on seed and purpose alone, not on what was drawn before.

    A run that resumes therefore draws what an uninterrupted one draws.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
