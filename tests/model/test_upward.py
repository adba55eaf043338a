"""Predictions upwards: their energy, and the equilibrium that they share with those downwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pcgen.config import InferenceTable, ModelTable, PrecisionTable
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network, build, tensor_size
from pcgen.model.upward import LatentAndLabel

CLASSES = 3
SOLVERS = ["descent", "majorise", "newton", "errors"]


def table(causes: int = 4, likelihood: str = "gaussian") -> ModelTable:
    return ModelTable(
        layers=[5, 8],
        upward=[7, 6],
        causes=causes,
        likelihood=likelihood,
        precision=PrecisionTable(latent=1.0),
    )


def both_ways(causes: int = 4) -> Network:
    """Return a network whose upward chain and classes disagree with its prior."""
    network = build(table(causes), 12, generator(0), classes=CLASSES).to("cpu", torch.float64)
    assert network.upward is not None
    network.upward.log_precisions[0].copy_(torch.linspace(0, 2, 5))
    if network.mixture is not None:
        source = torch.Generator().manual_seed(1)
        network.mixture.means_KL.copy_(torch.randn(causes, 5, generator=source))
        rows = torch.randn(CLASSES, causes, generator=source).double()
        network.mixture.log_weights_YK.copy_(rows.log_softmax(1))
    return network


def rows(count: int = 6) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(2)
    data = torch.rand(count, 12, generator=source).double()
    return data, (torch.rand(count, 12, generator=source) < 0.6).double()


def test_slopes_of_latent_and_label_are_those_of_autograd() -> None:
    energy = LatentAndLabel(torch.tensor([0.5, 2.0]).double())
    source = torch.Generator().manual_seed(0)
    value, drive = (torch.randn(4, 5, generator=source).double() for _ in range(2))
    value[:, 2:] = torch.eye(3)[torch.tensor([0, 2, 1, 1])]
    with torch.enable_grad():
        drive.requires_grad_()
        latent = 0.5 * (energy.precision_L * (value - drive)[:, :2].square()).sum(1)
        expected = latent - (value[:, 2:] * drive[:, 2:].log_softmax(1)).sum(1)
        (slope,) = torch.autograd.grad(expected.sum(), drive)
    terms = energy.terms(value, drive.detach(), None)
    assert torch.allclose(terms.energy_B, expected)
    assert torch.allclose(terms.signal_BD, -slope)


def test_the_label_is_summed_out_under_its_upward_prediction() -> None:
    network, (data, mask) = both_ways(), rows()
    guide, mixture = network.guide(data, mask), network.mixture
    assert guide is not None
    assert mixture is not None
    latent = torch.randn(6, 5, generator=torch.Generator().manual_seed(3)).double()
    joint = guide.log_labels_BK + mixture.log_classes(latent)
    squares = (guide.precision_BL * (latent - guide.latent_BL).square()).sum(1)
    expected = -joint.logsumexp(1) + 0.5 * squares
    assert torch.allclose(network.prior_terms(latent, guide)[0], expected)


@pytest.mark.parametrize("causes", [1, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_equilibria_are_stationary_points_of_the_sum_of_both_energies(
    solver: str, causes: int
) -> None:
    network, (data, mask) = both_ways(causes), rows()
    settings = InferenceTable(solver=solver, rate=0.02, momentum=0.9)
    end = infer(prepare(network, settings), data, steps=600, mask_BD=mask)
    with torch.enable_grad():
        free = [state.clone().requires_grad_() for state in end.states[1:]]
        energy = network.energy([end.states[0], *free], mask)
        slopes = torch.autograd.grad(energy.sum(), free)
    assert torch.allclose(energy.detach(), end.energy_B)
    assert max(slope.abs().max() for slope in slopes) < 1e-5


def test_an_image_ends_where_it_ends_alone() -> None:
    network, (data, mask) = both_ways(), rows()
    method = prepare(network, InferenceTable(solver="errors"))
    whole = infer(method, data, steps=300, tolerance=1e-9, mask_BD=mask)
    for i in range(len(data)):
        alone = infer(method, data[i : i + 1], steps=300, tolerance=1e-9, mask_BD=mask[i : i + 1])
        assert torch.allclose(whole.energy_B[i], alone.energy_B[0], rtol=1e-8)


def test_hidden_data_have_no_influence() -> None:
    network, (data, mask) = both_ways(), rows()
    other = torch.where(mask > 0, data, 7.0)
    method = prepare(network, InferenceTable(solver="errors"))
    ends = [infer(method, each, steps=50, mask_BD=mask) for each in (data, other)]
    assert torch.equal(ends[0].states[-1], ends[1].states[-1])
    assert torch.equal(ends[0].energy_B, ends[1].energy_B)


def test_tensors_are_counted_and_copied() -> None:
    network = both_ways()
    assert network.upward is not None
    stored = sum(tensor.numel() for tensor in network.tensors().values())
    assert tensor_size(table(), 12, CLASSES) == stored
    fresh = build(table(), 12, generator(5), classes=CLASSES).to("cpu", torch.float64)
    fresh.load(network.tensors())
    data, mask = rows()
    states = network.states_from(torch.zeros(6, 5).double(), data)
    assert torch.equal(fresh.energy(states, mask), network.energy(states, mask))
    parameters = sum(tensor.numel() for tensor in network.weights())
    upward = sum(tensor.numel() for tensor in network.upward.weights())
    assert parameters == 12 * 9 + 8 * 6 + upward


@pytest.mark.parametrize(
    ("change", "classes", "says"),
    [
        ({}, 0, "the data have none"),
        ({"labels": True}, 3, "without model.labels"),
        ({"precision": PrecisionTable()}, 3, "model.precision.latent above 0"),
        ({"start": "linear"}, 3, "model.start=linear"),
    ],
)
def test_what_an_upward_chain_does_not_go_with_is_said(
    change: dict[str, object], classes: int, says: str
) -> None:
    import msgspec

    wrong = msgspec.structs.replace(table(causes=1), **change)
    with pytest.raises(RecipeError, match=says):
        build(wrong, 12, generator(0), classes=classes)
