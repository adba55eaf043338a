"""The page of the speed benchmark: a bar chart for each workload, and all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pcgen.benchmarks.speed.cells import Place
from pcgen.pages import page as html
from pcgen.pages.charts import Bar

Rows = Sequence[dict[str, Any]]
_COLUMNS = ("method", "metric", "value", "ci_low", "ci_high", "ratio", "samples", "note")


def write(rows: Rows, folder: Path) -> Path:
    """Write the page and `speed.json`, all rows of the table; return the page's path."""
    return html.write_table(build(rows), rows, folder, "speed")


def build(rows: Rows) -> html.Page:
    """Return the page; the rows are in the order of the benchmark."""
    return html.Page(
        title="Speed of predictive coding",
        lead="Medians with their quartiles; shorter is better. The ratio compares with the faster "
        "mode of pcx; differences under 10 % count as ties.",
        sections=[
            _section(f"{name}, {where}", list(part))
            for (name, where), part in groupby(rows, key=_part)
        ],
    )


def _part(row: dict[str, Any]) -> tuple[str, str]:
    return row["dataset"], str(Place(row["threads"], row["device"]))


def _section(heading: str, rows: Rows) -> html.Section:
    metrics = dict.fromkeys(row["metric"] for row in rows)
    charts = [html.Bars(metric, _bars(rows, metric)) for metric in metrics]
    table = html.Table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in rows])
    return html.Section(heading, [*charts, table])


def _bars(rows: Rows, metric: str) -> list[Bar]:
    return [
        Bar(
            row["method"],
            row["value"],
            row["ci_low"],
            row["ci_high"],
            row["method"].startswith("pcgen"),
        )
        for row in rows
        if row["metric"] == metric and row["value"] is not None
    ]
