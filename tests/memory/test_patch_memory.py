"""The memory of patches: it comes back from its bytes, keeps to its budget, errs by its step."""

from __future__ import annotations

import pytest
import torch

from pcgen.data.sources import open_data
from pcgen.errors import CheckpointError
from pcgen.memory.patch_memory import PatchMemory

SHAPE = (3, 16, 24)


def smooth(count: int) -> torch.Tensor:
    """Return colour images whose neighbouring pixels are alike."""
    coarse = torch.rand(count, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, SHAPE[1:], mode="bicubic").clamp(0, 1).flatten(1)


@pytest.mark.parametrize("step", [0.05, 0.5, 5.0])
def test_a_memory_comes_back_from_its_bytes(step: float) -> None:
    memory = PatchMemory.rounded(smooth(40), SHAPE, step)
    again = PatchMemory.from_bytes(memory.to_bytes())
    assert torch.equal(again.units_MK, memory.units_MK)
    assert torch.equal(again.decode(), memory.decode())


def test_a_unit_errs_by_six_tenths_of_a_step_at_most() -> None:
    images_ND, step = smooth(40), 0.02
    memory = PatchMemory.rounded(images_ND, SHAPE, step)
    assert memory.kernel_PK.shape[0] == 3 * 8 * 8
    error = (memory.decode() - images_ND).square().mean().sqrt()
    assert error < 0.6 * step


def test_fewer_bytes_cost_error_and_no_memory_exceeds_its_budget() -> None:
    images_ND = open_data("digits", limit=300).rows(range(300)).pixels_BD
    errors = []
    for budget in (9600, 4800, 2400):
        memory = PatchMemory.fit(images_ND, (1, 8, 8), budget)
        assert 0.9 * budget < len(memory.to_bytes()) <= budget
        errors.append((memory.decode() - images_ND).square().mean().item())
    assert errors[0] < errors[1] < errors[2] < images_ND.var(0).mean()


def test_sizes_around_shorten_the_code_of_images_of_which_half_are_flat() -> None:
    images_ND = smooth(60)
    images_ND[::2] = 0.5 + 0.02 * (images_ND[::2] - 0.5)
    memory = PatchMemory.rounded(images_ND, SHAPE, 0.1)
    units_MK = memory.units_MK.long()
    bits = 0.0
    for units_M in units_MK.T:
        share = torch.bincount(units_M - units_M.min()).double() / len(units_M)
        bits -= len(units_M) * float((share * share.clamp_min(1e-30).log2()).sum())
    kernels = memory.kernel_PK.numel()
    assert len(memory.to_bytes()) - kernels < 0.9 * bits / 8 + 1500


@pytest.mark.parametrize("damage", ["empty", "other", "short", "changed"])
def test_damaged_content_is_refused(damage: str) -> None:
    content = PatchMemory.rounded(smooth(20), SHAPE, 0.5).to_bytes()
    broken = {
        "empty": b"",
        "other": b"\x89PNG" * 40,
        "short": content[: len(content) // 2],
        "changed": content[:40] + b"\x00\x01\x02\x03" + content[44:],
    }[damage]
    with pytest.raises(CheckpointError, match="memory of patches"):
        PatchMemory.from_bytes(broken)
