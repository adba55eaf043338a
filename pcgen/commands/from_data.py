"""Settings of a recipe that follow from the data: the keys that its `from_data` names."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pcgen import config
from pcgen.errors import DataError

if TYPE_CHECKING:
    from pcgen.commands.session import Session
    from pcgen.config import Recipe
    from pcgen.data.images import Images
    from pcgen.data.sources import Data

# Fewer rows say too little of a distribution, and so many at least are held out to judge samples.
_LEAST_ROWS = 20
# The longest side that pictures keep.
_LARGEST_SIDE = 32
# The largest share of the rows that a recipe's number of rows may be, where the data are others.
_LARGEST_SHARE = 0.2
# And the updates of the weights that its epochs then make at least.
_LEAST_UPDATES = 300
# For detectors: rows that calibrate for false-alarm rates of 5 % and 1 %, each with the largest
# share of all rows that they may be; and the share of all rows where that is more.
_LEAST_PICTURES = 100
_CALIBRATION = ((60, 0.4), (300, 0.3))
_CALIBRATION_SHARE = 0.2
# Rows that chose the epoch also shape the combined score.
_SHAPING, _SHAPING_SHARE = 30, 0.2
_DETECTOR_BATCHES, _LEAST_BATCH = 8, 25
# More epochs would only learn the details of few pictures.
_DETECTOR_UPDATES, _DETECTOR_EPOCHS = 750, 100
_LATENTS = 32
_BATCH = 250
# Training rows for each component of the prior.
_ROWS_PER_CAUSE = 25
_MOST_CAUSES = 100
_MOST_EPOCHS = 1000
_TABLE_UPDATES = 1000
_PICTURE_UPDATES = 3000


def settled(recipe: Recipe, place: Session, array: Data | None = None) -> Recipe:
    """Return the recipe with the keys of its `from_data` set, and an empty `from_data`.

    Raises:
        DataError: data that cannot be used, or too few rows.
    """
    if not recipe.from_data:
        return recipe
    images = place.open_recipe_data(recipe.data, array, by_class=not recipe.learning.memory)
    values = rules(recipe, images)
    own = [key for key in recipe.from_data if key in values]
    words = [f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in own]
    if words:
        rows = f"settings that follow from the data ({len(images):,} rows): "
        place.note([rows + ", ".join(words)])
    tables = config.to_dict(recipe) | {"from_data": []}
    return config.from_dict(config.with_settings(tables, words), recipe.name)


def rules(recipe: Recipe, images: Images) -> dict[str, Any]:
    """Return the value of every key that can follow from data, except those that stay as they are.

    Of a recipe that is made for its own data and gets others, the numbers of rows to hold out stay
    unless they are too large a share, and the epochs unless they make too few updates.

    Args:
        recipe: a batch size or a number of epochs that it sets itself counts.

    Raises:
        DataError: too few rows, or no column that varies.
    """
    table: dict[str, float] = {
        "data.validation": recipe.data.validation,
        "data.calibration": recipe.data.calibration,
    }
    counts = {key for key, number in table.items() if number >= 1 and key in recipe.from_data}
    most = _LARGEST_SHARE * len(images)
    values: dict[str, Any] = {key: _LARGEST_SHARE for key in counts if table[key] > most}
    if counts and not {*recipe.from_data} - counts - {"learning.epochs"}:
        kept: float = len(images)
        for held_out in (values.get(key, number) for key, number in table.items()):
            kept -= held_out if held_out >= 1 else held_out * kept
        epochs = math.ceil(_LEAST_UPDATES / math.ceil(kept / recipe.learning.batch_size))
        return values | ({"learning.epochs": epochs} if epochs > recipe.learning.epochs else {})
    by_rule = (_of_sampler if recipe.inference.draws else _of_detector)(recipe, images)
    return {key: value for key, value in by_rule.items() if key not in counts} | values


def _of_detector(recipe: Recipe, images: Images) -> dict[str, Any]:
    """Return the settings of a network whose rows set aside calibrate a detector.

    Raises:
        DataError: too few pictures or rows, or no column that varies.
    """
    count = len(images)
    name, least = ("rows", _LEAST_ROWS) if images.is_table else ("pictures", _LEAST_PICTURES)
    if count < least:
        raise DataError(
            f"{images.source}: has {count} {name}, {least} are needed",
            "150 allow ood-score's default false-alarm rate of 5 %, and 1,000 one of 1 %",
        )
    held_out = max(_CALIBRATION_SHARE * count, *(min(n, s * count) for n, s in _CALIBRATION))
    calibration = math.ceil(1e4 * held_out / count) / 1e4
    shaping = min(_SHAPING / (count - held_out), _SHAPING_SHARE)
    validation = round(max(0.1, shaping), 4)
    kept = round((count - held_out) * (1 - validation))
    batch = min(_BATCH, max(_LEAST_BATCH, kept // _DETECTOR_BATCHES))
    if "learning.batch_size" not in recipe.from_data:
        batch = recipe.learning.batch_size
    batches = math.ceil(kept / batch)
    if images.is_table:
        shape = _columns(images)
    else:
        shape = _size(images) | {"model.layers": [min(64, kept // 4), 256, 256, 256]}
    return shape | {
        "data.validation": validation,
        "data.calibration": calibration,
        "learning.batch_size": batch,
        "learning.epochs": min(_DETECTOR_EPOCHS, math.ceil(_DETECTOR_UPDATES / batches)),
    }


def _of_sampler(recipe: Recipe, images: Images) -> dict[str, Any]:
    """Return the settings of a network that learns by sampling.

    Raises:
        DataError: too few rows, or no column that varies.
    """
    count = len(images)
    if count < _LEAST_ROWS:
        raise DataError(
            f"{images.source}: has {count} rows, too few to learn a distribution from",
            f"At least {_LEAST_ROWS} are needed",
        )
    share = round(min(0.5, max(0.1, _LEAST_ROWS / count)), 3)
    kept = count - round(share * count)
    learning = recipe.learning
    batch = min(_BATCH, kept) if "learning.batch_size" in recipe.from_data else learning.batch_size
    updates = _TABLE_UPDATES if images.is_table else _PICTURE_UPDATES
    epochs = min(_MOST_EPOCHS, math.ceil(updates / math.ceil(kept / batch)))
    epochs = epochs if "learning.epochs" in recipe.from_data else learning.epochs
    values = {
        "data.validation": share,
        "model.causes": max(1, min(_MOST_CAUSES, kept // _ROWS_PER_CAUSE)),
        "learning.batch_size": batch,
        "learning.epochs": epochs,
        "learning.causes_warmup": epochs // 8,
    }
    return values | (_of_table(images) if images.is_table else _of_pictures(images))


def _of_table(images: Images) -> dict[str, Any]:
    """Return the settings for standardised columns, which vary around a linear prediction.

    Raises:
        DataError: no column varies.
    """
    return _columns(images) | {
        "model.likelihood": "gaussian",
        "model.precision.data": 100.0,
        "model.precision.hidden": 100.0,
        "learning.rate": 3e-3,
    }


def _columns(images: Images) -> dict[str, Any]:
    """Return the settings that take the columns which vary, and the layers for so many.

    Raises:
        DataError: no column varies.
    """
    rows_ND = images.rows(range(len(images))).pixels_BD
    names, varies_D = images.columns or [], (rows_ND != rows_ND[0]).any(0)
    columns = [name for name, varies in zip(names, varies_D.tolist(), strict=True) if varies]
    if not columns:
        raise DataError(f"{images.source}: every column is constant, so there is nothing to learn")
    own = {"data.columns": columns} if len(columns) < len(names) else {}
    return own | {"model.layers": [min(_LATENTS, len(columns)), 64, 64]}


def _of_pictures(images: Images) -> dict[str, Any]:
    """Return the settings for pixels in [0, 1]."""
    return _size(images) | {
        "model.layers": [_LATENTS, 256, 256],
        "model.likelihood": "bernoulli",
        "model.precision.hidden": 1000.0,
        "learning.rate": 1.5e-3,
    }


def _size(images: Images) -> dict[str, Any]:
    """Return the size of large pictures; others keep their own."""
    is_large = max(images.shape[1:]) > _LARGEST_SIDE
    return {"data.size": [_LARGEST_SIDE, _LARGEST_SIDE]} if is_large else {}
