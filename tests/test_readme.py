"""The README's transcript runs, and the links, paths and commands of all documents are right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from pcgen.cli.main import cli
from pcgen.config import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/CARD.md")]


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line[2:], comments=True) for line in block.splitlines() if line[:1] == "$"]


def commands_of(page: Path) -> list[list[str]]:
    """Return the words of every pcgen command in the page's console and indented blocks."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?: {4,}|\$ )(pcgen .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_first_transcript_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = commands(BLOCKS[0])
    assert len(words) == 4
    for program, *arguments in words:
        assert program == "pcgen"
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "runs/digits/reconstructions.png").stat().st_size > 1000
    assert list((tmp_path / "runs/digits").glob("*.html"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_document_parses(page: Path) -> None:
    for words in commands_of(page):
        if {"[OPTIONS]", "MODEL", "DETECTOR"} & set(words):
            continue  # a synopsis
        context, command = click.Context(cli, info_name="pcgen"), cli
        arguments = words[1:]
        while isinstance(command, click.Group):
            name, arguments = arguments[0], arguments[1:]
            found = command.get_command(context, name)
            assert found is not None, words
            command = found
        command.make_context(name, arguments, parent=context).close()


def test_the_python_example_runs_in_nine_lines(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(capsys.readouterr().out.splitlines()) == 11
    assert len(names["gradients"]) == 4
    assert len(code.strip().replace("\n\n", "\n").splitlines()) <= 9


def test_the_readme_is_short_and_has_pictures() -> None:
    assert len(README.splitlines()) < 150
    assert len(re.findall(r"^!\[.+\]\(docs/img/", README, re.MULTILINE)) >= 5


def test_the_examples_in_the_guide_to_unusual_data_run() -> None:
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/ood.md").read_text(), re.DOTALL):
        exec(code, names)
    assert names["result"].document()["flagged"] == 20
    assert names["verdicts"].tolist() == [1, -1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(anchor_of, headings), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_documents_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # older entries name older files
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:pcgen|cli|models|docs|tests)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def undescribed(recipe: Recipe) -> Recipe:
    """Return the recipe without its description, whose words may change after training."""
    return msgspec.structs.replace(recipe, description="")


@pytest.mark.parametrize("name", ["digits-ood", "mnist-ood", "fashion-mnist-ood"])
def test_shipped_detectors_are_small_and_are_of_the_shipped_models(name: str) -> None:
    from pcgen.commands.recipes import resolve_recipe
    from pcgen.commands.session import open_detector, open_model

    folder = ROOT / "models" / name
    assert max(path.stat().st_size for path in folder.glob("*.safetensors")) < 8e6
    assert (folder / "CARD.md").is_file()
    model, detector = open_model(name), open_detector(name)
    assert model.recipe == detector.model.recipe
    assert undescribed(model.recipe) == undescribed(resolve_recipe(name))
    assert detector.model.header["metrics"] == model.header["metrics"]
    for layer, theirs in zip(model.network.layers, detector.model.network.layers, strict=True):
        assert (layer.weight == theirs.weight).all()


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist", "cifar10", "cifar10-large"])
def test_shipped_models_are_small_and_are_what_their_recipes_say(name: str) -> None:
    import pcgen
    from pcgen.commands.recipes import resolve_recipe
    from pcgen.commands.session import open_model

    path = ROOT / "models" / name / "model.safetensors"
    assert path.stat().st_size < 8e6
    assert undescribed(open_model(name).recipe) == undescribed(resolve_recipe(name))
    assert (ROOT / "models" / name / "CARD.md").is_file()
    assert pcgen.info(name)["metrics"]["mse"] < 8e-3


@pytest.mark.parametrize("name", ["iris", "mnist-sampler", "mnist-both-ways"])
def test_shipped_samplers_are_small_draw_and_are_what_their_recipes_say(name: str) -> None:
    import pcgen
    from pcgen.commands.recipes import resolve_recipe
    from pcgen.commands.session import open_model

    path = ROOT / "models" / name / "model.safetensors"
    assert path.stat().st_size < 8e6
    assert undescribed(open_model(name).recipe) == undescribed(resolve_recipe(name))
    assert (ROOT / "models" / name / "CARD.md").is_file()
    drawn = pcgen.sample(name, 50, label=0).samples.data_BD
    assert drawn.std(0).max() > 0.1
