"""Download the files of a data set: beside their place, verified, then renamed."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from pcgen.errors import DataError

TIMEOUT = 20.0
"""Seconds to wait for a connection, and for the next bytes of an answer."""

_SLOWEST = 1024  # bytes per second, averaged over TIMEOUT
_LARGEST = 2**31
_CHUNK = 2**18
_OFFLINE = "Without a network: copy the files into a folder and name it with --data-dir"
_checked: set[tuple[str, int, int]] = set()


@dataclass(frozen=True, slots=True)
class Published:
    """A file as it was published.

    Attributes:
        path: its place in the folder of data.
        md5: its checksum.
        addresses: where it can be downloaded, best first.
        members: if it is an archive, how the names of the members to unpack begin.
        unpack_to: the folder of the members.
    """

    path: str
    md5: str
    addresses: tuple[str, ...]
    members: str = ""
    unpack_to: str = ""


def ensure(name: str, files: Sequence[Published], root: Path, *, fetch: bool = True) -> None:
    """Download those files that are missing, or are not as they were published.

    Afterwards `root/NAME.md5` lists the checksums of the files that are used, as `md5sum` does.

    Args:
        fetch: False to raise a DataError instead of a download.

    Raises:
        DataError: there is no network or no space, or the files are not those that were published.
    """
    from filelock import FileLock

    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".download.lock"):
        listed = [line for file in files for line in _provide(name, file, root, fetch)]
        with _written(root / f"{name}.md5") as receipt:
            receipt.write("".join(f"{md5}  {path}\n" for path, md5 in listed).encode())


def are_whole(name: str, root: Path) -> bool:
    """Return whether the files that `ensure` has listed still are what they were."""
    try:
        lines = (root / f"{name}.md5").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    pairs = [line.partition("  ") for line in lines]
    return bool(pairs) and all(_is_whole(root / path, md5) for md5, _, path in pairs)


def _is_whole(path: Path, md5: str) -> bool:
    """Return whether a file has this checksum, which is computed once a process."""
    try:
        status = path.stat()
        seen = (f"{path}\0{md5}", status.st_size, status.st_mtime_ns)
        if seen not in _checked:
            if _md5(path) != md5:
                return False
            _checked.add(seen)
    except OSError:
        return False
    return True


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_md5).hexdigest()


def _new_md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _provide(name: str, file: Published, root: Path, fetch: bool) -> Iterator[tuple[str, str]]:
    """Download and unpack a file where that is needed; yield the files to use, with checksums."""
    path = root / file.path
    if not _is_whole(path, file.md5):
        if not fetch:
            raise DataError(f"{path}: not the file that was published as {name}", "Remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(name, file, path)
    if not file.members:
        yield file.path, file.md5
        return
    for member, content in _members(path):
        if member.startswith(file.members):
            place = f"{file.unpack_to}/{Path(member).name}"
            with _written(root / place) as unpacked:
                shutil.copyfileobj(content, unpacked)
            yield place, _md5(root / place)


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file beside a path, which takes its place once it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the name and the content of each file in a zip or tar."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                with packed.open(member) as content:
                    yield member.filename, content
        return
    with tarfile.open(archive) as packed_tar:
        for entry in packed_tar:
            content_of_file = packed_tar.extractfile(entry) if entry.isfile() else None
            if content_of_file is not None:
                yield entry.name, content_of_file


def _download(name: str, file: Published, path: Path) -> None:
    """Download a file from the first address that serves it as it was published.

    Raises:
        DataError: none does.
    """
    print(f"Downloading {name}: {path}", file=sys.stderr)  # noqa: T201
    reasons = []
    for address in file.addresses:
        try:
            with _written(path) as part:
                if _receive(address, part) != file.md5:
                    raise ValueError("not the file that was published (its checksum differs)")
            return
        except (OSError, ValueError, http.client.HTTPException) as error:
            reasons.append(f"{urlsplit(address).scheme}://{urlsplit(address).hostname}: ")
            reasons[-1] += _reason(error)
    failures = "; ".join(dict.fromkeys(reasons))
    raise DataError(f"{name}: cannot be downloaded: {path.name}: {failures}", _OFFLINE)


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None)
    error = cause if isinstance(cause, Exception) else error
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:g} seconds"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


def _receive(address: str, part: IO[bytes]) -> str:
    """Write what an address serves to a file, and return its MD5.

    Raises:
        OSError: no connection, an answer that is not 200, a time-out, no space.
        ValueError: an answer that is cut off, or too long.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "pcgen"})  # noqa: S310
    hashed, count = _new_md5(), 0
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, _bar(answer.length) as show:  # noqa: S310
        announced: int | None = answer.length
        since, before = time.monotonic(), 0
        while chunk := answer.read1(_CHUNK):
            hashed.update(chunk)
            part.write(chunk)
            count += len(chunk)
            show(count)
            if count > _LARGEST:
                raise ValueError(f"more than {_LARGEST} bytes")
            if time.monotonic() - since > TIMEOUT:
                if count - before < _SLOWEST * TIMEOUT:
                    raise ValueError(f"slower than {_SLOWEST} bytes per second")
                since, before = time.monotonic(), count
    if announced is not None and count < announced:
        raise ValueError(f"cut off after {count} of {announced} bytes")
    return hashed.hexdigest()


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], object]]:
    """Yield a function that shows how many bytes have come, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.update(task, completed=count)
