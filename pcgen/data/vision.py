"""The one module that imports torchvision, which downloads data sets and reads some of them."""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pcgen.data.download import Published
from pcgen.errors import DataError

_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
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
    except DataError as error:
        if "torchvision::nms" not in error.message:
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for signature in _SIGNATURES:
        library.define(signature)  # type: ignore[no-untyped-call]
    _defined.append(library)
    return _import()


def _import() -> ModuleType:
    try:
        import torchvision
        import torchvision.datasets
    except (RuntimeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"torchvision cannot be imported: {reason}", "Show versions: pcgen doctor"
        ) from None
    module: ModuleType = torchvision
    return module


def state() -> str:
    """Return torchvision's version and whether it was repaired, or why it cannot be imported."""
    try:
        torchvision()
    except DataError as error:
        return error.message
    version = importlib.metadata.version("torchvision")
    return f"{version} (without its compiled operators)" if _defined else version


def published(dataset: str, split: str) -> list[Published]:
    """Return the files of a data set's split as torchvision lists them, each over https first."""
    kind = getattr(torchvision().datasets, dataset)
    if dataset == "SVHN":
        address, path, md5 = kind.split_list[split]
        return [Published(path, md5, _secure_first([address]))]
    if dataset in ("CIFAR10", "CIFAR100"):
        addresses = _secure_first([kind.url])
        folder = kind.base_folder
        return [Published(kind.filename, kind.tgz_md5, addresses, f"{folder}/", folder)]
    folder = f"{dataset}/raw"
    if dataset == "EMNIST":
        members = f"gzip/emnist-balanced-{split}-"
        addresses = _secure_first([kind.url])
        return [Published(f"{folder}/gzip.zip", kind.md5, addresses, members, folder)]
    word = {"test": "t10k"}.get(split, split)
    # The labels come first: where there are images, there are labels too.
    return [
        Published(f"{folder}/{name}", md5, _secure_first([m + name for m in kind.mirrors]))
        for name, md5 in sorted(kind.resources, key=lambda resource: "images" in resource[0])
        if name.startswith(word)
    ]


def _secure_first(addresses: Sequence[str]) -> tuple[str, ...]:
    secure = ["https:" + address.partition(":")[2] for address in addresses]
    return tuple(dict.fromkeys([*secure, *addresses]))


def pixels(dataset: str, split: str, root: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images (N, H, W, C) or (N, C, H, W) as uint8, and labels, of a split in a folder.

    Raises:
        DataError: the files are damaged.
    """
    kind = getattr(torchvision().datasets, dataset)
    part = {"split": split} if dataset == "SVHN" else {"train": split == "train"}
    try:
        data_set = kind(root, **part, download=False)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{root}: damaged: {error}", "Remove the files; they are then downloaded again"
        ) from None
    labels = data_set.targets if hasattr(data_set, "targets") else data_set.labels
    return np.asarray(data_set.data), np.asarray(labels)


def blurred(pixels_BCHW: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the images under a Gaussian blur of `sigma` pixels, cut off at three sigma."""
    torchvision()
    from torchvision.transforms.v2 import functional

    size = 2 * math.ceil(3 * sigma) + 1
    blurry: torch.Tensor = functional.gaussian_blur(pixels_BCHW, [size, size], [sigma, sigma])
    return blurry
