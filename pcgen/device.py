"""The device, the process-wide settings of torch, and seeded generators.

Generators are the only source of randomness.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pcgen.errors import DeviceError, RecipeError

# With fewer multiply-adds in a batch's largest product, a second thread waits more than it works.
# On a busy machine two threads took 6 times as long as one for the digits recipe (0.2 million).
_WORTH_SHARING = 4_000_000


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; `auto` is a GPU if there is one.

    Raises:
        DeviceError: a name that torch does not know, or a device that is not on this machine.
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


# Bytes of a number while it is learned: itself, its slope, and two averages of the optimiser.
_LEARNING = 16


def require_memory(numbers: int) -> None:
    """Raise RecipeError if this machine's memory cannot hold so many numbers that are learned."""
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if numbers * _LEARNING > there:
        raise RecipeError(
            f"the network has {numbers:.3g} numbers: to learn them takes "
            f"{numbers * _LEARNING / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}",
            "Make it smaller: --set model.layers=[...]",
        )


def choose_threads(multiply_adds: int) -> None:
    """Use one CPU thread if batches are small; `OMP_NUM_THREADS` decides if it is set.

    Args:
        multiply_adds: number of multiply-adds in the largest matrix product of a batch.
    """
    if multiply_adds < _WORTH_SHARING and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)


# Options of glibc's mallopt, and their values in bytes. Larger blocks always go back.
_TRIM_THRESHOLD, _KEPT = -1, 2**28
_MMAP_THRESHOLD, _LARGE = -3, 2**25


def keep_memory() -> None:
    """Keep freed memory for the next tensors, where the C library is glibc.

    It would give large blocks back to the system, which clears every page of the next one: a tenth
    of the time of inference on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)


_MATMUL = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}


def choose_products(name: str) -> None:
    """Round the factors of matrix products and convolutions to `float32`, `tf32` or `bfloat16`."""
    torch.set_float32_matmul_precision(_MATMUL[name])
    # cuDNN rounds convolutions to tf32 by default. It has no bfloat16 for them.
    torch.backends.cudnn.allow_tf32 = name != "float32"


@contextmanager
def restored_settings() -> Iterator[None]:
    """Restore the process's threads and its precision of products when the block ends."""
    threads = torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    allows_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = allows_tf32


def free_memory(
    device: torch.device,
    system: Path = Path("/proc/meminfo"),
    container: Path = Path("/sys/fs/cgroup"),
) -> int | None:
    """Return the bytes of memory that a device has left; None if the system does not say.

    Args:
        system: Linux's file about the memory of the whole machine.
        container: Linux's folder about the memory limit of this container.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = system.read_text().splitlines()
        limits = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        limits = []
    try:
        used = int((container / "memory.current").read_text())
        # Cached files count as used memory, but Linux drops them when memory is needed.
        for line in (container / "memory.stat").read_text().splitlines():
            used -= int(line.split()[1]) if line.startswith("inactive_file ") else 0
        # A ValueError if the limit is "max".
        limits.append(int((container / "memory.max").read_text()) - used)
    except (OSError, ValueError):
        pass
    return max(0, min(limits)) if limits else None


def processor(system: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name.

    Args:
        system: Linux's file about the processors.
    """
    return _of_processor("model name", system) or platform.processor() or platform.machine()


@functools.cache
def has_fast_mkl(system: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether torch's functions come from MKL, on a processor of Intel's.

    On others MKL leaves out the fast instructions.
    """
    vendor = _of_processor("vendor_id", system) or platform.processor()
    return "Intel" in vendor and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]


def _of_processor(key: str, system: Path) -> str:
    """Return what Linux says of the first processor under a key; nothing elsewhere."""
    try:
        for line in system.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        pass
    return ""


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a generator that depends on the seed and the purpose alone, not on earlier draws.

    A resumed run therefore draws the same numbers as an uninterrupted one.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
