"""The page of the study of solvers: a table for each model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pcgen.pages import page as html

Rows = Sequence[dict[str, Any]]
_COLUMNS = (
    *("solver", "energy", "excess_median", "excess_worst", "above_least", "converged"),
    *("wrongly_converged", "steps"),
)


def write(rows: Rows, folder: Path) -> Path:
    """Write the page and `inference.json`, all rows of the study; return the page's path."""
    return html.write_table(build(rows), rows, folder, "inference")


def build(rows: Rows) -> html.Page:
    """Return the page; the rows of a model are together."""
    return html.Page(
        title="Excess energies of the solvers",
        lead="Each solver's end is followed down to a stationary point in float64. The excess is "
        "the energy lost on the way, relative to the energy; above_least is the mean distance to "
        "the least energy of all solvers. Converged is the share of images that the bound calls "
        "so, and wrongly_converged the share of those that fall by more than the tolerance.",
        sections=[
            html.Section(model, [_table(list(part))])
            for model, part in groupby(rows, key=lambda row: row["model"])
        ],
    )


def _table(rows: Rows) -> html.Table:
    names = [name.replace("_", " ") for name in _COLUMNS]
    caption = f"Hidden precision {html.shown(rows[0]['hidden_precision'])}. A dash: it diverges."
    return html.Table(names, [[row[name] for name in _COLUMNS] for row in rows], caption)
