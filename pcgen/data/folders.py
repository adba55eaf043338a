"""Pictures of a folder, a zip or a list, decoded when they are asked for."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.data.decode import MAX_PIXELS, decoded, deep_extent, header
from pcgen.data.files import Files
from pcgen.data.fit import fit_rows, preprocessing_of, unit
from pcgen.data.folder_labels import classes_of, in_turn, rows_of_split
from pcgen.data.images import Images, Shape
from pcgen.data.reading import UnreadableError
from pcgen.data.request import DataRequest
from pcgen.data.values import doubts
from pcgen.errors import DataError

Pixels = NDArray[np.uint8]

# The size and colour of a folder's pictures are those of so many, spread evenly.
_SAMPLE = 64
# Their range is that of the first few.
_LOOKED_AT = 4
_THREADS = min(16, os.cpu_count() or 1)
# A smaller picture is decoded faster than it is handed to a thread.
_LARGE = 128 * 128


class FileStore:
    """Pictures in files. Decoded pictures are kept while they fit in the request's `memory`."""

    def __init__(self, files: Files, shape: Shape, request: DataRequest, *, large: bool) -> None:
        """Hold the names; nothing is decoded yet.

        Args:
            shape: the shape of every row.
            request: the rules; a picture that they do not allow becomes a row with a status.
            large: whether the pictures are so large that threads decode them faster.
        """
        self.files, self.shape, self.request = files, shape, request
        self._threads = _THREADS if large else 1
        width = math.prod(shape)
        # The system gives this memory only as it is written to.
        rows = min(len(files.names), request.memory // width)
        self._kept = np.empty((rows, width), np.uint8)
        self._is_kept = np.zeros(len(files.names), bool)
        self._failed: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self.files.names)

    def id(self, row: int) -> str:
        return self.files.names[row].encode("utf-8", "backslashreplace").decode()

    def digest(self) -> bytes:
        """Return a hash of the files, as `Files.digest` describes it."""
        if self.request.value_range is None:
            return self.files.digest()
        return self.files.digest() + repr(self.request.value_range).encode()

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        status, reason = ["ok"] * len(index_B), [""] * len(index_B)
        if self._is_kept[index_B.numpy()].all():
            return unit(self._kept[index_B.numpy()]), status, reason
        rows: list[int] = index_B.tolist()
        decoded = self._decode_missing(list(dict.fromkeys(rows)))
        raw_BD = np.zeros((len(rows), self._kept.shape[1]), np.uint8)
        for i, row in enumerate(rows):
            if row in self._failed:
                status[i], reason[i] = self._failed[row]
            else:
                raw_BD[i] = decoded[row] if row in decoded else self._kept[row]
        return unit(raw_BD), status, reason

    def _decode_missing(self, rows: list[int]) -> dict[int, Pixels]:
        """Return the pixels (D,) of those rows that are not kept yet; keep those that fit."""
        missing = [r for r in rows if not self._is_kept[r] and r not in self._failed]
        if len(missing) > 1 and self._threads > 1:
            with ThreadPoolExecutor(self._threads) as pool:
                pictures = list(pool.map(self._decode, missing))
        else:
            pictures = [self._decode(row) for row in missing]
        decoded = {row: p for row, p in zip(missing, pictures, strict=True) if p is not None}
        for row, pixels_D in decoded.items():
            if row < len(self._kept):
                self._kept[row] = pixels_D
                self._is_kept[row] = True
        return decoded

    def _decode(self, row: int) -> Pixels | None:
        """Return a picture's pixels (D,) in the store's shape; None if it fails, with a reason."""
        try:
            with decoded(self.files.bytes_of(row), self.request.value_range) as picture:
                if refusal := self._refusal(*picture.shape):
                    self._failed[row] = ("shape", refusal)
                    return None
                return fit_rows(picture.rows, picture.shape, self.shape).reshape(-1).numpy()
        except UnreadableError as error:
            self._failed[row] = ("unreadable", str(error))
            return None

    def _refusal(self, channels: int, height: int, width: int) -> str:
        """Return why a picture cannot be brought to the store's shape; empty if it can."""
        new_channels, new_height, new_width = self.shape
        request = self.request
        if refusal := request.refusal_of_size(height, width):
            return refusal
        is_resized = request.size is not None or request.like is not None
        if not is_resized and (height, width) != (new_height, new_width):
            return f"is {height}x{width}, the others {new_height}x{new_width}: set data.size"
        if request.channels is None and request.like is None and channels > new_channels:
            return "is coloured, the others grey: set data.channels"
        scale = max(new_height / height, new_width / width)
        if height * scale * width * scale > max(MAX_PIXELS, height * width):
            return f"is {height}x{width}, too long and thin for {new_height}x{new_width}"
        return ""


def open_files(files: Files, name: str, request: DataRequest, *, split: str = "") -> Images:
    """Return the pictures among the files in the order of their paths, or those of one split.

    With a limit by class, the first of every class come in turn.

    Raises:
        DataError: there are no pictures; none can be read; or they differ in size, and neither a
            size nor a model is given.
    """
    if not files.names:
        raise DataError(
            f"{request.source}: holds no pictures",
            "pcgen reads .png .jpg .bmp .gif .webp .tif .ppm .pgm .avif .jp2",
        )
    labels, classes = classes_of(files)
    keep = rows_of_split(files.names, split, request.source)
    if request.by_class and request.limit is not None and labels is not None:
        keep = [keep[i] for i in in_turn(labels[keep])]
    keep = keep[: request.limit]
    if len(keep) < len(files.names):
        files = files.head(keep)
        labels = None if labels is None else labels[torch.tensor(keep)]
    shapes, failure = _sampled_shapes(files)
    shape = _common_shape(shapes, failure, request)
    own_shapes = shapes
    if request.native_size is not None:
        # Pictures of another size will be rows with a status.
        own_shapes = {s for s in shapes if s[1:] == request.native_size}
        own_shapes = own_shapes or {(shape[0], *request.native_size)}
    large = any(height * width >= _LARGE for _, height, width in shapes)
    return Images(
        name,
        request.source,
        FileStore(files, shape, request, large=large),
        labels=labels,
        classes=classes,
        preprocessing={**preprocessing_of(own_shapes, shape), **request.values_in_words},
        notes=_doubts(files, request),
    )


def _sampled_shapes(files: Files) -> tuple[set[Shape], str]:
    """Return the shapes of a sample of the pictures; and why the first failed, if any did."""
    every = max(1, len(files.names) // _SAMPLE)
    shapes: set[Shape] = set()
    failure = ""
    for row in range(0, len(files.names), every):
        try:
            shapes.add(header(files.bytes_of(row)))
        except UnreadableError as error:
            failure = failure or f"{files.names[row]}: {error}"
    return shapes, failure


def _doubts(files: Files, request: DataRequest) -> tuple[str, ...]:
    """Return a note if the first pictures are of 16 bits and almost black."""
    extents: list[tuple[float, float]] = []
    for row in range(min(_LOOKED_AT, len(files.names))):
        try:
            extent = deep_extent(files.bytes_of(row))
        except UnreadableError:
            continue
        if extent is None:
            return ()
        extents.append(extent)
    if not extents:
        return ()
    low, high = min(low for low, _ in extents), max(high for _, high in extents)
    white = (0.0, 65535.0) if high > 1 else (0.0, 1.0)
    return doubts(low, high, request.value_range or white, request.source)


def _common_shape(shapes: set[Shape], failure: str, request: DataRequest) -> Shape:
    """Return the shape that pictures of these shapes are brought to."""
    if request.like is not None and request.row_width is None:
        return request.like
    if not shapes:
        raise DataError(f"{request.source}: none of its pictures can be read; first {failure}")
    sizes = sorted({shape[1:] for shape in shapes})
    if request.size is None and len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sizes[:3])
        more = ", ..." if len(sizes) > 3 else ""
        raise DataError(
            f"{request.source}: its pictures differ in size ({shown}{more})",
            "Choose one size for all of them: --set data.size=[64,64]",
        )
    return request.shape_of_image((max(shape[0] for shape in shapes), *sizes[0]))
