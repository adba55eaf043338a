"""Memorising: every image keeps its latent, and what the network holds is exact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pcgen.config import Recipe, from_dict, to_dict
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import DataError, OutOfMemoryError, RecipeError
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.train import Training
from pcgen.memory.training import Memorising, first_latents, learner_of

COUNT = 40
PRECISION = {"hidden": 1000.0, "learned": True, "floor": 1e-6}


def recipe(model: dict[str, Any] | None = None, **learning: Any) -> Recipe:
    table = {"epochs": 2, "batch_size": 100, "optimiser": "least-squares", "memory": True}
    return from_dict(
        {
            "model": {"layers": [32, 48, 64], "precision": PRECISION} | (model or {}),
            "inference": {"solver": "errors", "steps": 5, "test_steps": 50},
            "learning": table | learning,
        }
    )


def images(count: int = COUNT) -> Images:
    return open_data("digits", limit=count)


def training(found: Recipe, data: Images) -> Memorising:
    sample_BD = sample(data, found.seed)
    network = initial_network(found, sample_BD, data.shape)
    made = learner_of(network, found, sample_BD, len(data))
    assert isinstance(made, Memorising)
    return made


def memorised(found: Recipe, data: Images) -> Memorising:
    made = training(found, data)
    with torch.no_grad():
        for _ in Training(made).run(data, None):
            pass
    return made


def pixels(data: Images) -> torch.Tensor:
    return data.rows(range(len(data))).pixels_BD


def test_no_more_images_than_units_are_held_exactly_by_their_latents_alone() -> None:
    data = images()
    made = memorised(recipe(), data)
    decoded_BD = made.network.decode(made.latents_NL)
    assert (decoded_BD - pixels(data)).square().mean() < 1e-8


def test_with_more_images_than_units_regressions_near_the_bound_of_the_rank() -> None:
    data = images(300)
    data_BD = pixels(data)
    components = torch.linalg.svdvals(data_BD - data_BD.mean(0))
    bound = float(components[32:].square().sum()) / data_BD.numel()
    errors = []
    for epochs in (1, 20):
        made = memorised(
            recipe({"layers": [16, 32, 32]}, batch_size=300, epochs=epochs),
            data,
        )
        error_BD = made.network.decode(made.latents_NL) - data_BD
        errors.append(float(error_BD.square().mean()))
    assert bound < errors[1] < 0.8 * errors[0]
    assert errors[1] < 3 * bound


def test_one_layer_of_fewer_units_than_images_holds_their_principal_components() -> None:
    data = images(300)
    data_BD = pixels(data)
    components = torch.linalg.svdvals(data_BD - data_BD.mean(0))
    bound = float(components[32:].square().sum()) / data_BD.numel()
    made = memorised(recipe({"layers": [32]}, batch_size=300, epochs=1), data)
    error = (made.network.decode(made.latents_NL) - data_BD).square().mean()
    assert float(error) == pytest.approx(bound, rel=1e-3)


def test_learned_precisions_end_at_the_floor_where_nothing_is_left_to_explain() -> None:
    made = memorised(recipe(), images())
    found = [p.exp().item() for p in made.network.log_precisions[:-1]]
    assert found == pytest.approx([1e6] * 3, rel=1e-3)


def test_gradients_memorise_with_latents_carried_from_epoch_to_epoch() -> None:
    data = images()
    found = recipe(
        {"layers": [16, 64], "precision": {"hidden": 10.0}},
        optimiser="adamw",
        epochs=40,
        batch_size=20,
        rate=1e-2,
    )
    made = training(found, data)
    errors = []
    with torch.no_grad():
        errors += [p.mse for p in Training(made).run(data, None) if p.ends_epoch]
    assert errors[-1] < 0.2 * errors[0]
    decoded_BD = made.network.decode(made.latents_NL)
    assert (decoded_BD - pixels(data)).square().mean() < 1e-2


def test_a_convolutional_decoder_memorises_by_gradients() -> None:
    data = images()
    layers = [16, [8, 2, 2], [8, 4, 4]]
    found = recipe({"layers": layers}, optimiser="adamw", epochs=30, batch_size=20, rate=1e-2)
    made = memorised(found, data)
    decoded_BD = made.network.decode(made.latents_NL)
    variance = pixels(data).var(0).mean()
    assert (decoded_BD - pixels(data)).square().mean() < 0.5 * variance


def test_first_latents_are_all_equally_far_from_one_another() -> None:
    data = images()
    codes = first_latents(data, training(recipe({"layers": [64, 64]}), data).network, 0)
    distance = torch.pdist(codes)
    assert distance.min() > 0.99 * distance.max()
    assert codes.square().mean().sqrt().item() == pytest.approx(0.3, rel=1e-3)


def test_a_mixture_of_images_has_that_mixture_of_first_latents() -> None:
    data = images(20)
    codes = first_latents(data, training(recipe(), data).network, 0).double()
    x = pixels(data).double()
    centred = x - x.mean(0)
    # The map from images to latents is linear: it is fitted without a rest.
    found = torch.linalg.lstsq(centred, codes, driver="gelsd").solution
    assert torch.allclose(centred @ found, codes, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "learning", "words"),
    [
        ({}, {"batch_size": 39}, "learns from all 40 images at once"),
        ({}, {"memory": False}, "least-squares is for a memory"),
        ({"skips": [[0, 2]]}, {}, "learns dense layers"),
        ({"layers": [[4, 2, 2], [8, 4, 4]]}, {"optimiser": "adamw"}, "not a map"),
        (
            {"labels": True, "precision": {"latent": 1.0}},
            {"optimiser": "adamw"},
            "not of its label",
        ),
    ],
)
def test_what_cannot_memorise_is_said(
    model: dict[str, Any], learning: dict[str, Any], words: str
) -> None:
    data = images()
    found = recipe(model, **learning)
    sample_BD = sample(data, 0)
    network = initial_network(found, sample_BD, data.shape, data.class_count)
    with pytest.raises(RecipeError, match=words):
        learner_of(network, found, sample_BD, len(data))


def test_a_memory_keeps_one_latent_an_image_so_none_are_drawn() -> None:
    model = {"precision": {"latent": 1.0}}
    tables = to_dict(recipe(model, optimiser="adamw"))
    found = from_dict(tables | {"inference": {"solver": "kinetic"}})
    with pytest.raises(RecipeError, match="kinetic draws many"):
        training(found, images())


def test_held_out_images_are_refused() -> None:
    data = images()
    with pytest.raises(RecipeError, match="3 images would not be memorised"):
        next(Training(training(recipe(), data)).run(data, images(3)))


def test_one_image_is_no_memory() -> None:
    data = images(1)
    with pytest.raises(DataError, match="at least two"):
        training(recipe(), data)


def test_more_images_than_are_free_bytes_for_say_how_many_fit_before_any_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = images()
    made = training(recipe(), data)
    each = 4 * (11 * 64 + 10 * (64 + 48 + 32))
    monkeypatch.setattr("pcgen.memory.training.free_memory", lambda device: 12 * each + 5)
    with pytest.raises(OutOfMemoryError, match="40 images do not fit into the memory, 12 do"):
        next(Training(made).run(data, None))
    monkeypatch.setattr("pcgen.memory.training.free_memory", lambda device: each)
    with pytest.raises(OutOfMemoryError, match=r"do not fit into the memory$"):
        next(Training(made).run(data, None))


def test_more_images_than_the_memory_holds_say_how_many_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = images()
    made = training(recipe(), data)

    def too_large(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Memorising, "_fit_data", too_large)
    said = pytest.raises(OutOfMemoryError, match="40 images do not fit into the memory, 20 do")
    with said as e, torch.no_grad():
        next(Training(made).run(data, None))
    assert e.value.hint == "Use --set data.limit=20"
    assert math.isfinite(float(made.latents_NL.sum()))
