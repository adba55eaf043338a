"""`pcgen.datasets`: the data sets that have a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def datasets(*, data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Return a row for every named data set: its content, and its folder or how to get it.

    Example:
        >>> import pcgen
        >>> [row["name"] for row in pcgen.datasets()][:2]
        ['digits', 'iris']
    """
    from pcgen.data.sources import listing

    return listing(data_dir=None if data_dir is None else Path(data_dir))
