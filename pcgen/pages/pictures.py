"""Pictures: labelled rows of images in one PNG, readable even where an image has 8x8 pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

ERROR_LIMIT = 0.5
"""Errors of this size and more have the full colour: the scale is the same in every picture."""

_TARGET = 88  # pixels that an image's longer side comes near to
_LARGEST = 192
_GAP = 4
_BAND_GAP = 14
_MARGIN = 16
_PAPER = (255, 255, 255)
_INK = (38, 42, 51)
_FAINT = (110, 116, 128)
_NEGATIVE = (33, 102, 172)
_POSITIVE = (178, 24, 43)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the picture.

    Attributes:
        label: stands to the left of it.
        pixels_BCHW: in [0, 1], values outside are clipped; or, where `signed`, errors.
        signed: shown on the fixed scale blue (too dark) - white (exact) - red (too bright).
        heat: shares in [0, 1], shown from black through red and yellow to white.
    """

    label: str
    pixels_BCHW: Any
    signed: bool = False
    heat: bool = False


def reconstructions(inputs_BD: Any, outputs_BD: Any, shape: tuple[int, int, int]) -> list[Row]:
    """Return the rows of a picture: input, reconstruction and error of every image.

    Args:
        inputs_BD: pixels in [0, 1], flattened C, H, W.
        outputs_BD: what the network made of them.
        shape: C, H, W.
    """
    inputs, outputs = _array(inputs_BD, shape), _array(outputs_BD, shape)
    return [
        Row("input", inputs),
        Row("reconstruction", outputs),
        Row("error", outputs - inputs, signed=True),
    ]


def grid_png(rows: Sequence[Row], *, title: str = "", columns: int = 12) -> bytes:
    """Return rows of images as the bytes of a PNG, image i of every row in one column.

    More images than columns go on in a further band of the same rows. A signed row brings the
    colour scale with it.

    Args:
        columns: images side by side; more go on in further bands.
    """
    from PIL import Image, ImageDraw

    tiles = [_tiles(row) for row in rows]
    count = max(map(len, tiles))
    assert count, "a picture of no images"
    tile_w = max(tile.width for row in tiles for tile in row)
    tile_h = max(tile.height for row in tiles for tile in row)
    across = min(columns, count)
    bands = -(-count // across)
    font, bold = _font(14), _font(17)
    label_w = max(round(font.getlength(row.label)) for row in rows) + 14
    head = 34 if title else 0
    band_h = len(rows) * (tile_h + _GAP) - _GAP + _BAND_GAP
    scale_h = 30 if any(row.signed for row in rows) else 0
    width = 2 * _MARGIN + label_w + across * (tile_w + _GAP) - _GAP
    width = max(width, 2 * _MARGIN + round(bold.getlength(title)), _MARGIN + label_w + 400)
    height = 2 * _MARGIN + head + bands * band_h - _BAND_GAP + scale_h

    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=bold)
    for i in range(bands * across):
        band, column = divmod(i, across)
        x = _MARGIN + label_w + column * (tile_w + _GAP)
        for r, row in enumerate(rows):
            y = _MARGIN + head + band * band_h + r * (tile_h + _GAP)
            if column == 0:
                draw.text((_MARGIN, y + tile_h // 2), row.label, fill=_INK, font=font, anchor="lm")
            if i < len(tiles[r]):
                draw.rectangle((x - 1, y - 1, x + tile_w, y + tile_h), outline=(222, 225, 230))
                picture.paste(tiles[r][i], (x, y))
    if scale_h:
        _draw_scale(draw, _MARGIN + label_w, height - _MARGIN - 12)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def heatmap_png(pixels_D: Any, heat_D: Any, shape: tuple[int, int, int]) -> bytes:
    """Return the bytes of a PNG: an image, and beside it where its prediction fails.

    Args:
        pixels_D: in [0, 1], flattened C, H, W.
        heat_D: in [0, 1), from `Detector.heat`; its mean over the channels is shown, from black
            through red and yellow to white, so a colour means the same in every picture.
    """
    from PIL import Image

    pixels = _colours(_array(np.asarray(pixels_D)[None], shape))[0]
    heat = _heat(_array(np.asarray(heat_D)[None], shape).mean(1))[0]
    left, right = _scaled(pixels), _scaled(heat)
    picture = Image.new("RGB", (left.width + _GAP + right.width, left.height), _PAPER)
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + _GAP, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _heat(share_BHW: np.ndarray) -> np.ndarray:
    """Return 8-bit RGB (B, H, W, 3) of shares in [0, 1]: one colour channel after the other."""
    share = np.nan_to_num(share_BHW).clip(0, 1)[..., None]
    rising = np.clip(3 * share - np.arange(3), 0, 1)
    return np.asarray((255 * rising).round().astype(np.uint8))


def _tiles(row: Row) -> list[Image]:
    pixels = _array(row.pixels_BCHW)
    if row.heat:
        colours = _heat(pixels.mean(1))
    else:
        colours = _diverging(pixels) if row.signed else _colours(pixels)
    return [_scaled(image) for image in colours]


def _array(pixels: Any, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Return images as float32 (B, C, H, W), whatever kind of array they came as."""
    array = np.asarray(pixels, dtype=np.float32)
    return array.reshape(len(array), *shape) if shape else array


def _colours(pixels_BCHW: np.ndarray) -> np.ndarray:
    """Return 8-bit RGB (B, H, W, 3)."""
    clipped = np.nan_to_num(pixels_BCHW).clip(0, 1)
    if clipped.shape[1] == 1:
        clipped = clipped.repeat(3, axis=1)
    return np.asarray((clipped * 255).round().astype(np.uint8).transpose(0, 2, 3, 1))


def _diverging(errors_BCHW: np.ndarray) -> np.ndarray:
    """Return 8-bit RGB (B, H, W, 3) of errors, their mean over the channels."""
    share = (np.nan_to_num(errors_BCHW).mean(1) / ERROR_LIMIT).clip(-1, 1)[..., None]
    end = np.where(share < 0, np.array(_NEGATIVE), np.array(_POSITIVE))
    # The square root keeps small errors visible; its ends and its middle stay where they are.
    strength = np.sqrt(np.abs(share))
    return np.asarray((255 + strength * (end - 255)).round().astype(np.uint8))


def _scaled(rgb_HW3: np.ndarray) -> Image:
    from PIL import Image

    image = Image.fromarray(rgb_HW3)
    longer = max(image.size)
    if longer > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
        return image
    factor = max(1, round(_TARGET / longer))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _draw_scale(draw: ImageDraw, x: int, y: int) -> None:
    values = np.linspace(-ERROR_LIMIT, ERROR_LIMIT, 121, dtype=np.float32)
    colours = _diverging(values.reshape(-1, 1, 1, 1))[:, 0, 0]
    font = _font(12)
    low, high = f"-{ERROR_LIMIT:g}", f"+{ERROR_LIMIT:g}"
    x += round(font.getlength(low)) + 6
    draw.text((x - 6, y + 5), low, fill=_FAINT, font=font, anchor="rm")
    for i, colour in enumerate(colours.tolist()):
        draw.line((x + i, y, x + i, y + 10), fill=tuple(colour))
    draw.text(
        (x + 127, y + 5),
        f"{high}  white: exact; square-root scale",
        fill=_FAINT,
        font=font,
        anchor="lm",
    )


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
