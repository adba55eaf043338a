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
    values = rules(recipe, place.open_recipe_data(recipe.data, array))
    own = [key for key in recipe.from_data if key in values]
    words = [f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in own]
    place.note(["settings that follow from the data: " + ", ".join(words)])
    tables = config.to_dict(recipe) | {"from_data": []}
    return config.from_dict(config.with_settings(tables, words), recipe.name)


def rules(recipe: Recipe, images: Images) -> dict[str, Any]:
    """Return the value of every key that can follow from data, except those that stay as they are.

    Args:
        recipe: a batch size or a number of epochs that it sets itself counts.

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
    rows_ND = images.rows(range(len(images))).pixels_BD
    names, varies_D = images.columns or [], (rows_ND != rows_ND[0]).any(0)
    columns = [name for name, varies in zip(names, varies_D.tolist(), strict=True) if varies]
    if not columns:
        raise DataError(f"{images.source}: every column is constant, so there is nothing to learn")
    return ({"data.columns": columns} if len(columns) < len(names) else {}) | {
        "model.layers": [min(_LATENTS, len(columns)), 64, 64],
        "model.likelihood": "gaussian",
        "model.precision.data": 100.0,
        "model.precision.hidden": 100.0,
        "learning.rate": 3e-3,
    }


def _of_pictures(images: Images) -> dict[str, Any]:
    """Return the settings for pixels in [0, 1]."""
    is_large = max(images.shape[1:]) > _LARGEST_SIDE
    size = {"data.size": [_LARGEST_SIDE, _LARGEST_SIDE]} if is_large else {}
    return size | {
        "model.layers": [_LATENTS, 256, 256],
        "model.likelihood": "bernoulli",
        "model.precision.hidden": 1000.0,
        "learning.rate": 1.5e-3,
    }
