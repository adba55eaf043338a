"""Making a detector: the rows that calibrate a model, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pcgen import __version__
from pcgen.classification.network import ClassifierModel
from pcgen.config import ARRAY
from pcgen.data.images import Images, parts, split
from pcgen.data.labels import with_values
from pcgen.errors import CalibrationError, DataError
from pcgen.ood import conformal, scores
from pcgen.ood.detector import COMBINED, Detector
from pcgen.ood.scores import registered
from pcgen.ood.scores.classifier import CLASSIFIER_SCORES
from pcgen.ood.scoring import Columns, MappingScorer, Scored, StoredScorer, joined, scored
from pcgen.registry import SCORES
from pcgen.storage.checkpoint import LoadedModel, Model, digest

FPR = 0.05
"""The false-alarm rate of the statement in a detector's header."""

# Images whose prediction errors set the scale of the heat maps.
_MAPPED = 1000
# The share of other data than the training data that the scores are fitted to. The rest calibrates.
_FITTED = 0.4

# Rows that shape a combined score, at least, where they are not half of those that calibrate.
_SHAPING = 10

_ASIDE = "set aside before training"
_CHOSE = "held out from training; they chose the epoch"


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """The known images, by their use.

    Attributes:
        fit: the rows that the scores are fitted to.
        held_out: the rows that calibrate.
        origin: where the rows that calibrate come from, in words.
        chose: the rows that chose the epoch, if they are not those that calibrate. They shape the
            combined score.
    """

    fit: Images
    held_out: Images
    origin: str
    chose: Images | None = None


def rows_for(images: Images, model: Model) -> CalibrationRows:
    """Return the rows that a model is calibrated on.

    In the data that the model was trained on, these are the rows set aside (`data.calibration`),
    else those that chose the epoch (`data.validation`). Other data are divided with the model's
    seed.

    Raises:
        CalibrationError: the model was trained on all of the rows, or on an earlier state of them.
    """
    trained_on, others = _trained_on(images, model)
    if trained_on is not None:
        aside, chose = others
        if len(aside):
            shaping = chose if len(chose) >= _SHAPING else None
            return CalibrationRows(trained_on, aside, _ASIDE, shaping)
        if len(chose):
            return CalibrationRows(trained_on, chose, _CHOSE)
        raise CalibrationError(
            f"{images.source}: the model was trained on every row of it, which leaves none to "
            "calibrate on",
            "Name other data of the same kind, or train with --set data.calibration=0.2",
        )
    if images.source == model.header["data"]["source"] != ARRAY:
        raise CalibrationError(
            f"{images.source}: the model was trained on another state of these data, so pcgen "
            "cannot tell the rows it was trained on from new ones",
            "Name data that it was not trained on, or train again",
        )
    held_out, fit = split(images, _FITTED, model.recipe.seed, "fit")
    origin = f"other data than the model was trained on: {images.source}"
    return CalibrationRows(fit, held_out, origin)


def _trained_on(
    images: Images, model: LoadedModel[Any]
) -> tuple[Images | None, tuple[Images, ...]]:
    """Return the rows that a model was trained on; and those set aside, and that chose the epoch.

    Returns None and nothing if the model was trained on other data.
    """
    table, seed = model.recipe.data, model.recipe.seed
    whole = images if table.limit is None else images.head(table.limit)
    try:
        trained_on, chose, aside = parts(whole, table.validation, table.calibration, seed)
    except DataError:  # too few rows to divide in this way
        return None, ()
    known = model.header["data"]["fingerprint"]
    if known not in (trained_on.fingerprint(), with_values(trained_on).fingerprint()):
        return None, ()
    return trained_on, (aside, chose)


def require_unseen(classifier: ClassifierModel, images: Images, rows: CalibrationRows) -> None:
    """Raise CalibrationError if a classifier was trained on the rows that calibrate.

    Its scores of these rows would be lower than those of new images.

    Args:
        images: the data that `rows` are parts of.
    """
    trained_on, _ = _trained_on(images, classifier)
    if trained_on is None and images.source != classifier.header["data"]["source"]:
        return
    held_out = rows.held_out
    seen = None if trained_on is None else trained_on.index
    index = held_out.index
    if seen is not None and index is not None and not torch.isin(index, seen).any():
        return
    raise CalibrationError(
        f"{classifier.path}: was trained on rows of {images.source} that calibrate",
        f"Train it with the model's own data.calibration and seed, so that the {len(held_out)} "
        "rows are set aside for both",
    )


def fitted_scorers(
    model: Model,
    images: Images,
    classifier: ClassifierModel | None = None,
    names: Sequence[str] = (),
) -> list[StoredScorer]:
    """Return the scorers of a model, fitted to known images.

    Args:
        images: the rows that scores are fitted to.
        classifier: a classifier whose scores are added.
        names: registered scores that are added; a score that is there already is not added again.

    Raises:
        UnknownNameError: no score is registered under a name.
        CalibrationError: a name belongs to a classifier's score, and there is no classifier.
        DataError: the images have no labels, which a classifier's scores need, or are too few.
    """
    network, table = model.network, model.recipe.inference
    always = (COMBINED, *scores.PC_SCORES, *(scores.TABLE_SCORES if images.is_table else ()))
    own = [name for name in dict.fromkeys(names) if name not in always]
    for name in own:
        SCORES.require(name)
        if name in CLASSIFIER_SCORES and classifier is None:
            raise CalibrationError(
                f"{name}: is a score of a classifier", "Name one: --classifier MODEL"
            )
        if name in scores.TABLE_SCORES:
            raise CalibrationError(f"{name}: is a score of tables", "Leave it out")
    device = network.layers[0].weight.device
    scorers: list[StoredScorer] = [
        scores.fit(network, images, table, labels=images.labels, device=device)
    ]
    if images.is_table:
        scorers.append(scores.TableScorer.fit(images))
    if classifier is not None:
        table = classifier.recipe.inference
        scorers.append(scores.ClassifierScorer.fit(classifier.network, images, table))
    own = [name for name in own if name not in CLASSIFIER_SCORES]
    if own:
        scorers.append(registered.fit(network, images, model.recipe.inference, own))
    return scorers


def calibrate(
    model: Model,
    rows: CalibrationRows,
    scorers: Sequence[StoredScorer],
    *,
    classifier: ClassifierModel | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Detector:
    """Return the detector of a model, its fitted scorers and the rows held out.

    Args:
        scorers: the network's own first, whose components are combined; then the others.
        classifier: the classifier whose scores are among them, if there is one.
        on_batch: called with the number of rows scored so far.

    Raises:
        CalibrationError: too few rows can be read for any use.
    """
    held_out, main = rows.held_out, scorers[0]
    device = model.network.layers[0].weight.device
    if rows.chose is not None:
        part_a, part_b = rows.chose, held_out
    else:
        part_b, part_a = split(held_out, len(held_out) // 2, model.recipe.seed, "part A")
    columns_a, unreadable_a = joined(_reported(scored(scorers, part_a, device), on_batch, 0))
    columns_b, unreadable_b = joined(
        _reported(scored(scorers, part_b, device), on_batch, len(part_a))
    )
    count_a, count_b = _length(columns_a), _length(columns_b)
    if min(count_a, count_b) < 1:
        raise CalibrationError(
            f"{held_out.source}: {count_a + count_b} rows can be read; a detector needs more",
            f"For a false-alarm rate of {FPR:g}: {2 * conformal.smallest(FPR, 'pac')} or more",
        )
    columns = {name: np.concatenate([columns_a[name], columns_b[name]]) for name in columns_a}
    components = tuple(getattr(main, "components", main.names))
    alarms = tuple(getattr(main, "alarms", ()))
    first = scores.TABLE_SCORES[0] if held_out.is_table else COMBINED
    names = (first, COMBINED, *(name for scorer in scorers for name in scorer.names))
    names = tuple(dict.fromkeys(names))
    is_apart = rows.chose is not None
    deciding = count_b if first == COMBINED or is_apart else count_a + count_b
    calibration = {
        "source": held_out.source,
        "fingerprint": held_out.fingerprint(),
        "origin": rows.origin,
        "part_a": count_a,
        "part_b": count_b,
        "part_a_is_apart": is_apart,
        "fit": len(rows.fit),
        "unreadable": len(unreadable_a) + len(unreadable_b),
        "native": _native_shape(held_out),
        "preprocessing": held_out.preprocessing,
        "sha256": digest({name: torch.from_numpy(column) for name, column in columns.items()}),
        "deciding": deciding,
        "statement": _statement(deciding),
    }
    header = {
        "pcgen": __version__,
        "kind": "detector",
        "scores": list(names),
        "components": list(components),
        "alarms": list(alarms),
        "calibration": calibration,
    }
    heat_scale = _heat_scale(main, part_b, device)
    return Detector(
        model,
        tuple(scorers),
        names,
        components,
        alarms,
        columns,
        count_a,
        heat_scale,
        header,
        classifier,
    )


def _reported(
    batches: Iterable[Scored], on_batch: Callable[[int], None], before: int
) -> Iterator[Scored]:
    for batch in batches:
        on_batch(before + batch.first + len(batch.rows.status))
        yield batch


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values()), ()))


def _native_shape(images: Images) -> list[int] | None:
    """Return the shape of the images before they were resized; None if it varies."""
    if images.is_table or "to" not in images.preprocessing:
        return list(images.shape)
    shape: list[int] | None = images.preprocessing["from"]
    return shape


def _statement(count: int) -> str:
    if count < conformal.smallest(FPR, "pac"):
        return ""
    return conformal.statement(count, FPR, "pac")


def _heat_scale(scorer: StoredScorer, images: Images, device: torch.device) -> float:
    """Return the 99 % quantile of the pixels' prediction errors; 1 if the scorer draws no map."""
    if not hasattr(scorer, "heatmap"):
        return 1.0
    mapper: MappingScorer = scorer  # type: ignore[assignment]
    rows = images.rows(range(min(_MAPPED, len(images))))
    error_BD = mapper.heatmap(rows.pixels_BD[rows.ok].to(device)).cpu()
    # Not torch.quantile: it takes at most 2^24 values.
    return max(float(np.quantile(error_BD.numpy(), 0.99)), 1e-6)
