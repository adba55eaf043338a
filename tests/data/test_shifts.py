"""Shifts: what each does to an image, that rows stand alone, and what cannot be shifted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pcgen.data.arrays import images_of
from pcgen.data.images import Images
from pcgen.data.request import DataRequest
from pcgen.data.shifts import BLUR, CONTRAST, SHIFTS, intensity_matched, of_label, shifted
from pcgen.data.sources import open_data

from .pictures import Array, random_pixels, refusal


def images(array: Array, labels: Array | None = None) -> Images:
    return images_of(array, "memory", DataRequest("memory"), labels=labels)


def pixels(table: Images) -> torch.Tensor:
    return table.rows(range(len(table))).pixels_BD.reshape(-1, *table.shape)


@pytest.fixture(scope="module")
def table() -> Images:
    return images(random_pixels(12, 28, 28), np.arange(12) % 4)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_row_is_the_same_whatever_is_read_beside_it(name: str, table: Images) -> None:
    found = shifted(table, name, seed=3)
    whole = pixels(found)
    alone = torch.cat([found.rows([i]).pixels_BD for i in (7, 0, 7)]).reshape(3, *table.shape)
    assert torch.equal(whole[[7, 0, 7]], alone)
    part = found.subset([5, 2]).rows(range(2)).pixels_BD
    assert torch.equal(whole[[5, 2]].flatten(1), part)
    assert bool((whole >= 0).all() and (whole <= 1).all())
    assert not torch.equal(whole, pixels(table))
    assert torch.equal(found.labels, table.labels) if found.labels is not None else False


@pytest.mark.parametrize("name", SHIFTS)
def test_the_fingerprint_tells_the_shift_and_its_seed(name: str, table: Images) -> None:
    prints = {shifted(table, name, seed).fingerprint() for seed in (0, 0, 1)}
    assert len(prints) == 2
    assert table.fingerprint() not in prints


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("hflip", lambda x: x[:, :, :, ::-1]),
        ("vflip", lambda x: x[:, :, ::-1, :]),
        ("rot90", lambda x: np.rot90(x, axes=(2, 3))),
        ("negative", lambda x: 1 - x),
        (
            "blur",
            lambda x: gaussian_filter(x, (0, 0, BLUR, BLUR), mode="mirror", radius=(0, 0, 6, 6)),
        ),
        (
            "low-contrast",
            lambda x: x.mean((2, 3), keepdims=True) * (1 - CONTRAST) + CONTRAST * x,
        ),
    ],
)
def test_a_shift_is_numpys(name: str, moved: object, table: Images) -> None:
    assert callable(moved)
    expected = moved(pixels(table).numpy())
    assert pixels(shifted(table, name)).numpy() == pytest.approx(expected, abs=1e-5)


def test_one_order_of_pixels_serves_all_images(table: Images) -> None:
    found, own = pixels(shifted(table, "shuffle")).flatten(1), pixels(table).flatten(1)
    assert torch.equal(found.sort(1).values, own.sort(1).values)
    ramp = images(np.tile(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), (2, 1, 1)))
    first, second = pixels(shifted(ramp, "shuffle")).flatten(1)
    assert torch.equal(first, second)


def test_constants_and_noise_are_uniform_and_differ_from_image_to_image() -> None:
    many = images(np.zeros((400, 8, 8), np.uint8))
    flat = pixels(shifted(many, "constant")).flatten(1)
    assert bool((flat == flat[:, :1]).all())
    assert flat[:, 0].mean().item() == pytest.approx(0.5, abs=0.05)
    assert len(flat[:, 0].unique()) == 400
    noisy = pixels(shifted(many, "noise"))
    assert noisy.mean().item() == pytest.approx(0.5, abs=0.01)
    assert noisy.var().item() == pytest.approx(1 / 12, rel=0.02)


def test_a_matched_image_has_the_values_of_another_and_its_own_order() -> None:
    ours, theirs = images(random_pixels(9, 6, 6)), images(random_pixels(5, 6, 6, seed=1))
    found = intensity_matched(ours, theirs)
    values = {tuple(row) for row in pixels(theirs).flatten(1).sort(1).values.tolist()}
    whole = pixels(found).flatten(1)
    assert all(tuple(row) in values for row in whole.sort(1).values.tolist())
    own = pixels(ours).flatten(1)
    for row, matched in zip(own, whole, strict=True):
        assert bool((matched[row.argsort(dim=0, stable=True)].diff() >= 0).all())
    assert torch.equal(found.rows([4]).pixels_BD[0], whole[4])


def test_a_row_that_cannot_be_read_keeps_its_status() -> None:
    values = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
    values[1, 0, 0] = np.nan
    broken = images(values)
    good = images(np.abs(np.nan_to_num(values)))
    for found in (shifted(broken, "noise"), intensity_matched(broken, good)):
        rows = found.rows(range(3))
        assert rows.status == ["ok", "nonfinite", "ok"]
        assert bool((rows.pixels_BD[1] == 0).all())
    partners = intensity_matched(good, broken.subset([1])).rows(range(3))
    assert partners.status == ["nonfinite"] * 3


def test_a_label_is_left_out_whole(table: Images) -> None:
    own, others = of_label(table, 2)
    assert own.labels is not None
    assert others.labels is not None
    assert own.labels.tolist() == [2] * 3
    assert sorted(others.labels.tolist()) == [0] * 3 + [1] * 3 + [2] * 3
    digits, rest = of_label(open_data("digits", limit=50), 4)
    assert digits.class_count == 10
    assert rest.class_count == 9
    assert rest.classes == list("012356789")


def test_what_cannot_be_shifted_is_refused(table: Images) -> None:
    refusal(lambda: shifted(table, "hflipp"), "no such shift")
    refusal(lambda: shifted(open_data("iris"), "hflip"), "table of numbers")
    refusal(lambda: shifted(images(random_pixels(2, 4, 6)), "rot90"), "square")
    refusal(lambda: intensity_matched(table, images(random_pixels(2, 8, 8))), "cannot match")
    refusal(lambda: intensity_matched(open_data("iris"), table), "table of numbers")
    refusal(lambda: of_label(images(random_pixels(2, 4, 6)), 0), "no labels")
    refusal(lambda: of_label(table, 7), "label 7")
