"""Pictures of a folder, a zip or a list, decoded when asked for."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.data.decode import MAX_PIXELS, UnreadableError, decode, header
from pcgen.data.files import Files
from pcgen.data.fit import fit, rule, unit
from pcgen.data.folder_labels import classes_of, rows_of_split
from pcgen.data.images import Images, Shape
from pcgen.data.request import DataRequest, must_be
from pcgen.errors import DataError

Pixels = NDArray[np.uint8]

# So many pictures, spread evenly, say what size and colour a folder's pictures have.
_LOOKED_AT = 64
_THREADS = min(16, os.cpu_count() or 1)
# Below, a picture takes no longer to decode than threads take to hand it over.
_LARGE = 128 * 128


class FileStore:
    """Pictures in files. What was decoded is kept while it fits in `memory`."""

    def __init__(
        self,
        files: Files,
        shape: Shape,
        *,
        resize: bool,
        to_grey: bool,
        large: bool,
        memory: int,
        native: Shape | None = None,
    ) -> None:
        """Hold the names; nothing is decoded yet.

        Args:
            shape: of every row.
            resize: whether pictures of other sizes are resized, or are rows with a status.
            to_grey: whether coloured pictures become grey, or are rows with a status.
            large: whether decoding is slow enough for threads.
            memory: bytes of decoded pixels to keep.
            native: the only shape that a picture may have by itself; others are rows with a status.
        """
        self.files, self.shape, self.resize, self.to_grey = files, shape, resize, to_grey
        self.native = native
        self._threads = _THREADS if large else 1
        width = shape[0] * shape[1] * shape[2]
        # The system gives this memory only as it is written to.
        rows = min(len(files.names), memory // width)
        self._kept = np.empty((rows, width), np.uint8)
        self._is_kept = np.zeros(len(files.names), bool)
        self._failed: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self.files.names)

    def id(self, row: int) -> str:
        """Return the file's path inside the folder or zip."""
        return self.files.names[row].encode("utf-8", "backslashreplace").decode()

    def digest(self) -> bytes:
        """Return a hash of names and sizes."""
        return self.files.digest()

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        """Return pixels (B, D), statuses and reasons."""
        status, reason = ["ok"] * len(index_B), [""] * len(index_B)
        if self._is_kept[index_B.numpy()].all():
            return unit(self._kept[index_B.numpy()]), status, reason
        rows: list[int] = index_B.tolist()
        fresh = dict(self._decode_all(list(dict.fromkeys(rows))))
        raw_BD = np.zeros((len(rows), self._kept.shape[1]), np.uint8)
        for i, row in enumerate(rows):
            if row in self._failed:
                status[i], reason[i] = self._failed[row]
            else:
                raw_BD[i] = fresh[row] if row in fresh else self._kept[row]
        return unit(raw_BD), status, reason

    def _decode_all(self, rows: list[int]) -> list[tuple[int, Pixels]]:
        """Return the rows that are not kept, decoded; keep those that fit."""
        missing = [r for r in rows if not self._is_kept[r] and r not in self._failed]
        if len(missing) > 1 and self._threads > 1:
            with ThreadPoolExecutor(self._threads) as pool:
                decoded = list(pool.map(self._decode, missing))
        else:
            decoded = [self._decode(row) for row in missing]
        found = []
        for row, pixels_D in zip(missing, decoded, strict=True):
            if pixels_D is None:
                continue
            found.append((row, pixels_D))
            if row < len(self._kept):
                self._kept[row] = pixels_D
                self._is_kept[row] = True
        return found

    def _decode(self, row: int) -> Pixels | None:
        """Return a picture (D,) of the store's shape; or None, and note the reason."""
        try:
            pixels_CHW = decode(self.files.bytes_of(row))
        except UnreadableError as error:
            self._failed[row] = ("unreadable", str(error))
            return None
        mismatch = self._mismatch(*pixels_CHW.shape)
        if mismatch:
            self._failed[row] = ("shape", mismatch)
            return None
        return fit(pixels_CHW[None], self.shape).reshape(-1).numpy()

    def _mismatch(self, channels: int, height: int, width: int) -> str:
        """Return why a picture cannot be brought to the store's shape, or nothing."""
        shape = self.shape
        if self.native is not None and (channels, height, width) != self.native:
            return must_be((channels, height, width), self.native)
        if not self.resize and (height, width) != shape[1:]:
            return f"is {height}x{width}, the others {shape[1]}x{shape[2]}: set data.size"
        if not self.to_grey and channels > shape[0]:
            return "is coloured, the others grey: set data.channels"
        scale = max(shape[1] / height, shape[2] / width)
        if height * scale * width * scale > max(MAX_PIXELS, height * width):
            return f"is {height}x{width}, too long and thin for {shape[1]}x{shape[2]}"
        return ""


def open_files(files: Files, name: str, request: DataRequest, *, split: str = "") -> Images:
    """Return the pictures among files, in sorted path order, or those of one split.

    Raises:
        DataError: there are none; none that can be read; or, where neither a size nor a model says
            what they are to be brought to, they differ in size.
    """
    if not files.names:
        raise DataError(
            f"{request.source}: holds no pictures",
            "Looked for .png .jpg .bmp .gif .webp .tif .ppm .pgm",
        )
    labels, classes = classes_of(files)
    keep = rows_of_split(files.names, split, request.source)[: request.limit]
    if len(keep) < len(files.names):
        files = files.head(keep)
        labels = None if labels is None else labels[torch.tensor(keep)]
    shapes, failure = _look(files)
    shape = _shape(shapes, failure, request)
    store = FileStore(
        files,
        shape,
        resize=request.size is not None or request.like is not None,
        to_grey=request.channels is not None or request.like is not None,
        large=any(height * width >= _LARGE for _, height, width in shapes),
        memory=request.memory,
        native=request.native,
    )
    return Images(
        name,
        request.source,
        store,
        labels=labels,
        classes=classes,
        preprocessing=rule(shapes if request.native is None else {request.native}, shape),
    )


def _look(files: Files) -> tuple[set[Shape], str]:
    """Return the shapes of some pictures, and what is wrong with the first that cannot be read."""
    every = max(1, len(files.names) // _LOOKED_AT)
    shapes: set[Shape] = set()
    failure = ""
    for row in range(0, len(files.names), every):
        try:
            shapes.add(header(files.bytes_of(row)))
        except UnreadableError as error:
            failure = failure or f"{files.names[row]}: {error}"
    return shapes, failure


def _shape(shapes: set[Shape], failure: str, request: DataRequest) -> Shape:
    """Return the shape that the pictures are brought to."""
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
            "Say what to bring them to: --set data.size=[64,64]",
        )
    return request.shape_of_image((max(shape[0] for shape in shapes), *sizes[0]))
