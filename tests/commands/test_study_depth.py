"""The depth study: its law, its networks and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pcgen
from pcgen.errors import RecipeError
from pcgen.studies import depth


def test_the_exponent_of_a_power_law_is_found_and_missing_steps_are_left_out() -> None:
    depths = (4, 8, 16, 32)
    assert depth.exponent(depths, [3 * d**1.5 for d in depths]) == pytest.approx(1.5)
    assert depth.exponent(depths, [5, 5, 5, torch.inf]) == pytest.approx(0)
    assert depth.exponent(depths, [5, torch.inf, torch.inf, torch.inf]) is None


@pytest.mark.parametrize("kind", depth.NETWORKS)
def test_the_slopes_of_a_network_of_the_study_are_those_of_its_energy(kind: str) -> None:
    at = depth.problem(kind, "clamped", 4, 8, images=2)
    inference = at.begin(depth.methods(at.network, "newton")[0])
    inference.step()
    states = [state.clone().requires_grad_() for state in inference.states]
    slopes = torch.autograd.grad(at.network.energy(states).sum(), states[1:-1])
    for ours, autograd in zip(inference.slopes(), slopes, strict=True):
        torch.testing.assert_close(ours, autograd)


@pytest.fixture
def one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure clamped residual networks at one rate only."""
    for name, value in {
        "NETWORKS": ("residual",),
        "LATENTS": ("clamped",),
        "RATES": (0.2,),
    }.items():
        monkeypatch.setattr(depth, name, value)
    monkeypatch.setattr(depth, "_LONG", 15)


@pytest.mark.usefixtures("one_network")
def test_nesterov_needs_fewer_steps_than_descent_and_newton_the_fewest(tmp_path: Path) -> None:
    solvers = ("newton", "nesterov", "descent")
    table = pcgen.study_depth((8,), (8,), solvers=solvers, steps=120, images=2, out=tmp_path)
    assert json.loads((tmp_path / "depth.json").read_text()) == table
    steps = {
        row["solver"]: row["median"] for row in table if row["depth"] and row["tolerance"] == 1e-3
    }
    assert steps["newton"] < steps["nesterov"] < (steps["descent"] or 121)


@pytest.mark.usefixtures("one_network")
def test_an_image_that_does_not_arrive_has_no_number_of_steps() -> None:
    table = pcgen.study_depth((8,), (8,), solvers=("descent",), steps=1, images=2)
    assert all(row["median"] is None for row in table)


def test_an_unknown_solver_is_named() -> None:
    with pytest.raises(RecipeError, match="no solver newtn"):
        pcgen.study_depth(solvers=("newtn",))
