"""The page of `pcgen bench ood`: comparisons, every AUROC, curves and examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcgen.benchmarks.ood.benchmark import Outcome
from pcgen.benchmarks.ood.metrics import METRICS, Estimate, roc
from pcgen.benchmarks.ood.sets import Unusual
from pcgen.benchmarks.ood.table import COMBINED, SOFTMAX, Pair, Scores, best_of, difference_of
from pcgen.pages import page as html
from pcgen.pages import pictures
from pcgen.pages.charts import Series, histogram, line_chart

_KINDS = {
    "other": "Other objects",
    "same": "The same kind of thing from another source",
    "shift": "The known test images, changed",
    "left-out": "A class that was left out of everything",
}
_POINTS = 120
_EXAMPLES = 12


def write(outcomes: Sequence[Outcome], rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write the page and `ood.json`, all rows of the table; return the page's path."""
    return html.write_table(build(outcomes, rows), rows, folder, "ood")


def build(outcomes: Sequence[Outcome], rows: Sequence[dict[str, Any]]) -> html.Page:
    """Return the page."""
    sections = []
    for outcome in outcomes:
        every = _every_metric(outcome)
        sections += [
            html.Section(
                f"{outcome.known}: {COMBINED} and the softmax of a convnet",
                [_against(outcome)] if _ours(outcome) else [],
                "AUROC with its 95 % interval over images and seeds. Differences are paired. The "
                "best baseline of each row is chosen on the test images, which favours it. A "
                "difference is called equal if its interval includes 0.",
            ),
            *_every_auroc(outcome),
            html.Section(f"{outcome.known}: every metric", [every] if every.rows else []),
            html.Section(f"{outcome.known}: measured once", [_measured_once(outcome.known, rows)]),
            html.Section(
                f"{outcome.known}: ROC and histograms, first seed",
                [chart for pair in outcome.pairs for chart in _charts(outcome, pair)],
            ),
            html.Section(f"{outcome.known}: the images", [_examples(outcome)]),
        ]
    return html.Page(
        title="Unusual data: scores and baselines",
        lead="A higher score is more unusual. Scores are fitted, calibrated and combined on known "
        "images alone; no choice was made on unusual data.",
        cards=[card for outcome in outcomes for card in _cards(outcome)],
        sections=[section for section in sections if section.blocks],
    )


def _ours(outcome: Outcome) -> str | None:
    """Return the network's main score; None if the network was not measured."""
    names = [s.method for s in next(iter(outcome.scores.values())) if s.is_ours]
    return COMBINED if COMBINED in names else next(iter(names), None)


def _cards(outcome: Outcome) -> Iterator[html.Card]:
    ours = _ours(outcome)
    for pair in outcome.pairs:
        if ours in pair.exact and pair.unusual.kind == "other" and "," not in pair.unusual.name:
            auroc = pair.exact[ours]["auroc"]
            interval = f"AUROC, {auroc.low:.4f} to {auroc.high:.4f}"
            yield html.Card(f"{pair.known} vs {pair.unusual.name}", f"{auroc.value:.4f}", interval)


def _against(outcome: Outcome) -> html.Table:
    ours = _ours(outcome) or "-"
    header = ("unusual", ours, SOFTMAX, "difference", "best baseline", "difference to the best")
    rows = []
    for pair in outcome.pairs:
        best = best_of(pair, [name for name in pair.exact if name not in _own(outcome, pair)])
        cells = [f"{pair.unusual.name} ({len_of(outcome, pair):,})"]
        cells += [_auroc(pair, ours), _auroc(pair, SOFTMAX), _difference(pair, ours, SOFTMAX)]
        cells += [f"{best} {_auroc(pair, best)}", _difference(pair, ours, best)] if best else []
        rows.append(cells)
    return html.Table(header, rows)


def _auroc(pair: Pair, name: str) -> str:
    return _cell(pair.exact[name]["auroc"]) if name in pair.exact else "-"


def _difference(pair: Pair, ours: str, against: str) -> str:
    if ours not in pair.exact or against not in pair.exact:
        return "-"
    difference = difference_of(pair, ours, against)
    return f"{_cell(difference, sign=True)} {_verdict(difference)}"


def _every_metric(outcome: Outcome) -> html.Table:
    chosen = [name for name in (_ours(outcome), "free-energy", SOFTMAX, "ppca") if name]
    rows = [
        [pair.unusual.name, name, *(pair.exact[name][metric].value for metric in METRICS)]
        for pair in outcome.pairs
        for name in chosen
        if name in pair.exact
    ]
    return html.Table(["unusual", "method", *METRICS], rows, "All methods: ood.json.")


def _own(outcome: Outcome, pair: Pair) -> set[str]:
    return {scores.method for scores in outcome.scores[pair.known] if scores.is_ours}


def len_of(outcome: Outcome, pair: Pair) -> int:
    """Return the number of unusual images of a pair."""
    return len(outcome.scores[pair.known][0].unusual[pair.unusual.name][0])


def _verdict(difference: Estimate) -> str:
    return "higher" if difference.low > 0 else "lower" if difference.high < 0 else "equal"


def _cell(estimate: Estimate, sign: bool = False) -> str:
    shown = "+.4f" if sign else ".4f"
    low, high = f"{estimate.low:{shown}}", f"{estimate.high:{shown}}"
    return f"{estimate.value:{shown}} ({low} to {high})"


def _every_auroc(outcome: Outcome) -> Iterator[html.Section]:
    for kind, heading in _KINDS.items():
        chosen = [pair for pair in outcome.pairs if pair.unusual.kind == kind]
        if chosen:
            rows: list[list[Any]] = []
            for name in chosen[0].exact:
                found = [pair.exact.get(name) for pair in chosen]
                rows.append([name, *(exact and exact["auroc"].value for exact in found)])
            table = html.Table(["AUROC", *(pair.unusual.name for pair in chosen)], rows)
            yield html.Section(f"{outcome.known}: {heading}", [table])


def _measured_once(known: str, rows: Sequence[dict[str, Any]]) -> html.Table:
    chosen = [row for row in rows if row["dataset"] == f"{known} itself"]
    columns = ("method", "metric", "value", "ci_low", "ci_high")
    header = ("method", "metric", "value", "least seed", "largest seed")
    return html.Table(header, [[row[name] for name in columns] for row in chosen])


def _charts(outcome: Outcome, pair: Pair) -> Iterator[html.Chart]:
    table = {scores.method: scores for scores in outcome.scores[pair.known]}
    ours = _ours(outcome)
    others = [name for name in table if not table[name].is_ours]
    chosen = dict.fromkeys([ours, SOFTMAX, best_of(pair, others), "ppca"])
    names = [name for name in chosen if name in table]
    title = f"{pair.known} vs {pair.unusual.name}"
    curves = [Series(name, _curve(table[name], pair.unusual)) for name in names if name]
    yield html.Chart(
        f"{title}: ROC",
        line_chart(
            curves, x_label="known images flagged", y_label="unusual images flagged", roc=True
        ),
        "Shares of images above each threshold. The nearer to the upper left corner, the better.",
    )
    shown = table[ours] if ours else table[names[0]]
    known, unusual = shown.known[0], shown.unusual[pair.unusual.name][0]
    yield html.Chart(
        f"{title}: {shown.method}",
        histogram(
            {pair.known: known, pair.unusual.name: unusual},
            x_label="score",
            y_label="share of images",
            lines={"5 % alarms": float(np.quantile(known, 0.95))},
        ),
        "Unusual images right of the dashed line are found at a false-alarm rate of 5 %.",
    )


def _curve(scores: Scores, unusual: Unusual) -> list[tuple[float, float]]:
    fpr, tpr = roc(scores.known[0], scores.unusual[unusual.name][0])
    # Most points lie at low false-alarm rates, where methods differ.
    at = np.concatenate([[0], np.geomspace(1e-4, 1, _POINTS)])
    return [*zip(at.tolist(), np.interp(at, fpr, tpr).tolist(), strict=True)]


def _examples(outcome: Outcome) -> html.Picture:
    shape = outcome.test.shape
    seen: dict[str, pictures.Row] = {}
    for name, images in [("known", outcome.test)] + [
        (pair.unusual.name, pair.unusual.images) for pair in outcome.pairs
    ]:
        count = min(_EXAMPLES, len(images))
        pixels = images.rows(range(count)).pixels_BD.reshape(-1, *shape)
        seen.setdefault(name, pictures.Row(name, pixels))
    png = pictures.grid_png(list(seen.values()), columns=_EXAMPLES)
    return html.Picture(png, f"The first {_EXAMPLES} images of each set.")
