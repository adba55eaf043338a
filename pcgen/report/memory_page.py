"""The page of a memory table: a capacity curve for each corruption, and every number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.errors import RunError
from pcgen.report import page as html
from pcgen.report.charts import Series

Rows = Sequence[dict[str, Any]]
_COLUMNS = (
    "images",
    "method",
    "value",
    "ci_low",
    "ci_high",
    "published",
    "mse_hidden",
    "exact",
    "auroc",
    "steps",
    "most_steps",
    "seconds",
    "training",
    "bytes",
    "note",
)


def write(rows: Rows, folder: Path) -> Path:
    """Write `memory.json` and the page `index.html`, and return the page's path.

    Raises:
        RunError: a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.json").write_text(json.dumps(list(rows), indent=1) + "\n")
        return html.write(build(rows), folder / "index.html")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None


def build(rows: Rows) -> html.Page:
    """Return the page; rows stand in the order of the benchmark."""
    corruptions = dict.fromkeys(row["corrupt"] for row in rows)
    return html.Page(
        title="Associative memory",
        lead="Mean squared error per pixel of what cues recalled, by the number of images stored; "
        "lower is better. Hopfield networks keep the data: a look-up bound.",
        sections=[
            _section(corrupt, [row for row in rows if row["corrupt"] == corrupt])
            for corrupt in corruptions
        ],
    )


def _section(corrupt: str, rows: Rows) -> html.Section:
    charts = [
        html.Chart(f"{corrupt}: error", _curves(rows, "value"), "images stored"),
        html.Chart(f"{corrupt}: share exact", _curves(rows, "exact"), "images stored"),
    ]
    table = html.Table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in rows])
    return html.Section(corrupt, [*charts, table])


def _curves(rows: Rows, name: str) -> list[Series]:
    """Return a line for each method, by the number of images."""
    methods = dict.fromkeys(row["method"] for row in rows)
    return [
        Series(
            method,
            [
                (float(row["images"]), float(row[name]))
                for row in rows
                if row["method"] == method and row[name] is not None
            ],
        )
        for method in methods
    ]
