"""IDX: plain and gzipped, of every number type, and files that do not hold what they announce."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcgen.data.idx import read_idx
from pcgen.data.sources import open_data
from pcgen.errors import DataError

from .pictures import idx, random_pixels, refusal, write_idx


def test_gzipped_plain_and_unnamed_idx_hold_the_same_images(tmp_path: Path) -> None:
    pixels = random_pixels(7, 5, 4)
    names = ["a-idx3-ubyte.gz", "a-idx3-ubyte", "a.idx", "digits"]
    found = [open_data(str(write_idx(tmp_path / name, pixels))) for name in names]
    wanted = torch.from_numpy(pixels).reshape(7, 20).float() / 255
    for images in found:
        assert images.shape == (1, 5, 4)
        assert torch.equal(images.rows(range(7)).pixels_BD, wanted)
    assert found[0].id(3) == "a-idx3-ubyte.gz[3]"
    assert len({images.fingerprint() for images in found}) == 1


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"])
@pytest.mark.parametrize("labels", ["t10k-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte"])
def test_labels_beside_the_images_are_read(tmp_path: Path, name: str, labels: str) -> None:
    path = write_idx(tmp_path / name, random_pixels(7, 5, 4))
    write_idx(tmp_path / labels, np.arange(7, dtype=np.uint8))
    images = open_data(str(path), limit=3)
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 2]


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", random_pixels(7, 5, 4))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(6, dtype=np.uint8))
    refusal(lambda: open_data(str(path)), "6 labels", "7 rows")


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_number_type_is_read(tmp_path: Path, code: int, dtype: str, suffix: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    data = idx(values, code)
    path = tmp_path / f"x.idx{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    found = read_idx(path)
    assert found.dtype.isnative
    assert np.array_equal(found, values)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("cut", [1, 60, 130])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, cut: int) -> None:
    data = idx(random_pixels(7, 5, 4))[:-cut]
    path = tmp_path / f"x.idx{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    assert refusal(lambda: read_idx(path), "truncated", "7x5x4 = 140 bytes", f"{140 - cut} ").hint


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_longer_than_announced_is_refused(tmp_path: Path, suffix: str) -> None:
    data = idx(random_pixels(7, 5, 4)) + b"more"
    path = tmp_path / f"x.idx{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    refusal(lambda: read_idx(path), "longer")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_header_of_terabytes_reserves_none(tmp_path: Path, suffix: str) -> None:
    data = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**31, 2**31) + b"x"
    path = tmp_path / f"x.idx{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    refusal(lambda: read_idx(path), "packed size" if suffix else "truncated")


@pytest.mark.parametrize("dims", [255, 128, 65, 5])
def test_more_dimensions_than_images_have_are_refused(tmp_path: Path, dims: int) -> None:
    path = tmp_path / "x.idx"
    path.write_bytes(struct.pack(f">BBBB{dims}I", 0, 0, 8, dims, *[1] * dims) + b"x")
    refusal(lambda: open_data(str(path)), "x.idx", f"{dims} dimensions")


def test_a_gzip_stream_that_breaks_off_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(idx(random_pixels(70, 5, 4)))
    path = tmp_path / "x.gz"
    path.write_bytes(whole[:-100])
    refusal(lambda: read_idx(path), "ends early")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    path.write_bytes(damaged)
    refusal(lambda: read_idx(path), "x.gz")


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\x08", b"\0\0\x08\0", b"\0\0\x07\1\0\0\0\0"])
def test_what_is_no_idx_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.idx"
    path.write_bytes(data)
    refusal(lambda: open_data(str(path)), "x.idx")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=64), begin=st.sampled_from([b"", b"\0\0\x08\3", b"\x1f\x8b\x08\0"]))
def test_no_bytes_at_all_show_a_traceback(tmp_path: Path, data: bytes, begin: bytes) -> None:
    path = tmp_path / "x.idx"
    path.write_bytes(begin + data)
    try:
        open_data(str(path))
    except DataError as error:
        assert "\n" not in error.message  # noqa: PT017
