"""Bringing images to a model's shape: colour first, then size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from pcgen.data.images import Shape

# ITU-R BT.601: the weights of red, green and blue in the brightness of a grey picture.
_LUMA = (0.299, 0.587, 0.114)
# The same in 65536ths, rounded as Pillow does: a picture is equal as a file and as an array.
_LUMA_16 = (19595, 38470, 7471)


def unit(values_BD: NDArray[Any], divisor: float = 255.0) -> Tensor:
    """Return values divided as float32.

    NumPy does this in one thread: on a busy machine torch's threads wait for one another for longer
    than a batch takes.
    """
    found = np.array(values_BD, np.float32)
    if divisor != 1:
        found /= np.float32(divisor)
    return torch.from_numpy(found)


def fit(pixels_BCHW: Tensor, shape: Shape) -> Tensor:
    """Return images brought to a shape; uint8 stays uint8, floats stay floats.

    Grey becomes RGB by repetition, RGB grey by luma (BT.601). Then the image is scaled (bilinear,
    antialiased) until it covers the new height and width, and its centre is cut out.
    """
    channels, height, width = shape
    found = pixels_BCHW.shape[1]
    if found == 3 and channels == 1:
        pixels_BCHW = _grey(pixels_BCHW)
    elif found != channels:
        assert found == 1, (found, channels)
        pixels_BCHW = pixels_BCHW.expand(-1, channels, -1, -1)
    if tuple(pixels_BCHW.shape[2:]) == (height, width):
        return pixels_BCHW
    return _resize(pixels_BCHW.contiguous(), height, width)


def rule(found: set[Shape], shape: Shape) -> dict[str, Any]:
    """Return in words what `fit` does to images of these shapes; nothing if it is theirs."""
    if found == {shape}:
        return {}
    first = next(iter(found)) if len(found) == 1 else None
    words: dict[str, Any] = {"from": None if first is None else list(first), "to": list(shape)}
    if {channels for channels, _, _ in found} != {shape[0]}:
        words["colour"] = "RGB to grey by luma BT.601" if shape[0] == 1 else "grey repeated to RGB"
    if {(height, width) for _, height, width in found} != {shape[1:]}:
        words["size"] = "bilinear, antialiased, to cover the new size; centre cut out"
    return words


def _grey(pixels_BCHW: Tensor) -> Tensor:
    if pixels_BCHW.is_floating_point():
        weights = pixels_BCHW.new_tensor(_LUMA).reshape(1, 3, 1, 1)
        return (pixels_BCHW * weights).sum(1, keepdim=True)
    weights = torch.tensor(_LUMA_16, dtype=torch.int32).reshape(1, 3, 1, 1)
    luma = (pixels_BCHW.int() * weights).sum(1, keepdim=True, dtype=torch.int32)
    return ((luma + 0x8000) >> 16).to(torch.uint8)


def _resize(pixels_BCHW: Tensor, height: int, width: int) -> Tensor:
    old_height, old_width = pixels_BCHW.shape[2:]
    scale = max(height / old_height, width / old_width)
    size = (max(height, round(old_height * scale)), max(width, round(old_width * scale)))
    if size != (old_height, old_width):
        pixels_BCHW = interpolate(
            pixels_BCHW, size, mode="bilinear", align_corners=False, antialias=True
        )
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels_BCHW[:, :, top : top + height, left : left + width]
