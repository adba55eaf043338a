"""The page of a detector, and the page of the inputs that a detector has scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcgen.errors import CalibrationError, RunError
from pcgen.ood.detector import Detector
from pcgen.ood.rows import most_unusual
from pcgen.ood.self_test import summary, warnings
from pcgen.pages import page as html
from pcgen.pages.charts import Bar, bar_chart, histogram
from pcgen.pages.embedded import pictures
from pcgen.storage.checkpoint import read_header
from pcgen.storage.row_formats import metadata_path, read_rows

# The number of the most unusual inputs in the table, and of heat maps.
_WORST, _SHOWN = 40, 24
_RATES = (0.05, 0.01, 0.001)


def is_scores(path: Path) -> bool:
    """Return whether `pcgen ood-score` wrote a file."""
    return path.suffix.lower() in (".csv", ".jsonl", ".npz") and metadata_path(path).is_file()


def is_detector(path: Path) -> bool:
    """Return whether `pcgen ood-calibrate` wrote a file.

    Raises:
        CheckpointError: the file is a safetensors file of another program, or damaged.
    """
    return path.suffix == ".safetensors" and read_header(path).get("kind") == "detector"


@dataclass(slots=True)
class Summary:
    """The content of a page about rows, collected in one pass over them.

    Attributes:
        groups: counts of inputs and flagged inputs, by source and folder.
        layers: counts of flagged inputs, by the layer that is most surprised.
        p_values: of the readable inputs.
        scores: of the readable inputs.
        worst: the most unusual rows, the most unusual first.
        faults: the first rows that could not be scored.
    """

    groups: dict[str, Counter[str]] = field(default_factory=dict)
    layers: Counter[int] = field(default_factory=Counter)
    p_values: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> Summary:
        """Return the summary of a file of rows, of which a few stay in memory."""
        summary = cls()
        summary.worst = most_unusual(map(summary._count, read_rows(path)), _WORST)
        return summary

    def _count(self, row: dict[str, Any]) -> dict[str, Any]:
        """Count a row and return it."""
        group = self.groups.setdefault(_group(row), Counter())
        group["inputs"] += 1
        if row["status"] != "ok":
            group["unreadable"] += 1
            if len(self.faults) < _WORST:
                self.faults.append(row)
            return row
        group["flagged"] += bool(row["is_ood"])
        self.p_values.append(row["p_value"])
        self.scores.append(row["score"])
        if row["is_ood"] and row.get("surprised_layer") is not None:
            self.layers[row["surprised_layer"]] += 1
        return row


def _group(row: dict[str, Any]) -> str:
    folder, slash, _ = str(row["id"]).rpartition("/")
    return f"{row['source']}: {folder}" if slash and not folder.startswith("/") else row["source"]


def groups_table(summary: Summary) -> html.Table:
    """Return a table of inputs and flagged inputs by source and folder, the most flagged first."""
    rows: list[list[Any]] = [
        [
            name,
            count["inputs"],
            count["flagged"],
            100 * count["flagged"] / max(1, count["inputs"] - count["unreadable"]),
            count["unreadable"],
        ]
        for name, count in summary.groups.items()
    ]
    rows.sort(key=lambda row: -row[3])
    return html.Table(["inputs", "number", "flagged", "flagged, %", "unreadable"], rows)


def write_scores(path: Path, out: Path, heatmaps: Path | None = None) -> Path:
    """Write the page of a file of scored inputs and return its path.

    Args:
        heatmaps: the folder of the heat maps, where it is not in the folder of the file.

    Raises:
        RunError: the file holds no scored inputs, or the page cannot be written.
    """
    folders = [path.parent] if heatmaps is None else [path.parent, heatmaps]
    with html.made_of(path):
        return html.write(scores_page(path, folders), out)


def scores_page(path: Path, folders: Sequence[Path]) -> html.Page:
    """Return the page of a file of scored inputs, with the heat maps that lie in these folders."""
    metadata, summary = read_metadata(path), Summary.of(path)
    counts, rate = metadata["counts"], metadata["alarm_rate"]
    threshold = metadata["thresholds"].get(metadata["score"])
    cards = [
        html.Card("Inputs", f"{counts['inputs']:,}", f"{counts['ok']:,} scored"),
        html.Card(
            "Flagged",
            f"{counts['flagged']:,}",
            f"{100 * (rate['value'] or 0):.2f} %, 95 % interval "
            f"{100 * rate['ci_low']:.2f} to {100 * rate['ci_high']:.2f}",
        ),
        html.Card("Threshold", html.shown(threshold), f"of {metadata['score']}"),
    ]
    batch = metadata.get("batch")
    if batch is not None:
        cards.append(html.Card("p-value", html.shown(batch["p_value"]), "of all inputs together"))
    warned = " ".join(f"{text[:1].upper()}{text[1:]}." for text in metadata["warnings"])
    maps = _maps(summary, folders)
    faults = counts["inputs"] - counts["ok"]
    rows = [[row["id"], row["status"], row["reason"]] for row in summary.faults]
    sections = [
        html.Section("By source", [groups_table(summary)], warned),
        html.Section("Distribution", distribution(summary, metadata)),
        html.Section("The most unusual", [*maps, _worst(summary)], _MAPS if maps else ""),
        html.Section(
            "Could not be scored",
            [html.Table(["input", "status", "reason"], rows)] if rows else [],
            f"The first {len(rows)} of {faults:,}." if len(rows) < faults else "",
        ),
        html.Section("Settings", [html.Facts(_settings(metadata))]),
    ]
    shown = [section for section in sections if section.blocks]
    return html.Page(f"Scores in {path.name}", metadata["statement"], cards, shown)


_MAPS = (
    "Beside each input is its heat map: black where the network predicts it well, through red and "
    "yellow to white where its prediction fails."
)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the content of the metadata file that belongs to a file of rows.

    Raises:
        RunError: there is no such file, or it has another content.
    """
    try:
        metadata: dict[str, Any] = json.loads(metadata_path(path).read_text(encoding="utf-8"))
        metadata["counts"]["flagged"]
        return metadata
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise RunError(
            f"{path}: no {metadata_path(path).name} beside it", "Make both: pcgen ood-score"
        ) from None


def _settings(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "detector": metadata["detector"]["path"],
        "sha256": metadata["detector"]["sha256"],
        "false-alarm rate": metadata["fpr"] if metadata["fdr"] is None else None,
        "guarantee": metadata["guarantee"]
        if metadata["fdr"] is None
        else f"FDR {metadata['fdr']:g}",
        "calibrated on": metadata["calibration"]["source"],
        "p-value of all inputs": (metadata.get("batch") or {}).get("statement"),
        "self-test": summary(metadata.get("self_test")),
        "inference": metadata["inference"],
        "all rows": metadata["complete"],
        "command": " ".join(metadata["argv"]),
    }


def distribution(summary: Summary, metadata: dict[str, Any]) -> list[html.Block]:
    """Return charts of the scores, the p-values, and the layers that flagged inputs surprise."""
    threshold = metadata["thresholds"].get(metadata["score"])
    scores = histogram(
        {"inputs": summary.scores},
        x_label=metadata["score"],
        y_label="share of inputs",
        lines={} if threshold is None else {"threshold": threshold},
    )
    p_values = histogram(
        {"inputs": summary.p_values},
        x_label="p-value",
        y_label="share of inputs",
        shares=True,
        bins=20,
    )
    bars = [
        Bar(f"layer {layer}{' (data)' * (layer == 0)}", count, count, count, ours=True)
        for layer, count in sorted(summary.layers.items())
    ]
    return [
        html.Chart(
            "Scores",
            scores,
            "Inputs right of the threshold are flagged. The outermost bins hold all scores beyond.",
        ),
        html.Chart(
            "p-values",
            p_values,
            "The share of calibration inputs that are as unusual. Inputs like them spread evenly, "
            "along the dashed line; unusual inputs gather at 0.",
        ),
        html.Chart(
            "Most surprised layer",
            bar_chart(bars, x_label="flagged inputs"),
            "The layer whose error is the least usual: low layers see wrong pixels and strokes, "
            "high layers wrong combinations of them.",
        ),
    ]


def _maps(summary: Summary, folders: Sequence[Path]) -> list[html.Picture | html.Table]:
    rows = [row for row in summary.worst if row.get("heatmap")][:_SHOWN]
    named = [(row["heatmap"], f"{row['id']}: score {html.number(row['score'])}") for row in rows]
    return pictures(named, folders)


def _worst(summary: Summary) -> html.Table:
    names = ("id", "score", "p_value", "q_value_bh", "is_ood")
    rows = [[*(row[name] for name in names), row.get("surprised_layer")] for row in summary.worst]
    return html.Table(["input", "score", "p-value", "q-value", "flagged", "surprised layer"], rows)


def detector_page(detector: Detector) -> html.Page:
    """Return the page of a detector: its guarantee, thresholds and calibration scores."""
    known, name = detector.header["calibration"], detector.names[0]
    facts = {
        "calibrated on": known["source"],
        "calibration rows": known["origin"],
        "scores fitted to": known["fit"],
        "unreadable rows": known["unreadable"],
        "preprocessing": known["preprocessing"] or "none",
        "calibration sha256": known["sha256"],
        "model sha256": detector.header["model"]["sha256"],
        "combined scores": list(detector.components),
    }
    cards = [
        html.Card("Calibration inputs", f"{detector.count(name):,}", f"for p-values of {name}"),
        html.Card("Fitted on", f"{known['fit']:,}", "rows of the training data"),
        html.Card("Scores", str(len(detector.names)), "higher is more unusual"),
    ]
    return html.Page(
        f"Detector {detector.model.path.name}",
        known["statement"] or "Too few calibration inputs for a false-alarm rate of 5 %.",
        cards,
        [
            html.Section("Thresholds", [_thresholds(detector)], _THRESHOLDS),
            _self_test(detector.header.get("self_test")),
            html.Section("Calibration scores", [_histogram(detector, n) for n in detector.names]),
            html.Section("Origin", [html.Facts(facts)]),
        ],
    )


_THRESHOLDS = (
    "An input whose score is above the threshold is flagged. With 95 % confidence, at most the "
    "share in the column's header is flagged among inputs like the calibration inputs. A dash: so "
    "small a share needs more calibration inputs."
)


def _thresholds(detector: Detector) -> html.Table:
    rows = []
    for name in detector.names:
        cells: list[Any] = [name]
        for rate in _RATES:
            try:
                cells.append(detector.threshold(name, rate, "pac"))
            except CalibrationError:
                cells.append(None)
        rows.append(cells)
    return html.Table(["score", *(f"{100 * rate:g} %" for rate in _RATES)], rows)


def _self_test(test: dict[str, Any] | None) -> html.Section:
    names = ("change", "count", "found", "auroc")
    rows = [[row[name] for name in names] for row in test["changes"]] if test else []
    text = [summary(test), *warnings(test)]
    return html.Section(
        "Self-test",
        [html.Table(("change", "copies", "share found", "AUROC"), rows)] if rows else [],
        " ".join(f"{line[:1].upper()}{line[1:]}." for line in text),
    )


def _histogram(detector: Detector, name: str) -> html.Chart:
    try:
        lines = {"threshold (5 %)": detector.threshold(name, _RATES[0], "pac")}
    except CalibrationError:
        lines = {}
    values = detector.reference(name)
    svg = histogram(
        {"calibration inputs": values}, x_label="score", y_label="share of inputs", lines=lines
    )
    return html.Chart(name, svg, "An input right of the line is flagged." if lines else "")
