"""The data in fewer units: the same energy, the same path and the same minimum."""

from __future__ import annotations

import pytest
import torch

from pcgen.config import InferenceTable
from pcgen.inference.infer import infer
from pcgen.inference.reduction import ReducedInference, Reduction, reduce
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network
from tests import oracle

SOLVING = [name for name in oracle.SOLVERS if name != "descent"]


PATHS: list[tuple[list[int], ...]] = [(), ([0, 2],)]
"""A chain, and one with a path from the latent to the data."""


def wide(seed: int = 0, skips: tuple[list[int], ...] = ()) -> Network:
    """Return 4-6-20 units, tanh and linear, with a precision for each data unit."""
    return oracle.network(layers=(4, 6), shape=20, seed=seed, diagonal=True, skips=skips)


def reduced(network: Network, visible_D: torch.Tensor | None = None) -> Reduction:
    reduction = reduce(network, visible_D, ridge=0.0 if visible_D is None else 1e-12)
    assert reduction is not None
    return reduction


@pytest.mark.parametrize("skips", PATHS, ids=["chain", "path"])
def test_energies_differ_by_the_residual_s(skips: tuple[list[int], ...]) -> None:
    network, data_BD = wide(skips=skips), torch.randn(5, 20, dtype=torch.float64)
    reduction = reduced(network)
    y_BU = reduction.project(data_BD)
    rest_B = reduction.rest(data_BD, y_BU)
    assert bool((rest_B > 0).all())
    for _ in range(3):
        hidden = [torch.randn(5, size, dtype=torch.float64) for size in (6, 4)]
        whole_B = network.energy([data_BD, *hidden]) - network.log_det()
        inner_B = reduction.network.energy([y_BU, *hidden]) - reduction.network.log_det()
        assert torch.allclose(whole_B, inner_B + rest_B)


@pytest.mark.parametrize("solver", SOLVING)
@pytest.mark.parametrize("clamp_latent", [False, True])
@pytest.mark.parametrize("skips", PATHS, ids=["chain", "path"])
def test_each_step_is_the_same_as_with_all_pixels(
    solver: str, clamp_latent: bool, skips: tuple[list[int], ...]
) -> None:
    network, data_BD = wide(1, skips), torch.randn(7, 20, dtype=torch.float64)
    table = InferenceTable(solver=solver)
    ways = [
        prepare(network, table, reduced=flag).begin(data_BD, clamp_latent=clamp_latent)
        for flag in (True, False)
    ]
    assert isinstance(ways[0], ReducedInference)
    for _ in range(3):
        promised = [way.step() for way in ways]
        assert torch.allclose(promised[0], promised[1], rtol=1e-5)
        for mine, other in zip(ways[0].states, ways[1].states, strict=True):
            assert torch.allclose(mine, other, rtol=1e-5, atol=1e-7)
        assert torch.allclose(ways[0].energy_B, ways[1].energy_B)
    for mine_terms, other_terms in zip(ways[0].terms, ways[1].terms, strict=True):
        assert torch.allclose(mine_terms.signal_BD, other_terms.signal_BD, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("solver", SOLVING)
def test_single_precision_finds_the_energy_of_its_states(solver: str) -> None:
    network = oracle.network(layers=(20, 60), shape=300, seed=2).to("cpu")
    found = infer(
        prepare(network, InferenceTable(solver=solver)),
        torch.randn(30, 300),
        steps=200,
        tolerance=1e-5,
    )
    assert torch.allclose(network.energy(found.states), found.energy_B, rtol=1e-5)


def test_hidden_data_is_inferred_from_pixels() -> None:
    network, data_BD = wide(3), torch.randn(4, 20, dtype=torch.float64)
    mask_BD = (torch.rand(4, 20) > 0.5).to(torch.float64)
    method = prepare(network, InferenceTable(solver="newton"))
    inference = method.begin(data_BD, mask_BD)
    assert not isinstance(inference, ReducedInference)
    assert inference.mask_BD is mask_BD


def test_networks_that_cannot_be_reduced_keep_their_pixels() -> None:
    dependent = wide(4)
    dependent.layers[0].weight[:, 1] = dependent.layers[0].weight[:, 0]
    narrow = oracle.network(layers=(4, 6), shape=8)
    squashed = oracle.network(layers=(4, 6), shape=20, output="sigmoid")
    assert [reduce(network) for network in (dependent, narrow, squashed)] == [None] * 3


def test_weights_must_stand_still() -> None:
    inference = prepare(wide(), InferenceTable(solver="majorise")).begin(
        torch.randn(2, 20, dtype=torch.float64)
    )
    with pytest.raises(AssertionError, match="weights"):
        inference.refresh()


@pytest.mark.parametrize("skips", PATHS, ids=["chain", "path"])
def test_energies_of_visible_data_differ_by_the_residual_s(skips: tuple[list[int], ...]) -> None:
    network, visible_D = wide(skips=skips), torch.arange(20) % 3 > 0
    data_BD = oracle.data(network)
    reduction = reduced(network, visible_D)
    y_BU = reduction.project(data_BD)
    mask_BD = visible_D.double().expand(6, -1)
    for seed in (1, 2, 3):
        hidden = oracle.states(network, data_BD, seed)[1:]
        whole_B = network.energy([data_BD, *hidden], mask_BD) - network.log_det(mask_BD)
        inner_B = reduction.network.energy([y_BU, *hidden]) - reduction.network.log_det()
        assert torch.allclose(whole_B, inner_B + reduction.rest(data_BD, y_BU), rtol=1e-6)


def test_hidden_data_are_not_looked_at() -> None:
    network, visible_D = wide(), torch.arange(20) % 3 > 0
    data_BD = oracle.data(network)
    reduction = reduced(network, visible_D)
    other_BD = data_BD.where(visible_D, 1e9)
    assert torch.equal(reduction.project(data_BD), reduction.project(other_BD))


def test_a_mask_may_leave_fewer_data_than_units_above() -> None:
    network, visible_D = wide(), torch.arange(20) < 3
    data_BD = oracle.data(network)
    reduction = reduced(network, visible_D)
    assert reduction.project(data_BD).isfinite().all()
    assert reduction.network.sizes == [6, 6, 4]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"output": "sigmoid"}, False),
        ({"likelihood": "bernoulli"}, False),
        ({"skips": ([0, 2],)}, True),
        ({"skips": ([0, 3],)}, True),
        ({"layers": (3, [2, 2, 2]), "shape": (2, 8, 8), "kernel": 4}, False),
        ({"layers": (3, [2, 2, 2]), "shape": (2, 8, 8), "kernel": 4, "skips": ([0, 2],)}, False),
    ],
)
def test_only_dense_linear_maps_to_the_data_are_reduced(
    changes: dict[str, object], expected: bool
) -> None:
    network = oracle.network(**changes)  # type: ignore[arg-type]
    reduction = reduce(network, torch.ones(network.sizes[0], dtype=torch.bool))
    assert (reduction is not None) == expected
