"""Pictures: their sizes, their scale, and what they show."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pcgen.pages import pictures


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def one(pixels: np.ndarray | torch.Tensor, signed: bool = False) -> np.ndarray:
    return opened(pictures.grid_png([pictures.Row("row", pixels, signed)]))


def contains(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour, dtype=np.uint8)).all(-1).sum())


def test_a_small_image_is_enlarged_in_whole_pixels() -> None:
    image = np.full((1, 1, 8, 8), 0.2, dtype=np.float32)
    image[0, 0, 3, 4] = 0.6
    picture = one(image)
    assert contains(picture, (153, 153, 153)) == 11 * 11
    assert contains(picture, (51, 51, 51)) == 63 * 11 * 11


def test_a_large_image_is_made_smaller() -> None:
    height, width, _ = one(np.zeros((1, 3, 900, 1200), dtype=np.float32)).shape
    assert height < 250
    assert width < 700


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 1, 4)])
@pytest.mark.parametrize("count", [1, 12, 30])
def test_every_shape_and_count_fits_a_screen(shape: tuple[int, int, int], count: int) -> None:
    inputs = torch.rand(count, int(np.prod(shape)))
    rows = pictures.reconstructions(inputs, inputs, shape)
    height, width, _ = opened(pictures.grid_png(rows, title="T")).shape
    assert 300 < width < 1500
    assert height < 1100


def test_more_images_than_columns_go_on_below() -> None:
    def height(count: int) -> int:
        row = pictures.Row("a", np.zeros((count, 1, 8, 8), dtype=np.float32))
        return opened(pictures.grid_png([row], columns=4)).shape[0]

    assert height(3) == height(4)
    assert height(5) - height(4) == 88 + 4 - 4 + 14


def test_the_colour_of_an_error_is_the_same_in_every_picture() -> None:
    errors = np.zeros((1, 1, 8, 8), dtype=np.float32)
    errors[0, 0, 0, :] = pictures.ERROR_LIMIT
    errors[0, 0, 1, :] = -10.0
    picture = one(errors, signed=True)
    assert contains(picture, (178, 24, 43)) >= 8 * 121
    assert contains(picture, (33, 102, 172)) >= 8 * 121
    alone = one(errors[:, :, :1] * 1e-3 + pictures.ERROR_LIMIT, signed=True)
    assert contains(alone, (178, 24, 43)) >= 8 * 121


def test_values_outside_and_not_numbers_are_drawn_as_the_nearest_end() -> None:
    image = np.array([[[[-5.0, 7.0], [np.nan, np.inf]]]], dtype=np.float32)
    picture = one(image)
    assert contains(picture, (0, 0, 0)) == 2 * 44 * 44


def test_the_same_images_give_the_same_bytes() -> None:
    row = pictures.Row("a", torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(1)))
    assert pictures.grid_png([row]) == pictures.grid_png([row])
