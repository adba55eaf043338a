"""NumPy's .npy and .npz files; no Python objects in them are ever made."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcgen.errors import DataError

Array = NDArray[Any]

_LABEL_KEYS = ("y", "labels", "label", "targets", "target", "y_train")
_IMAGE_KEYS = ("x", "images", "pixels", "data", "inputs", "x_train", "arr_0")


def read_numpy(path: Path, label: str | None = None) -> tuple[Array, Array | None, str | None]:
    """Return the images of a .npy file, mapped from disk; or of a .npz file, with its labels.

    The last value is the name of the labels' array.

    Args:
        label: this name; empty for no labels, None for one of the usual names.

    Raises:
        DataError: a damaged file, one that would run code to be read, or a .npz file in which no
            name tells which array holds the images.
    """
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                # Copy-on-write, because torch warns of arrays that cannot be written.
                return np.load(path, mmap_mode="c", allow_pickle=False), None, None
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                images, labels = _keys(archive.files, path, label)
                return archive[images], None if labels is None else archive[labels], labels
    except (ValueError, EOFError, MemoryError, SyntaxError) as error:
        raise DataError(f"{path}: {_reason(error)}") from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {_reason(error)}", "Fetch the file again") from None


def _keys(keys: Sequence[str], path: Path, label: str | None) -> tuple[str, str | None]:
    """Return the key of the images, and the key of the labels if there is one."""
    lower = {key.lower(): key for key in reversed(keys)}
    labels = next((lower[key] for key in _LABEL_KEYS if key in lower), None)
    if label is not None:
        labels = label if label in keys else None
    others = [key for key in keys if key != labels]
    named = [lower[key] for key in _IMAGE_KEYS if key in lower]
    if not named and len(others) != 1:
        raise DataError(
            f"{path}: which of its arrays holds the images? {', '.join(keys) or 'none'}",
            "Name the images x, and the labels y",
        )
    return (named or others)[0], labels


def _reason(error: Exception) -> str:
    if "pickle" in str(error) or "Object arrays" in str(error):
        return "holds Python objects, which pcgen does not read"
    if isinstance(error, MemoryError):
        return "announces an array larger than memory"
    return f"damaged or truncated: {str(error).splitlines()[0] if str(error) else 'ends early'}"
