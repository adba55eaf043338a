"""Checks of the arguments of public functions; the command line refuses such values by itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pcgen.errors import RecipeError


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise RecipeError unless an argument is one of its values."""
    if value not in choices:
        raise RecipeError(f"{name} {value!r}: one of {', '.join(choices)}")


def require_known(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    """Raise RecipeError unless all names are known ones."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(f"no {kind} {', '.join(unknown)}", f"There are: {', '.join(known)}")


def require_share(name: str, value: float | None) -> None:
    """Raise RecipeError unless an argument is between 0 and 1, or not given."""
    if value is not None and not 0 < value < 1:
        raise RecipeError(f"{name} {value!r}: not between 0 and 1")
