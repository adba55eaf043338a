"""The documentation: the tutorials run, their pages show their code, and every figure is used."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
spec = spec_from_file_location("tutorials", DOCS / "tutorials" / "generate.py")
assert spec is not None
assert spec.loader is not None
tutorials = module_from_spec(spec)
spec.loader.exec_module(tutorials)

TEXT = {path: path.read_text() for path in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]}


@pytest.mark.parametrize("name", tutorials.NAMES)
def test_a_tutorial_page_shows_the_text_and_code_of_its_script(name: str) -> None:
    page = TEXT[DOCS / "tutorials" / f"{name}.md"]
    for is_text, body in tutorials.cells(name):
        part = body if is_text else tutorials.shown(body)
        assert part in page, f"renew it: python docs/tutorials/generate.py {name}"


@pytest.mark.slow
@pytest.mark.parametrize("name", tutorials.NAMES)
def test_a_tutorial_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tutorials, "IMAGES", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert tutorials.page(name).count("![") == len([*tmp_path.glob(f"{name}-*.png")]) > 0


def test_every_figure_is_used_and_has_a_caption() -> None:
    pictures = {path.resolve() for path in (DOCS / "img").rglob("*.png")}
    shown: set[Path] = set()
    for page, text in TEXT.items():
        for alt, target, after in re.findall(r"!\[(.*?)\]\((.*?)\)\n\n(.?)", text):
            assert alt, target
            assert after == "*", f"{page}: {target} has no caption"
            shown.add((page.parent / target).resolve())
    assert shown == pictures


def test_a_newcomers_words_are_in_the_glossary() -> None:
    glossary = TEXT[DOCS / "glossary.md"].lower()
    for word in (
        *("latent", "precision", "nat", "auroc", "r-hat", "effective sample size", "prior"),
        *("energy", "equilibrium", "inference", "backprop", "epoch", "p-value", "posterior"),
    ):
        assert f"| {word}" in glossary, word


def test_the_code_of_the_concepts_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT[DOCS / "concepts.md"], re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) >= 7
    assert names["equilibrium"].states[-1].shape == (10, 16)
