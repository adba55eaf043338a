"""Making a detector: which rows calibrate a model, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pcgen import __version__
from pcgen.classification.network import ClassifierModel
from pcgen.data.images import Images, parts, split
from pcgen.errors import CalibrationError, DataError
from pcgen.ood import conformal as calibration
from pcgen.ood.detector import COMBINED, Detector
from pcgen.ood.scoring import MappingScorer, Scorer, joined, scored
from pcgen.storage.checkpoint import LoadedModel, Model, digest

FPR = 0.05
"""The false-alarm rate that a detector is made to promise at least."""

# Images whose prediction errors set the scale of the heat maps.
_MAPPED = 1000
# Of data that the model has not seen: what the scores are fitted to. The rest calibrates.
_FITTED = 0.4


@dataclass(frozen=True, slots=True)
class Rows:
    """The known images, by what they are for.

    Attributes:
        fit: what the scores are fitted to.
        held_out: what calibrates.
        origin: in words, where both come from.
    """

    fit: Images
    held_out: Images
    origin: str


def rows_for(images: Images, model: Model) -> Rows:
    """Return which rows a model is calibrated on.

    Of the data it was trained on, those set aside (`data.calibration`), else those that chose the
    epoch (`data.validation`). Of other data, a part drawn with the model's seed.

    Raises:
        CalibrationError: the model was trained on all of them, or on an earlier state of them.
    """
    kept, others = _trained_on(images, model)
    if kept is not None:
        for rows, origin in zip(others, _ORIGINS, strict=True):
            if len(rows):
                return Rows(kept, rows, origin)
        raise CalibrationError(
            f"{images.source}: the model was trained on every row of it, which leaves none to "
            "calibrate on",
            "Name other data of the same kind, or train with --set data.calibration=0.2",
        )
    if images.source == model.header["data"]["source"]:
        raise CalibrationError(
            f"{images.source}: the model was trained on another state of these data, so rows that "
            "it was trained on cannot be told from new ones",
            "Name data that it was not trained on, or train again",
        )
    held_out, fit = split(images, _FITTED, model.recipe.seed, "fit")
    return Rows(fit, held_out, f"other data than the model was trained on: {images.source}")


_ORIGINS = ("set aside before training", "held out from training; they chose the epoch")


def _trained_on(
    images: Images, model: LoadedModel[Any]
) -> tuple[Images | None, tuple[Images, ...]]:
    """Return the rows that a model was trained on, set aside, and chose the epoch by.

    None and none where these are not the data that it was trained on.
    """
    table, seed = model.recipe.data, model.recipe.seed
    whole = images if table.limit is None else images.head(table.limit)
    try:
        kept, chose, aside = parts(whole, table.validation, table.calibration, seed)
    except DataError:  # too few rows to divide so
        return None, ()
    if kept.fingerprint() != model.header["data"]["fingerprint"]:
        return None, ()
    return kept, (aside, chose)


def require_unseen(classifier: ClassifierModel, images: Images, rows: Rows) -> None:
    """Let a classifier pass that was not trained on the rows that calibrate.

    Args:
        images: of which `rows` are parts.

    Raises:
        CalibrationError: it was; its scores of them would be those of no new image.
    """
    seen, _ = _trained_on(images, classifier)
    if seen is None and images.source != classifier.header["data"]["source"]:
        return
    ours = rows.held_out.index
    if seen is not None and seen.index is not None and ours is not None:
        shared = int(torch.isin(ours, seen.index).sum())
        if not shared:
            return
    table = rows.held_out
    raise CalibrationError(
        f"{classifier.path}: was trained on rows of {images.source} that calibrate",
        f"Train it with the model's own data.calibration and seed, so that the {len(table)} rows "
        "are set aside for both",
    )


def calibrate(
    model: Model,
    rows: Rows,
    scorers: Sequence[Scorer],
    *,
    classifier: ClassifierModel | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Detector:
    """Return the detector that the held-out rows make of a model and its fitted scorers.

    Args:
        scorers: the network's own first, whose names are what is combined; then the classifier's.
        classifier: whose scores are among them, if there is one.
        on_batch: told how many rows are scored.

    Raises:
        CalibrationError: too few rows that can be read for any use.
    """
    held_out, count = rows.held_out, len(rows.held_out)
    device = model.network.layers[0].weight.device
    part_b, part_a = split(held_out, count // 2, model.recipe.seed, "part A")
    found, failures = [], 0
    done = 0
    for part in (part_a, part_b):

        def tell(so_far: int, done: int = done) -> None:
            on_batch(done + so_far)

        columns, failed = joined(_told(scored(scorers, part, device), tell))
        found.append(columns)
        failures += len(failed)
        done += len(part)
    counts = [len(next(iter(columns.values()), ())) for columns in found]
    if min(counts) < 1:
        raise CalibrationError(
            f"{held_out.source}: {sum(counts)} rows can be read; a detector needs more",
            f"For a false-alarm rate of {FPR:g}: {2 * calibration.smallest(FPR, 'pac')} or more",
        )
    together = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    main = scorers[0]
    components = tuple(getattr(main, "components", main.names))
    names = (COMBINED, *(name for scorer in scorers for name in scorer.names))
    header = {
        "pcgen": __version__,
        "kind": "detector",
        "scores": list(names),
        "components": list(components),
        "calibration": {
            "source": held_out.source,
            "fingerprint": held_out.fingerprint(),
            "origin": rows.origin,
            "part_a": counts[0],
            "part_b": counts[1],
            "fit": len(rows.fit),
            "unreadable": failures,
            "native": _native(held_out),
            "preprocessing": held_out.preprocessing,
            "sha256": digest({n: torch.from_numpy(c) for n, c in together.items()}),
            "statement": _statement(counts[1]),
        },
    }
    return Detector(
        model,
        tuple(scorers),
        names,
        components,
        together,
        counts[0],
        _scale(main, part_b, device),
        header,
        classifier,
    )


def _told(batches: Any, tell: Callable[[int], None]) -> Any:
    for batch in batches:
        tell(batch.first + len(batch.rows.status))
        yield batch


def _native(images: Images) -> list[int] | None:
    """Return the one shape that the calibration images have by themselves; None where they vary."""
    if images.is_table or "to" not in images.preprocessing:
        return list(images.shape)
    found: list[int] | None = images.preprocessing["from"]
    return found


def _statement(count: int) -> str:
    if count < calibration.smallest(FPR, "pac"):
        return ""
    return calibration.statement(count, FPR, "pac")


def _scale(scorer: Scorer, images: Images, device: torch.device) -> float:
    """Return the 99 % quantile of the pixels' prediction errors; 1 where there are none."""
    if not hasattr(scorer, "heatmap"):
        return 1.0
    mapper: MappingScorer = scorer  # type: ignore[assignment]
    rows = images.rows(range(min(_MAPPED, len(images))))
    error_BD = mapper.heatmap(rows.pixels_BD[rows.ok].to(device)).cpu()
    # np.quantile: torch's takes no more than 2^24 values.
    return max(float(np.quantile(error_BD.numpy(), 0.99)), 1e-6)
