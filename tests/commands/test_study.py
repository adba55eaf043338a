"""The studies of training: the chain's mathematics, its rules, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

import pcgen
from cli.main import cli
from pcgen.commands.progress import Event
from pcgen.model.activations import activation
from pcgen.studies import grids, rules
from pcgen.studies.chain import KINDS, Batch, Chain
from pcgen.studies.training import Setting, cosine, load, train

BOTH = pytest.mark.parametrize("entropy", [False, True])
EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def example(kind: str, entropy: bool, hidden: int = 3, name: str = "tanh") -> tuple[Chain, Batch]:
    """Return a chain of 2 seeds with biases, and 5 images."""
    units = activation(name)
    chain = Chain((6, 4, 3), hidden, 2, kind=kind, activation=units, entropy=entropy)
    source = torch.Generator().manual_seed(1)
    for bias in chain.weights[3:]:
        bias += 0.3 * torch.randn(bias.shape, generator=source)
    chain.weights[2] *= 2
    labels = functional.one_hot(torch.arange(10).reshape(2, 5) % 3).double()
    return chain, Batch(torch.randn(2, 5, 6, generator=source), labels, source)


@EACH
@BOTH
def test_the_slopes_and_gradients_of_a_chain_are_those_of_its_energy(
    kind: str, entropy: bool
) -> None:
    chain, batch = example(kind, entropy)
    states = torch.randn(3, 2, 5, 4, generator=batch.source).requires_grad_()
    for weight in chain.weights:
        weight.requires_grad_()
    at = chain.at(states, batch, chain.first(batch.data_SBD))
    total = chain.energies(at, batch, 1.0).sum()
    slopes, *gradients = torch.autograd.grad(total, [states, *chain.weights])
    with torch.no_grad():
        at = chain.at(states, batch, chain.first(batch.data_SBD))
        ours = at.hidden - chain.adjoint(at, at.hidden, at.output)
        torch.testing.assert_close(ours, slopes)
        for left, right in zip(
            chain.gradients(at, batch, at.hidden, at.output), gradients, strict=True
        ):
            torch.testing.assert_close(left * 5, right)


@EACH
@BOTH
def test_backprop_is_the_gradient_of_the_loss(kind: str, entropy: bool) -> None:
    chain, batch = example(kind, entropy)
    for weight in chain.weights:
        weight.requires_grad_()
    logits = chain.logits(chain.forward(batch.data_SBD))
    if entropy:
        loss = -(batch.labels_SBK * logits.log_softmax(-1)).sum()
    else:
        loss = 0.5 * (batch.labels_SBK - logits).square().sum()
    wanted = torch.autograd.grad(loss, chain.weights)
    with torch.no_grad():
        at, *signals = rules.backprop(chain, batch, Setting())
        for left, right in zip(chain.gradients(at, batch, *signals), wanted, strict=True):
            torch.testing.assert_close(left * 5, right)


@EACH
@BOTH
@pytest.mark.parametrize("precision", [0.5, 1.0, 20.0])
def test_slopes_vanish_at_the_equilibrium_of_linear_units(
    kind: str, entropy: bool, precision: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, batch = example(kind, entropy, name="linear")
    monkeypatch.setattr(rules, "_STEPS", 20 if entropy else 1)
    at, hidden, output = rules.equilibrium(chain, batch, Setting(precision=precision))
    assert (hidden - chain.adjoint(at, hidden, output)).abs().max() < 1e-8


@EACH
@BOTH
def test_three_steps_to_the_equilibrium_lower_every_energy_more_than_descent(
    kind: str, entropy: bool
) -> None:
    chain, batch = example(kind, entropy)
    ends = {
        name: chain.energies(rules.RULES[name].run(chain, batch, Setting())[0], batch, 1.0).sum(0)
        for name in ("backprop", "pc", "equilibrium")
    }
    assert (ends["equilibrium"] < ends["backprop"]).all()
    assert (ends["equilibrium"].sum() < ends["pc"].sum()).all()


def test_frozen_predictions_give_backprop_after_as_many_steps_as_hidden_layers() -> None:
    chain, batch = example("residual", entropy=False, hidden=5)
    _, wanted, _ = rules.backprop(chain, batch, Setting())
    _, short, _ = rules.frozen(chain, batch, Setting(steps=4, rate=1.0))
    _, long, _ = rules.frozen(chain, batch, Setting(steps=5, rate=1.0))
    torch.testing.assert_close(long, wanted)
    assert not torch.allclose(short, wanted)


def test_dual_variables_bring_deep_gradients_nearer_to_backprop() -> None:
    chain, batch = example("residual", entropy=False, hidden=12)
    found = {}
    for name in ("backprop", "pc", "dual"):
        setting = Setting(rule=name, depth=13, steps=0, rate=0.0)
        at, *signals = rules.RULES[name].run(chain, batch, setting)
        found[name] = chain.gradients(at, batch, *signals)
    near = {name: cosine(found[name], found["backprop"]).min() for name in ("pc", "dual")}
    assert near["dual"] > near["pc"]


@pytest.mark.parametrize("rule", rules.RULES)
def test_every_rule_learns_two_moons(rule: str) -> None:
    torch.set_default_dtype(torch.float32)
    setting = Setting(width=32, rule=rule, steps=6, rate=0.0, weight_rate=0.01, epochs=12, batch=50)
    with torch.no_grad():
        reached = train(setting, load("two-moons", 1000), 2)
    assert reached["accuracy"].min() > 0.8
    assert reached["accuracy"].shape == (2,)


def test_the_start_from_zero_is_worse_at_few_steps() -> None:
    torch.set_default_dtype(torch.float32)
    study = replace(grids.STUDIES["init"], quick=[{"start": ("forward", "zero"), "steps": (3,)}])
    settings = study.settings(False, (), ())
    with torch.no_grad():
        forward, zero = grids.rows(study, settings, ["digits"], images=1000, seeds=3)
    assert forward["accuracy"] > zero["accuracy"] + 0.1


def test_the_precision_study_goes_from_predictive_coding_to_backprop(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    result = pcgen.study("precision", data=["digits"], images=200, seeds=2, out=tmp_path)
    assert json.loads((tmp_path / "precision.json").read_text()) == result["table"]
    exact = [row for row in result["table"] if row["rule"] == "equilibrium"]
    assert exact[-1]["cosine"] > 0.999 > 0.9 > exact[0]["cosine"]
    assert exact[-1]["hidden_share"] < 1e-3 < 0.1 < exact[0]["hidden_share"]
    page = (tmp_path / "index.html").read_text()
    assert result["seen"][:40] in page
    assert "<svg" in page


def test_the_kept_rows_are_those_with_the_best_held_out_accuracy() -> None:
    study = grids.STUDIES["init"]
    shared = {"data": "d", "start": "zero", "steps": 3, "momentum": 0.0}
    table = [
        shared | {"rate": 0.1, "validation": 0.5, "accuracy": 0.9},
        shared | {"rate": 0.3, "validation": 0.6, "accuracy": 0.4},
    ]
    assert grids.kept(study, table) == table[1:]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["energy", "--optimisers", "adam"], "no optimiser adam"),
        (["energy", "--rates", "-0.1"], "rates -0.1: not all above 0"),
        (["energy", "--rates", "nan"], "rates nan: not all above 0"),
        (["energy", "--rates", "fast"], "fast: not a number"),
        (["init", "--data", "no-such-set"], "no-such-set"),
        (["init", "--out", "{file}"], "blocked"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], message: str, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    result = CliRunner().invoke(
        cli, ["study", *(word.format(file=blocked) for word in words), "-q"]
    )
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_unknown_study_is_answered_with_the_known_ones() -> None:
    with pytest.raises(pcgen.RecipeError, match="study 'ini': one of init, energy"):
        pcgen.study("ini")


@pytest.mark.parametrize("name", grids.STUDIES)
@pytest.mark.parametrize("full", [False, True])
def test_the_settings_of_a_study_differ_in_what_its_rows_show(name: str, full: bool) -> None:
    study = grids.STUDIES[name]
    settings = study.settings(full, (), ())
    shown = {tuple(getattr(each, key) for key in study.keys if key != "data") for each in settings}
    assert len(shown) == len(settings)


def test_given_rates_and_optimisers_take_the_place_of_the_studys() -> None:
    settings = grids.STUDIES["energy"].settings(False, [0.2], ["sgd"])
    assert {(each.rate, each.optimiser) for each in settings} == {(0.2, "sgd")}


@pytest.mark.parametrize("name", [name for name in grids.STUDIES if name != "remedies"])
def test_every_study_says_what_it_sees(name: str, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    data = ["two-moons"]
    result = pcgen.study(name, data=data, images=60, seeds=2, rates=[0.1], out=tmp_path)
    assert result["seen"]
    assert "svg" in (tmp_path / "index.html").read_text()


def test_a_study_that_is_stopped_keeps_its_rows_and_says_where(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)

    def stop(event: Event) -> None:
        if event.done == 2:
            raise KeyboardInterrupt

    path = tmp_path / "precision.json"
    with pytest.raises(KeyboardInterrupt) as interrupt:
        pcgen.study(
            "precision", data=["two-moons"], images=100, seeds=1, out=tmp_path, on_progress=stop
        )
    assert len(json.loads(path.read_text())) == 2
    assert interrupt.value.args == (f"Interrupted. The rows so far (2) are in {path}", "")
    with pytest.raises(KeyboardInterrupt) as interrupt:
        pcgen.study("precision", data=["two-moons"], images=100, seeds=1, on_progress=stop)
    assert interrupt.value.args == ()
