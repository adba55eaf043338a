"""What is installed is what stands in the tree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pcgen import shipped
from pcgen.errors import RecipeError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_installed() -> None:
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "pcgen").rglob("__init__.py")
    }
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert found | {"pcgen.cli", "pcgen.models"} == listed


def test_every_dependency_is_pinned() -> None:
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pinned = {name.lower().replace("_", "-") for name in pins}
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(word for extra in extras for word in extra)]
    assert {re.split(r"[\[<>=]", word)[0] for word in wanted} <= pinned


def test_shipped_recipes_are_found_by_name() -> None:
    for name in shipped.names():
        assert shipped.recipe_path(name).is_file()


def test_a_path_is_no_shipped_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert shipped.recipe_path(str(file)) == file


def test_a_mistyped_recipe_gets_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "names", lambda: ["digits", "mnist"])
    with pytest.raises(RecipeError, match=r"Did you mean digits\?"):
        shipped.recipe_path("digit")
