"""The one module that imports torchvision, which downloads data sets and reads some of them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pcgen.errors import DataError

_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_OFFLINE = "Without a network: copy the files into a folder and name it with --data-dir"
# The signatures exist as long as their library does.
_defined: list[torch.library.Library] = []


def torchvision() -> ModuleType:
    """Return torchvision, repaired if PyPI's build is used with a CPU-only torch.

    The import of this pair fails because two operators are missing. Data sets do not use them, and
    their signatures are enough for the import. They are defined only if it fails for this reason.

    Raises:
        DataError: torchvision is not installed, or does not fit this torch.
    """
    try:
        return _import()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise _import_error(error) from None
    except ImportError as error:
        raise _import_error(error) from None
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for signature in _SIGNATURES:
        library.define(signature)  # type: ignore[no-untyped-call]
    _defined.append(library)
    try:
        return _import()
    except (RuntimeError, ImportError) as error:
        raise _import_error(error) from None


def _import() -> ModuleType:
    import torchvision
    import torchvision.datasets

    module: ModuleType = torchvision
    return module


def _import_error(error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"torchvision cannot be imported: {reason}", "Show versions: pcgen doctor")


def state() -> str:
    """Return torchvision's version and whether it was repaired, or why it cannot be imported."""
    try:
        torchvision()
    except DataError as error:
        return error.message
    version = importlib.metadata.version("torchvision")
    return f"{version} (without its compiled operators)" if _defined else version


def download(dataset: str, split: str, root: Path) -> None:
    """Download a split of a data set to a folder; torchvision verifies the check sums.

    Raises:
        DataError: there is no network or no space, or the files are not those that were published.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        print(f"Downloading {dataset} to {root}", file=sys.stderr)  # noqa: T201
        with contextlib.redirect_stdout(sys.stderr):
            _dataset(dataset, split, root, fetch=True)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise DataError(f"{dataset}: cannot be downloaded: {reason}", _OFFLINE) from None
    except RuntimeError as error:
        raise DataError(f"{dataset}: cannot be downloaded: {error}", _OFFLINE) from None


def pixels(dataset: str, split: str, root: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images (N, H, W, C) or (N, C, H, W) as uint8, and labels, of a split in a folder.

    Raises:
        DataError: the files are damaged.
    """
    try:
        data_set = _dataset(dataset, split, root, fetch=False)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{root}: damaged: {error}", "Remove the files; they are then downloaded again"
        ) from None
    labels = data_set.targets if hasattr(data_set, "targets") else data_set.labels
    return np.asarray(data_set.data), np.asarray(labels)


def _dataset(dataset: str, split: str, root: Path, *, fetch: bool) -> Any:
    kind = getattr(torchvision().datasets, dataset)
    if dataset == "SVHN":
        return kind(root, split=split, download=fetch)
    if dataset == "EMNIST":
        return kind(root, split="balanced", train=split == "train", download=fetch)
    return kind(root, train=split == "train", download=fetch)


def blurred(pixels_BCHW: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the images under a Gaussian blur of `sigma` pixels, cut off at three sigma."""
    torchvision()
    from torchvision.transforms.v2 import functional

    size = 2 * math.ceil(3 * sigma) + 1
    blurry: torch.Tensor = functional.gaussian_blur(pixels_BCHW, [size, size], [sigma, sigma])
    return blurry
