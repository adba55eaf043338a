"""The stated rule that brings images to a model's shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pcgen.data.fit import fit, preprocessing_of

from .pictures import random_pixels


def pixels(*shape: int) -> torch.Tensor:
    return torch.from_numpy(random_pixels(*shape))


def test_images_of_the_shape_pass_untouched() -> None:
    found = pixels(5, 3, 8, 9)
    assert fit(found, (3, 8, 9)) is found
    assert preprocessing_of({(3, 8, 9)}, (3, 8, 9)) == {}


def test_grey_is_repeated_and_comes_back() -> None:
    grey = pixels(5, 1, 8, 9)
    colour = fit(grey, (3, 8, 9))
    assert torch.equal(colour[:, 2:], grey)
    assert torch.equal(fit(colour, (1, 8, 9)), grey)


def test_luma_is_pillows_to_the_bit_and_that_of_floats_to_rounding() -> None:
    colour = pixels(1, 3, 40, 50)
    found = fit(colour, (1, 40, 50))
    picture = Image.fromarray(colour[0].permute(1, 2, 0).contiguous().numpy())
    assert np.array_equal(found[0, 0].numpy(), np.asarray(picture.convert("L")))
    floats = fit(colour.float() / 255, (1, 40, 50))
    assert (floats * 255 - found).abs().max() < 0.502


@pytest.mark.parametrize("size", [(28, 28), (9, 30), (64, 64), (1, 1)])
def test_any_size_is_covered_and_its_centre_cut_out(size: tuple[int, int]) -> None:
    assert fit(pixels(2, 3, 20, 30), (3, *size)).shape == (2, 3, *size)


def test_a_constant_image_stays_constant_and_the_range_is_kept() -> None:
    assert (fit(torch.full((1, 1, 20, 30), 37, dtype=torch.uint8), (1, 7, 9)) == 37).all()
    found = fit(torch.rand(4, 3, 20, 30), (3, 33, 9))
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_size_rule_agrees_with_pillow_within_a_grey_level() -> None:
    wide = pixels(1, 1, 20, 40)
    found = fit(wide, (1, 10, 10))[0, 0].int().numpy()
    picture = Image.fromarray(wide[0, 0].numpy()).resize((20, 10), Image.Resampling.BILINEAR)
    assert np.abs(found - np.asarray(picture)[:, 5:15].astype(int)).max() <= 1


def test_the_centre_is_cut_from_the_longer_side() -> None:
    image = torch.zeros(1, 1, 8, 24)
    image[..., 8:16] = 1
    assert fit(image, (1, 8, 8)).min() == 1


def test_the_rule_says_what_was_done() -> None:
    both = preprocessing_of({(3, 32, 32)}, (1, 28, 28))
    assert both["from"] == [3, 32, 32]
    assert "luma" in both["colour"]
    assert "bilinear" in both["size"]
    mixed = preprocessing_of({(1, 8, 8), (3, 8, 8)}, (3, 8, 8))
    assert mixed == {"from": [3, 8, 8], "to": [3, 8, 8], "colour": "grey repeated to RGB"}
    assert "colour" not in preprocessing_of({(1, 8, 8), (1, 9, 9)}, (1, 8, 8))
