"""One picture: every mode becomes grey or RGB of 8 bits, and damage is a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pcgen.data import fit as fitting
from pcgen.data.decode import decode, header
from pcgen.data.decode import decoded as opened
from pcgen.data.fit import fit, fit_rows
from pcgen.data.reading import UnreadableError

from .pictures import Array, png, random_pixels

GREY = random_pixels(6, 9)
RGB = random_pixels(6, 9, 3)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> Array:
    found = decode(data)
    assert tuple(found.shape) == header(data)
    pixels: Array = found.numpy()
    return pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_pictures_keep_their_pixels(kind: str) -> None:
    assert np.array_equal(decoded(saved(Image.fromarray(GREY), kind)), GREY[None])
    assert np.array_equal(decoded(saved(Image.fromarray(RGB), kind)), RGB.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_pictures_are_near(kind: str) -> None:
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    found = decoded(saved(Image.fromarray(flat), kind)).astype(int)
    assert np.abs(found - flat.transpose(2, 0, 1)).max() < 8


def test_16_bits_become_8_by_division() -> None:
    deep = GREY.astype(np.uint16) * 257
    assert np.array_equal(decoded(saved(Image.fromarray(deep))), GREY[None])
    assert np.array_equal(decoded(saved(Image.fromarray(deep), "TIFF")), GREY[None])


def test_floats_from_0_to_1_become_8_bits_and_others_are_refused() -> None:
    assert np.array_equal(
        decoded(saved(Image.fromarray((GREY / 255).astype(np.float32)), "TIFF")), GREY[None]
    )
    for bad in (2.0, -1.0, np.nan):
        with pytest.raises(UnreadableError):
            decode(saved(Image.fromarray(np.full((4, 4), bad, np.float32)), "TIFF"))


def test_transparent_pixels_lie_over_black() -> None:
    rgba = np.dstack([RGB, np.full((6, 9), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    found = decoded(png(rgba))
    assert not found[:, 0, 0].any()
    assert np.array_equal(found[:, 1:], RGB.transpose(2, 0, 1)[:, 1:])
    grey = decoded(saved(Image.fromarray(np.dstack([GREY, np.zeros_like(GREY)]), "LA")))
    assert grey.shape == (1, 6, 9)
    assert not grey.any()


def test_a_palette_is_coloured_if_its_colours_are() -> None:
    coloured = Image.fromarray(RGB).quantize(16)
    assert decoded(saved(coloured)).shape == (3, 6, 9)
    grey = Image.fromarray(GREY).convert("P")
    assert np.array_equal(decoded(saved(grey)), GREY[None])
    coloured.info["transparency"] = bytes([0] + [255] * 15)
    assert decoded(saved(coloured)).shape == (3, 6, 9)


def test_black_and_white_and_cmyk_are_read() -> None:
    bits = Image.fromarray(GREY > 127)
    assert np.array_equal(decoded(saved(bits)), np.where(GREY > 127, 255, 0)[None])
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = decoded(saved(cmyk, "JPEG"))
    assert found.shape == (3, 8, 8)
    assert found[0].min() > 200
    assert found[1:].max() < 60


def test_of_a_moving_picture_the_first_frame_counts() -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decoded(data) == 10).all()


def test_a_turned_photograph_is_set_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(GREY), "PNG", exif=exif.tobytes())
    assert np.array_equal(decoded(data)[0], np.rot90(GREY, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_turned_picture_has_one_size_before_and_after_it_is_decoded(
    orientation: int, kind: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.zeros((6, 9), np.uint8)
    corner[:3, :3] = 255
    found = decoded(saved(Image.fromarray(np.stack([corner] * 3, -1)), kind, exif=exif))[0]
    upright = {
        2: np.fliplr(corner),
        3: np.rot90(corner, 2),
        4: np.flipud(corner),
        5: corner.T,
        6: np.rot90(corner, -1),
        7: np.rot90(corner, 2).T,
        8: np.rot90(corner),
    }.get(orientation, corner)
    assert np.array_equal(found > 127, upright > 127)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "CMYK"])
def test_a_large_picture_is_scaled_in_bands_to_the_same_bits(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(random_pixels(61, 43, 3))
    picture = picture.quantize(50) if mode == "P" else picture
    if mode == "I;16":
        picture = Image.fromarray(np.multiply(random_pixels(61, 43), 257, dtype=np.uint16))
    elif mode != "P":
        picture = picture.convert(mode)
    data = saved(picture, "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    whole = decode(data)
    monkeypatch.setattr(fitting, "LARGE", 100)
    monkeypatch.setattr(fitting, "BAND", 200)
    for shape in ((1, 8, 8), (3, 20, 7), (3, 50, 60), (len(whole), *whole.shape[1:]), (3, 1, 1)):
        with opened(data) as found:
            scaled = fit_rows(found.rows, found.shape, shape)
        assert torch.equal(scaled, fit(whole[None], shape)[0])


def test_one_pixel_is_a_picture() -> None:
    assert decoded(png(np.array([[7]], np.uint8))).tolist() == [[[7]]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (png(RGB)[:60], "damaged"),
        (saved(Image.fromarray(random_pixels(64, 64, 3)), "JPEG")[:900], "damaged"),
    ],
)
def test_damage_is_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        decode(data)


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_decompression_bomb_is_not_unpacked(side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    for look in (decode, header):
        with pytest.raises(UnreadableError, match="pixels"):
            look(bomb)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), kind=st.sampled_from(range(4)))
def test_no_flipped_byte_escapes(place: int, value: int, kind: int) -> None:
    data = bytearray(saved(Image.fromarray(RGB), ("PNG", "JPEG", "GIF", "TIFF")[kind]))
    data[place % len(data)] = value
    try:
        found = decode(bytes(data))
    except UnreadableError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert found.shape[0] in (1, 3)
