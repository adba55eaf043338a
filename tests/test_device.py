"""Devices and the process-wide choices that go with them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pcgen.config import from_dict
from pcgen.device import choose_products, free_memory, has_fast_mkl, keep_memory, processor
from pcgen.errors import RecipeError


@pytest.fixture(autouse=True)
def _products() -> Iterator[None]:
    yield
    choose_products("float32")


@pytest.mark.parametrize(
    ("name", "matmul", "rounds_convolutions"),
    [("float32", "highest", False), ("tf32", "high", True), ("bfloat16", "medium", True)],
)
def test_only_who_asks_gets_rounded_factors(
    name: str, matmul: str, rounds_convolutions: bool
) -> None:
    choose_products(name)
    assert torch.get_float32_matmul_precision() == matmul
    assert torch.backends.cudnn.allow_tf32 == rounds_convolutions


def test_products_are_float32_unless_a_recipe_says_so() -> None:
    assert from_dict({}).inference.products == "float32"
    with pytest.raises(RecipeError, match="products"):
        from_dict({"inference": {"products": "float16"}})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_kept_memory_is_not_cleared_again_for_the_next_tensors() -> None:
    import resource  # not on Windows

    def pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.zeros(2**20).add(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_memory()
    pages()
    assert pages() < 10_000  # of 2 tensors of 1024 pages each, ten times


def test_free_memory_is_the_machine_s_or_what_the_container_leaves(tmp_path: Path) -> None:
    system, cpu = tmp_path / "meminfo", torch.device("cpu")
    assert free_memory(cpu, system, tmp_path) is None
    system.write_text("MemTotal: 900 kB\nMemAvailable:   500 kB\n")
    assert free_memory(cpu, system, tmp_path) == 500 * 1024
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(cpu, system, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("250000\n")
    assert free_memory(cpu, system, tmp_path) == 50_000
    (tmp_path / "memory.max").write_text("100000\n")
    assert free_memory(cpu, system, tmp_path) == 0


def test_a_processor_has_the_name_that_the_system_gives(tmp_path: Path) -> None:
    system = tmp_path / "cpuinfo"
    assert processor(system)
    system.write_text("processor\t: 0\nmodel name\t: AMD EPYC: 9B45\nmodel name\t: other\n")
    assert processor(system) == "AMD EPYC: 9B45"


def test_mkl_is_fast_on_intel_s_processors_only(tmp_path: Path) -> None:
    expected = {"GenuineIntel": torch.backends.mkl.is_available(), "AuthenticAMD": False}
    for vendor, is_fast in expected.items():
        (tmp_path / vendor).write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        assert has_fast_mkl(tmp_path / vendor) == is_fast
