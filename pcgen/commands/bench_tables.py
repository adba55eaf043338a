"""`pcgen.bench_tables`: unusual rows in tables, beside plain methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.commands.arguments import require_known
from pcgen.commands.outputs import require_safe
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.errors import DataError

if TYPE_CHECKING:
    from pcgen.benchmarks.tables.benchmark import Outcome

_FOLDER = "ADBench"


def bench_tables(
    tables: Sequence[str] = (),
    *,
    methods: Sequence[str] = (),
    splits: int = 3,
    limit: int = 2000,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return how well methods find the unusual rows of tables, fitted to usual rows.

    The tables are the `.npz` files (arrays `X` and `y`, 1 for an unusual row) of a folder
    `ADBench` in the folder of data.

    Args:
        tables: names of files, or their parts; all tables if not given.
        methods: families of methods, all if not given.
        splits: random divisions of each table's usual rows into known and new ones.
        limit: rows of each part at most.
        out: a folder for `index.html`, the charts with the tables, and `tables.json`.

    Raises:
        RecipeError: no such family.
        DataError: no such table, or one that cannot be read.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> from pathlib import Path
        >>> import numpy as np
        >>> cells = np.random.default_rng(0).normal(size=(120, 4))
        >>> cells[100:] += 9
        >>> Path("ADBench").mkdir()
        >>> np.savez("ADBench/shifted.npz", X=cells, y=np.arange(120) >= 100)
        >>> rows = pcgen.bench_tables(methods=["knn"], splits=1, data_dir=".")
        >>> rows[0]["metric"], rows[0]["value"]
        ('auroc', 1.0)
    """
    from pcgen.benchmarks.tables.benchmark import ALL, measure, rows_of
    from pcgen.benchmarks.tables.methods import METHODS, missing
    from pcgen.pages import bench_page

    require_known("methods", methods, METHODS)
    families = []
    for family in methods or METHODS:
        if reason := missing(family):
            on_progress(Event("data", note=reason))
        else:
            families.append(family)
    paths = _paths(tables, None if data_dir is None else Path(data_dir))
    if out is not None:
        require_safe([Path(out) / "index.html"], paths)
    outcomes: list[Outcome] = []
    for i, path in enumerate(paths):
        for split in range(splits):
            on_progress(Event(path.stem, i * splits + split, len(paths) * splits))
            outcomes += measure(path, split, families, limit)
    rows = rows_of(outcomes)
    if out is not None:
        bench_page.write("tables", rows, Path(out), mean=ALL)
    return rows


def _place(path: Path) -> tuple[int, str]:
    """Return a key that sorts 4_breastw before 11_donors."""
    number, _, name = path.stem.partition("_")
    return (int(number) if number.isdecimal() else 0), name


def _paths(tables: Sequence[str], data_dir: Path | None) -> list[Path]:
    """Return the files of the tables.

    Raises:
        DataError: there are none, or none of a name.
    """
    from pcgen.data.catalogue import folders

    paths = [
        path
        for folder in folders(data_dir)
        for path in sorted(folder.glob(f"{_FOLDER}/*.npz"), key=_place)
    ]
    if not paths:
        raise DataError(
            f"{_FOLDER}: no folder of tables in --data-dir or PCGEN_DATA",
            "Get adbench/datasets/Classical of https://github.com/Minqi824/ADBench and name it so",
        )
    chosen = {name: [path for path in paths if name in path.stem] for name in tables}
    unknown = [name for name, own in chosen.items() if not own]
    if unknown:
        known = ", ".join(path.stem for path in paths)
        raise DataError(f"no table {', '.join(unknown)}", f"There are: {known}")
    return [path for path in paths if not tables or any(path in own for own in chosen.values())]
