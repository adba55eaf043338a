"""Restoring a table of images from cues, with a row for every one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images, Rows
from pcgen.errors import DataError
from pcgen.memory.corruptions import Corruption, Cues
from pcgen.memory.recall import Memory, Prior, Recalled, recall

EXACT = 1e-3
"""An image is restored exactly if its mean squared error per pixel is below."""

# Cues that are held in memory at once.
_AT_ONCE = 1000


@dataclass(slots=True)
class Restored:
    """The outcome for a table of images.

    Attributes:
        metrics: means over the readable images; errors are None without originals.
        rows: one for every input, in order, with its status.
        cues_BD: the first cues, for a picture; hidden pixels are grey.
        recalled_BD: what they recalled.
        originals_BD: what they are of, where that is known.
    """

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    cues_BD: Tensor
    recalled_BD: Tensor
    originals_BD: Tensor | None


def restore(
    memory: Memory,
    images: Images,
    corruption: Corruption,
    table: InferenceTable,
    *,
    seed: int = 0,
    prior: Prior = "mixture",
    noise: float = 0.0,
    originals: Images | None = None,
    pictures: int = 24,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Restored:
    """Return what the memory restores of damaged images.

    Args:
        noise: standard deviation of noise that the images have before they are damaged.
        originals: what the images are to be restored to, row for row; the images themselves where a
            corruption damages them.

    Raises:
        DataError: other numbers of originals, an original that cannot be read, or an image with no
            visible pixel.
    """
    if originals is not None and len(originals) != len(images):
        raise DataError(
            f"{originals.source}: {len(originals)} originals for {len(images)} cues",
            "They are compared row by row",
        )
    compared = images if originals is None and corruption.words != ("none",) else originals
    rows: list[dict[str, Any]] = []
    shown = _Shown(pictures)
    began = time.monotonic()
    for first in range(0, len(images), _AT_ONCE):
        index = range(first, min(first + _AT_ONCE, len(images)))
        read = images.rows(index)
        numbers = [row for row, status in zip(index, read.status, strict=True) if status == "ok"]
        truth_BD = None if compared is None else _truth(compared, numbers)
        found = None
        if numbers:
            cues = corruption.cues(read.pixels_BD[read.ok], numbers, images.shape, seed)
            cues.noise = (cues.noise**2 + noise**2) ** 0.5
            found = recall(
                memory,
                cues,
                table,
                prior=prior,
                on_batch=lambda done, first=first: on_batch(first + done),  # type: ignore[misc]
            )
            if not images.is_table:
                found.images_BD.clamp_(0, 1)
            shown.take(cues, found.images_BD.cpu(), truth_BD)
            rows += _rows(images, first, read, found, truth_BD, cues)
        else:
            rows += _rows(images, first, read, None, None, None)
    seconds = time.monotonic() - began
    return Restored(
        _metrics(rows, seconds),
        rows,
        _first(shown.cues, pictures, images),
        _first(shown.recalled, pictures, images),
        None if compared is None else _first(shown.originals, pictures, images),
    )


@dataclass(slots=True)
class _Shown:
    """The first images, for a picture."""

    count: int
    cues: list[Tensor] = field(default_factory=list)
    recalled: list[Tensor] = field(default_factory=list)
    originals: list[Tensor] = field(default_factory=list)

    def take(self, cues: Cues, recalled_BD: Tensor, truth_BD: Tensor | None) -> None:
        if sum(map(len, self.cues)) < self.count:
            grey_BD = cues.pixels_BD.where(cues.visible_BD, 0.5)
            self.cues.append(grey_BD[: self.count])
            self.recalled.append(recalled_BD[: self.count])
            if truth_BD is not None:
                self.originals.append(truth_BD[: self.count])


def _first(parts: list[Tensor], count: int, images: Images) -> Tensor:
    empty = torch.zeros(0, *images.shape).flatten(1)
    return torch.cat([empty, *parts])[:count]


def _truth(originals: Images, numbers: list[int]) -> Tensor:
    from pcgen.data.images import require_ok

    rows = originals.rows(numbers)
    require_ok(rows, originals)
    return rows.pixels_BD


def _rows(
    images: Images,
    first: int,
    read: Rows,
    found: Recalled | None,
    truth_BD: Tensor | None,
    cues: Cues | None,
) -> list[dict[str, Any]]:
    """Return the rows of some inputs, those that could not be read included."""
    columns: dict[str, list[Any]] = {}
    if found is not None and cues is not None:
        columns = {
            "item": found.item_B.tolist(),
            "known": found.known_B.tolist(),
            "likelihood": found.likelihood_B.tolist(),
            "energy": found.energy_B.tolist(),
            "unexplained": found.unexplained_B.tolist(),
            "converged": found.converged_B.tolist(),
            "steps": found.steps_B.tolist(),
        } | _errors(found.images_BD.cpu(), truth_BD, cues.visible_BD)
    rows = []
    place = 0
    for i, (status, reason) in enumerate(zip(read.status, read.reason, strict=True)):
        row: dict[str, Any] = {"id": images.id(first + i), "status": status}
        if status == "ok":
            row |= {name: values[place] for name, values in columns.items()}
            place += 1
        else:
            row["reason"] = reason
        rows.append(row)
    return rows


def _errors(images_BD: Tensor, truth_BD: Tensor | None, visible_BD: Tensor) -> dict[str, list[Any]]:
    """Return the squared errors per pixel: of all, of the hidden, and whether all are as good as 0.

    Without the truth there are none.
    """
    if truth_BD is None:
        return {}
    squared_BD = (images_BD - truth_BD).square()
    mse_B, count_B = squared_BD.mean(1), (~visible_BD).sum(1)
    hidden_B = (squared_BD * ~visible_BD).sum(1) / count_B.clamp_min(1)
    hidden = [
        value if count else None
        for value, count in zip(hidden_B.tolist(), count_B.tolist(), strict=True)
    ]
    return {"mse": mse_B.tolist(), "mse_hidden": hidden, "exact": (mse_B < EXACT).tolist()}


def _metrics(rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    good = [row for row in rows if row["status"] == "ok"]

    def mean(name: str) -> float | None:
        values = [row[name] for row in good if row.get(name) is not None]
        return sum(values) / len(values) if values else None

    names = ("mse", "mse_hidden", "exact", "known", "energy", "steps", "converged")
    most = max((row["steps"] for row in good), default=None)
    return {
        "count": len(good),
        **{name: mean(name) for name in names},
        "most_steps": most,
        "seconds": seconds,
    }
