"""Corruptions: what is hidden, what is added, and that neither depends on the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcgen.errors import DataError
from pcgen.memory.corruptions import Cues, corruption_of

SHAPE = (3, 16, 12)


def images(count: int = 6) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.rand(count, 3 * 16 * 12, generator=source)


def cues(*words: str, seed: int = 0, count: int = 6) -> Cues:
    return corruption_of(words, SHAPE).cues(images(count), range(count), SHAPE, seed)


def hidden(found: Cues) -> torch.Tensor:
    return ~found.visible_BD.reshape(-1, *SHAPE)


@pytest.mark.parametrize(
    ("word", "where"),
    [
        ("mask:bottom", np.s_[:, :, 8:, :]),
        ("mask:top", np.s_[:, :, :8, :]),
        ("mask:left", np.s_[:, :, :, :6]),
        ("mask:right", np.s_[:, :, :, 6:]),
    ],
)
def test_a_half_is_hidden_and_the_other_left_alone(word: str, where: tuple[slice, ...]) -> None:
    found = cues(word)
    expected = torch.zeros(6, *SHAPE, dtype=torch.bool)
    expected[where] = True
    assert torch.equal(hidden(found), expected)
    assert torch.equal(found.pixels_BD[found.visible_BD], images()[found.visible_BD])
    assert (found.pixels_BD[~found.visible_BD] == 0).all()


def test_a_share_of_the_pixels_is_hidden_in_all_channels_in_each_image_another() -> None:
    found = hidden(cues("mask:75%"))
    assert (found.float().mean((1, 2, 3)) == 0.75).all()
    assert (found.all(1) == found.any(1)).all()
    assert not torch.equal(found[0], found[1])


def test_noise_has_its_deviation_and_is_not_clipped() -> None:
    found = cues("noise:0.5", count=200)
    noise = found.pixels_BD - images(200)
    assert noise.std().item() == pytest.approx(0.5, rel=0.01)
    assert found.pixels_BD.min() < 0 < 1 < found.pixels_BD.max()
    assert found.visible_BD.all()


def test_variances_of_noise_add_up_and_masks_meet() -> None:
    found = cues("noise:0.3", "noise:0.4", "mask:bottom", "mask:left")
    assert found.noise == pytest.approx(0.5)
    assert hidden(found).float().mean().item() == pytest.approx(0.75)


def test_occluders_are_rectangles_of_the_stated_sizes() -> None:
    for one in hidden(cues("occlude:1"))[:, 0]:
        rows, columns = one.any(1).sum().item(), one.any(0).sum().item()
        assert one.sum() == rows * columns
        assert 2 <= rows <= 6
        assert 2 <= columns <= 5


def test_what_is_drawn_does_not_depend_on_the_batch() -> None:
    made = corruption_of(["occlude:3", "noise:0.1", "mask:20%"], SHAPE)
    whole = made.cues(images(), range(6), SHAPE, 4)
    part = made.cues(images()[4:], [4, 5], SHAPE, 4)
    assert torch.equal(whole.pixels_BD[4:], part.pixels_BD)
    assert torch.equal(whole.visible_BD[4:], part.visible_BD)
    other = made.cues(images(), range(6), SHAPE, 5)
    assert not torch.equal(whole.visible_BD, other.visible_BD)


def test_none_leaves_the_images_as_they_are() -> None:
    found = cues("none")
    assert torch.equal(found.pixels_BD, images())
    assert found.noise == 0


def test_a_picture_says_what_is_hidden(tmp_path: Path) -> None:
    mask = np.full((16, 12), 255, np.uint8)
    mask[:4, :3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = hidden(cues(f"mask:{tmp_path / 'mask.png'}"))
    assert found[:, :, :4, :3].all()
    assert found.sum() == 6 * 3 * 12


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="mask is 8x9, the model's images are 16x12"):
        cues(f"mask:{tmp_path / 'mask.png'}")


def test_a_mask_that_hides_everything_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(tmp_path / "mask.png")
    for words in ([f"mask:{tmp_path / 'mask.png'}"], ["mask:100%"], ["mask:top", "mask:bottom"]):
        with pytest.raises(DataError, match="hides every pixel of image 0"):
            cues(*words)


@pytest.mark.parametrize(
    "word",
    [
        *("noise", "noise:", "noise:-1", "noise:nan", "noise:inf", "noise:x", "mask:"),
        *("mask:0%", "mask:101%", "mask:no-such-file", "occlude:0", "occlude:1.5", "blur:3"),
    ],
)
def test_what_is_no_corruption_is_said(word: str) -> None:
    with pytest.raises(DataError, match=word.split(":")[0]):
        cues(word)


def test_a_file_that_is_no_picture_is_said(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("no picture")
    with pytest.raises(DataError, match="not a picture"):
        cues(f"mask:{tmp_path / 'mask.png'}")


def test_rows_of_numbers_cannot_be_masked() -> None:
    with pytest.raises(DataError, match="not for rows of numbers"):
        corruption_of(["mask:left"], (1, 1, 4))
    assert corruption_of(["noise:1"], (1, 1, 4)).noise == 1
