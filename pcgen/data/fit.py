"""Bring images to a model's shape: the one rule of training, calibration and scoring.

First an image gets the model's channels: grey is repeated to RGB, and RGB becomes grey by its luma
(ITU-R BT.601). Then it gets the model's height and width: it is scaled (bilinear, antialiased)
until it covers them, and its centre is cut out. Last, if a threshold is set, pixels above it become
1 and the others 0.

A guarantee covers the inputs that were prepared like the calibration images. So scoring accepts
only images whose own height and width are those of the calibration images (`native_size`), because
a resize changes how sharp an image is. It accepts every colour: a grey picture gives the same
pixels whether its file stores grey or RGB, and the files of one data set often mix the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from pcgen.data.images import ChangedStore, Images, Shape, Store

# ITU-R BT.601: the weights of red, green and blue in the brightness of a grey picture.
_LUMA = (0.299, 0.587, 0.114)
# The same in 65536ths, rounded as Pillow does: a picture is equal as a file and as an array.
_LUMA_16 = (19595, 38470, 7471)


# An image of more pixels is read and scaled in bands of so many pixels.
LARGE = 2**22
BAND = 2**18


def unit(values_BD: NDArray[Any], divisor: float = 255.0) -> Tensor:
    """Return the values divided by `divisor`, as float32.

    NumPy divides in one thread. On a busy machine torch's threads wait for one another for longer
    than a batch takes.
    """
    divided = np.array(values_BD, np.float32)
    if divisor != 1:
        divided /= np.float32(divisor)
    return torch.from_numpy(divided)


def fit(pixels_BCHW: Tensor, shape: Shape) -> Tensor:
    """Return the images with the channels, height and width of `shape`, by the rule above.

    uint8 stays uint8, floats stay floats.
    """
    pixels_BCHW = _recoloured(pixels_BCHW, shape[0])
    height, width = pixels_BCHW.shape[2:]
    if (height, width) == shape[1:]:
        return pixels_BCHW
    return _resized(pixels_BCHW.contiguous(), _covering(height, width, shape), shape)


def _recoloured(pixels_BCHW: Tensor, channels: int) -> Tensor:
    own_channels = pixels_BCHW.shape[1]
    if own_channels == 3 and channels == 1:
        return _grey(pixels_BCHW)
    if own_channels == channels:
        return pixels_BCHW
    assert own_channels == 1, (own_channels, channels)
    return pixels_BCHW.expand(-1, channels, -1, -1)


def fit_rows(rows: Callable[[int, int], Tensor], own: Shape, shape: Shape) -> Tensor:
    """Return one image as `fit` does, bit for bit, without having all of a large one in memory.

    Args:
        rows: returns the image's rows from a top to a bottom, uint8 (C, rows, W).
    """
    _, height, width = own
    if height * width <= LARGE:
        return fit(rows(0, height)[None], shape)[0]
    # Each row is scaled by itself first, as `interpolate` does it.
    new_width = _covering(height, width, shape)[1]
    step = max(1, BAND // width)
    bands = [
        _scaled(_recoloured(rows(top, min(top + step, height))[None], shape[0]), None, new_width)
        for top in range(0, height, step)
    ]
    return _resized(torch.cat(bands, 2), _covering(height, width, shape), shape)[0]


def preprocessing_of(own_shapes: set[Shape], shape: Shape) -> dict[str, Any]:
    """Return in words how `fit` changes images of these shapes; empty if it does not.

    `from` is the images' own shape, with the channels of `shape` if their channels differ. It is
    None if their sizes differ.
    """
    if own_shapes == {shape}:
        return {}
    channels, sizes = ({own[0] for own in own_shapes}, {own[1:] for own in own_shapes})
    own = None
    if len(sizes) == 1:
        own = [min(channels) if len(channels) == 1 else shape[0], *min(sizes)]
    words: dict[str, Any] = {"from": own, "to": list(shape)}
    if channels != {shape[0]}:
        words["colour"] = "RGB to grey by luma BT.601" if shape[0] == 1 else "grey repeated to RGB"
    if sizes != {shape[1:]}:
        words["size"] = "bilinear, antialiased, to cover the new size; centre cut out"
    return words


@dataclass(frozen=True, slots=True)
class _BinaryStore(ChangedStore):
    """Rows whose pixels are 1 above a threshold, else 0."""

    base: Store
    threshold: float

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        pixels_BD, status, reason = self.base.read(index_B)
        return (pixels_BD > self.threshold).to(pixels_BD), status, reason

    def digest(self) -> bytes:
        return hashlib.sha256(self.base.digest() + str(self.threshold).encode()).digest()


def binarised(images: Images, threshold: float) -> Images:
    """Return the images with pixels of 1 above the threshold, else 0."""
    preprocessing = {**images.preprocessing, "pixels": f"1 above {threshold:g}, else 0"}
    return replace(images, store=_BinaryStore(images.store, threshold), preprocessing=preprocessing)


def _grey(pixels_BCHW: Tensor) -> Tensor:
    if pixels_BCHW.is_floating_point():
        weights = pixels_BCHW.new_tensor(_LUMA).reshape(1, 3, 1, 1)
        return (pixels_BCHW * weights).sum(1, keepdim=True)
    weights = torch.tensor(_LUMA_16, dtype=torch.int32).reshape(1, 3, 1, 1)
    luma = (pixels_BCHW.int() * weights).sum(1, keepdim=True, dtype=torch.int32)
    return ((luma + 0x8000) >> 16).to(torch.uint8)


def _covering(height: int, width: int, shape: Shape) -> tuple[int, int]:
    """Return the size to which an image is scaled so that it covers the shape."""
    scale = max(shape[1] / height, shape[2] / width)
    return max(shape[1], round(height * scale)), max(shape[2], round(width * scale))


def _scaled(pixels_BCHW: Tensor, height: int | None, width: int) -> Tensor:
    """Return images of this size; None keeps their height."""
    size = (pixels_BCHW.shape[2] if height is None else height, width)
    if size == tuple(pixels_BCHW.shape[2:]):
        return pixels_BCHW
    pixels = pixels_BCHW.contiguous()
    if size == (1, 1):  # torch fails with several channels
        pixels = pixels.flatten(0, 1)[:, None]
    scaled = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return scaled.reshape(*pixels_BCHW.shape[:2], *size)


def _resized(pixels_BCHW: Tensor, size: tuple[int, int], shape: Shape) -> Tensor:
    """Return the centres of images that are scaled to `size`."""
    _, height, width = shape
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return _scaled(pixels_BCHW, *size)[:, :, top : top + height, left : left + width]
