"""A memory in float16: half the bytes, the same recall."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pcgen
from pcgen.commands.session import open_memory
from pcgen.errors import PcgenWarning, RecipeError
from pcgen.memory.rounding import in_float16
from pcgen.storage.checkpoint import LATENTS, MEMORY_ERRORS, read_header
from tests.memory.test_training import images, memorised, pixels, recipe

SMALL = ["data.limit=40", "model.layers=[64, 64]"]


def trained(folder: Path, *settings: str) -> Path:
    made = [*SMALL, *settings]
    pcgen.train("tiny-imagenet-memory", folder, data="digits", settings=made)
    return folder / "model.safetensors"


def test_float16_halves_the_file_and_recalls_the_same_images(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain")
    half = trained(tmp_path / "half", "learning.stored_type=float16")
    small, large = half.stat().st_size, plain.stat().st_size
    assert small - 8000 < 0.55 * (large - 8000)
    cue = {"corrupt": ["mask:bottom"], "limit": 40}
    found = [pcgen.recall(path, "digits", **cue).metrics for path in (plain, half)]
    for metrics in found:
        assert metrics["exact"] == metrics["known"] == 1.0
    other = pcgen.recall(half, "digits:test", corrupt=["mask:bottom"], limit=20)
    assert other.metrics["known"] == 0.0


def test_the_errors_of_a_file_hold_what_rounding_changes(tmp_path: Path) -> None:
    path = trained(tmp_path / "half", "learning.stored_type=float16")
    memory = open_memory(path)
    assert memory.latents is not None
    assert memory.errors is not None
    data_BD = pixels(images(40))
    error_N = (memory.network.decode(memory.latents) - data_BD).square().mean(1)
    assert float(error_N.max()) < 1e-5
    torch.testing.assert_close(memory.errors.mean(), error_N.mean(), rtol=0.2, atol=1e-9)


def test_writing_and_forgetting_keep_the_type(tmp_path: Path) -> None:
    path = trained(tmp_path / "half", "learning.stored_type=float16")
    larger, smaller = tmp_path / "larger.safetensors", tmp_path / "smaller.safetensors"
    written = pcgen.memorise(path, "digits:test", larger, limit=5)
    assert written.old_change < 1e-8
    pcgen.forget(larger, [3], smaller)
    for file in (path, larger, smaller):
        types = {name: entry["dtype"] for name, entry in read_header(file)["tensors"].items()}
        assert types[LATENTS] == types["layers.0.weight"] == "F16"
        assert types["layers.0.bias"] == "F32"
    again = pcgen.recall(smaller, "digits:test", corrupt=["mask:bottom"], limit=5)
    assert again.metrics["exact"] == again.metrics["known"] == 1.0


def test_images_that_float16_spoils_are_counted_in_a_warning() -> None:
    made = memorised(recipe(), images())
    tensors = made.model_tensors()
    # Two large weights that cancel: float16 rounds the second one.
    made.network.layers[0].weight[:, :2] = torch.tensor([4096.0, -4095.0])
    tensors[LATENTS][:] = 1.0
    with pytest.warns(PcgenWarning, match="float16 spoils .* images.*stored_type=float32"):
        rounded = in_float16(made.network, tensors)
    assert float(rounded[MEMORY_ERRORS].min()) > 1e-3


def test_numbers_too_large_for_float16_are_refused() -> None:
    made = memorised(recipe(), images())
    made.network.layers[0].weight[0, 0] = 70000.0
    with pytest.raises(RecipeError, match=r"layers\.0\.weight has numbers too large for float16"):
        in_float16(made.network, made.model_tensors())


def test_only_a_memory_is_stored_in_float16(tmp_path: Path) -> None:
    for name in ("digits", "digits-classifier"):
        with pytest.raises(RecipeError, match=r"learning\.stored_type"):
            pcgen.train(name, tmp_path, settings=["learning.stored_type=float16"])
