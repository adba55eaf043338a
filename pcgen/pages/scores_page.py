"""The pages of a detector and of the inputs that one has scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pcgen.errors import CalibrationError, RunError
from pcgen.ood.detector import Detector, load
from pcgen.pages import page as html
from pcgen.pages.charts import Bar, Series
from pcgen.storage.checkpoint import read_header
from pcgen.storage.row_formats import metadata_path, read_rows

_BINS = 40
# The most unusual inputs, shown one by one; of those with a heat map, so many pictures.
_WORST, _SHOWN = 40, 24
_RATES = (0.05, 0.01, 0.001)


def is_scores(path: Path) -> bool:
    """Return whether a file is one of `pcgen ood-score`."""
    return path.suffix.lower() in (".csv", ".jsonl", ".npz") and metadata_path(path).is_file()


def is_detector(path: Path) -> bool:
    """Return whether a file is one of `pcgen ood-calibrate`.

    Raises:
        CheckpointError: no safetensors of ours.
    """
    return path.suffix == ".safetensors" and read_header(path).get("kind") == "detector"


@dataclass(slots=True)
class Summary:
    """What a page says of rows, taken from one pass over them.

    Attributes:
        groups: inputs and flagged ones by source and, within it, by folder.
        layers: flagged inputs by the layer that is surprised.
        p_values: of the readable ones.
        worst: the most unusual rows, the most unusual first.
        faults: rows that could not be scored, the first few.
    """

    groups: dict[str, Counter[str]] = field(default_factory=dict)
    layers: Counter[int] = field(default_factory=Counter)
    p_values: list[float] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> Summary:
        """Return the summary of a file of rows; few of them stay in memory."""
        found = cls()
        for row in read_rows(path):
            found._take(row)
        found._keep_worst(_WORST)
        return found

    def _take(self, row: dict[str, Any]) -> None:
        group = self.groups.setdefault(_group(row), Counter())
        group["inputs"] += 1
        if row["status"] != "ok":
            group["unreadable"] += 1
            if len(self.faults) < _WORST:
                self.faults.append(row)
            return
        group["flagged"] += bool(row["is_ood"])
        self.p_values.append(row["p_value"])
        if row["is_ood"] and row.get("surprised_layer") is not None:
            self.layers[row["surprised_layer"]] += 1
        self.worst.append(row)
        if len(self.worst) > 50 * _WORST:
            self._keep_worst(_WORST)

    def _keep_worst(self, count: int) -> None:
        self.worst = sorted(self.worst, key=lambda row: -row["score"])[:count]


def _group(row: dict[str, Any]) -> str:
    folder, slash, _ = str(row["id"]).rpartition("/")
    return f"{row['source']}: {folder}" if slash and not folder.startswith("/") else row["source"]


def groups_table(summary: Summary) -> html.Table:
    """Return how many inputs of each source and folder are flagged."""
    rows = [
        [
            name,
            count["inputs"],
            count["flagged"],
            100 * count["flagged"] / max(1, count["inputs"] - count["unreadable"]),
            count["unreadable"],
        ]
        for name, count in summary.groups.items()
    ]
    return html.Table(["inputs", "number", "flagged", "per cent", "unreadable"], rows)


def write_scores(path: Path, out: Path) -> Path:
    """Write the page of a file of scored inputs and return its path.

    Raises:
        RunError: a file that is none, or a page that cannot be written.
    """
    return _written(scores_page(path), out)


def scores_page(path: Path) -> html.Page:
    """Return the page of a file of scored inputs."""
    meta, summary = read_meta(path), Summary.of(path)
    counts, rate = meta["counts"], meta["alarm_rate"]
    threshold = meta["thresholds"].get(meta["score"])
    cards = [
        html.Card("Inputs", f"{counts['inputs']:,}", f"{counts['ok']:,} scored"),
        html.Card(
            "Flagged",
            f"{counts['flagged']:,}",
            f"{100 * (rate['value'] or 0):.2f} %, 95 % interval "
            f"{100 * rate['ci_low']:.2f} to {100 * rate['ci_high']:.2f}",
        ),
        html.Card("Threshold", html.shown(threshold), f"of {meta['score']}"),
    ]
    sections = [
        html.Section("What was asked", [html.Facts(_asked(meta))], " ".join(meta["warnings"])),
        html.Section("By source", [groups_table(summary)]),
        html.Section("Distribution", _distribution(summary)),
        html.Section("The most unusual", [*_maps(summary), _worst(summary)]),
    ]
    if summary.faults:
        rows = [[row["id"], row["status"], row["reason"]] for row in summary.faults]
        table = html.Table(["input", "status", "reason"], rows)
        sections.append(html.Section("Could not be scored", [table]))
    return html.Page(f"Scores in {path.name}", meta["statement"], cards, sections)


def read_meta(path: Path) -> dict[str, Any]:
    """Return what stands beside a file of rows.

    Raises:
        RunError: nothing, or something else.
    """
    try:
        found: dict[str, Any] = json.loads(metadata_path(path).read_text(encoding="utf-8"))
        found["counts"]["flagged"]
        return found
    except (OSError, ValueError, LookupError, TypeError):
        raise RunError(
            f"{path}: no {metadata_path(path).name} beside it", "Make both: pcgen ood-score"
        ) from None


def _asked(meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "detector": meta["detector"]["path"],
        "sha256": meta["detector"]["sha256"],
        "false-alarm rate": meta["fpr"] if meta["fdr"] is None else None,
        "guarantee": meta["guarantee"] if meta["fdr"] is None else f"FDR {meta['fdr']:g}",
        "calibrated on": meta["calibration"]["source"],
        "inference": meta["inference"],
        "all rows": meta["complete"],
        "command": " ".join(meta["argv"]),
    }


def _distribution(summary: Summary) -> list[html.Block]:
    if not summary.p_values:
        return []
    counts, edges = np.histogram(summary.p_values, 20, (0, 1))
    middles = (edges[1:] + edges[:-1]) / 2
    share = counts / len(summary.p_values)
    chart = html.Chart(
        "p-values of the inputs",
        [
            Series("inputs", [*zip(middles.tolist(), share.tolist(), strict=True)]),
            Series("as in calibration", [(0.0, 0.05), (1.0, 0.05)]),
        ],
        "p-value",
        "share of inputs",
    )
    bars = [
        Bar(f"layer {layer}" + " (data)" * (layer == 0), float(count), float(count), float(count))
        for layer, count in sorted(summary.layers.items())
    ]
    return [chart, html.Bars("Flagged inputs by the layer that is surprised", bars)]


def _maps(summary: Summary) -> list[html.Block]:
    paths = [(row, Path(row["heatmap"])) for row in summary.worst if row.get("heatmap")]
    return [
        html.Picture(path.read_bytes(), f"{row['id']}: p {row['p_value']:.2g}")
        for row, path in paths[:_SHOWN]
        if path.is_file()
    ]


def _worst(summary: Summary) -> html.Table:
    rows = [
        [
            row["id"],
            row["score"],
            row["p_value"],
            row["q_value_bh"],
            row["is_ood"],
            row.get("surprised_layer"),
        ]
        for row in summary.worst
    ]
    return html.Table(["input", "score", "p-value", "q-value", "flagged", "layer"], rows)


def write_detector(path: Path, out: Path) -> Path:
    """Write the page of a detector and return its path.

    Raises:
        CheckpointError: no detector.
        RunError: a page that cannot be written.
    """
    return _written(detector_page(load(path)), out)


def detector_page(detector: Detector) -> html.Page:
    """Return the page of a detector: what it promises, and its calibration scores."""
    known = detector.header["calibration"]
    facts = {
        "calibrated on": known["source"],
        "which rows": known["origin"],
        "scores fitted to": known["fit"],
        "unreadable rows": known["unreadable"],
        "prepared": known["preprocessing"] or "as they are",
        "calibration sha256": known["sha256"],
        "model sha256": detector.header["model"]["sha256"],
        "combined": list(detector.components),
    }
    cards = [
        html.Card("Calibration inputs", f"{known['part_b']:,}", "for p-values of pc-fisher"),
        html.Card("Fitted on", f"{known['fit']:,}", "rows of the training data"),
        html.Card("Scores", str(len(detector.names)), "higher is more unusual"),
    ]
    return html.Page(
        f"Detector {detector.model.path.name}",
        known["statement"] or "Too few calibration inputs for a false-alarm rate of 5 %.",
        cards,
        [
            html.Section("Thresholds", [_thresholds(detector)], _THRESHOLDS),
            html.Section("Calibration scores", [_histogram(detector, n) for n in detector.names]),
            html.Section("Where it is from", [html.Facts(facts)]),
        ],
    )


_THRESHOLDS = (
    "An input that scores above is flagged. With 95 % confidence at most the share at the head of "
    "the column is flagged of inputs like those in calibration."
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


def _histogram(detector: Detector, name: str) -> html.Chart:
    values = detector.reference(name)
    low, high = np.quantile(values, [0, 0.995])
    counts, edges = np.histogram(values, _BINS, (low, max(high, low + 1e-9)))
    middles = (edges[1:] + edges[:-1]) / 2
    points: Sequence[tuple[float, float]] = [*zip(middles.tolist(), counts.tolist(), strict=True)]
    return html.Chart(name, [Series(name, points)], "score", "calibration inputs")


def _written(page: html.Page, out: Path) -> Path:
    try:
        return html.write(page, out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None
