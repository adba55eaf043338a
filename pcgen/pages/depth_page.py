"""The page of the depth study: steps against depth on logarithmic axes, and all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pcgen.pages import page as html
from pcgen.pages.charts import Series, line_chart

Rows = Sequence[dict[str, Any]]
_STEPS = ("solver", "tolerance", "depth", "median", "worst")
_EXPONENTS = ("solver", "tolerance", "exponent")


def write(rows: Rows, folder: Path) -> Path:
    """Write the page and `depth.json`, all rows of the study; return the page's path."""
    return html.write_table(build(rows), rows, folder, "depth")


def build(rows: Rows) -> html.Page:
    """Return the page; the rows are in the order of the study."""
    return html.Page(
        title="Steps of inference against depth",
        lead="The median image's steps until its energy stays within the tolerance of the least. "
        "A straight line is a power law of the depth; a flat one does not depend on it.",
        sections=[
            _section(*where, list(part))
            for where, part in groupby(
                rows, key=lambda row: (row["network"], row["latent"], row["width"])
            )
        ],
    )


def _section(network: str, latent: str, width: int, rows: Rows) -> html.Section:
    charts = [
        html.Chart(
            f"Energy within {tolerance:g} of the least",
            line_chart(
                [_line(rows, name, tolerance) for name in dict.fromkeys(r["solver"] for r in rows)],
                x_label="depth (layers)",
                y_label="steps",
                x_log=True,
            ),
            "Each line is a solver. A flat line: its steps do not grow with the depth.",
        )
        for tolerance in dict.fromkeys(row["tolerance"] for row in rows)
    ]
    steps = [row for row in rows if row["depth"] is not None]
    fits = [row for row in rows if row["depth"] is None]
    tables = [
        html.Table(_EXPONENTS, _cells(fits, _EXPONENTS), "Steps grow as the depth to this power."),
        html.Table(_STEPS, _cells(steps, _STEPS), "A dash: not reached in the steps allowed."),
    ]
    shown = [table for table in tables if table.rows]
    return html.Section(f"{network}, latent {latent}, width {width}", [*charts, *shown])


def _cells(rows: Rows, names: Sequence[str]) -> list[list[Any]]:
    """Return the rows of a table, those of a solver together."""
    solvers = [*dict.fromkeys(row["solver"] for row in rows)]
    together = sorted(rows, key=lambda row: (solvers.index(row["solver"]), -row["tolerance"]))
    return [[row[name] for name in names] for row in together]


def _line(rows: Rows, solver: str, tolerance: float) -> Series:
    own = [row for row in rows if (row["solver"], row["tolerance"]) == (solver, tolerance)]
    return Series(solver, [(r["depth"], r["median"]) for r in own if r["median"]])
