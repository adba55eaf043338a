"""Learning upwards: digits get their labels, runs resume, and processes share the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pcgen
from pcgen.commands.progress import Event
from pcgen.config import Recipe, from_dict, to_toml
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import RecipeError
from pcgen.inference.solvers import prepare
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Batch, Training
from pcgen.learning.upward import UpwardLearning
from pcgen.model.network import Network
from pcgen.storage.checkpoint import load

TABLES = {
    "model": {
        "layers": [8, 24],
        "upward": [48],
        "activation": "gelu",
        "output": "sigmoid",
        "precision": {"data": 30.0, "hidden": 100.0, "latent": 1.0},
    },
    "inference": {"solver": "errors", "steps": 3},
    "learning": {"epochs": 20, "batch_size": 50, "rate": 5e-3, "hide": 0.9},
}


def recipe(hide: float = 0.9) -> Recipe:
    return from_dict(TABLES | {"learning": TABLES["learning"] | {"hide": hide}})


def trained(images: Images, hide: float = 0.9) -> Network:
    found, sample_BD = recipe(hide), sample(images, 0)
    network = initial_network(found, sample_BD, images.shape, images.class_count)
    with torch.no_grad():
        for _ in Training(PredictiveCoding(network, found, sample_BD)).run(images, None):
            pass
    return network


def test_upward_predictions_find_labels_and_latents_also_of_hidden_pixels() -> None:
    images = open_data("digits")
    network = trained(images.subset(range(1400)))
    rows = images.subset(range(1400, len(images))).rows(range(len(images) - 1400))
    mask = (
        torch.rand(rows.pixels_BD.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    ).float()
    end = pcgen.infer(network, rows.pixels_BD, solver="errors")
    assert rows.labels_B is not None
    right = []
    for visible in (None, mask):
        guide = network.guide(rows.pixels_BD, visible)
        assert guide is not None
        right.append(float((guide.log_labels_BK.argmax(1) == rows.labels_B).float().mean()))
        left = (guide.latent_BL - end.states[-1]).square().sum() / end.states[-1].square().sum()
        assert left < (0.1 if visible is None else 0.5)
    assert right[0] > 0.92
    assert right[1] > 0.75


def test_the_precision_is_the_inverse_variance_of_the_latents_errors() -> None:
    images = open_data("digits", limit=1000)
    network = trained(images, hide=0.0)
    data_BD = images.rows(range(1000)).pixels_BD
    method = prepare(network, recipe().inference)
    latent_BL = method.begin(data_BD, steps=3, guided=False).states[-1]
    guide = network.guide(data_BD)
    assert guide is not None
    weighted_L = ((latent_BL - guide.latent_BL).square() * guide.precision_BL).mean(0)
    assert 0.4 < float(weighted_L.mean()) < 1.3


def test_hidden_pixels_are_drawn_by_the_seed_alone_and_of_half_of_the_images() -> None:
    images = open_data("digits", limit=400)
    sample_BD = sample(images, 0)
    network = initial_network(recipe(), sample_BD, images.shape, images.class_count)
    assert network.upward is not None
    learning = UpwardLearning(network.upward, recipe())
    batch = Batch(images.rows(range(400)), torch.arange(400))
    masks = [learning._mask(sample_BD, batch, update) for update in (3, 3, 4)]
    first, again, other = masks
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.4 < float((first.mean(1) == 1).float().mean()) < 0.65
    assert float(first.mean(1).min()) > 0.02


def test_a_run_both_ways_resumes_bit_for_bit(tmp_path: Path) -> None:
    table = tmp_path / "recipe.toml"
    table.write_text(to_toml(recipe()))
    words = {"data": "digits", "settings": ["learning.epochs=2", "data.limit=300"]}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pcgen.train(table, whole, device="cpu", **words)

    def stop(event: Event) -> None:
        if event.done > 350:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pcgen.train(table, parts, device="cpu", on_progress=stop, **words)
    pcgen.train(None, parts, device="cpu", resume=True)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()


def test_a_memory_has_no_upward_chain() -> None:
    with pytest.raises(RecipeError, match=r"learning.memory: .*model.upward"):
        from_dict(TABLES | {"learning": {"memory": True}})


def test_a_taken_over_chain_stays_and_gets_labels(tmp_path: Path) -> None:
    words = ["model.upward=[]", "learning.hide=0", "learning.epochs=8"]
    table = tmp_path / "recipe.toml"
    table.write_text(to_toml(recipe()))
    downward = tmp_path / "downward"
    pcgen.train(table, downward, data="digits", settings=words)
    settings = [f"learning.downward={downward}", "learning.epochs=8"]
    pcgen.train(table, tmp_path / "both", data="digits", settings=settings)
    old, new = (load(path / "model.safetensors").tensors for path in (downward, tmp_path / "both"))
    assert all(
        torch.equal(tensor, new[name]) for name, tensor in old.items() if "typical" not in name
    )
    assert (pcgen.classify(tmp_path / "both", "digits:test").accuracy or 0) > 0.85
    with pytest.raises(
        RecipeError, match=r"learning.downward: layers.0.weight of .* is \(64, 24\)"
    ):
        pcgen.train(table, tmp_path / "x", settings=[*settings, "model.layers=[8, 20]"])


def test_without_an_upward_chain_nothing_is_left_to_learn() -> None:
    with pytest.raises(RecipeError, match="nothing is left to learn"):
        from_dict({"learning": {"downward": "digits"}})
