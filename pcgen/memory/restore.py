"""Restoring a table of images from damaged cues, with a row of results for each image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images, Rows, require_readable
from pcgen.data.keeper import Keeper
from pcgen.errors import DataError
from pcgen.memory.corruptions import Corruption, Cues
from pcgen.memory.recall import Memory, Prior, Recalled, recall

EXACT = 1e-3
"""An image is restored exactly if its mean squared error per pixel is smaller than this."""

# Cues that are held in memory at once, and of these the first that a picture shows.
_AT_ONCE, _SHOWN = 1000, 24


@dataclass(slots=True)
class Restored:
    """The outcome for a table of images.

    Attributes:
        metrics: means over the readable images; errors are None without originals.
        rows: one for every input, in order, with its status.
        pictures: the first images (B, D), for a picture: `cues`, in which hidden pixels are grey,
            the images `recalled` from them and, where they are known, the `originals`.
    """

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    pictures: dict[str, Tensor]


def restore(
    memory: Memory,
    images: Images,
    corruption: Corruption,
    table: InferenceTable,
    *,
    seed: int = 0,
    prior: Prior = "lookup",
    noise: float = 0.0,
    originals: Images | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Restored:
    """Return the images that the memory restores from damaged ones, with their errors.

    Args:
        noise: standard deviation of noise that the images contain before they are damaged.
        originals: the undamaged images, row by row. By default the images themselves, if the
            corruption damages them.
        on_batch: called with the number of images that are done.

    Raises:
        DataError: a different number of originals, an original that cannot be read, or an image
            with no visible pixel.
    """
    if originals is not None and len(originals) != len(images):
        raise DataError(
            f"{originals.source}: {len(originals)} originals for {len(images)} cues",
            "They are compared row by row",
        )
    if originals is None and corruption.words != ("none",):
        originals = images
    keeper = Keeper(images, _SHOWN)
    began = time.monotonic()
    for first in range(0, len(images), _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, len(images)))
        read = images.rows(numbers)
        readable = [n for n, status in zip(numbers, read.status, strict=True) if status == "ok"]
        if not readable:
            keeper.keep(read, {}, {})
            continue
        truth_BD = None if originals is None else _truth(originals, readable)
        cues = corruption.cues(read.pixels_BD[read.ok], readable, images.shape, seed)
        cues.noise = (cues.noise**2 + noise**2) ** 0.5
        recalled = recall(
            memory,
            cues,
            table,
            prior=prior,
            on_batch=lambda done: on_batch(len(keeper.rows) + done),
        )
        if not images.is_table:
            recalled.images_BD.clamp_(0, 1)
        _keep(keeper, read, cues, recalled, truth_BD)
    names = ["cues", "recalled"] + ["originals"] * (originals is not None)
    kept = {name: keeper.first(name) for name in names}
    return Restored(_metrics(keeper.rows, time.monotonic() - began), keeper.rows, kept)


def _truth(originals: Images, numbers: list[int]) -> Tensor:
    rows = originals.rows(numbers)
    require_readable(rows, originals)
    return rows.pixels_BD


def _keep(
    keeper: Keeper, read: Rows, cues: Cues, recalled: Recalled, truth_BD: Tensor | None
) -> None:
    """Keep a batch's rows and its first pictures; hidden pixels of the cues are grey."""
    images_BD = recalled.images_BD.cpu()
    columns: dict[str, Tensor | list[Any]] = {
        "item": recalled.item_B,
        "known": recalled.known_B,
        "likelihood": recalled.likelihood_B,
        "energy": recalled.energy_B,
        "unexplained": recalled.unexplained_B,
        "completed": recalled.completed_B,
        "converged": recalled.converged_B,
        "steps": recalled.steps_B,
    }
    pictures = {"cues": cues.pixels_BD.where(cues.visible_BD, 0.5), "recalled": images_BD}
    if truth_BD is not None:
        columns |= _errors(images_BD, truth_BD, cues.visible_BD)
        pictures["originals"] = truth_BD
    keeper.keep(read, columns, pictures)


def _errors(
    images_BD: Tensor, truth_BD: Tensor, visible_BD: Tensor
) -> dict[str, Tensor | list[Any]]:
    """Return the mean squared errors of all and of the hidden pixels, and which are exact."""
    squared_BD = (images_BD - truth_BD).square()
    mse_B, count_B = squared_BD.mean(1), (~visible_BD).sum(1)
    hidden_B = (squared_BD * ~visible_BD).sum(1) / count_B.clamp_min(1)
    hidden = [
        value if count else None
        for value, count in zip(hidden_B.tolist(), count_B.tolist(), strict=True)
    ]
    return {"mse": mse_B, "mse_hidden": hidden, "exact": mse_B < EXACT}


def _metrics(rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return the means of the readable rows; None for a column that no row has."""
    readable = [row for row in rows if row["status"] == "ok"]

    def mean(name: str) -> float | None:
        values = [row[name] for row in readable if row.get(name) is not None]
        return sum(values) / len(values) if values else None

    names = ("mse", "mse_hidden", "exact", "known", "completed", "energy", "steps", "converged")
    most = max((row["steps"] for row in readable), default=None)
    return {
        "count": len(readable),
        **{name: mean(name) for name in names},
        "most_steps": most,
        "seconds": seconds,
    }
