"""Locks, so that two processes do not write to one place at the same time.

The system releases a lock when its process ends, however it ends.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pcgen.errors import RunError
from pcgen.storage.files import writing

if sys.platform != "win32":
    import fcntl


@contextmanager
def locked(place: Path, lock: Path) -> Iterator[None]:
    """Hold a lock file for a block; it names the process, and is removed at the end.

    Its folder is made if there is none. Where the file system has no locks, the block runs without
    one.

    Args:
        place: what the lock protects, for the message.

    Raises:
        RunError: another process holds the lock, or the file cannot be written.
    """
    with writing(place):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _acquired(place, lock)
    try:
        yield
    finally:
        if file is not None:
            lock.unlink(missing_ok=True)
            os.close(file)


def _acquired(place: Path, lock: Path) -> int | None:
    """Return the open lock file; None where the system has no locks."""
    if sys.platform == "win32":
        return None
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise RunError(
                f"{place}: {holder}", "Wait until it has ended, or name another --out"
            ) from None
        except OSError:
            os.close(file)
            lock.unlink(missing_ok=True)
            return None
        with suppress(FileNotFoundError):
            # The process that held the lock may have removed the file between the two calls.
            if os.path.samestat(os.fstat(file), lock.stat()):
                break
        os.close(file)
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = f"process {os.getpid()} on {socket.gethostname()} writes here since {began}"
    with suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(file, 0)
        os.write(file, holder.encode())
    return file
