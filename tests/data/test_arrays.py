"""Arrays: layouts, ranges and numbers of every kind; .npy and .npz that are damaged or hostile."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import DataError

from .pictures import Array, random_pixels, refusal


def opened(folder: Path, array: Array, **options: Any) -> Images:
    np.save(folder / "x.npy", array)
    return open_data(str(folder / "x.npy"), **options)


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ((6, 5, 4), (1, 5, 4)),
        ((6, 1, 5, 4), (1, 5, 4)),
        ((6, 5, 4, 1), (1, 5, 4)),
        ((6, 3, 5, 4), (3, 5, 4)),
        ((6, 5, 4, 3), (3, 5, 4)),
        ((6, 20), (1, 1, 20)),
        ((5, 4, 3), (3, 5, 4)),
        ((7,), (1, 1, 7)),
    ],
)
def test_the_layout_is_found_from_the_array(
    tmp_path: Path, dims: tuple[int, ...], shape: tuple[int, int, int]
) -> None:
    images = opened(tmp_path, random_pixels(*dims))
    assert images.shape == shape
    assert not images.is_table
    assert images.rows([0]).pixels_BD.shape == (1, np.prod(shape))


def test_channels_last_and_channels_first_are_the_same_images(tmp_path: Path) -> None:
    pixels = random_pixels(6, 5, 4, 3)
    last = opened(tmp_path, pixels).rows(range(6)).pixels_BD
    first = opened(tmp_path, pixels.transpose(0, 3, 1, 2)).rows(range(6)).pixels_BD
    assert torch.equal(last, first)


def test_a_single_grey_image_is_known_by_the_size_asked_for(tmp_path: Path) -> None:
    pixels = random_pixels(5, 4)
    for options in ({"size": (5, 4)}, {"like": (1, 5, 4)}):
        images = opened(tmp_path, pixels, **options)
        assert (len(images), images.shape) == (1, (1, 5, 4))


def test_rows_of_numbers_become_the_models_images_and_images_its_rows(tmp_path: Path) -> None:
    flat = opened(tmp_path, random_pixels(6, 20), like=(1, 5, 4))
    assert flat.shape == (1, 5, 4)
    square = opened(tmp_path, random_pixels(6, 5, 4), like=(1, 1, 20))
    assert torch.equal(flat.rows(range(6)).pixels_BD, square.rows(range(6)).pixels_BD)
    assert square.preprocessing == {}


@pytest.mark.parametrize("like", [(1, 5, 5), (1, 1, 21)])
def test_rows_of_another_length_are_refused(tmp_path: Path, like: tuple[int, int, int]) -> None:
    refusal(lambda: opened(tmp_path, random_pixels(6, 20), like=like), "20")
    if like[1] == 1:
        refusal(lambda: opened(tmp_path, random_pixels(6, 5, 4), like=like), "1x5x4", "21")


def test_every_kind_of_number_becomes_the_same_pixels(tmp_path: Path) -> None:
    eight = random_pixels(6, 5, 4)
    eight[0, 0, 0] = 255
    wanted = opened(tmp_path, eight).rows(range(6)).pixels_BD
    same = [
        eight.astype(np.uint16) * 257,
        (eight.astype(np.uint16) * 257).astype(">u2"),
        eight.astype(np.int64),
        eight.astype(np.float32),
        eight / 255,
        (eight / 255).astype(np.float32),
        np.asfortranarray(eight),
    ]
    for array in same:
        found = opened(tmp_path, array).rows(range(6)).pixels_BD
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)


def test_masks_are_0_or_1(tmp_path: Path) -> None:
    found = opened(tmp_path, random_pixels(6, 5, 4) > 127).rows(range(6)).pixels_BD
    assert set(found.reshape(-1).tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("value", "word"), [(-0.5, "-0.5 to 1"), (300.0, "0 to 300"), (7.5, "0 to 7.5")]
)
def test_values_that_are_no_pixels_are_refused_with_their_range(
    tmp_path: Path, value: float, word: str
) -> None:
    array = np.zeros((6, 5, 4))
    array[0, 0, 0], array[1, 1, 1] = 1, value
    error = refusal(lambda: opened(tmp_path, array), word)
    assert ".csv" in error.hint


def test_nan_and_infinity_are_a_rows_status(tmp_path: Path) -> None:
    array = np.zeros((6, 5, 4))
    array[2, 0, :3] = np.nan
    array[4, 0, 0] = -np.inf
    rows = opened(tmp_path, array).rows(range(6))
    assert rows.status == ["ok", "ok", "nonfinite", "ok", "nonfinite", "ok"]
    assert "3 of 20" in rows.reason[2]
    assert torch.isfinite(rows.pixels_BD).all()


@pytest.mark.parametrize("dims", [(0, 5, 4), (6, 0, 4), (0, 20), (6, 5, 4, 2), (2, 2, 2, 2, 2)])
def test_shapes_without_images_are_refused(tmp_path: Path, dims: tuple[int, ...]) -> None:
    refusal(lambda: opened(tmp_path, np.zeros(dims, np.uint8)), "shape")


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    images = opened(tmp_path, random_pixels(6, 1, 1))
    assert images.rows([5]).pixels_BD.shape == (1, 1)


def test_python_objects_are_never_made(tmp_path: Path) -> None:
    array = np.array([{"a": 1}, None], dtype=object)
    for name, save in (("x.npy", np.save), ("x.npz", np.savez)):
        save(tmp_path / name, array)
        refusal(lambda name=name: open_data(str(tmp_path / name)), "Python objects")
    (tmp_path / "y.npy").write_bytes(pickle.dumps([1]))
    refusal(lambda: open_data(str(tmp_path / "y.npy")), "y.npy")


def test_words_are_no_images(tmp_path: Path) -> None:
    refusal(lambda: opened(tmp_path, np.array([["a", "b"]])), "not numbers")


@pytest.mark.parametrize("keep", [0, 5, 40, 200])
def test_a_truncated_npy_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.npy"
    np.save(path, random_pixels(6, 50, 4))
    path.write_bytes(path.read_bytes()[:keep])
    refusal(lambda: open_data(str(path)), "x.npy")


# The shape in a header, by what is wrong with it.
SHAPES = {
    "a parenthesis of another kind": "((10,8,8)",
    "True for a side": "(True, 8, 8)",
    "a negative side": "(-10, 8, 8)",
    "a huge side": "(99999999999, 8, 8)",
    "a side beyond 64 bits": f"({2**64}, 8, 8)",
    "a product beyond 64 bits": f"({2**62}, 8)",
    "100 axes": f"({'1,' * 100})",
    "deep nesting": "(" * 5000,
    "a side of Python 2": "(10L, 8L, 99L)",
    "no tuple": "10",
    "nothing": "",
}
HEADERS = {
    **{k: f"{{'descr': '|u1', 'fortran_order': False, 'shape': {s}, }}" for k, s in SHAPES.items()},
    "items of no bytes": "{'descr': '|S0', 'fortran_order': False, 'shape': (10, 8, 8), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (10, 8, 8), }",
    "no such type": "{'descr': '|q9', 'fortran_order': False, 'shape': (10, 8, 8), }",
    "no table": "[1, 2]",
}


def with_header(text: str, version: int) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + bytes(640)


@pytest.mark.parametrize("text", HEADERS.values(), ids=HEADERS.keys())
@pytest.mark.parametrize("version", [1, 2, 3, 9])
def test_a_damaged_header_is_one_line(tmp_path: Path, text: str, version: int) -> None:
    data = with_header(text, version)
    (tmp_path / "x.npy").write_bytes(data)
    refusal(lambda: open_data(str(tmp_path / "x.npy")), "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data)
    refusal(lambda: open_data(str(tmp_path / "x.npz")), "x.npz")


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1))
        file.truncate(2**33)  # takes no room on the disk
    refusal(lambda: open_data(str(path)), "x.npy", "damaged")


def test_an_npz_that_announces_too_much_is_not_unpacked(tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 8, 8), }"
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", with_header(header % 2_000_000, 1) + bytes(128_000_000 - 640))
    refusal(lambda: open_data(str(path)), "x.npz", "100 times its packed size")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", with_header(header % 9, 1))
    refusal(lambda: open_data(str(path)), "x.npz", "damaged")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", with_header(header % 10, 1))
    refusal(lambda: open_data(str(path)), "x.npz", "deflate")


def test_an_array_that_does_not_fit_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=random_pixels(900, 21))
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    whole[-200] ^= 255  # unpacking would fail
    (tmp_path / "x.npz").write_bytes(whole)
    refusal(lambda: open_data(str(tmp_path / "x.npz"), like=(1, 5, 4)), "rows of 21 numbers")


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_no_flipped_bit_shows_a_traceback(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = np.arange(160, dtype=np.uint8).reshape(10, 4, 4) // 8
    save: Any = np.save if name == "x.npy" else np.savez_compressed
    save(path, pixels)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            open_data(str(path)).rows([0])
        except DataError as error:
            assert "\n" not in error.message  # noqa: PT017


def test_an_npz_may_hold_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=random_pixels(3, 5, 4), y=np.array([2, 0, 1]))
    images = open_data(str(tmp_path / "x.npz"))
    assert images.labels is not None
    assert images.labels.tolist() == [2, 0, 1]
    np.savez(tmp_path / "w.npz", images=random_pixels(3, 5, 4), labels=np.array(["b", "a", "b"]))
    words = open_data(str(tmp_path / "w.npz"), limit=2)
    assert words.classes == ["a", "b"]
    assert words.labels is not None
    assert words.labels.tolist() == [1, 0]


def test_an_npz_with_one_array_needs_no_name_and_one_with_two_does(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", anything=random_pixels(3, 5, 4))
    assert len(open_data(str(tmp_path / "x.npz"))) == 3
    np.savez(tmp_path / "y.npz", left=random_pixels(3, 5, 4), right=random_pixels(3, 5, 4))
    refusal(lambda: open_data(str(tmp_path / "y.npz")), "left", "right")


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=random_pixels(3, 5, 4), y=np.arange(4))
    refusal(lambda: open_data(str(tmp_path / "x.npz")), "4 labels", "3")


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=random_pixels(30, 5, 4))
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[:100])
    refusal(lambda: open_data(str(path)), "x.npz")
    whole[120] ^= 255
    path.write_bytes(whole)
    refusal(lambda: open_data(str(path)), "x.npz")


def test_an_array_larger_than_the_limit_is_cut_in_file_order(tmp_path: Path) -> None:
    pixels = random_pixels(30, 5, 4)
    assert torch.equal(
        opened(tmp_path, pixels, limit=4).rows(range(4)).pixels_BD,
        opened(tmp_path, pixels).rows(range(4)).pixels_BD,
    )
