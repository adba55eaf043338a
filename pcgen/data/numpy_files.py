"""NumPy's .npy and .npz files; no Python objects in them are ever made."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcgen.errors import DataError

Array = NDArray[Any]

_LABEL_KEYS = ("y", "labels", "label", "targets", "target", "y_train")
_PIXEL_KEYS = ("x", "images", "pixels", "data", "inputs", "x_train", "arr_0")


def read_npy(path: Path) -> Array:
    """Return a .npy file's array, mapped from disk.

    Raises:
        DataError: a damaged file, or one that would run code to be read.
    """
    try:
        # Copy-on-write, as torch warns of arrays that cannot be written.
        array: Array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, MemoryError, SyntaxError) as error:
        raise DataError(f"{path}: {_numpy_reason(error)}") from None
    return array


def read_npz(path: Path) -> tuple[Array, Array | None]:
    """Return a .npz file's images and, where it has them, labels.

    Raises:
        DataError: a damaged file, or one in which it is not plain which array holds the images.
    """
    try:
        # Opened here, as np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            keys = list(archive.files)
            lower = {key.lower(): key for key in reversed(keys)}
            labels = next((lower[key] for key in _LABEL_KEYS if key in lower), None)
            pixels = next((lower[key] for key in _PIXEL_KEYS if key in lower), None)
            others = [key for key in keys if key != labels]
            if pixels is None and len(others) == 1:
                pixels = others[0]
            if pixels is None:
                raise DataError(
                    f"{path}: which of its arrays holds the images? {', '.join(keys) or 'none'}",
                    "Name the images x, and the labels y",
                )
            return archive[pixels], None if labels is None else archive[labels]
    except (ValueError, EOFError, MemoryError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {_numpy_reason(error)}") from None


def _numpy_reason(error: Exception) -> str:
    if "pickle" in str(error) or "Object arrays" in str(error):
        return "holds Python objects, which pcgen does not read"
    if isinstance(error, MemoryError):
        return "announces an array larger than memory"
    return f"damaged or truncated: {str(error).splitlines()[0] if str(error) else 'ends early'}"
