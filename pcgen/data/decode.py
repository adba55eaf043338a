"""Decode a picture's bytes to 8 bits a channel, or give the reason why they cannot be decoded."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 2**26

# Formats that Pillow decodes in this process: without Ghostscript, network or plug-ins.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_COLOURED = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")

# Such large pictures become rows with a status; Pillow would also write to stderr.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableError(Exception):
    """A picture that cannot be decoded; the message is the reason."""


def decode(data: bytes) -> Tensor:
    """Return a picture as uint8 (C, H, W) with C 1 or 3.

    An animation gives its first frame. The picture is turned upright by its EXIF orientation,
    transparency is laid over black, and 16 bits are rounded to 8.

    Raises:
        UnreadableError: the bytes are no picture, are damaged, or hold too large a picture.
    """
    try:
        with _open(data) as picture:
            return torch.from_numpy(_array(picture))
    except UnreadableError:
        raise
    except MemoryError:
        raise UnreadableError("larger than memory") from None
    except Exception as error:  # Pillow's decoders raise anything on damaged input
        raise UnreadableError(f"damaged: {_first_line(error)}") from None


def header(data: bytes) -> tuple[int, int, int]:
    """Return channels, height and width without decoding the pixels.

    Raises:
        UnreadableError: the bytes are no picture, or hold too large a picture.
    """
    try:
        with _open(data) as picture:
            width, height = picture.size
            if picture.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
            return (3 if _is_coloured(picture) else 1), height, width
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"damaged: {_first_line(error)}") from None


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadableError("an empty file")
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise UnreadableError("not a picture, whatever its name says") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableError(f"more than {MAX_PIXELS} pixels") from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"{width}x{height} is more than {MAX_PIXELS} pixels")
    return picture


def _is_coloured(picture: Image.Image) -> bool:
    if picture.mode in ("P", "PA"):
        # A picture whose palette holds greys alone is grey.
        palette = np.array(picture.getpalette("RGB") or []).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return picture.mode in _COLOURED


def _array(picture: Image.Image) -> NDArray[np.uint8]:
    """Return a picture of any mode as (C, H, W)."""
    coloured = _is_coloured(picture)
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        return _deep(np.asarray(upright))[None]
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        over = upright.convert("RGBA")
        black = Image.new("RGBA", over.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, over)
    pixels = np.array(upright.convert("RGB" if coloured else "L"))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if coloured else pixels[None]


def _deep(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return grey values of 16 bits, or floats in [0, 1], as 8 bits."""
    deep = values.astype(np.float64)
    if not np.isfinite(deep).all():
        raise UnreadableError("holds NaN or infinite values")
    floats = values.dtype.kind == "f"
    low, high = float(deep.min()), float(deep.max())
    if low < 0 or high > (1 if floats else 65535):
        raise UnreadableError(f"values from {low:.4g} to {high:.4g} are neither 8 nor 16 bits")
    eight: NDArray[np.uint8] = np.rint(deep * 255 if floats else deep / 257).astype(np.uint8)
    return eight


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
