"""Small files that the data tests read."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pcgen.errors import DataError

Array = NDArray[Any]


def random_pixels(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: Array, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(file, "PNG", **options)
    return file.getvalue()


def write_png(path: Path, pixels: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(pixels))
    return path


def idx(array: Array, code: int = 8) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(path: Path, array: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = idx(array)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def refusal(call: Any, *words: str) -> DataError:
    """Return the one-line error of a call, which must hold these words."""
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message, caught.value.message
    return caught.value
