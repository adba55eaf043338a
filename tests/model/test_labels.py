"""The label layer: classes clamped above the latent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcgen.config import InferenceTable, Recipe, from_dict
from pcgen.data.sources import open_data
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.inference.states import StateInference
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.model.network import Network, build
from pcgen.storage.checkpoint import load_model, model_header, save


def recipe(solver: str = "majorise", start: str = "zero") -> Recipe:
    return from_dict(
        {
            "model": {
                "layers": [6, 24],
                "labels": True,
                "start": start,
                "precision": {"latent": 2.0},
            },
            "inference": {"solver": solver, "steps": 8},
            "learning": {"epochs": 40, "batch_size": 50, "rate": 1e-2},
        }
    )


def labelled() -> Network:
    table = recipe().model
    return build(table, 9, generator(0), classes=3).to("cpu", torch.float64)


def one_hot(*classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).double()


def test_the_latent_is_drawn_linearly_to_what_its_class_predicts() -> None:
    network = labelled()
    assert network.sizes == [9, 24, 6, 3]
    assert network.latent == 2
    labels = one_hot(0, 1, 2)
    latent = network.layers[2].drive(labels)
    states = network.states_from(latent, torch.rand(3, 9).double(), labels)
    assert network.terms(states)[2].energy_B.abs().max() == 0
    states[2] = latent + 1
    assert torch.allclose(network.terms(states)[2].energy_B, torch.tensor(6.0).double())


@pytest.mark.parametrize("solver", ["descent", "majorise", "newton", "errors"])
def test_clamped_classes_do_not_move_and_the_energy_is_least(solver: str) -> None:
    network, data = labelled(), torch.rand(3, 9, generator=torch.Generator().manual_seed(0))
    table = InferenceTable(solver=solver, rate=0.02, momentum=0.9)
    labels = one_hot(2, 0, 1)
    found = infer(prepare(network, table), data.double(), steps=400, labels_BK=labels)
    assert torch.equal(found.states[-1], labels)
    at = StateInference(network, found.states, prepare(network, table).direction(), None, True)
    assert max(slope.abs().max() for slope in at.slopes()) < 1e-4


def test_free_labels_have_no_more_energy_than_clamped_ones() -> None:
    network, data = labelled(), torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    method = prepare(network, InferenceTable(solver="newton"))
    free = infer(method, data.double(), steps=60)
    clamped = infer(method, data.double(), steps=60, labels_BK=one_hot(0, 1, 2, 0))
    assert (network.energy(free.states) <= network.energy(clamped.states) + 1e-9).all()


@pytest.mark.parametrize("start", ["zero", "linear"])
def test_the_class_of_least_energy_is_the_right_one(start: str, tmp_path: Path) -> None:
    images = open_data("digits", limit=400)
    found = recipe("errors", start)
    sample_BD = sample(images, 0)
    network = initial_network(found, sample_BD, images.shape, images.class_count)
    with torch.no_grad():
        for _ in Training(PredictiveCoding(network, found, sample_BD)).run(images, None):
            pass
    save(
        tmp_path / "m.safetensors",
        network.tensors(),
        model_header(network, found, {"shape": [1, 8, 8]}, {}),
    )
    loaded = load_model(tmp_path / "m.safetensors").network
    rows, method = images.rows(range(200)), prepare(loaded, found.inference)
    energies = []
    for label in range(10):
        labels = torch.zeros(200, 10)
        labels[:, label] = 1
        energies.append(infer(method, rows.pixels_BD, steps=30, labels_BK=labels).energy_B)
    assert rows.labels_B is not None
    assert (torch.stack(energies).argmin(0) == rows.labels_B).float().mean() > 0.9


def test_a_label_layer_needs_labels_and_a_precision() -> None:
    with pytest.raises(RecipeError, match="no labels"):
        build(recipe().model, 9, generator(0))
    flat = from_dict({"model": {"labels": True}}).model
    with pytest.raises(RecipeError, match="needs a precision"):
        build(flat, 9, generator(0), classes=3)
