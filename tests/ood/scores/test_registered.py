"""A user's own score: one function, one call, then a score like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import pcgen
from pcgen import registry
from pcgen.cli.main import cli
from pcgen.commands.session import open_detector
from pcgen.data.sources import open_data
from pcgen.errors import CalibrationError, RecipeError
from pcgen.ood.detector import COMBINED
from pcgen.ood.scores import PC_SCORES, TABLE_SCORES
from pcgen.ood.scores.classifier import CLASSIFIER_SCORES

PLUGIN = '''
import pcgen

def distance(network, equilibrium, fitted):
    """Return the squared distance (B,) of the latent to the mean of known latents."""
    return (equilibrium.states[-1] - fitted["mean"]).square().sum(1)

def mean(network, equilibrium):
    return {"mean": equilibrium.states[-1].mean(0)}

pcgen.register_score("latent-distance", distance, fit=mean)
pcgen.register_score("prior-energy", lambda network, end, _: network.prior_energy(end.states[-1]))
'''


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own_scores.py"
    path.write_text(PLUGIN)
    monkeypatch.setattr(registry.SCORES, "_values", {})
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.setenv(registry.PLUGINS, str(path))


def test_an_own_score_is_calibrated_stored_and_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "own.safetensors"
    own = ("latent-distance", "prior-energy")
    pcgen.ood_calibrate("digits-ood", "digits", out, scores=own, device="cpu")
    detector = open_detector(out)
    assert detector.names[-2:] == own
    assert not {*own} & {*detector.components}
    rows = list(pcgen.ood_score(out, "digits:test", scores=own, device="cpu").rows())
    assert all(row["score"] == row["latent_distance"] for row in rows)
    assert sum(row["is_ood"] for row in rows) < 0.15 * len(rows)
    column = detector.scorers[-1](open_data("digits:test", limit=5).rows(range(5)).pixels_BD)
    expected = [row["prior_energy"] for row in rows[:5]]
    assert column["prior-energy"].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_detector_whose_score_is_not_registered_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "own.safetensors"
    command = ["ood-calibrate", "digits-ood", "digits", "--out", str(out), "-q"]
    result = CliRunner().invoke(cli, [*command, "--score", "prior-energy"])
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(registry.SCORES, "_values", {})
    monkeypatch.delenv(registry.PLUGINS)
    with pytest.raises(
        RecipeError, match=r"own\.safetensors: no score is called 'prior-e"
    ) as caught:
        pcgen.ood_score(out, "digits:test")
    assert registry.PLUGINS in caught.value.hint


def test_a_score_of_another_shape_is_refused(tmp_path: Path) -> None:
    pcgen.register_score("wide", lambda network, end, fitted: end.states[-1])
    with pytest.raises(CalibrationError, match="score wide: returned shape"):
        pcgen.ood_calibrate("digits-ood", "digits", tmp_path / "x.safetensors", scores=["wide"])


@pytest.mark.parametrize("name", ["free-energy", "msp", COMBINED, "Two Words", "a.b", ""])
def test_names_of_pcgen_and_unfit_names_are_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        pcgen.register_score(name, lambda network, end, fitted: torch.zeros(1))


def test_the_table_has_every_score_of_pcgen() -> None:
    assert registry.SCORES.names() == [COMBINED, *PC_SCORES, *TABLE_SCORES, *CLASSIFIER_SCORES]


def test_a_classifier_s_score_needs_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="msp: is a score of a classifier"):
        pcgen.ood_calibrate("digits-ood", "digits", tmp_path / "x.safetensors", scores=["msp"])
