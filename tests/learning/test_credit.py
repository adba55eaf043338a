"""How credit is assigned: each measure where its right value is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import pcgen
from pcgen.cli.main import cli
from pcgen.config import Recipe, from_dict
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.credit import Credit, cosine, credit_of, parameters
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.model.network import Network

TABLES: dict[str, Any] = {
    "model": {"layers": [8, 24, 24], "start": "linear", "precision": {"latent": 0.01}},
    "inference": {"solver": "majorise", "steps": 4, "test_solver": "newton"},
    "learning": {"epochs": 5, "batch_size": 50, "rate": 6e-3},
}


@pytest.fixture(scope="module")
def images() -> Images:
    return open_data("digits", limit=200)


@pytest.fixture(scope="module")
def network(images: Images) -> Network:
    recipe = from_dict(TABLES)
    sample_BD = sample(images, 0)
    training = Training(
        PredictiveCoding(initial_network(recipe, sample_BD, images.shape), recipe, sample_BD)
    )
    with torch.no_grad():
        for _ in training.run(images, None):
            pass
    return training.network


def credit(network: Network, images: Images, hidden: float = 1.0, **inference: Any) -> Credit:
    recipe: Recipe = from_dict(TABLES | {"inference": TABLES["inference"] | inference})
    network = network.to("cpu")
    for log_precision in network.log_precisions[1:-1]:
        log_precision.fill_(hidden).log_()
    with torch.no_grad():
        return credit_of(network, recipe, images)


def test_the_hidden_share_is_that_of_the_energies_where_training_ends(
    network: Network, images: Images
) -> None:
    found = credit(network, images, schedule=[[3, 7]])
    method = prepare(network, from_dict(TABLES).inference, reduced=False)
    states = infer(method, images.rows(range(200)).pixels_BD, steps=7).states
    energies = [0.005 * states[-1].square().sum()]
    for i in range(3):
        drive = states[i + 1] @ network.layers[i].weight.T + network.layers[i].bias
        predicted = drive if i == 0 else drive.tanh()
        energies.append(0.5 * (states[i] - predicted).square().sum())
    share = (energies[2] + energies[3]) / sum(energies)
    assert found.hidden_share == pytest.approx(float(share), rel=1e-4)
    assert found.hidden_share > 0.01


def test_inference_begins_where_training_does(network: Network, images: Images) -> None:
    plain, zero = (credit(network, images, steps=1, starts=[x]) for x in (1.0, 0.0))
    assert credit(network, images, steps=1, starts=[0.0, 1.0]) not in (plain, zero)
    assert plain.hidden_share != zero.hidden_share


def test_training_to_the_equilibrium_has_its_gradient(network: Network, images: Images) -> None:
    few, many = credit(network, images, steps=1), credit(network, images, steps=400)
    assert many.cosine_equilibrium == pytest.approx(1.0, abs=1e-4)
    assert few.cosine_equilibrium < 0.99
    assert many.equilibrium_converged == 1.0


def test_at_a_high_hidden_precision_the_gradient_is_that_of_backprop(
    network: Network, images: Images
) -> None:
    high = credit(network, images, 1e4, solver="errors", test_solver="errors", steps=100)
    assert high.cosine_backprop == pytest.approx(1.0, abs=1e-3)
    assert high.hidden_share < 1e-3
    assert credit(network, images, steps=100).cosine_backprop < 0.95


def test_the_error_from_zero_is_that_of_inference_from_a_latent_of_zero(
    network: Network, images: Images
) -> None:
    found = credit(network, images, test_solver="descent", test_steps=1)
    table = from_dict({"inference": {"solver": "descent"}}).inference
    data_BD = images.rows(range(200)).pixels_BD
    zero = torch.zeros(200, 8)
    states = infer(prepare(network, table), data_BD, steps=1, latent_BD=zero).states
    error = (network.decode(states[-1]).clamp(0, 1) - data_BD).square().mean()
    assert found.mse_from_zero == pytest.approx(float(error), rel=1e-4)
    assert found.mse < 0.95 * found.mse_from_zero


def test_nothing_random_is_used(network: Network, images: Images) -> None:
    state = torch.get_rng_state()
    assert credit(network, images) == credit(network, images)
    assert torch.equal(state, torch.get_rng_state())


def test_parameters_count_the_start_the_mixture_and_learned_precisions() -> None:
    recipe = from_dict(
        {
            "model": {
                "layers": [2, 3],
                "start": "linear",
                "causes": 4,
                "precision": {"latent": 1.0, "learned": True, "diagonal": True},
            }
        }
    )
    counts = parameters(initial_network(recipe, torch.rand(5, 6), (1, 2, 3)))
    assert counts["weights"] == 2 * 3 + 3 + 3 * 6 + 6
    assert counts["start"] == (6 + 1) * 2
    assert counts["prior"] == 4 + 1 + 4 * 2 + 4 * 2 * 2
    assert counts["precisions"] == 6 + 3
    assert counts["whole"] == sum(counts.values()) - counts["whole"]


def test_the_cosine_takes_all_tensors_as_one_vector() -> None:
    a, b = [torch.tensor([3.0]), torch.tensor([[4.0]])], [torch.tensor([3.0]), torch.zeros(1, 1)]
    assert cosine(a, b) == pytest.approx(0.6)


def test_a_run_tells_it_and_its_model_keeps_it(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    quick = ["--set", "learning.epochs=1", "--set", "data.limit=300"]
    result = CliRunner().invoke(cli, ["train", "digits", "--out", run, *quick])
    assert "Hidden layers hold" in result.stdout
    assert "Learned numbers: 10,448 (9,408 weights and biases, 1,040 in" in result.stdout
    stored = pcgen.info(run)["credit"]
    assert stored["mse"] == pytest.approx(pcgen.info(run)["metrics"]["mse"], rel=1e-5)
    again = CliRunner().invoke(cli, ["train", "--resume", "--out", run, "--json"])
    assert json.loads(again.stdout)["credit"] == stored
    assert "credit.hidden_share" in CliRunner().invoke(cli, ["info", run]).stdout


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["data.validation=0", "learning.memory=true", "model.start=zero"], None),
        (["inference.solver=kinetic", "model.precision.latent=1.0"], (None, None, None, None)),
    ],
    ids=["memory", "sampler"],
)
def test_only_what_has_a_meaning_is_told(
    tmp_path: Path, settings: list[str], expected: tuple[None, ...] | None
) -> None:
    quick = ["data.limit=100", "learning.epochs=1", "inference.steps=1"]
    found = pcgen.train("digits", tmp_path, settings=[*quick, *settings]).credit
    keys = ("hidden_share", "cosine_equilibrium", "equilibrium_converged", "cosine_backprop")
    assert (found and tuple(found[key] for key in keys)) == expected
    assert found is None or found["mse"] > 0
