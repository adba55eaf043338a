"""Classification: the likeliest label of images, and the energy of every label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pcgen.classification.both_ways import BothWays
from pcgen.classification.network import Classifier
from pcgen.data.images import Images
from pcgen.learning.validate import BATCH


def classify(
    network: Classifier | BothWays,
    classes: list[str],
    images: Images,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Return a row for every input, in input order, with its status.

    `energy` is the label layer's in nats, and least for the label that is given; `energy_K` is that
    of each label K.
    """
    device = network.weights()[0].device
    found: list[dict[str, Any]] = []
    for first in range(0, len(images), BATCH):
        rows = images.rows(range(first, min(first + BATCH, len(images))))
        with torch.no_grad():
            logits_BK = network.logits(rows.pixels_BD[rows.ok].to(device)).double().cpu()
        judged = iter(network.energies(logits_BK).tolist())
        for i, status in enumerate(rows.status):
            row = {"id": images.id(first + i), "status": status, "reason": rows.reason[i]}
            energies = next(judged) if status == "ok" else None
            found.append(row | _verdict(energies, classes))
        on_batch(len(found))
    return found


def _verdict(energies: list[float] | None, classes: list[str]) -> dict[str, Any]:
    if energies is None:
        empty = ("label", "class", "energy", *(f"energy_{k}" for k in range(len(classes))))
        return dict.fromkeys(empty)
    label = min(range(len(energies)), key=energies.__getitem__)
    each = {f"energy_{k}": energy for k, energy in enumerate(energies)}
    return {"label": label, "class": classes[label], "energy": energies[label], **each}
