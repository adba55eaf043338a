"""Inference with each image's whole curvature, against the dense Hessian by autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.errors import RecipeError
from pcgen.inference import exact
from pcgen.inference.exact import ExactInference
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network
from tests import oracle

EXACT = InferenceTable(solver="exact-newton")
NEWTON = InferenceTable(solver="newton")


def inference_of(
    network: Network, mask_BD: Tensor | None = None, clamp_latent: bool = False
) -> ExactInference:
    data_BD = oracle.data(network, 6)
    states = prepare(network, NEWTON).begin(data_BD, mask_BD, steps=3).states
    found = prepare(network, EXACT, reduced=False).at(states, mask_BD, clamp_latent)
    assert isinstance(found, ExactInference)
    return found


def dense(inference: ExactInference, image: int) -> tuple[Tensor, Tensor]:
    """Return the slope and the Hessian of one image's energy in all free states, by autograd."""
    network, free = inference.network, inference.states[1 : inference.last_free + 1]
    sizes = [states.shape[1] for states in free]
    mask_BD = None if inference.mask_BD is None else inference.mask_BD[image : image + 1]
    clamped = [states[image : image + 1] for states in inference.states[inference.last_free + 1 :]]

    def energy(flat_X: Tensor) -> Tensor:
        parts = [part[None] for part in torch.split(flat_X, sizes)]
        return network.energy([inference.states[0][image : image + 1], *parts, *clamped], mask_BD)[
            0
        ]

    flat_X = torch.cat([states[image] for states in free])
    with torch.enable_grad():
        slope = torch.autograd.functional.jacobian(energy, flat_X)
        return slope, torch.autograd.functional.hessian(energy, flat_X)


@pytest.mark.parametrize("clamp_latent", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("likelihood", "output", "activation"),
    [("gaussian", "linear", "tanh"), ("gaussian", "sigmoid", "gelu"), ("bernoulli", "", "gelu")],
)
def test_the_step_is_that_of_the_dense_hessian(
    likelihood: str, output: str, activation: str, masked: bool, clamp_latent: bool
) -> None:
    network = oracle.network(
        activation=activation, output=output or "linear", likelihood=likelihood, latent=0.3
    )
    mask_BD = None
    if masked:
        mask_BD = (torch.arange(6 * network.sizes[0]) % 3 > 0).double().view(6, -1)
    inference = inference_of(network, mask_BD, clamp_latent)
    images = torch.tensor([4, 1])
    damping_B = torch.tensor([0.0, 50.0]).double()
    decrement_B, steps = inference._newton_step(images, damping_B)
    for row, image in enumerate(images.tolist()):
        slope, hessian = dense(inference, image)
        hessian = hessian + damping_B[row] * torch.eye(len(slope)).double()
        if torch.linalg.eigvalsh(hessian)[0] <= 0:
            assert decrement_B[row].isinf()
            continue
        expected = torch.linalg.solve(hessian, slope)
        torch.testing.assert_close(torch.cat([step[row] for step in steps]), expected)
        torch.testing.assert_close(decrement_B[row], slope @ expected)
    assert decrement_B[1].isfinite()


def test_a_saddle_is_not_called_converged() -> None:
    network = oracle.network(layers=(2, 3), output="gelu", latent=0.01, gain=2.0)
    for layer in network.layers:
        assert layer.bias is not None
        layer.bias.zero_()
    # At zero no state can explain these data, and their error bends the energy down.
    matrix_DU = network.layers[0].matrix()
    draw_D = oracle.data(network, 1)[0]
    data_D = draw_D - matrix_DU @ torch.linalg.lstsq(matrix_DU, draw_D).solution
    states = [20 * data_D[None], *(torch.zeros(1, size).double() for size in network.sizes[1:])]
    inference = prepare(network, EXACT).at(states, None, clamp_latent=False)
    assert isinstance(inference, ExactInference)
    assert all(slope.norm() < 1e-12 for slope in inference.slopes())
    # In one of 100 directions of the states, the energy is lower on both sides.
    step_BD = 0.01 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0)).double()
    sides = [
        network.energy([states[0].expand(100, -1), sign * step_BD, states[2].expand(100, -1)])
        for sign in (1, -1)
    ]
    assert (torch.maximum(*sides) < inference.energy_B).any()
    assert inference.excess_bound(torch.tensor([0]), True).isinf()


def test_images_end_at_minima_where_newton_is_still_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exact, "SHARED_STEPS", 5)
    network = oracle.network(activation="gelu", hidden=1.0, latent=0.01, gain=2.5)
    data_BD = oracle.data(network, 20)
    found = infer(prepare(network, EXACT), data_BD, steps=60, tolerance=1e-8)
    assert found.converged_B.double().mean() > 0.9
    longer = infer(prepare(network, EXACT), data_BD, steps=120, tolerance=1e-14)
    excess_B = found.energy_B - longer.energy_B
    assert (excess_B <= found.excess_bound_B + 1e-12)[found.converged_B].all()


def test_an_image_whose_energy_is_not_finite_leaves_the_others_alone() -> None:
    network = oracle.network(activation="gelu", latent=0.3)
    data_BD = oracle.data(network, 4)
    alone = infer(prepare(network, EXACT), data_BD[1:], steps=40, tolerance=1e-6)
    data_BD[0] = torch.nan
    together = infer(prepare(network, EXACT), data_BD, steps=40, tolerance=1e-6)
    assert not together.converged_B[0]
    torch.testing.assert_close(together.energy_B[1:], alone.energy_B)


@pytest.mark.parametrize("build", ["maps", "skip"])
def test_other_networks_are_refused(build: str) -> None:
    with pytest.raises(RecipeError, match="exact-newton is for dense layers"):
        prepare(oracle.network(**oracle.BUILDS[build]), EXACT)
