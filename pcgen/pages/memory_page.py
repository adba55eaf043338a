"""The page of the memory benchmark: capacity curves for each corruption, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.pages import page as html
from pcgen.pages.charts import Series, line_chart

Rows = Sequence[dict[str, Any]]
# The columns of the table; memory.json has all.
_COLUMNS = (
    *("images", "method", "value", "published", "exact", "known", "auroc", "steps"),
    *("seconds", "bytes"),
)
# Errors below this are drawn at it: a pixel of 8 bits is exact to a variance of 1e-6.
_FLOOR = 1e-8
_LABELS = {"value": "MSE per pixel", "exact": "share exact"}
_CAPTIONS = {
    "value": "Lower is better. A line that rises shows where the memory is full.",
    "exact": "Images restored to an MSE below 0.001. At 1, every stored image came back.",
}
_LOOKUP, _GROUPS, _GAUSSIAN = "lookup prior", "groups prior", "gaussian prior"


def write(rows: Rows, folder: Path) -> Path:
    """Write the page and `memory.json`, all rows of the table; return the page's path."""
    return html.write_table(build(rows), rows, folder, "memory")


def build(rows: Rows) -> html.Page:
    """Return the page; the rows are in the order of the benchmark."""
    corruptions = dict.fromkeys(row["corrupt"] for row in rows)
    return html.Page(
        title="Associative memory",
        lead="Mean squared error per pixel of the recalled images, by the number of images stored. "
        "Lower is better; errors below 1e-8 are drawn at 1e-8. Hopfield networks look up stored "
        "images, the look-up prior looks up stored latents.",
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
        _chart(f"Error, width {width}", "value", _lines(ours[width], principal)) for width in widths
    ]
    exact = {f"width {width}": _of(ours[width], _LOOKUP) for width in widths}
    charts.append(_chart("Share recalled exactly", "exact", {**exact, "pca": principal}))
    charts.append(_chart("Error of look-ups", "value", _by_method(kept)))
    header = ["MSE per pixel" if name == "value" else name for name in _COLUMNS]
    table = html.Table(header, [[row[name] for name in _COLUMNS] for row in rows])
    return html.Section(corrupt, [*charts, table])


def _lines(rows: Rows, principal: Rows) -> dict[str, Rows]:
    """Return the lines of a chart, by name: the memories of one width and their comparisons."""
    published = [
        {"images": row["images"], "value": row["published"]}
        for row in _of(rows, _LOOKUP)
        if row["published"] is not None
    ]
    return {
        _LOOKUP: _of(rows, _LOOKUP),
        _GROUPS: _of(rows, _GROUPS),
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
    """Return a chart with a line for each name, over the number of images stored."""
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
    svg = line_chart(
        series,
        x_label="images stored",
        y_label=_LABELS[name],
        shares=name == "exact",
        x_log=True,
    )
    return html.Chart(title, svg, _CAPTIONS[name])
