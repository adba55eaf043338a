"""Files that are written completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from pcgen.errors import CheckpointError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        CheckpointError: it could not be written; an older file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None
