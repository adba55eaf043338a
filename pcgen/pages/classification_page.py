"""The page of the classification benchmark: a chart and a table for each data set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pcgen.pages import page as html
from pcgen.pages.charts import Bar, bar_chart

Rows = Sequence[dict[str, Any]]
_COLUMNS = (
    *("method", "value", "ci_low", "ci_high", "published"),
    *("difference", "difference_low", "difference_high", "seconds", "seeds", "parameters"),
)


def write(rows: Rows, folder: Path) -> Path:
    """Write the page and `classification.json`, all rows; return the page's path."""
    return html.write_table(build(rows), rows, folder, "classification")


def build(rows: Rows) -> html.Page:
    """Return the page; the rows are in the order of the benchmark."""
    return html.Page(
        title="Classifiers by predictive coding",
        lead="Test accuracies with the 95 % interval of the mean over seeds. All rows of a data "
        "set train the same network for the same epochs. The difference is to backprop with the "
        "same label energy.",
        sections=[
            html.Section(name, _blocks(list(part)))
            for name, part in groupby(rows, key=lambda row: row["dataset"])
        ],
    )


def _blocks(rows: Rows) -> list[html.Block]:
    bars = [_bar(row) for row in rows]
    chart = html.Chart(
        "", bar_chart(bars, x_label="test error, %"), "Shorter is better. Backprop is grey."
    )
    table = html.Table(_COLUMNS, [[row.get(name) for name in _COLUMNS] for row in rows])
    return [chart, table]


def _bar(row: dict[str, Any]) -> Bar:
    """Return the test error of a row, with its interval where there are several seeds."""
    value, low, high = (
        100 * (1 - (row["value"] if end is None else end))
        for end in (row["value"], row["ci_high"], row["ci_low"])
    )
    return Bar(row["method"], value, low, high, not row["method"].startswith("BP"))
