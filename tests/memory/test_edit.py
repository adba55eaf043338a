"""Writing once and forgetting: exact for what stays, and as good as training on all at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.sources import open_data
from pcgen.errors import RecipeError
from pcgen.memory.corruptions import corruption_of
from pcgen.memory.edit import EditedMemory, _inferred, erase, free_latents, write
from pcgen.memory.least_squares import regress
from pcgen.memory.recall import Memory, recall
from pcgen.model.layers import Dense
from pcgen.model.network import Network
from tests import oracle
from tests.memory.test_training import images, memorised, recipe

SHAPE = (1, 8, 8)


def pixels(first: int, last: int) -> Tensor:
    return open_data("digits").rows(range(first, last)).pixels_BD


def small() -> tuple[Network, Tensor]:
    made = memorised(recipe(), images(12))
    return made.network, made.latents_NL


def items(found: EditedMemory, data_BD: Tensor) -> tuple[list[int], list[bool]]:
    cues = corruption_of(["mask:bottom"], SHAPE).cues(data_BD, range(len(data_BD)), SHAPE, 0)
    memory = Memory.of(found.network, found.latents_NL)
    with torch.no_grad():
        seen = recall(memory, cues, InferenceTable(test_steps=50))
    return seen.item_B.tolist(), seen.known_B.tolist()


def test_written_images_are_recalled_and_old_ones_stay() -> None:
    network, latents = small()
    with torch.no_grad():
        found = write(network, latents, pixels(12, 18), 0)
    assert found.mse is not None
    assert found.mse < 1e-6
    assert found.old_change < 1e-8
    assert items(found, pixels(0, 18)) == (list(range(18)), [True] * 18)


def test_writing_one_by_one_holds_what_writing_at_once_holds() -> None:
    network, latents = small()
    found = EditedMemory(network, latents, None, 0.0)
    with torch.no_grad():
        for i in range(12, 18):
            found = write(found.network, found.latents_NL, pixels(i, i + 1), 0)
    decoded_BD = found.network.decode(found.latents_NL)
    assert (decoded_BD - pixels(0, 18)).square().mean() < 1e-6


def test_beyond_the_units_a_write_is_recursive_least_squares() -> None:
    # 30 images of 9 features, the last 5 of which are written afterwards.
    network = oracle.network(layers=(6, 8), shape=12)
    source = torch.Generator().manual_seed(0)
    data_BD = torch.randn(30, 12, generator=source, dtype=torch.float64)
    latents = torch.randn(30, 6, generator=source, dtype=torch.float64)
    first = network.layers[0]
    assert isinstance(first, Dense)
    old = network.states_from(latents[:25])
    regress(first, data_BD[:25] - old[0], old[1])
    with torch.no_grad():
        found = write(network, latents[:25], data_BD[25:], 0)
    both = found.network.states_from(found.latents_NL)
    target = torch.cat([network.decode(latents[:25]), data_BD[25:]])
    features = torch.cat([both[1], torch.ones(30, 1, dtype=torch.float64)], 1)
    expected = features @ torch.linalg.lstsq(features, target).solution
    assert torch.allclose(both[0], expected, atol=1e-6)
    assert found.old_change > 0


def test_a_full_memory_changes_by_no_more_than_the_new_images_miss() -> None:
    made = memorised(recipe({"layers": [24, 24]}, batch_size=24), images(24))
    data_BD = pixels(24, 40)
    with torch.no_grad():
        found = write(made.network, made.latents_NL, data_BD, 0, made.errors_N)
        inferred_BD = made.network.decode(_inferred(made.network, data_BD))
    assert found.room == 0
    assert found.mse is not None
    assert found.errors_N is not None
    before = float((inferred_BD - data_BD).square().sum())
    after = 64 * (16 * found.mse + 24 * found.old_change)
    assert after <= before * (1 + 1e-4)
    # A random latent would spoil old and new images alike.
    assert found.old_change < 0.2 * float(data_BD.var(0).mean())
    old_N = (found.network.decode(found.latents_NL[:24]) - pixels(0, 24)).square().mean(1)
    assert (old_N <= found.errors_N[:24] + 1e-6).all()


def test_the_room_that_is_left_is_filled_exactly_first() -> None:
    made = memorised(recipe({"layers": [24, 24]}, batch_size=24), images(20))
    with torch.no_grad():
        found = write(made.network, made.latents_NL, pixels(20, 30), 0)
    assert found.room == 4


def test_forgotten_images_are_unknown_and_the_others_stay() -> None:
    network, latents = small()
    with torch.no_grad():
        found = erase(network, latents, [3, 7])
    assert len(found.latents_NL) == 10
    assert found.old_change < 1e-8
    numbers, known = items(found, pixels(0, 12))
    assert [k for k, kept in zip(range(12), known, strict=True) if not kept] == [3, 7]
    left = [n for i, n in enumerate(numbers) if i not in (3, 7)]
    assert left == list(range(10))
    # Nothing of the image is left under its latent.
    decoded_D = found.network.decode(latents[3:4])[0]
    others = torch.cat([pixels(0, 3), pixels(4, 7), pixels(8, 12)])
    assert torch.allclose(decoded_D, others.mean(0), atol=1e-3)


def test_new_latents_are_at_right_angles_to_all_that_are_stored() -> None:
    latents = _latents(10, 32)
    found = free_latents(latents, 4, 0)
    mean = latents.mean(0)
    new, old = (found - mean).double(), (latents - mean).double()
    assert (new @ old.T).abs().max() < 1e-3 * new.norm(dim=1).max() * old.norm(dim=1).max()
    assert ((new @ new.T) - torch.diag(new.square().sum(1))).abs().max() < 1e-3
    assert torch.allclose(new.norm(dim=1), old.norm(dim=1).mean().expand(4), rtol=1e-4)
    assert free_latents(_latents(40, 8), 3, 0).isfinite().all()


def _latents(count: int, units: int) -> Tensor:
    return torch.randn(count, units, generator=torch.Generator().manual_seed(5))


def test_what_cannot_be_rewritten_is_said() -> None:
    with pytest.raises(RecipeError, match="dense, linear data layer"):
        write(oracle.network(output="sigmoid"), torch.randn(4, 3), torch.randn(1, 7), 0)
    with pytest.raises(RecipeError, match="at least two"):
        erase(oracle.network(), torch.randn(3, 3).double(), [0, 1])
