"""The page of a study of training: charts beside published points, a paragraph, all numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcgen.pages import page as html
from pcgen.pages.charts import Series, line_chart
from pcgen.studies.grids import Rows, Study, kept, named

_INTERVAL = "95 % interval"
_NAMES = {"rate": "rate of the states", "steps": "steps of inference", "width": "width (units)"}


def write(name: str, study: Study, rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write the page and `NAME.json`, all rows of the study; return the page's path."""
    return html.write_table(build(study, rows), rows, folder, name)


def build(study: Study, rows: Rows) -> html.Page:
    """Return the page; of settings that are chosen, charts show the chosen ones only."""
    chosen = kept(study, rows)
    columns = ("data", *(key for key in study.keys if key != "data"))
    header = [*columns, *(name for each in study.metrics for name in (each, _INTERVAL)), "seeds"]
    cells = [
        [row[key] for key in columns]
        + [cell for each in study.metrics for cell in _mean_and_interval(row, each)]
        + [row["seeds"]]
        for row in chosen
    ]
    table = html.Table(header, cells)
    panels = dict.fromkeys(named(row, study.panel) for row in chosen)
    charts = [_chart(study, chosen, panel, metric) for panel in panels for metric in study.metrics]
    return html.Page(
        title=study.title,
        lead=study.see(chosen),
        sections=[
            html.Section("Charts", charts),
            html.Section("Numbers", [table], "Means over the seeds with their 95 % intervals."),
        ],
    )


def _mean_and_interval(row: Mapping[str, Any], metric: str) -> tuple[Any, str | None]:
    return row[metric], html.between(row, f"{metric}_low", f"{metric}_high")


def _chart(study: Study, rows: Rows, panel: str, metric: str) -> html.Chart:
    own = [row for row in rows if named(row, study.panel) == panel]
    lines = []
    for name in dict.fromkeys(named(row, study.line) for row in own):
        of_line = [row for row in own if named(row, study.line) == name and row[metric] is not None]
        points = sorted((row[study.x], row[metric]) for row in of_line)
        bands = {row[study.x]: (row[f"{metric}_low"], row[f"{metric}_high"]) for row in of_line}
        lines.append(Series(name, points, [bands[x] for x, _ in points if bands[x][0] is not None]))
    if metric == "accuracy":
        lines += [
            Series(f"published: {name}", points)
            for (where, name), points in study.published.items()
            if where == panel
        ]
    svg = line_chart(
        lines,
        x_label=_NAMES.get(study.x, study.x),
        y_label=metric.replace("_", " "),
        x_log=study.x != "steps",
    )
    return html.Chart(
        f"{panel}: {metric.replace('_', ' ')}", svg, "Vertical lines are 95 % intervals."
    )
