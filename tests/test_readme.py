"""The README's transcript runs as it stands, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from pcgen.cli.main import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line[2:], comments=True) for line in block.splitlines() if line[:1] == "$"]


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


@pytest.mark.parametrize("words", [w for block in BLOCKS[1:] for w in commands(block)], ids=str)
def test_every_other_command_is_one_that_parses(words: list[str]) -> None:
    context = cli.make_context("pcgen", words[1:2], resilient_parsing=True)
    command = cli.get_command(context, words[1])
    assert command is not None
    command.make_context(words[1], words[2:], resilient_parsing=False).close()


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PCGEN_SET_LEARNING__EPOCHS", "1")
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})
    assert (tmp_path / "runs/digits/model.safetensors").is_file()


def test_links_lead_to_files() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("models/*/CARD.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("name", ["digits-ood", "mnist-ood"])
def test_shipped_detectors_are_small_and_are_of_the_shipped_models(name: str) -> None:
    from pcgen.commands import api
    from pcgen.commands.ood import open_detector

    folder = ROOT / "models" / name
    assert max(path.stat().st_size for path in folder.glob("*.safetensors")) < 8e6
    assert (folder / "CARD.md").is_file()
    model, detector = api.open_model(name), open_detector(name)
    assert model.recipe == detector.model.recipe == api.resolve_recipe(name)
    assert detector.model.header["metrics"] == model.header["metrics"]
    for layer, theirs in zip(model.network.layers, detector.model.network.layers, strict=True):
        assert (layer.weight == theirs.weight).all()


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist", "cifar10", "cifar10-large"])
def test_shipped_models_are_small_and_are_what_their_recipes_say(name: str) -> None:
    import pcgen
    from pcgen.commands import api

    path = ROOT / "models" / name / "model.safetensors"
    assert path.stat().st_size < 8e6
    assert api.open_model(name).recipe == api.resolve_recipe(name)
    assert (ROOT / "models" / name / "CARD.md").is_file()
    assert pcgen.info(name)["metrics"]["mse"] < 8e-3


@pytest.mark.parametrize("name", ["iris", "mnist-sampler"])
def test_shipped_samplers_are_small_draw_and_are_what_their_recipes_say(name: str) -> None:
    import pcgen
    from pcgen.commands import api

    path = ROOT / "models" / name / "model.safetensors"
    assert path.stat().st_size < 8e6
    assert api.open_model(name).recipe == api.resolve_recipe(name)
    assert (ROOT / "models" / name / "CARD.md").is_file()
    drawn = pcgen.sample(name, 50, label=0).samples.data_BD
    assert drawn.std(0).max() > 0.1
