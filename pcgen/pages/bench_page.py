"""The page of a table of `pcgen bench` that has no page of its own: a chart for each metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pcgen.pages import page as html
from pcgen.pages.charts import Bar, bar_chart

Rows = Sequence[dict[str, Any]]
# The columns of a table; of an interval, the keys of its ends.
_COLUMNS: dict[str, tuple[str, str] | None] = {
    **dict.fromkeys(("method", "value")),
    "95 % interval": ("ci_low", "ci_high"),
    **dict.fromkeys(("published", "difference")),
    "its 95 % interval": ("difference_low", "difference_high"),
    **dict.fromkeys(("standard_error", "seconds", "seeds", "parameters", "source", "note")),
}
_OURS = ("pcn", "pcgen")
_BACKPROP = "BP"
# How the names of metrics begin of which more is better.
_MORE = ("auroc", "average precision", "ess", "accepted", "inception score", "share of sets")
_TITLES = {
    "classification": "Classifiers by predictive coding",
    "reconstruction": "Reconstruction",
    "sampling": "Samples",
    "self-test": "Self-tests of detectors, and what the detectors find",
    "tables": "Unusual rows of tables",
}
_LEADS = {
    "classification": "Test accuracies, as shares. All rows of a data set train the same network "
    "for the same epochs. Differences are to backprop with the same label energy.",
    "reconstruction": "Mean squared errors per pixel of test images, decoded from the latent: less "
    "is better. Differences are to the network's error, paired by seeds.",
    "sampling": "Samples of the shipped models beside those of baselines that were trained in the "
    "same run. Emd is the earth mover's distance between samples and data, frechet the Frechet "
    "distance of a classifier's features: of both, less is better. Ess is the effective sample "
    "size of a chain, of which more is better; r-hat is near 1 where chains agree.",
    "self-test": "Each detector knows half the classes of a data set; the other classes and the "
    "other data sets are unusual. Correlations are of the self-test's AUROC or share found with "
    "that of real unusual pictures, over all detectors. The mean of the changes decides about the "
    "warning.",
    "tables": "Detectors are fitted to usual rows and score usual and unusual ones. AUROC: 1 is "
    "perfect, 0.5 is chance. Alarms: the share of usual rows that is flagged.",
}


def write(name: str, rows: Rows, folder: Path, *, mean: str = "") -> Path:
    """Write the page and `NAME.json`, all rows of the table; return the page's path.

    Args:
        name: of the table: classification, reconstruction, sampling, self-test or tables.
        mean: the name that rows of means over the data sets have instead of a data set's. They
            come first, and one table for each metric has the values of all data sets.
    """
    return html.write_table(build(name, rows, mean=mean), rows, folder, name)


def build(name: str, rows: Rows, *, mean: str = "") -> html.Page:
    """Return the page; the rows are in the order of the benchmark."""
    apart = [row for row in rows if row["dataset"] != mean]
    first = [row for row in rows if row["dataset"] == mean]
    sections = [*_by_dataset(first or apart)]
    if first:
        sections += [
            html.Section(f"Each table: {metric}", [_matrix(apart, metric)])
            for metric in dict.fromkeys(row["metric"] for row in apart)
        ]
    return html.Page(title=_TITLES[name], lead=_LEADS[name], sections=sections)


def _by_dataset(rows: Rows) -> Iterator[html.Section]:
    """Yield a section for each metric by which methods compare, and one for all other metrics."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        alone = []
        for metric in dict.fromkeys(row["metric"] for row in rows if row["dataset"] == dataset):
            own = [row for row in rows if (row["dataset"], row["metric"]) == (dataset, metric)]
            if len(own) == 1:
                alone += own
                continue
            heading = f"{dataset}: {metric.replace('_', ' ')}"
            yield html.Section(heading, [_chart(own, metric), _table(own)])
        if alone:
            named = [row | {"metric": row["metric"].replace("_", " ")} for row in alone]
            yield html.Section(f"{dataset}: other measures", [_table(named, "metric")])


def _table(rows: Rows, *first: str) -> html.Table:
    """Return the columns of rows that hold anything."""
    keys = dict.fromkeys(first) | _COLUMNS
    columns = {
        name: [html.between(row, *ends) if ends else row.get(name) for row in rows]
        for name, ends in keys.items()
    }
    columns = {name: cells for name, cells in columns.items() if {*cells} - {None, ""}}
    if {*columns.get("source", ())} == {"measured"}:
        del columns["source"]
    return html.Table([*columns], [*zip(*columns.values(), strict=True)])


def _chart(rows: Rows, metric: str) -> html.Chart:
    """Return bars of the values; empty where there is one method, or a value below 0."""
    errors = metric == "accuracy"
    bars = [_bar(row, errors=errors) for row in rows if row["value"] is not None]
    comparable = len(bars) > 1 and all(bar.value >= 0 for bar in bars)
    label, more = "test error, %" if errors else metric, metric.startswith(_MORE)
    svg = bar_chart(bars, x_label=label, longest_first=more) if comparable else ""
    ours = "Backprop is grey" if errors else "The network's values are blue"
    return html.Chart("", svg, f"The best is on top. {ours}. Thin lines are 95 % intervals.")


def _bar(row: dict[str, Any], *, errors: bool) -> Bar:
    """Return a value with its interval; of an accuracy, the error in per cent."""
    value, method = row["value"], row["method"]
    low, high = (value if row[end] is None else row[end] for end in ("ci_low", "ci_high"))
    if not errors:
        return Bar(method, value, low, high, ours=method.startswith(_OURS))
    value, high, low = (100 * (1 - each) for each in (value, low, high))
    return Bar(method, value, max(0.0, low), high, ours=not method.startswith(_BACKPROP))


def _matrix(rows: Rows, metric: str) -> html.Table:
    """Return the values of all data sets, a column for each method."""
    values = {
        (row["dataset"], row["method"]): row["value"] for row in rows if row["metric"] == metric
    }
    methods = [*dict.fromkeys(method for _, method in values)]
    datasets = dict.fromkeys(dataset for dataset, _ in values)
    return html.Table(
        ["table", *methods],
        [[dataset, *(values.get((dataset, each)) for each in methods)] for dataset in datasets],
    )
