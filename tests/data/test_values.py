"""The range of pixels: rounding, a range that the user gives, doubts about one that is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pcgen.data.sources import open_data, open_inputs

from .pictures import Array, random_pixels, refusal, write_png

SIXTEENTHS = load_digits().images[:20]
WANTED = torch.from_numpy(SIXTEENTHS).reshape(20, 64).float() / 16


@pytest.mark.parametrize("excess", [2e-16, 1e-7, 9e-7])
def test_what_rounding_takes_out_of_the_range_is_clipped(excess: float) -> None:
    values = np.linspace(-excess, 1 + excess, 40).reshape(2, 5, 4)
    rows = open_data(values).rows([0, 1])
    assert rows.status == ["ok", "ok"]
    assert (rows.pixels_BD.min(), rows.pixels_BD.max()) == (0, 1)
    whole = open_data(np.rint(values * 255) + 255 * excess).rows([0, 1])
    assert whole.status == ["ok", "ok"]


@pytest.mark.parametrize("excess", [2e-6, 0.1])
def test_more_than_rounding_is_refused(excess: float) -> None:
    values = np.linspace(0, 1 + excess, 40).reshape(2, 5, 4)
    refusal(lambda: open_data(values), "are not pixels")


@pytest.mark.parametrize("kind", ["f8", "f4", "i8", "u1", "u2", "i2"])
def test_a_given_range_brings_every_kind_of_number_to_the_same_pixels(kind: str) -> None:
    images = open_data(SIXTEENTHS.astype(kind), value_range=[0, 16])
    assert torch.equal(images.rows(range(20)).pixels_BD, WANTED)
    assert images.preprocessing == {"values": "0 is 0, 16 is 1"}
    assert images.notes == ()
    shifted = open_data(SIXTEENTHS.astype(kind) + 3, value_range=[3, 19])
    assert torch.equal(shifted.rows(range(20)).pixels_BD, WANTED)


def test_pictures_are_brought_to_a_given_range(tmp_path: Path) -> None:
    for name, scale, kind in (("a.png", 1, np.uint8), ("b.png", 1, np.uint16)):
        write_png(tmp_path / name, (SIXTEENTHS[0] * scale).astype(kind))
    write_png(tmp_path / "c.png", np.full((8, 8), 17, np.uint8))
    write_png(tmp_path / "d.png", np.full((8, 8), 17, np.uint16))
    images = open_data(tmp_path, value_range=[0, 16])
    rows = images.rows(range(4))
    assert rows.status == ["ok", "ok", "unreadable", "unreadable"]
    assert rows.reason[2] == rows.reason[3] == "values from 17 to 17 are outside [0, 16]"
    for row in rows.pixels_BD[:2]:
        torch.testing.assert_close(row, WANTED[0], rtol=0, atol=0.002)
    assert images.fingerprint() != open_data(tmp_path).fingerprint()


def test_values_outside_a_given_range_are_a_rows_status() -> None:
    values = SIXTEENTHS.astype(np.uint8)
    values[1, 0, 0] = 17
    rows = open_data(values, value_range=[0, 16]).rows([0, 1])
    assert rows.status == ["ok", "unreadable"]
    assert rows.reason[1] == "values from 0 to 17, outside [0, 16]"


@pytest.mark.parametrize(
    "array",
    [SIXTEENTHS, SIXTEENTHS.astype(np.uint8), random_pixels(9, 8, 8).astype(np.uint16) * 16],
)
def test_values_far_below_the_expected_white_are_doubted(array: Array) -> None:
    (note,) = open_data(array).notes
    assert f"values from 0 to {array.max():g}" in note
    assert f"data.range=[0,{array.max():g}]" in note


def test_pictures_of_12_bits_in_16_are_doubted_and_others_are_not(tmp_path: Path) -> None:
    twelve = random_pixels(8, 8).astype(np.uint16) * 16
    for name, pixels, doubts in (
        ("twelve", twelve, 1),
        ("sixteen", twelve * 16, 0),
        ("eight", random_pixels(8, 8) // 16, 0),
    ):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "1.tif")
        assert len(open_data(tmp_path / name).notes) == doubts
    assert open_data(tmp_path / "twelve", value_range=[0, 4095]).notes == ()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 5, 4)), np.full((2, 5, 4), 0.1), random_pixels(3, 5, 4)]
)
def test_usual_values_are_not_doubted(array: Array) -> None:
    assert open_data(array).notes == ()


@pytest.mark.parametrize("wrong", [[16, 0], [1, 1], [0, float("inf")], [float("nan"), 1]])
def test_a_range_that_is_none_is_refused(wrong: Any) -> None:
    refusal(lambda: open_data(SIXTEENTHS, value_range=wrong), "data.range")


def test_a_set_with_a_name_keeps_its_own_range_and_a_table_has_none() -> None:
    own = open_data("digits", limit=5).rows(range(5)).pixels_BD
    for images in (
        open_data("digits", limit=5, value_range=[0, 4095]),
        open_inputs("digits", like=(1, 8, 8), value_range=[0, 4095])[0],
    ):
        assert torch.equal(images.rows(range(5)).pixels_BD, own)
    scale = [[0] * 3, [1] * 3]
    table = {"like": (1, 1, 3), "like_scale": scale, "value_range": [0, 1]}
    refusal(lambda: open_data(np.eye(3), **table), "a table", "data.range")
