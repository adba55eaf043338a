"""The files that commands write, and the parts that their results share."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.errors import DataError, DivergenceError, OutputError
from pcgen.storage.files import replacing, require_writable

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.config import InferenceTable
    from pcgen.data.images import Images
    from pcgen.storage.checkpoint import LoadedModel

_DEFAULTS = {
    "classify": "labels.csv",
    "ood-score": "scores.csv",
    "recall": "recalled",
    "reconstruct": "reconstructions",
    "sample": "samples.png",
}


@contextmanager
def keeping(rows: Collection[object], path: Path | None) -> Iterator[None]:
    """Say at an interruption within a block where the rows so far are, if a file has them.

    Raises:
        KeyboardInterrupt: the interruption, with that line.
    """
    try:
        yield
    except KeyboardInterrupt:
        if path is None or not rows:
            raise
        said = f"Interrupted. The rows so far ({len(rows):,}) are in {path}"
        raise KeyboardInterrupt(said, "") from None


@dataclass(frozen=True, slots=True)
class RowsResult:
    """The result of a command that answers input by input.

    Attributes:
        inputs: a row per input.
        preprocessing: how the inputs were brought to the model.
        out: the file or the folder of the results, if there is one.
        notes: what a user should know about how the data were read.
    """

    model: LoadedModel[Any]
    device: str
    inputs: list[dict[str, Any]]
    preprocessing: dict[str, Any]
    out: Path | None
    notes: Sequence[str]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every input, in input order, unreadable ones included."""
        return self.inputs

    def found(self) -> dict[str, Any]:
        """Return the keys of the document that are the command's own."""
        raise NotImplementedError

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        return {
            "model": str(self.model.path),
            "seed": self.model.recipe.seed,
            "device": self.device,
            **self.found(),
            "unreadable": sum(row["status"] != "ok" for row in self.inputs),
            "preprocessing": self.preprocessing,
            "notes": [*self.notes],
            "out": None if self.out is None else str(self.out),
        }


def result_files(out: Path | None, name: str) -> list[Path]:
    """Return the files of a folder of results: rows, arrays and the picture."""
    return [] if out is None else [out / f"{name}.{end}" for end in ("jsonl", "npz", "png")]


def write_results(
    files: Sequence[Path],
    images: Images,
    rows: Sequence[dict[str, Any]],
    arrays: Mapping[str, Tensor],
    picture: Callable[[], bytes],
) -> Path | None:
    """Write the files of `result_files`, if any; return the picture's, None if there is no picture.

    Args:
        images: of a table there is no picture.

    Raises:
        RunError: a folder that cannot be written.
    """
    import numpy as np

    if not files:
        return None
    is_shown = not images.is_table and all(map(len, arrays.values()))
    with replacing(*(files if is_shown else files[:2])) as opened:
        opened[0].write("".join(json.dumps(row) + "\n" for row in rows).encode())
        numbers: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
        np.savez_compressed(opened[1], **numbers)
        if is_shown:
            opened[2].write(picture())
    return files[2] if is_shown else None


def default_output(command: str, model: str | Path | None = None, folder: Path = Path()) -> Path:
    """Return a new path in a folder for the file or the folder that a command writes.

    The name is the command's own, such as samples.png; samples-2.png where that exists, and so on.

    Args:
        model: of `sample`; a table's model draws a .csv file.

    Raises:
        CheckpointError: a model that does not exist.
    """
    from pcgen import shipped
    from pcgen.storage.checkpoint import read_model_header

    name = Path(_DEFAULTS[command])
    if command == "sample" and model is not None:
        header = read_model_header(shipped.find_model(model))
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


def require_safe(writes: Sequence[Path], reads: Sequence[object]) -> None:
    """Raise an error unless a command can write its files, and reads none of them.

    Args:
        writes: the files; of a folder of pictures, a name in it.
        reads: paths, names and arrays, or sequences of them. Only paths that exist count.

    Raises:
        OutputError: a file that is read, another command's input next time, or written twice.
        RunError: a file that cannot be written.
    """
    inside = {parent for path in writes for parent in path.resolve().parents}
    for path in writes:
        require_writable(path)
        if path.resolve() in inside:
            raise OutputError(f"{path}: would be both a file and a folder of the results")
    for path, read in itertools.product(writes, list(_paths(reads))):
        if path.exists() and path.samefile(read):
            raise _is_input(path)
        if read.is_dir() and _joins(path.resolve(), read.resolve()):
            raise OutputError(
                f"{path}: lies in the input {read}: the next run would take it for an input",
                "Name a place outside",
            )


def _is_input(path: Path) -> OutputError:
    return OutputError(
        f"{path}: --out is the input: no command writes over what it reads", "Name another file"
    )


def _paths(reads: Iterable[object]) -> Iterator[Path]:
    """Yield the paths that exist among the inputs of a command.

    A text may be a path with a split, as in `photos:test`, or with a word, as in `mask:FILE`.
    """
    for read in reads:
        if isinstance(read, list | tuple):
            yield from _paths(read)
        elif isinstance(read, str | Path):
            text = str(read)
            for name in {text, text.rpartition(":")[0], text.partition(":")[2]} - {""}:
                if os.path.exists(name):
                    yield Path(name)


def _joins(path: Path, folder: Path) -> bool:
    """Return whether a file would be one of the pictures of a folder."""
    from pcgen.data.files import is_picture

    return path.is_relative_to(folder) and is_picture(str(path.relative_to(folder)))


def require_unlisted(writes: Sequence[Path], names: Sequence[str]) -> None:
    """Raise OutputError if a file that is written is in a list of pictures that are read."""
    for path in filter(Path.exists, writes):
        if any(os.path.exists(name) and path.samefile(name) for name in names):
            raise _is_input(path)


def inference_document(table: InferenceTable, converged: float | None) -> dict[str, Any]:
    """Return the `inference` entry of a document.

    Args:
        converged: the share of images that met the tolerance, if it is known.
    """
    solver = table.for_use().solver
    return {"solver": solver, "steps": table.test_steps, "converged": converged}


def require_results(rows: Sequence[dict[str, Any]], source: str) -> None:
    """Raise an error unless the rows are worth writing.

    Raises:
        DataError: no row is readable; it gives the first row's reason.
        DivergenceError: a readable row has a number that is not finite.
    """
    readable = [row for row in rows if row["status"] == "ok"]
    if not readable:
        first, count = rows[0], len(rows)
        raise DataError(
            f"{source}: none of {count} inputs can be used; first, {first['id']}: {first['reason']}"
        )
    for row in readable:
        require_finite(row["id"], row)


def require_finite(where: str, numbers: Mapping[str, Any]) -> None:
    """Raise DivergenceError if a number of a result is not finite; None is one that is missing."""
    for name, value in numbers.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise DivergenceError(f"{where}: {name} is not finite", DivergenceError.too_large)
