"""The demo's page: predictive coding at work on digits, for readers who have never met it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcgen.interface import Step
from pcgen.pages import page as html
from pcgen.pages import run_page, scores_page
from pcgen.pages.charts import Series, line_chart
from pcgen.pages.embedded import pictures
from pcgen.pages.pictures import Row, grid_png
from pcgen.storage import runs

SHOWN = (0, 1, 3, 10, 30)
"""Steps of inference whose predictions and errors are shown."""
_OWN_DATA = """\
pcgen train pictures-ood --data photos/ --out runs/own      # learn your own pictures
pcgen reconstruct runs/own photos/ --out out/               # see what the network keeps of them
pcgen ood-calibrate runs/own photos/ --out own.safetensors  # measure what is usual
pcgen ood-score own.safetensors new/ --out scores.csv       # score new pictures
pcgen report scores.csv                                     # a page like this one

pcgen train sampler --data table.csv --out runs/sampler     # learn to draw new rows or pictures
pcgen sample runs/sampler -n 100 --out new.csv
"""


@dataclass(frozen=True, slots=True)
class Story:
    """The results of the demo, for its page.

    Attributes:
        folder: of the pictures and the runs.
        steps: the inference of one digit, from its start to its end.
        shape: C, H, W of a digit.
        mse: per pixel, of the reconstructed test digits.
        recalled: the metrics of `pcgen recall`.
        seconds: that the demo took.
    """

    folder: Path
    steps: Sequence[Step]
    shape: tuple[int, int, int]
    mse: float
    recalled: dict[str, Any]
    seconds: float


def write(story: Story) -> Path:
    """Write `index.html` and return its path.

    Raises:
        RunError: the page cannot be written.
    """
    return html.write(build(story), story.folder / "index.html")


def build(story: Story) -> html.Page:
    """Return the page."""
    scores = story.folder / "scores.csv"
    summary, metadata = scores_page.Summary.of(scores), scores_page.read_metadata(scores)
    restored = f"{100 * story.recalled['exact']:.0f} %"
    return html.Page(
        "Predictive coding at work on handwritten digits",
        "A predictive coding network predicts every layer of its states from the layer above, and "
        "moves the states until the predictions fit. With this one principle it explains a digit, "
        "draws new ones, restores damaged ones and notices what is no digit. Everything below was "
        f"trained and computed on this machine in {story.seconds:.0f} seconds.",
        [
            html.Card("Reconstruct", html.number(story.mse), "MSE per pixel of unseen digits"),
            html.Card("Recall", restored, "of half-hidden digits restored exactly"),
            html.Card("Score", *_found(summary)),
        ],
        [
            html.Section("1. One digit settles", _settling(story), _SETTLES),
            _task(story, "2. Reconstruct", "reconstructions.png", _RECONSTRUCT),
            _task(story, "3. Sample", "sampler/samples.png", _SAMPLE),
            _task(story, "4. Recall", "recalled.png", _RECALL),
            html.Section(
                "5. Notice strange inputs",
                [
                    *_picture(story.folder / "unusual.png", _CAPTIONS["unusual.png"]),
                    *scores_page.distribution(summary, metadata)[:2],
                    scores_page.groups_table(summary),
                ],
                _SCORE,
            ),
            html.Section("Now with your own data", [html.Code(_OWN_DATA)]),
        ],
    )


_SETTLES = (
    "The digit is held fixed in the data layer. The states above it start without any knowledge of "
    "it and move, step by step, to where the energy is least. The energy adds up the squared "
    "prediction errors of all layers, each weighted by its precision: how much that layer trusts "
    "its prediction."
)
_RECONSTRUCT = (
    "Each digit of 64 pixels settles into the 16 numbers of the top layer, the latent. Predicting "
    "downwards from the latent gives the digit back."
)
_SAMPLE = "Drawing a latent at random and predicting downwards gives digits that nobody wrote."
_RECALL = (
    "This network has stored 100 digits in its weights. It is shown the upper half of each. The "
    "hidden pixels settle like all other states, and the stored digit comes back."
)
_SCORE = (
    "An input that is no digit leaves errors that digits do not. The score adds them up, and the "
    "threshold was set on digits alone, so that few of them raise a false alarm."
)
_CAPTIONS = {
    "reconstructions.png": "Test digits, their reconstructions and the errors: blue where the "
    "reconstruction is too dark, red where it is too bright, white where it is exact.",
    "samples.png": "Each sample stands above the training digit that is nearest to it. Many look "
    "like digits and none is a copy; some are blends of two digits.",
    "recalled.png": "The cue with its hidden half, what the memory restored from it, and the "
    "original.",
    "unusual.png": "Digits and six kinds of strange inputs, with the number flagged of each. The "
    "row below each shows where the network's prediction fails: black is as usual, yellow and "
    "white are far from it.",
}


def _task(story: Story, heading: str, file: str, text: str) -> html.Section:
    path = story.folder / file
    return html.Section(heading, _picture(path, _CAPTIONS[path.name]), text)


def _picture(path: Path, caption: str) -> list[html.Picture | html.Table]:
    return pictures([(path, caption)], [path.parent])


def _found(summary: scores_page.Summary) -> tuple[str, str]:
    """Return the share of strange inputs that were flagged, and a note on the digits."""
    groups = {name.rpartition(" ")[2]: count for name, count in summary.groups.items()}
    digits = groups.pop("digits")
    flagged, inputs = (sum(g[key] for g in groups.values()) for key in ("flagged", "inputs"))
    note = f"of strange inputs found; of {digits['inputs']} digits, {digits['flagged']} flagged"
    return f"{100 * flagged / inputs:.0f} %", note


def _settling(story: Story) -> list[html.Block]:
    """Return the predictions and errors of a settling digit, and the curves of the energy."""
    chosen = [story.steps[number] for number in SHOWN]
    digits, predictions = (
        np.stack([layers[0][0].numpy().reshape(story.shape) for layers in each])
        for each in ([step.states for step in chosen], [step.predictions for step in chosen])
    )
    rows = [
        Row("digit", digits),
        Row("prediction", predictions),
        Row("error", predictions - digits, signed=True),
    ]
    title = f"After {', '.join(map(str, SHOWN[:-1]))} and {SHOWN[-1]} steps"
    names = [f"layer {i}" for i in range(len(story.steps[0].energies) - 1)]
    names = [f"{names[0]} (data)", *names[1:], "prior of the latent"]
    # A layer without an error has no place on a logarithmic axis.
    lines = [
        Series(name, [(s.number, float(s.energies[i][0]) or float("nan")) for s in story.steps])
        for i, name in enumerate(names)
    ]
    energy = line_chart(lines, x_label="step of inference", y_label="energy, nats")
    learning = run_page.charts(runs.read_metrics(story.folder))[0]
    return [
        html.Picture(
            grid_png(rows, title=title),
            "From left to right: the prediction starts as an average digit and becomes this one, "
            "and the error fades to white.",
        ),
        html.Chart(
            "Settling: the states move",
            energy,
            "The data layer's energy falls as the layers above explain the digit. The prior's "
            "rises: a latent away from 0 has its price.",
        ),
        html.Chart(
            "Learning: the weights move",
            learning.svg,
            "After each settling, the weights take a step down the same energy. Over the epochs "
            "the network explains digits ever better, seen and unseen ones.",
        ),
    ]
