"""PNG files that a page takes over: pictures, and never another file that a table names."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from pcgen.pages.page import Picture, Table

MAX_BYTES = 16 * 2**20
MAX_PIXELS = 2**26
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pictures(
    files: Iterable[tuple[str | Path, str]], folders: Sequence[Path]
) -> list[Picture | Table]:
    """Return a page's pictures, and a table of those that are not shown and why.

    Args:
        files: the path and the caption of each picture. A path is relative to the working folder
            or to one of the folders.
        folders: a picture must lie in one of them, once links are followed.
    """
    blocks: list[Picture | Table] = []
    left_out = []
    for path, caption in files:
        try:
            blocks.append(Picture(_png(Path(path), folders), caption))
        except _NoPictureError as error:
            left_out.append([str(path), str(error)])
    if left_out:
        blocks.append(Table(["picture", "not shown because"], left_out))
    return blocks


class _NoPictureError(Exception):
    """A file that no page takes over; the message is the reason."""


def _png(path: Path, folders: Sequence[Path]) -> bytes:
    """Return the bytes of a PNG that lies in one of the folders."""
    try:
        roots = [folder.resolve() for folder in folders]
        places = [place.resolve() for place in (path, *(folder / path for folder in folders))]
        inside = [place for place in places if any(map(place.is_relative_to, roots))]
        if not inside:
            raise _NoPictureError(f"it is not in the folder {folders[0]}")
        file = next((place for place in inside if place.is_file()), None)
        if file is None:
            raise _NoPictureError("there is no such file")
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise _NoPictureError(f"it cannot be read: {error}") from None
    if len(content) > MAX_BYTES:
        raise _NoPictureError(f"it is larger than {MAX_BYTES:,} bytes")
    _require_png(content)
    return content


def _require_png(content: bytes) -> None:
    """Raise an error unless these are the bytes of a PNG that can be decoded."""
    from PIL import Image

    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    if not content.startswith(_SIGNATURE):
        raise _NoPictureError("it is not a PNG")
    if width * height > MAX_PIXELS:
        raise _NoPictureError(f"it has more than {MAX_PIXELS:,} pixels")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
    except Exception:  # Pillow's decoders raise anything on damaged input
        raise _NoPictureError("it is damaged") from None
