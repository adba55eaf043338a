"""Open tables: a user's own names beside those of pcgen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

import pcgen
from pcgen import registry
from pcgen.config import InferenceTable, from_dict, with_settings
from pcgen.errors import CheckpointError, RecipeError
from pcgen.inference.infer import infer
from pcgen.inference.solvers import Method, prepare
from pcgen.model.activations import activation
from pcgen.model.energy import AutogradEnergy, Bernoulli
from pcgen.storage.checkpoint import load_model
from tests import oracle

TABLES = (registry.ACTIVATIONS, registry.LIKELIHOODS, registry.SOLVERS)


@pytest.fixture(autouse=True)
def _forget_what_a_test_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.delenv(registry.PLUGINS, raising=False)
    for table in TABLES:
        monkeypatch.setattr(table, "_values", dict(table._values))


def mine(tmp_path: Path, text: str) -> str:
    """Return the path of a plugin file with this text."""
    path = tmp_path / "mine.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.what)
def test_every_built_in_name_has_a_value(table: registry.Table) -> None:
    for name in table.names():
        assert table.get(name) is not None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "model.activation=tahn",
            r"model.activation: no activation .* \(did you mean tanh\?",
        ),
        ("model.output=x", "model.output: no activation is called 'x'; known: linear, tanh"),
        ("model.likelihood=gauss", r"no likelihood is called 'gauss' \(did you mean gaussian\?"),
        ("inference.solver=newtn", r"inference.solver: no solver .* \(did you mean newton\?"),
        ("inference.test_solver=newtn", r"inference.test_solver: no solver .*; known: majorise,"),
        ('inference.solver=""', "inference.solver: no solver is called ''"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest_one(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        from_dict(with_settings({}, [setting]))
    assert "PCGEN_PLUGINS" in caught.value.hint


def test_a_name_that_comes_with_pcgen_cannot_be_replaced() -> None:
    with pytest.raises(RecipeError, match="register activation: 'tanh' comes with pcgen"):
        pcgen.register_activation("tanh", torch.tanh)
    with pytest.raises(RecipeError, match="'' is no name"):
        pcgen.register_solver("", lambda network, table: None)


def test_a_plugin_is_imported_where_a_name_does_not_come_with_pcgen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import pcgen, torch\npcgen.register_activation('soft', torch.nn.functional.softsign)\n"
    monkeypatch.setenv(registry.PLUGINS, f"json,{mine(tmp_path, text)}")
    from_dict({})
    assert not registry._loaded
    assert from_dict({"model": {"activation": "soft"}}).model.activation == "soft"


@pytest.mark.parametrize("place", ["no_such_module", "{folder}/none.py", "{folder}/mine.py"])
def test_a_plugin_that_cannot_be_imported_is_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine(tmp_path, "1 / 0")
    place = place.format(folder=tmp_path)
    monkeypatch.setenv(registry.PLUGINS, place)
    with pytest.raises(RecipeError, match=r"PCGEN_PLUGINS: .*: cannot be imported: ") as caught:
        from_dict({"inference": {"solver": "soft"}})
    assert place in str(caught.value)


def test_a_model_of_an_unregistered_name_says_which_and_how_to_load_it(tmp_path: Path) -> None:
    pcgen.register_activation("soft", functional.softsign)
    settings = ["model.activation=soft", "learning.epochs=1", "data.limit=50", "model.layers=[3,5]"]
    pcgen.train("digits", tmp_path / "run", settings=settings)
    path = tmp_path / "run" / "model.safetensors"
    assert load_model(path).network.hidden_energies()[0].activation.name == "soft"
    del registry.ACTIVATIONS._values["soft"]
    with pytest.raises(CheckpointError, match="no activation is called 'soft'") as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "PCGEN_PLUGINS=" in caught.value.hint


def test_the_slope_of_an_own_activation_is_its_derivative() -> None:
    pcgen.register_activation("soft", functional.softsign)
    drive = torch.linspace(-3, 3, 50, dtype=torch.float64)
    soft = activation("soft")
    found = soft.slope(drive, soft.value(drive))
    torch.testing.assert_close(found, (1 + drive.abs()) ** -2)


def test_a_likelihood_by_autograd_has_the_energy_and_the_slopes_of_the_closed_form() -> None:
    def cost(value: torch.Tensor, drive: torch.Tensor) -> torch.Tensor:
        return functional.softplus(drive) - value * drive

    own, closed = AutogradEnergy(cost, torch.sigmoid, 0.25), Bernoulli()
    source = torch.Generator().manual_seed(0)
    value, drive, mask = (torch.rand(4, 6, generator=source).double() for _ in range(3))
    for seen in (None, (mask > 0.5).double()):
        a, b = own.terms(value, drive, seen), closed.terms(value, drive, seen)
        for name in ("energy_B", "prediction_BD", "pull_BD", "signal_BD"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name))
        assert (own.curvature(a, None, drive, seen) >= closed.curvature(b, None, drive, seen)).all()
    with pytest.raises(RecipeError, match="no `sample` function"):
        own.draw(value, drive)


def test_an_own_likelihood_and_an_own_solver_find_the_same_minimum_as_ours() -> None:
    def cost(value: torch.Tensor, drive: torch.Tensor) -> torch.Tensor:
        return functional.softplus(drive) - value * drive

    pcgen.register_likelihood("own", lambda: AutogradEnergy(cost, torch.sigmoid, 0.25))

    def again(network: pcgen.model.network.Network, table: InferenceTable) -> Method:
        return registry.SOLVERS.get("newton")(network, table)

    pcgen.register_solver("again", again)
    energies = []
    for likelihood, solver in (("bernoulli", "majorise"), ("own", "again"), ("own", "majorise")):
        network = oracle.network(likelihood=likelihood, latent=0.5)
        method = prepare(network, InferenceTable(solver=solver))
        energies.append(infer(method, oracle.data(network), steps=200).energy_B)
    torch.testing.assert_close(energies[1], energies[0])
    torch.testing.assert_close(energies[2], energies[0])
