"""A self-test: the share of changed copies of known inputs that a detector finds.

The copies are made of inputs that calibrate, each in one known way, and are only scored: no
threshold or p-value depends on them. So the test shows, before any unusual input is seen, whether a
detector that keeps its false-alarm rate also finds anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pcgen.data.images import Images
from pcgen.data.shifts import shuffle
from pcgen.device import generator
from pcgen.ood import conformal
from pcgen.ood.calibrate import FPR
from pcgen.ood.conformal import Array
from pcgen.ood.detector import Detector
from pcgen.ood.scoring import chosen_rows, columns_of

Change = Callable[[Tensor, torch.Generator], Tensor]
"""Takes inputs (B, C, H, W) and a source of random numbers; returns changed copies."""

POOR_AUROC = 0.7
"""A detector with a lower mean AUROC is warned about."""
POOR_SHARE = 0.2
"""So is a change of which a smaller share is found, or a share below twice the promised rate."""

# Inputs that are copied, at most.
_MOST = 200
# Deviation of the noise; the range of pixels is 1.
_NOISE = 0.2
# Deviations by which one column of each row is shifted, and the factor of scaled rows.
_SHIFT, _SCALE = 3.0, 3.0


def noise(pixels: Tensor, source: torch.Generator) -> Tensor:
    """Return pictures with Gaussian noise."""
    return pixels + _NOISE * torch.randn(pixels.shape, generator=source)


def blur(pixels: Tensor, source: torch.Generator) -> Tensor:
    """Return pictures with each pixel replaced by the mean around it, over a fourth of the side."""
    reach = max(1, round(min(pixels.shape[2:]) / 9))
    return avg_pool2d(pixels, 2 * reach + 1, 1, reach, count_include_pad=False)


def turned(pixels: Tensor, source: torch.Generator) -> Tensor:
    """Return pictures with their largest central square turned by 90 degrees."""
    side = min(pixels.shape[2:])
    top, left = ((length - side) // 2 for length in pixels.shape[2:])
    copies = pixels.clone()
    square = copies[..., top : top + side, left : left + side]
    square.copy_(square.rot90(1, (2, 3)).clone())
    return copies


def half_of_another(pixels: Tensor, source: torch.Generator) -> Tensor:
    """Return pictures whose lower half is that of another picture."""
    half = pixels.shape[2] // 2
    others = pixels[torch.randperm(len(pixels), generator=source)]
    return torch.cat([pixels[:, :, :half], others[:, :, half:]], 2)


def exchanged(rows: Tensor, source: torch.Generator) -> Tensor:
    """Return rows whose columns each come from another row: no column depends on another."""
    order = torch.rand(rows.shape, generator=source).argsort(0)
    return rows.gather(0, order)


def shifted(rows: Tensor, source: torch.Generator) -> Tensor:
    """Return rows with one column, another for each row, shifted up or down."""
    drawn = torch.rand(rows.shape, generator=source)
    signs = torch.where(torch.rand(len(rows), 1, 1, 1, generator=source) < 0.5, -1.0, 1.0)
    return rows + _SHIFT * signs * (drawn == drawn.amax(3, keepdim=True))


PICTURES: dict[str, Change] = {
    "noise": noise,
    "negative": lambda pixels, source: 1 - pixels,
    "pixels shuffled": lambda pixels, source: shuffle(
        pixels, torch.empty(0), source.initial_seed()
    ),
    "blur": blur,
    "turned by 90 degrees": turned,
    "half of another picture": half_of_another,
}
TABLES: dict[str, Change] = {
    "columns of other rows": exchanged,
    f"one column shifted by {_SHIFT:g} deviations": shifted,
    f"all columns {_SCALE:g} times as far from the mean": lambda rows, source: _SCALE * rows,
}
# These take two columns, or pictures of two pixels, at least, in height and width.
_TWO = ("turned by 90 degrees", "half of another picture", "columns of other rows")


def self_test(detector: Detector, images: Images) -> dict[str, Any]:
    """Return the shares found and AUROCs of changed copies of known inputs; the same in every call.

    A copy that equals its original does not count. The AUROC is that against the calibration
    inputs that give the score its p-values.

    Args:
        images: the inputs that calibrated the detector.
    """
    name = detector.names[0]
    known = conformal.finite(detector.reference(name))
    fpr = max(FPR, math.ceil(1e4 * conformal.least_fpr(len(known), "pac")) / 1e4)
    threshold = detector.threshold(name, fpr, "pac")
    rows = images.rows(chosen_rows(images, _MOST))
    originals = rows.pixels_BD[rows.ok].reshape(-1, *images.shape)
    results: list[dict[str, Any]] = []
    for change, copies_BD in _copies(originals, images, detector.model.recipe.data.threshold):
        columns = columns_of(detector.scorers_of(name), copies_BD.to(detector.device))
        scores = conformal.finite(detector.scores(columns)[name])
        results.append(
            {
                "change": change,
                "count": len(scores),
                "found": float((scores > threshold).mean()),
                "auroc": _auroc(scores, known),
            }
        )
    aurocs = [result["auroc"] for result in results]
    return {
        "score": name,
        "fpr": fpr,
        "guarantee": "pac",
        "auroc": float(np.mean(aurocs)) if aurocs else None,
        "changes": results,
    }


def _copies(originals: Tensor, images: Images, threshold: float | None) -> list[tuple[str, Tensor]]:
    """Return the name of each change and the copies (B, D) that differ from their originals."""
    changes = TABLES if images.is_table else PICTURES
    side = min(images.shape[2:] if images.is_table else images.shape[1:])
    several = []
    for name, change in changes.items():
        if name in _TWO and side < 2:
            continue
        copies = change(originals, generator(0, "self-test", name))
        if not images.is_table:
            copies = copies.clamp(0, 1)
        if threshold is not None:
            copies = (copies > threshold).float()
        copies = copies[(copies != originals).flatten(1).any(1)]
        if len(copies):
            several.append((name, copies.flatten(1)))
    return several


def _auroc(unusual_B: Array, known_N: Array) -> float:
    """Return the probability that an unusual score is above a known one; ties count half."""
    ordered_N = np.sort(known_N)
    below_B = np.searchsorted(ordered_N, unusual_B, "left")
    upto_B = np.searchsorted(ordered_N, unusual_B, "right")
    return float((below_B + upto_B).mean() / (2 * len(ordered_N)))


def warnings(test: dict[str, Any] | None) -> list[str]:
    """Return what a detector finds poorly, in words."""
    if test is None or test["auroc"] is None:
        return []
    texts = []
    if test["auroc"] < POOR_AUROC:
        texts.append(
            "self-test: the detector hardly tells known inputs from changed copies of them (mean "
            f"AUROC {test['auroc']:.2f}; 0.5 is chance)"
        )
    enough = max(POOR_SHARE, 2 * test["fpr"])
    poor = [
        f"{row['change']} ({100 * row['found']:.0f} %)"
        for row in test["changes"]
        if row["found"] < enough
    ]
    if poor:
        texts.append(
            f"self-test: finds few changed copies of known inputs of these kinds: {', '.join(poor)}"
        )
    return texts


def summary(test: dict[str, Any] | None) -> str:
    """Return a self-test in a sentence."""
    if test is None:
        return "no self-test: the detector was made by a version without one"
    if test["auroc"] is None:
        return "no self-test: every change leaves the known inputs as they are"
    found = np.mean([row["found"] for row in test["changes"]])
    return (
        f"of changed copies of known inputs, {100 * found:.0f} % are found, where at most "
        f"{100 * test['fpr']:g} % of known inputs are flagged; mean AUROC {test['auroc']:.3f}"
    )
