"""The page of the speed benchmark: a table for each metric of a workload, and a chart of races."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pcgen.benchmarks.speed.cells import BATCH, Place
from pcgen.pages import page as html
from pcgen.pages.charts import Bar, bar_chart

Rows = Sequence[dict[str, Any]]
_COLUMNS = ("method", "median", "quartiles", "ratio", "processors", "samples", "note")


def write(rows: Rows, folder: Path) -> Path:
    """Write the page and `speed.json`, all rows of the table; return the page's path."""
    return html.write_table(build(rows), rows, folder, "speed")


def build(rows: Rows) -> html.Page:
    """Return the page; the rows are in the order of the benchmark."""
    machines = dict.fromkeys(f"{row['processor']}, {row['cores']} cores" for row in rows)
    return html.Page(
        title="Speed of predictive coding",
        lead=f"Measured on {'; '.join(machines)}. Medians with their quartiles. The ratio "
        "compares with the fastest other library; differences under 10 % mean nothing. "
        "Processors: processor time by the time that passed.",
        sections=[
            html.Section(f"{name}, {where}: {metric}", _blocks(metric, list(part)))
            for (name, where, metric), part in groupby(rows, key=_part)
        ],
    )


def _part(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["dataset"], str(Place(row["threads"], row["device"])), row["metric"]


def _blocks(metric: str, rows: Rows) -> list[html.Block]:
    cells = [
        row | {"median": row["value"], "quartiles": html.between(row, "ci_low", "ci_high")}
        for row in rows
    ]
    table = html.Table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in cells])
    bars = [
        Bar(
            row["method"], row["value"], row["ci_low"], row["ci_high"], row["method"][:5] == "pcgen"
        )
        for row in rows
        if row["value"] is not None
    ]
    if metric == BATCH:
        return [table]
    chart = html.Chart("", bar_chart(bars, x_label=metric), "Shorter is faster. Ours is blue.")
    return [chart, table]
