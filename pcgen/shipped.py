"""The recipes, models and detectors that come with pcgen, in a checkout and in a wheel alike."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from pcgen.errors import CheckpointError, RecipeError


def folder() -> Path:
    """Return the folder of the shipped models: the repository's, or its installed copy."""
    return Path(str(resources.files("pcgen.models")))


def names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.parent.name for path in folder().glob("*/recipe.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe, of a shipped name or of a path.

    Raises:
        RecipeError: no shipped recipe has that name, and it is no path.
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
    """Return the file with a shipped model; None if no shipped model has that name.

    A shipped detector holds its model.
    """
    return _file(name, "model.safetensors") or detector_path(name)


def detector_path(name: str) -> Path | None:
    """Return the detector of a shipped model; None if no shipped detector has that name."""
    return _file(name, "detector.safetensors")


def find_model(model: str | Path) -> Path:
    """Return the file with a model: a checkpoint or detector, a run's folder or a shipped name.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    path = Path(model)
    if path.is_dir():
        if (path / "model.safetensors").is_file():
            return path / "model.safetensors"
        raise CheckpointError(
            f"{path}: holds no model.safetensors", f"Train one: pcgen train digits --out {path}"
        )
    known = None if path.exists() else model_path(str(model))
    if known is None and not path.exists():
        raise CheckpointError(
            f"{model}: no such checkpoint, and no shipped model of that name",
            "Show the models: pcgen recipes",
        )
    return known or path


def find_detector(detector: str | Path) -> Path:
    """Return the file of a detector, a folder that holds one, or a shipped name.

    Raises:
        CheckpointError: there is no such detector.
    """
    path = Path(detector)
    if path.is_dir():
        path = path / "detector.safetensors"
    known = None if path.exists() else detector_path(str(detector))
    if known is None and not path.exists():
        there = ", ".join(name for name in names() if detector_path(name))
        raise CheckpointError(
            f"{detector}: no such detector, and no shipped one of that name",
            f"Shipped detectors: {there}. Make one: pcgen ood-calibrate MODEL DATA --out DETECTOR",
        )
    return known or path


def _file(name: str, file: str) -> Path | None:
    path = folder() / name / file
    return path if name in names() and path.is_file() else None
