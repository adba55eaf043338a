"""The page of a memory table: capacity curves for each corruption, and the numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.errors import RunError
from pcgen.pages import page as html
from pcgen.pages.charts import Series

Rows = Sequence[dict[str, Any]]
# The others are in memory.json: more would not fit beside one another.
_COLUMNS = (
    "images",
    "method",
    "value",
    "published",
    "exact",
    "known",
    "auroc",
    "steps",
    "seconds",
    "bytes",
)
# A pixel of 8 bits is exact to a variance of 1e-6; what is far below is drawn at the floor.
_FLOOR = 1e-8
_MIXTURE, _GAUSSIAN = "mixture prior", "gaussian prior"


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
        "lower is better; less than 1e-8 is drawn there. Hopfield networks look up the data that "
        "they keep, the mixture prior the latents.",
        sections=[
            _section(corrupt, [row for row in rows if row["corrupt"] == corrupt])
            for corrupt in corruptions
        ],
    )


def _section(corrupt: str, rows: Rows) -> html.Section:
    principal = [row for row in rows if row["method"].startswith("pca-")]
    kept = [row for row in rows if row["width"] is None and row not in principal]
    widths = dict.fromkeys(row["width"] for row in rows if row["width"] is not None)
    ours = {width: [row for row in rows if row["width"] == width] for width in widths}
    charts = [
        _chart(f"{corrupt}: error, width {width}", "value", _lines(ours[width], principal))
        for width in widths
    ]
    exact = {f"width {width}": _of(ours[width], _MIXTURE) for width in widths}
    charts.append(_chart(f"{corrupt}: share exact", "exact", {**exact, "pca": principal}))
    charts.append(_chart(f"{corrupt}: error of look-ups", "value", _by_method(kept)))
    table = html.Table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in rows])
    return html.Section(corrupt, [*charts, table])


def _lines(rows: Rows, principal: Rows) -> dict[str, Rows]:
    """Return what a width's memories are drawn beside, by name."""
    published = [
        {"images": row["images"], "value": row["published"]}
        for row in _of(rows, _MIXTURE)
        if row["published"] is not None
    ]
    return {
        _MIXTURE: _of(rows, _MIXTURE),
        _GAUSSIAN: _of(rows, _GAUSSIAN),
        "pca": principal,
        "published": published,
    }


def _of(rows: Rows, kind: str) -> Rows:
    return [row for row in rows if row["method"].endswith(kind)]


def _by_method(rows: Rows) -> dict[str, Rows]:
    return {
        method: _of(rows, method) for method in dict.fromkeys(str(row["method"]) for row in rows)
    }


def _chart(title: str, name: str, lines: dict[str, Rows]) -> html.Chart:
    """Return a line for each name, by the number of images; errors are drawn down to the floor."""
    least = _FLOOR if name == "value" else 0.0
    series = [
        Series(
            line,
            [
                (float(row["images"]), max(float(row[name]), least))
                for row in rows
                if row[name] is not None
            ],
        )
        for line, rows in lines.items()
    ]
    return html.Chart(title, series, "images stored")
