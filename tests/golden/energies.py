"""Energies, errors and scores that no change of the code may move, computed in float64.

`python -m tests.golden.energies` prints a JSON document of them all. `golden.json` keeps it, and
`test_golden.py` compares to 6 digits: a number that moves is a line of the CHANGELOG.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch

from pcgen.classification.training import initial_classifier
from pcgen.commands.session import open_model
from pcgen.commands.train import training_of
from pcgen.config import InferenceTable, Recipe, from_dict
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.initial import initial_network, sample
from pcgen.memory.corruptions import corruption_of
from pcgen.memory.recall import Memory, recall
from pcgen.model.network import Network
from pcgen.ood import scores
from pcgen.ood import scoring as ood
from pcgen.sampling import draw as sampling
from tests import oracle

Golden = dict[str, float]

SOLVERS = ("majorise", "newton", "errors", "descent")
TINY: dict[str, dict[str, Any]] = {
    "decoder": {"model": {"layers": [3, 12], "start": "linear"}},
    "learned-precisions": {
        "model": {"layers": [3, 8, 8], "precision": {"learned": True, "diagonal": True}},
        "inference": {"solver": "newton"},
    },
    "incremental": {"model": {"layers": [3, 12]}, "learning": {"incremental": True}},
    "convolutions": {"model": {"layers": [4, [3, 4, 4]], "activation": "gelu"}},
    "labels": {"model": {"layers": [4, 10], "labels": True, "precision": {"latent": 1.0}}},
    "sampler": {
        "model": {
            "layers": [3, 12],
            "likelihood": "bernoulli",
            "causes": 4,
            "precision": {"hidden": 50.0, "latent": 1.0},
        },
        "inference": {
            "solver": "kinetic",
            "sampling": {"coordinates": "errors", "metropolis": True, "persistent": True},
        },
        "learning": {"causes_warmup": 0},
    },
    "memory": {
        "model": {"layers": [8, 80], "precision": {"hidden": 1000.0, "learned": True}},
        "inference": {"solver": "errors"},
        "learning": {"memory": True, "optimiser": "least-squares", "batch_size": 500},
    },
    "classifier": {"classifier": {"kind": "convnet", "channels": [4], "hidden": [8]}},
    "pc-classifier": {
        "classifier": {"kind": "mlp", "hidden": [16], "activation": "tanh", "rule": "pc"}
    },
}


def tiny(name: str) -> Recipe:
    """Return a recipe that trains on 60 digits in two epochs."""
    tables: dict[str, Any] = {
        "data": {"source": "digits", "limit": 60, "validation": 0},
        "inference": {"steps": 5, "test_steps": 30},
        "learning": {"epochs": 2, "batch_size": 25, "rate": 0.01},
    }
    for key, table in TINY[name].items():
        tables[key] = {**tables.get(key, {}), **table}
    return from_dict(tables)


def solvers() -> Golden:
    """Return the mean energy after 12 steps of every solver on networks of every build."""
    found = {}
    for build, options in oracle.BUILDS.items():
        for solver in SOLVERS:
            network = oracle.network(hidden=3.0, latent=0.5, gain=0.7, **options)
            table = InferenceTable(solver=solver, rate=0.02)
            end = infer(prepare(network, table), oracle.data(network), steps=12)
            found[f"solver/{solver}/{build}"] = end.energy_B.mean().item()
    for likelihood in ("bernoulli", "categorical"):
        network = oracle.network(likelihood=likelihood, latent=0.5)
        end = infer(prepare(network, InferenceTable()), oracle.data(network), steps=12)
        found[f"solver/majorise/{likelihood}"] = end.energy_B.mean().item()
    for activation in oracle.ACTIVATIONS:
        network = oracle.network(activation=activation, output="sigmoid", latent=0.5)
        end = infer(prepare(network, InferenceTable()), oracle.data(network), steps=12)
        found[f"solver/majorise/{activation}"] = end.energy_B.mean().item()
    return found


def trained() -> Golden:
    """Return the energy of every batch of the tiny recipes, and what the trained networks do."""
    found: Golden = {}
    for name in TINY:
        recipe = tiny(name)
        images = open_data("digits", limit=60)
        sample_BD = sample(images, recipe.seed)
        if recipe.classifier is not None:
            network: Any = initial_classifier(recipe, images, None).to("cpu", torch.float64)
        else:
            network = initial_network(recipe, sample_BD, images.shape, images.class_count).to(
                "cpu", torch.float64
            )
        training = training_of(network, recipe, sample_BD.double(), len(images))
        for progress in training.run(images, None):
            found[f"train/{name}/{progress.epoch}.{progress.batch}"] = progress.energy
        if name == "sampler":
            found |= drawn(network, recipe)
        elif name == "memory":
            found |= recalled(network, training, images, recipe)
        elif recipe.classifier is None and name != "labels":
            found |= reconstructed(f"train/{name}", network, images, recipe.inference)
    return found


def drawn(network: Network, recipe: Recipe) -> Golden:
    """Return sums of ancestral samples and of chains."""
    independent = sampling.ancestral(network, 8, 0)
    how = sampling.Chained(4, burn_in=30, thin=5)
    chained = sampling.chained(network, recipe.inference, 8, 0, how)
    assert chained.r_hat is not None
    return {
        "sample/ancestral": independent.data_BD.sum().item(),
        "sample/chains": chained.data_BD.sum().item(),
        "sample/r-hat": chained.r_hat,
    }


def recalled(network: Network, training: Any, images: Images, recipe: Recipe) -> Golden:
    """Return the energy and the error of images that noise and a mask have damaged."""
    memory = Memory.of(network, training.learner.latents_NL)
    found = {}
    pixels_BD = images.rows(range(len(images))).pixels_BD
    for words in (("noise:0.2",), ("mask:bottom",)):
        cues = corruption_of(words, images.shape).cues(
            pixels_BD, range(len(images)), images.shape, 0
        )
        result = recall(memory, cues, recipe.inference)
        found[f"recall/{words[0]}/energy"] = result.energy_B.mean().item()
        error = (result.images_BD - pixels_BD).square().mean().item()
        found[f"recall/{words[0]}/mse"] = error
    return found


def reconstructed(key: str, network: Network, images: Images, table: InferenceTable) -> Golden:
    """Return the energy and the two errors of reconstructed images."""
    data_BD = images.rows(range(len(images))).pixels_BD.double()
    end = infer(prepare(network, table), data_BD, steps=table.test_steps)
    decoded_BD = network.decode(end.states[network.latent])
    last_BD = network.terms(end.states)[0].prediction_BD
    return {
        f"{key}/energy": end.energy_B.mean().item(),
        f"{key}/mse": (decoded_BD - data_BD).square().mean().item(),
        f"{key}/mse_last_hidden": (last_BD - data_BD).square().mean().item(),
    }


def shipped_models(names: tuple[str, ...]) -> Golden:
    """Return what shipped models make of the first 40 test images of their data."""
    found: Golden = {}
    for name in names:
        model = open_model(name)
        images = open_data(
            model.recipe.data.source + ("" if name == "iris" else ":test"),
            limit=40,
            columns=model.recipe.data.columns,
            like=model.shape,
            like_scale=model.scale,
        )
        network = model.network.to("cpu", torch.float64)
        table = InferenceTable(solver="majorise", test_steps=20, tolerance=0.0)
        for solver in ("majorise", "newton", "errors"):
            key, chosen = f"shipped/{name}/{solver}", msgspec.structs.replace(table, solver=solver)
            found |= reconstructed(key, network, images, chosen)
    return found


def unusual() -> Golden:
    """Return the mean of every score of held-out digits, under a scorer fitted to others."""
    model = open_model("digits-ood")
    network = model.network.to("cpu", torch.float64)
    images = open_data("digits:test", limit=40)
    known = open_data("digits", limit=300)
    scorer = scores.fit(network, known, model.recipe.inference, labels=known.labels)
    columns = ood.columns_of([scorer], images.rows(range(len(images))).pixels_BD.double())
    return {f"ood/{name}": float(values.mean()) for name, values in columns.items()}


def everything(data_is_there: bool) -> Iterator[tuple[str, Callable[[], Golden]]]:
    """Yield the groups of golden numbers and what computes them."""
    yield "solvers", solvers
    yield "trained", trained
    yield "unusual", unusual
    yield "embedded", lambda: shipped_models(("digits", "digits-ood", "iris"))
    if data_is_there:
        rest = ("mnist", "fashion-mnist", "mnist-ood", "mnist-sampler", "cifar10")
        yield "real", lambda: shipped_models(rest)


def main() -> None:
    """Print all of them."""
    torch.set_num_threads(1)
    with torch.no_grad():
        found = {name: compute() for name, compute in everything(data_is_there=True)}
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
