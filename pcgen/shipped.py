"""The recipes and models that come with pcgen, found in a checkout and in a wheel alike."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from pcgen.errors import RecipeError


def folder() -> Path:
    """Return the folder of the shipped models: the repository's, or its installed copy."""
    return Path(str(resources.files("pcgen.models")))


def names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.parent.name for path in folder().glob("*/recipe.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe: a path if it looks like one, else a shipped name.

    Raises:
        RecipeError: a name that no shipped recipe has.
    """
    shipped = names()
    if name in shipped:
        return folder() / name / "recipe.toml"
    path = Path(name)
    if path.suffix == ".toml" or len(path.parts) > 1 or path.is_file():
        return path
    near = difflib.get_close_matches(name, shipped, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise RecipeError(f"{name}: no such recipe.{guess}", "Show the recipes: pcgen recipes")


def model_path(name: str) -> Path | None:
    """Return the checkpoint of a shipped model, or none if there is no such name."""
    path = folder() / name / "model.safetensors"
    return path if name in names() and path.is_file() else None


def detector_path(name: str) -> Path | None:
    """Return the detector of a shipped model, or none if there is no such name or no detector."""
    path = folder() / name / "detector.safetensors"
    return path if name in names() and path.is_file() else None
