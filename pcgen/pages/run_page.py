"""The page of a run folder: recipe, progress of training, results and machine."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen import config
from pcgen.errors import RunError
from pcgen.pages import page as html
from pcgen.pages import scores_page
from pcgen.pages.charts import Series, line_chart
from pcgen.pages.embedded import pictures
from pcgen.storage import checkpoint, runs

Lines = Sequence[dict[str, Any]]


def write(run: Path, out: Path) -> Path:
    """Write the page of a run folder and return its path.

    Raises:
        RunError: no folder, or one that holds no run, or the page cannot be written.
        CheckpointError: the model is damaged.
    """
    if run.is_file():
        raise RunError(
            f"{run}: neither a detector nor scores",
            "Name a run's folder, a detector, or the rows of pcgen ood-score",
        )
    with html.made_of(run):
        return html.write(build(run), out)


def build(run: Path) -> html.Page:
    """Return the page of a run folder."""
    folder, recipe = runs.RunFolder.existing(run)
    lines = runs.read_metrics(run)
    header = checkpoint.read_header(folder.model) if folder.model.exists() else {}
    files = [(path, _CAPTIONS.get(path.name, path.stem)) for path in sorted(run.glob("*.png"))]
    sections = [
        html.Section(
            "Training", charts(lines, draws=recipe.inference.draws), _progress(lines, recipe)
        ),
        _samples(header.get("samples")),
        html.Section("Pictures", pictures(files, [run])),
        _scores(run / "scores.csv"),
        html.Section("Epochs", [_epochs(lines, recipe)] if lines else []),
        html.Section("Model and data", [html.Facts(_model_facts(header))] if header else []),
        html.Section(
            "Recipe", [html.Code(config.to_toml(recipe), "recipe.toml, every default written out")]
        ),
        html.Section("Environment", [html.Facts(_environment(run))]),
    ]
    return html.Page(
        title=f"Run {run.resolve().name}",
        lead=recipe.description or f"Recipe {recipe.name}, trained on {recipe.data.source}.",
        cards=cards(lines, header),
        sections=[section for section in sections if section.blocks],
    )


_CAPTIONS = {
    "samples.png": "Samples, each above the training image that is nearest to it.",
    "reconstructions.png": "Each input above its reconstruction from the latent. Errors are blue "
    "where the reconstruction is too dark, red where it is too bright, white where it is exact.",
    "recalled.png": "The damaged cue, the image that the memory restored, and the original.",
}


def cards(lines: Lines, header: dict[str, Any]) -> list[html.Card]:
    """Return the key figures of a run: those of the kept model, and the speed of training."""
    best, parameters = header.get("metrics", {}), header.get("parameters")
    sizes = " - ".join(map(str, reversed(header.get("sizes", []))))
    figures = [
        ("MSE per pixel", best.get("mse"), html.number, "decoded from the latent, validation"),
        (
            "MSE, last hidden layer",
            best.get("mse_last_hidden"),
            html.number,
            "decoded one layer up",
        ),
        ("Accuracy", best.get("accuracy"), lambda share: f"{100 * share:.2f} %", "validation"),
        ("Energy", best.get("energy"), html.number, "nats per image"),
        ("Weights", parameters, "{:,}".format, sizes),
    ]
    shown = [html.Card(name, text(x), note) for name, x, text, note in figures if x is not None]
    if seconds := sum(line["seconds"] for line in lines):
        pace = sum(line["images"] for line in lines) / seconds
        shown.append(html.Card("Training", _duration(seconds), f"{pace:,.0f} images/s"))
    return shown


def charts(lines: Lines, *, draws: bool = False) -> list[html.Chart]:
    """Return the curves over the epochs: energy, accuracy, and error per pixel."""

    def chart(name: str, y_label: str, caption: str, *lines: Series) -> html.Chart:
        shares = name == "Accuracy"
        svg = line_chart(lines, x_label="epoch", y_label=y_label, shares=shares)
        return html.Chart(name, svg, caption)

    def series(name: str, key: str, validation: bool = False) -> Series:
        points = []
        for line in lines:
            figures = line["validation"] or {} if validation else line
            value = figures.get(key)
            points.append((float(line["epoch"]), math.nan if value is None else float(value)))
        return Series(name, points)

    note = " Training energies are those of drawn states, which include noise."
    if not draws:
        is_held_out = any(line["validation"] for line in lines)
        note = " A validation curve that turns upwards shows overfitting." if is_held_out else ""
    return [
        chart(
            "Energy",
            "nats per image",
            f"Lower is better.{note}",
            series("training", "energy"),
            series("validation", "energy", True),
        ),
        chart(
            "Accuracy",
            "share of images",
            "Images whose likeliest label is the right one.",
            series("training", "accuracy"),
            series("validation", "accuracy", True),
        ),
        chart(
            "Reconstruction error",
            "MSE per pixel",
            "The prediction from the latent passes through all layers, that from the last hidden "
            "layer through one.",
            series("latent (validation)", "mse", True),
            series("last hidden (validation)", "mse_last_hidden", True),
            series("last hidden (training)", "mse_last_hidden"),
        ),
    ]


def _progress(lines: Lines, recipe: config.Recipe) -> str:
    if not lines:
        return "No epoch has ended yet."
    done, asked = lines[-1]["epoch"], recipe.learning.epochs
    ended = "" if done >= asked else f" The run stopped early: {done} of {asked} epochs."
    chosen = lines[-1]["validation"] and not recipe.inference.draws
    origin = "the best on the validation split" if chosen else "from the last epoch"
    return f"{done} epochs. The kept model is {origin}.{ended}"


def _epochs(lines: Lines, recipe: config.Recipe) -> html.Table:
    shown = lines if len(lines) <= 12 else [*lines[:3], *lines[-9:]]
    rows = []
    for line in shown:
        held_out = line["validation"] or {}
        names = ("energy", "mse", "mse_last_hidden", "converged", "accuracy")
        own = [held_out.get(name) for name in names]
        if recipe.inference.draws:  # Chains do not converge to an equilibrium.
            own[3] = None
        rows.append([line["epoch"], line["energy"], *own, line["seconds"]])
    header = ["epoch", "energy", "energy (val.)", "MSE", "MSE last hidden", "converged"]
    header += ["accuracy", "seconds"]
    # A network and a classifier have different columns: drop those without a number.
    kept = [i for i, _ in enumerate(header) if any(row[i] is not None for row in rows)]
    header, rows = [header[i] for i in kept], [[row[i] for i in kept] for row in rows]
    left_out = len(lines) - len(shown)
    return html.Table(header, rows, f"{left_out} epochs in between left out." if left_out else "")


def _samples(judgement: dict[str, Any] | None) -> html.Section:
    """Return the comparison of samples with held-out rows, where the model has one."""
    if judgement is None:
        return html.Section("Samples")
    names = ("method", "frechet", "precision", "recall")
    rows = [[row[name] for name in names] for row in judgement["methods"]]
    text = (
        f"Sets of {judgement['count']:,} rows, compared with as many held-out rows on "
        f"{judgement['features']}. Precision is the share of a set that is among the held-out "
        "rows, recall the share of these that is among the set."
    )
    header = ["", "Frechet distance", "precision", "recall"]
    return html.Section("Samples", [html.Table(header, rows)], text)


def _scores(path: Path) -> html.Section:
    """Return the summary of the scored inputs in the run's folder, if there are any."""
    if not scores_page.is_scores(path):
        return html.Section("Scored inputs")
    table = scores_page.groups_table(scores_page.Summary.of(path))
    return html.Section("Scored inputs", [table], scores_page.read_metadata(path)["statement"])


def _model_facts(header: dict[str, Any]) -> dict[str, Any]:
    data = header.get("data", {})
    return {
        "units, data to latent": header.get("sizes"),
        "data": data.get("source"),
        "rows": data.get("count"),
        "shape (C, H, W)": data.get("shape"),
        "fingerprint": data.get("fingerprint"),
        "kept after epoch": header.get("metrics", {}).get("epoch"),
        "pcgen": header.get("pcgen"),
    }


def _environment(run: Path) -> dict[str, Any]:
    try:
        file = run / "environment.json"
        facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
