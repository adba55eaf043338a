"""The table of images: splits, orders, fingerprints, and rows that training cannot use."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcgen.data.arrays import images_of
from pcgen.data.images import Images, order, parts, require_readable, split
from pcgen.data.request import DataRequest

from .pictures import Array, random_pixels, refusal


def images(array: Array, labels: Array | None = None) -> Images:
    return images_of(array, "memory", DataRequest("memory"), labels=labels)


@given(n=st.integers(2, 200), share=st.floats(0, 0.9), seed=st.integers(0, 2**40))
def test_a_split_loses_and_repeats_no_row(n: int, share: float, seed: int) -> None:
    numbered = images(np.arange(n, dtype=np.uint16)[:, None, None], np.arange(n))
    if round(share * n) >= n:
        return
    kept, held_out = split(numbered, share, seed)
    assert kept.labels is not None
    assert held_out.labels is not None
    assert sorted(kept.labels.tolist() + held_out.labels.tolist()) == list(range(n))
    assert len(held_out) == round(share * n)
    assert kept.labels.tolist() == sorted(kept.labels.tolist())


def test_rows_set_aside_for_calibration_are_in_no_other_part() -> None:
    table = images(random_pixels(100, 2, 2))
    found = parts(table, 0.1, 20, 3)
    assert [len(part) for part in found] == [72, 8, 20]
    together = torch.cat([part.index for part in found if part.index is not None])
    assert together.sort().values.tolist() == list(range(100))
    # Without any, the others are what they were.
    whole = [part.fingerprint() for part in split(table, 0.1, 3)]
    assert [part.fingerprint() for part in parts(table, 0.1, 0, 3)[:2]] == whole


def test_a_split_depends_on_the_seed_alone() -> None:
    table = images(random_pixels(50, 2, 2), np.arange(50))
    torch.manual_seed(1)
    first = split(table, 10, 3)[1].fingerprint()
    torch.manual_seed(2)
    assert split(table, 10, 3)[1].fingerprint() == first
    assert split(table, 10, 4)[1].fingerprint() != first


def test_a_validation_of_one_or_more_is_a_number_of_rows() -> None:
    kept, held_out = split(images(random_pixels(50, 2, 2)), 10, 0)
    assert (len(kept), len(held_out)) == (40, 10)


@pytest.mark.parametrize("validation", [50, 51, 1.5, -0.1])
def test_a_validation_that_cannot_be_is_refused(validation: float) -> None:
    refusal(lambda: split(images(random_pixels(50, 2, 2)), validation, 0))


def test_rows_come_in_the_order_asked_for_and_may_repeat() -> None:
    pixels = random_pixels(20, 3, 3)
    rows = images(pixels).rows([7, 2, 7])
    wanted = torch.from_numpy(pixels[[7, 2, 7]]).reshape(3, -1).float() / 255
    assert torch.equal(rows.pixels_BD, wanted)
    assert rows.status == ["ok"] * 3
    assert bool(rows.ok.all())


def test_a_subset_of_a_subset_counts_within_the_first() -> None:
    table = images(random_pixels(20, 2, 2), np.arange(20))
    inner = table.subset(torch.arange(10, 20)).subset([3, 1])
    assert inner.labels is not None
    assert inner.labels.tolist() == [13, 11]
    assert [inner.id(0), inner.id(1)] == ["memory[13]", "memory[11]"]
    assert torch.equal(inner.rows(range(2)).pixels_BD, table.rows([13, 11]).pixels_BD)


def test_the_head_of_fewer_rows_is_all_of_them() -> None:
    table = images(random_pixels(5, 2, 2))
    assert len(table.head(9)) == 5
    assert len(table.head(2)) == 2


def test_no_rows_can_be_asked_for() -> None:
    rows = images(random_pixels(5, 2, 2)).rows([])
    assert rows.pixels_BD.shape == (0, 4)
    assert rows.ok.shape == (0,)


def test_a_fingerprint_is_of_the_content_not_of_the_name() -> None:
    pixels = random_pixels(9, 4, 4)
    other = pixels.copy()
    other[8, 3, 3] ^= 1
    renamed = images_of(pixels.copy(), "elsewhere", DataRequest("elsewhere"))
    assert images(pixels).fingerprint() == renamed.fingerprint()
    assert images(pixels).fingerprint() != images(other).fingerprint()
    assert images(pixels).fingerprint() != images(pixels, np.arange(9)).fingerprint()
    assert images(pixels).fingerprint() != images(pixels).head(8).fingerprint()


def test_an_epochs_order_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    assert order(100, 1, 2).sort().values.tolist() == list(range(100))
    assert torch.equal(order(100, 1, 2), order(100, 1, 2))
    assert not torch.equal(order(100, 1, 2), order(100, 1, 3))
    assert not torch.equal(order(100, 1, 2), order(100, 2, 2))


def test_training_on_a_row_that_cannot_be_used_names_it() -> None:
    values = np.zeros((10, 2, 2), np.float32)
    values[4, 0, 0] = values[7, 1, 1] = np.nan
    table = images(values)
    asked = table.rows([9, 7, 4, 0])
    assert asked.status == ["ok", "nonfinite", "nonfinite", "ok"]
    assert asked.ok.tolist() == [True, False, False, True]
    assert not asked.pixels_BD[1:3].any()
    error = refusal(lambda: require_readable(asked, table), "2 of 4", "memory[7]", "NaN")
    assert error.hint
    require_readable(table.rows([0, 1, 2]), table)


def test_200_rows_of_60000_cost_a_gather_and_a_division() -> None:
    table = images(np.zeros((60_000, 28, 28), np.uint8))
    kept, _ = split(table, 0.1, 0)
    chosen = order(len(kept), 0, 0)
    array, times = np.zeros((60_000, 28, 28), np.uint8), []
    for first in range(0, 20_000, 200):
        index = chosen[first : first + 200]
        began = time.perf_counter()
        kept.rows(index)
        middle = time.perf_counter()
        np.divide(array[index.numpy()], np.float32(255), dtype=np.float32)
        times.append((middle - began) / (time.perf_counter() - middle))
    assert np.median(times) < 4


def test_a_mapped_array_is_equal_to_one_in_memory(tmp_path: Path) -> None:
    pixels = random_pixels(30, 5, 4)
    np.save(tmp_path / "x.npy", pixels)
    mapped = images(np.load(tmp_path / "x.npy", mmap_mode="c"))
    assert torch.equal(mapped.rows(range(30)).pixels_BD, images(pixels).rows(range(30)).pixels_BD)
    assert mapped.fingerprint() == images(pixels).fingerprint()
