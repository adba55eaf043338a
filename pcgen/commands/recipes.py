"""`pcgen.recipes`, and the recipe that a name, a file and settings make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.config import ARRAY

if TYPE_CHECKING:
    from pcgen.config import Recipe
    from pcgen.data.sources import Data

_HELD_OUT = ("validation", "calibration")


def recipes() -> list[dict[str, Any]]:
    """Return a row for every shipped recipe, with the measured error of its model.

    Example:
        >>> import pcgen
        >>> "digits" in [row["name"] for row in pcgen.recipes()]
        True
    """
    from pcgen import config
    from pcgen.storage.checkpoint import read_model_header

    rows = []
    for name in shipped.names():
        recipe = config.from_dict(config.read(shipped.recipe_path(name)), name)
        path = shipped.model_path(name)
        metrics = read_model_header(path)["metrics"] if path else {}
        rows.append(
            {
                "name": name,
                "data": recipe.data.source,
                "layers": _layers(recipe),
                "model": "shipped" if path else "-",
                "validation_mse": metrics.get("mse"),
                "validation_accuracy": metrics.get("accuracy"),
                "for": _task(recipe),
                "description": recipe.description,
            }
        )
    return rows


def _task(recipe: Recipe) -> str:
    """Return the commands that a recipe's model is made for."""
    if recipe.classifier is not None:
        return "classify"
    if recipe.learning.memory:
        return "recall"
    if recipe.model.upward:
        return "classify, sample"
    if recipe.inference.draws:
        return "sample"
    held_out = recipe.data.calibration or "data.calibration" in recipe.from_data
    return "ood-score" if held_out else "reconstruct"


def _layers(recipe: Recipe) -> list[Any]:
    """Return the sizes of a recipe's layers, in the recipe's order."""
    table = recipe.classifier
    if table is None:
        return [*recipe.model.layers]
    return [*(table.channels if table.kind == "convnet" else []), *table.hidden]


def resolve_recipe(
    recipe: str | Path | Recipe,
    *,
    data: Data | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
) -> Recipe:
    """Return the recipe of a shipped name or a TOML file, with settings laid over it.

    Args:
        data: data instead of the recipe's; of an array, the recipe notes only that it is one.
        settings: `key.path=value` words.
        seed: a seed instead of the recipe's.

    Raises:
        RecipeError: no such recipe, an unknown key, or a value that its key does not allow.
    """
    from pcgen import config

    if isinstance(recipe, config.Recipe):
        tables, where = config.to_dict(recipe), recipe.name
    else:
        tables, where = config.read(shipped.recipe_path(str(recipe))), str(recipe)
    tables = config.with_settings(tables, settings)
    keys = {word.partition("=")[0].strip() for word in settings}
    if isinstance(tables.get("from_data"), list):
        tables["from_data"] = [key for key in tables["from_data"] if key not in keys]
    if data is not None:
        table = tables.get("data", {})
        table = table if isinstance(table, dict) else {}
        tables = tables | {"data": table | {"source": _source(data)}}
        # A recipe that holds out a number of rows, not a share, is made for so many rows as its own
        # data have: for others this number and the epochs may have to change.
        counts = {key for key in _HELD_OUT if _is_count(table.get(key))}
        own = {f"data.{key}" for key in counts} - keys
        if own:
            own |= {"learning.epochs"} - keys
            tables["from_data"] = [*dict.fromkeys([*tables.get("from_data", []), *sorted(own)])]
    if seed is not None:
        tables["seed"] = seed
    return config.from_dict(tables, where)


def _is_count(held_out: Any) -> bool:
    """Return whether a value of `data.validation` is a number of rows, not a share of them."""
    return isinstance(held_out, int | float) and held_out >= 1


def _source(data: Data) -> str:
    """Return the words by which a recipe names data."""
    if isinstance(data, str):
        return data
    if isinstance(data, Path):
        # A single word would be read as a data set's name.
        return f"./{data}" if len(data.parts) == 1 else str(data)
    return ARRAY
