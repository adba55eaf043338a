"""Decode a picture's bytes to 8 bits a channel, or give the reason why they cannot be decoded."""

from __future__ import annotations

import io
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pcgen.data.fit import BAND
from pcgen.data.images import Shape
from pcgen.data.reading import UnreadableError, first_line
from pcgen.data.values import TOLERANCE

_READ = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".bmp", ".dib", ".gif"),
    *(".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx"),
)
# Pillow takes the small preview in a raw file for the picture.
_NOT_READ = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), "camera raw"),
    **dict.fromkeys((".tga", ".targa"), "TGA"),
    **dict.fromkeys((".pcx", ".ico", ".psd", ".exr", ".hdr", ".pfm", ".svg"), ""),
    ".jxl": "JPEG XL",
}
SUFFIXES = (*_READ, *_NOT_READ)
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 2**26

# Formats that Pillow decodes in this process: without Ghostscript, network or plug-ins.
_FORMATS = (
    *("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "DIB", "JPEG2000"),
    *(["AVIF"] if find_spec("PIL.AvifImagePlugin") else []),
)
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_COLOURED = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientations whose rows are stored as columns, and those whose first row is stored last.
_LYING = (5, 6, 7, 8)
_FROM_THE_END = (3, 4, 7, 8)

# Of pictures with more pixels only one is decoded at a time.
_HUGE = 2**24
_one_by_one = threading.Lock()

# Such large pictures become rows with a status; Pillow would also write to stderr.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def require_known_kind(name: str) -> None:
    """Raise UnreadableError if a picture's name is of a kind that pcgen does not read."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _NOT_READ:
        kind = _NOT_READ[suffix] or suffix[1:].upper()
        raise UnreadableError(f"{kind} is not read: save it as PNG, JPEG or TIFF")


def decode(data: bytes) -> Tensor:
    """Return a picture as uint8 (C, H, W) with C 1 or 3.

    An animation gives its first frame. The picture is turned upright by its EXIF orientation,
    transparency is laid over black, and 16 bits are rounded to 8.

    Raises:
        UnreadableError: the bytes are no picture, are damaged, or hold too large a picture.
    """
    with decoded(data) as picture:
        return picture.rows(0, picture.shape[1])


@contextmanager
def decoded(data: bytes, value_range: tuple[float, float] | None = None) -> Iterator[Decoded]:
    """Yield a decoded picture, whose rows are read as they are needed.

    Args:
        value_range: the numbers in the file that are black and white, if not those of its kind.

    Raises:
        UnreadableError: the bytes are no picture, are damaged, or hold too large a picture.
    """
    with _opened(data) as picture:
        width, height = picture.size
        with _one_by_one if width * height > _HUGE else nullcontext():
            yield Decoded(picture, value_range)


def deep_extent(data: bytes) -> tuple[float, float] | None:
    """Return the least and the largest number of a picture of 16 bits or of floats, else None.

    Raises:
        UnreadableError: the bytes are no picture, are damaged, or hold too large a picture.
    """
    with _opened(data) as picture:
        is_deep = picture.mode.startswith(("I", "F"))
        return Decoded(picture).extent if is_deep else None


def header(data: bytes) -> Shape:
    """Return channels, height and width without decoding the pixels.

    Raises:
        UnreadableError: the bytes are no picture, or hold too large a picture.
    """
    with _opened(data) as picture:
        width, height = picture.size
        if picture.getexif().get(_ORIENTATION, 1) in _LYING:
            if picture.format == "TIFF":  # some versions of Pillow have exchanged them already
                width, height = (int(picture.tag_v2[tag]) for tag in (256, 257))  # type: ignore[attr-defined]
            width, height = height, width
        return (3 if _is_coloured(picture) else 1), height, width


class Decoded:
    """A decoded picture. Its rows are converted a few at a time, so that it is in memory once.

    Attributes:
        shape: channels, height and width of the upright picture.
        extent: the least and the largest number, if they are not of 8 bits.
    """

    def __init__(
        self, picture: Image.Image, value_range: tuple[float, float] | None = None
    ) -> None:
        """Decode the pixels.

        Raises:
            UnreadableError: numbers that are no pixels.
        """
        self._is_coloured = _is_coloured(picture)
        picture.load()
        self._picture = picture
        self._orientation = picture.getexif().get(_ORIENTATION, 1)
        width, height = picture.size
        if self._orientation in _LYING:
            width, height = height, width
        self._is_deep = picture.mode.startswith(("I", "F"))
        self.shape = (3 if self._is_coloured and not self._is_deep else 1), height, width
        kinds = (0.0, 1.0 if picture.mode == "F" else 65535.0 if self._is_deep else 255.0)
        self._is_given = value_range is not None
        self._black, self._white = value_range or kinds
        self.extent = self._extent() if self._is_deep else None
        if self.extent:
            self._require_in_range(*self.extent)

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return upright rows as uint8 (C, bottom - top, W)."""
        band = self._band(top, bottom)
        if self._is_deep:
            return torch.from_numpy(self._as_bytes(np.asarray(band))[None])
        if band.mode in _TRANSPARENT or "transparency" in band.info:
            over = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
        pixels = np.array(band.convert("RGB" if self._is_coloured else "L"))
        if self._is_given:
            self._require_in_range(float(pixels.min()), float(pixels.max()))
            pixels = self._as_bytes(pixels)
        if self._is_coloured:
            return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return torch.from_numpy(pixels[None])

    def _band(self, top: int, bottom: int) -> Image.Image:
        """Return the part of the picture that its upright rows are, turned upright."""
        _, height, _ = self.shape
        band, (width, length) = self._picture, self._picture.size
        if bottom - top < height:
            if self._orientation in _FROM_THE_END:
                top, bottom = height - bottom, height - top
            is_lying = self._orientation in _LYING
            band = band.crop((top, 0, bottom, length) if is_lying else (0, top, width, bottom))
        method = _UPRIGHT.get(self._orientation)
        return band if method is None else band.transpose(method)

    def _as_bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        scaled = (values.astype(np.float64) - self._black) * 255 / (self._white - self._black)
        as_bytes: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
        return as_bytes

    def _extent(self) -> tuple[float, float]:
        """Return the least and the largest number."""
        _, height, width = self.shape
        low, high, step = math.inf, -math.inf, max(1, BAND // width)
        for top in range(0, height, step):
            values = np.asarray(self._band(top, min(top + step, height)))
            if not np.isfinite(values).all():
                raise UnreadableError("holds NaN or infinite values")
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        return low, high

    def _require_in_range(self, low: float, high: float) -> None:
        """Raise UnreadableError if numbers from `low` to `high` are not all from black to white."""
        slack = TOLERANCE * (self._white - self._black)
        if self._black - slack <= low and high <= self._white + slack:
            return
        words = f"outside [{self._black:g}, {self._white:g}]"
        if not self._is_given:
            words = "neither 8 nor 16 bits"
        raise UnreadableError(f"values from {low:.4g} to {high:.4g} are {words}")


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Yield an opened picture; turn whatever fails within the block into an UnreadableError."""
    try:
        with _open(data) as picture:
            yield picture
    except UnreadableError:
        raise
    except MemoryError:
        raise UnreadableError("larger than memory") from None
    except Exception as error:  # Pillow's decoders raise anything on damaged input
        raise UnreadableError(f"damaged: {first_line(error)}") from None


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
