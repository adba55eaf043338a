"""The Python interface for builders gives the engine's numbers and checks what comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pcgen
from pcgen.commands.session import open_model
from pcgen.model.layers import Dense
from tests import oracle


class Halved(Dense):
    """A dense map of half the strength."""

    def drive(self, above_BU: Tensor) -> Tensor:
        return super().drive(above_BU / 2)


def dense(below: int, above: int, kind: type[Dense] = Dense) -> Dense:
    return kind.initial((1, 1, below), (1, 1, above), torch.Generator().manual_seed(0))


def test_a_list_becomes_the_network_of_the_same_recipe() -> None:
    table = oracle.network(layers=(3, [2, 4, 4]), shape=(1, 8, 8), activation="gelu").table
    network = pcgen.Network([3, (2, 4, 4), (1, 8, 8)], activation="gelu", kernel=3)
    assert network.table == table
    assert network.sizes == [64, 32, 3]
    assert type(network.layers[0]).__name__ == "TransposedConvolution"


def test_an_own_map_takes_the_place_of_the_map_between_its_neighbours() -> None:
    own = dense(7, 5, Halved)
    network = pcgen.Network([3, 5, own, 7])
    assert network.layers[0] is own
    energies = [float(step.energy_B.sum()) for step in pcgen.steps(network, torch.rand(4, 7))]
    assert energies == sorted(energies, reverse=True)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([5], "needs a latent and the data"),
        ([3, dense(7, 6), 7], "leads from 6 to 7 units, and stands between 3 and 7"),
        ([3, 5, (1, 8)], "data of"),
        ([3, 0, 7], "model.layers"),
    ],
)
def test_a_list_that_is_no_network_is_refused(layers: list[object], message: str) -> None:
    with pytest.raises(pcgen.RecipeError, match=message):
        pcgen.Network(layers)  # type: ignore[arg-type]


def test_infer_ends_where_reconstruct_does() -> None:
    model = open_model("digits")
    table = model.recipe.inference.for_use()
    images = np.random.default_rng(0).random((5, 1, 8, 8)).astype(np.float32)
    options = {"steps": table.test_steps, "tolerance": table.tolerance}
    end = pcgen.infer(pcgen.load("digits"), images, solver=table.solver, **options)
    expected = pcgen.reconstruct("digits", images).metrics["energy"]
    assert float(end.energy_B.mean()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("solver", ["majorise", "newton", "errors", "descent"])
def test_steps_are_those_of_inference(solver: str) -> None:
    network = oracle.network()
    data = oracle.data(network)
    *_, last = pcgen.steps(network, data, 7, solver=solver)
    end = pcgen.infer(network, data, steps=7, tolerance=0, solver=solver)
    torch.testing.assert_close(last.states, end.states)
    torch.testing.assert_close(last.energy_B, end.energy_B)


def test_a_step_adds_up_and_its_errors_are_values_minus_predictions() -> None:
    network = oracle.network(latent=0.5, learned=True, diagonal=True)
    mask = torch.ones(7, dtype=torch.float64)
    mask[4:] = 0
    *_, step = pcgen.steps(network, oracle.data(network), 3, mask=mask)
    total = torch.stack(step.energies).sum(0) + network.log_det(mask[None])
    torch.testing.assert_close(step.energy_B, total)
    torch.testing.assert_close(step.energy_B, network.energy(step.states, mask[None]))
    torch.testing.assert_close(step.errors[1], step.states[1] - step.predictions[1])
    assert not step.errors[0][:, 4:].any()


def test_one_own_training_step_lowers_the_energy_at_the_equilibrium() -> None:
    network, data = oracle.network(), oracle.data(oracle.network())
    before = pcgen.infer(network, data)
    for weight, gradient in zip(
        network.weights(), pcgen.weight_gradients(network, before.states), strict=True
    ):
        weight.sub_(0.01 * gradient)
    assert pcgen.infer(network, data).energy_B.mean() < before.energy_B.mean()


def test_a_saved_network_serves_the_commands(tmp_path: Path) -> None:
    network, path = pcgen.Network([3, 5, 7], seed=3), tmp_path / "network.safetensors"
    pcgen.save(network, path, ["inference.test_solver=newton"])
    loaded = pcgen.load(path)
    torch.testing.assert_close(loaded.tensors(), network.tensors(), rtol=0, atol=0)
    data = np.random.default_rng(0).random((4, 7))
    result = pcgen.reconstruct(path, data)
    assert result.metrics["energy"] == pytest.approx(
        float(pcgen.infer(network, data, solver="newton").energy_B.mean()), rel=1e-3
    )


def test_only_what_a_file_can_hold_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    with pytest.raises(pcgen.RecipeError, match="Halved: a map of your own"):
        pcgen.save(pcgen.Network([3, dense(7, 3, Halved), 7]), path)
    with pytest.raises(pcgen.RecipeError, match="only inference"):
        pcgen.save(pcgen.Network([3, 7]), path, ["model.activation=relu"])
    assert not path.exists()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.rand(7), {}, r"shape is \(7,\), and the network needs \(B, 7\)"),
        (torch.rand(2, 8), {}, r"needs \(B, 7\)"),
        (torch.full((2, 7), torch.nan), {}, "not finite"),
        (torch.rand(2, 7), {"latent": torch.rand(3, 3)}, "latent: 3 rows, and the data have 2"),
        (torch.rand(2, 7), {"mask": torch.rand(3)}, "mask: the shape is"),
        (torch.rand(2, 7), {"mask": torch.ones(3, 7)}, "mask: 3 rows, and the data have 2"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    data: Tensor, options: dict[str, Tensor], message: str
) -> None:
    network = pcgen.Network([3, 5, 7])
    for function in (pcgen.infer, pcgen.steps):
        with pytest.raises(pcgen.DataError, match=message):
            function(network, data, **options)  # type: ignore[arg-type]
