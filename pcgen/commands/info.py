"""`pcgen.info`: the header of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def info(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's header, without reading its tensors or importing torch.

    Args:
        path: a file, a run's folder, or a shipped model's name.

    Raises:
        CheckpointError: no such file, or no checkpoint.

    Example:
        >>> import pcgen
        >>> pcgen.info("digits")["sizes"]
        [64, 64, 64, 16]
    """
    from pcgen import shipped
    from pcgen.storage.checkpoint import read_header

    file = shipped.find_model(path)
    return {"file": str(file), **read_header(file)}
