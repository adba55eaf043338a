"""The files that commands write, and the parts that their results share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.errors import DataError, RunError

if TYPE_CHECKING:
    from pcgen.config import InferenceTable

_DEFAULTS = {
    "classify": "labels.csv",
    "ood-score": "scores.csv",
    "recall": "recalled",
    "reconstruct": "reconstructions",
    "sample": "samples.png",
}


def default_output(command: str, model: str | Path | None = None, folder: Path = Path()) -> Path:
    """Return a new path in a folder for the file or the folder that a command writes.

    The name is the command's own, such as samples.png; samples-2.png where that exists, and so on.

    Args:
        model: of `sample`; a table's model draws a .csv file.

    Raises:
        CheckpointError: a model that does not exist.
    """
    from pcgen import shipped
    from pcgen.storage.checkpoint import read_header

    name = Path(_DEFAULTS[command])
    if command == "sample" and model is not None:
        header = read_header(shipped.find_model(model))
        if header.get("data", {}).get("scale") is not None:
            name = name.with_suffix(".csv")
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (folder / f"{name.stem}{ending}{name.suffix}" for ending in endings)
    return next(path for path in paths if not _is_taken(path))


def _is_taken(path: Path) -> bool:
    """Return whether a path exists, or is being written to."""
    from pcgen.storage.rows_file import lock_of

    others = (path.with_name(path.name + ".part"), lock_of(path))
    return path.exists() or any(other.exists() for other in others)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of a file for a block that writes it.

    Raises:
        RunError: the file system refused it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def inference_document(
    table: InferenceTable, converged: float | None, steps: int | None = None
) -> dict[str, Any]:
    """Return the `inference` entry of a document.

    Args:
        converged: the share of images that met the tolerance, if it is known.
        steps: the most steps allowed, where these are not the recipe's.
    """
    return {
        "solver": table.solver,
        "steps": table.test_steps if steps is None else steps,
        "converged": converged,
    }


def require_readable(rows: Sequence[dict[str, Any]], source: str) -> None:
    """Raise DataError if no row is readable; it gives the first row's reason."""
    if any(row["status"] == "ok" for row in rows):
        return
    first = rows[0]
    raise DataError(
        f"{source}: none of {len(rows)} inputs can be used; first, {first['id']}: {first['reason']}"
    )
