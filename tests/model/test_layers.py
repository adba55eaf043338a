"""Layers: transposed convolutions against torch's own, and every layer against its matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from pcgen.config import ModelTable
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.inference.preconditioners import BlockDiagonal
from pcgen.learning.gradients import weight_gradients
from pcgen.model.layers import Convolution, Dense, Layer, Shape, TransposedConvolution, gram
from pcgen.model.network import build
from tests import oracle

GEOMETRIES = [
    ((8, 4, 4), (8, 8, 8), 4),
    ((5, 3, 2), (3, 6, 4), 7),
    ((2, 3, 3), (4, 9, 9), 3),
    ((2, 3, 3), (4, 9, 9), 5),
    ((3, 4, 4), (2, 4, 4), 5),
    ((3, 5, 5), (2, 10, 10), 2),
    ((20, 4, 4), (20, 8, 8), 4),
]


@pytest.mark.parametrize("is_data", [False, True])
@pytest.mark.parametrize(("above", "below", "kernel"), GEOMETRIES)
def test_a_transposed_convolution_is_torchs(
    above: Shape, below: Shape, kernel: int, is_data: bool
) -> None:
    draw = generator(0)
    layer = TransposedConvolution.initial(below, above, kernel, draw, is_data=is_data)
    assert layer.bias is not None
    layer.bias.copy_(torch.randn(below[0], generator=draw))
    maps = torch.randn(3, *above, generator=draw)
    expected = functional.conv_transpose2d(
        maps, layer.weight, layer.bias, layer.stride, layer.padding, layer.output_padding
    )
    expected = expected if is_data else expected.permute(0, 2, 3, 1)
    states_BU = maps.permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(layer.drive(states_BU), expected.flatten(1), rtol=1e-5, atol=1e-5)


def require_its_matrix(
    layer: TransposedConvolution | Convolution, drives: Shape, draw: torch.Generator
) -> None:
    """Assert that a layer's moves and adjoints are products with its matrix."""
    matrix_DU = layer.matrix()
    assert matrix_DU.shape == (math.prod(drives), math.prod(layer.above))
    move_BU = torch.randn(4, matrix_DU.shape[1], generator=draw, dtype=torch.float64)
    signal_BD = torch.randn(4, matrix_DU.shape[0], generator=draw, dtype=torch.float64)
    torch.testing.assert_close(layer.drive_move(move_BU), move_BU @ matrix_DU.T)
    torch.testing.assert_close(layer.adjoint(signal_BD), signal_BD @ matrix_DU)
    torch.testing.assert_close(
        layer.pull_above(move_BU, signal_BD), move_BU - signal_BD @ matrix_DU
    )


@pytest.mark.parametrize("is_data", [False, True])
@pytest.mark.parametrize(("above", "below", "kernel"), GEOMETRIES)
def test_the_adjoint_and_the_move_are_the_matrix(
    above: Shape, below: Shape, kernel: int, is_data: bool
) -> None:
    draw = generator(1)
    layer = TransposedConvolution.initial(below, above, kernel, draw, is_data=is_data)
    require_its_matrix(layer.to("cpu", torch.float64), below, draw)


@pytest.mark.parametrize("channels_first", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("kind", [{}, {"stride": 2}, {"padding": 0}, {"padding": 3}])
def test_a_convolution_and_its_adjoint_are_the_matrix(
    kind: dict[str, int], channels_first: tuple[bool, bool]
) -> None:
    draw = generator(3)
    weight = torch.randn(4, 2, 3, 3, generator=draw)
    layer = Convolution(weight, torch.zeros(4), (2, 6, 5), channels_first=channels_first, **kind)
    require_its_matrix(layer.to("cpu", torch.float64), layer.drives, draw)


@pytest.mark.parametrize("channels_first", [(False, False), (False, True)])
@pytest.mark.parametrize("pool", [2, 3])
def test_sums_of_windows_are_the_adjoint_of_spreading(
    pool: int, channels_first: tuple[bool, bool]
) -> None:
    layer = Convolution(
        torch.zeros(4, 2, 3, 3), None, (2, 7, 5), pool=pool, channels_first=channels_first
    )
    draw = generator(4)
    drive_BD = torch.randn(3, math.prod(layer.drives), generator=draw).double()
    state_BD = torch.randn(3, math.prod(layer.below), generator=draw).double()
    ours = (layer.summed(drive_BD) * state_BD).sum(1)
    torch.testing.assert_close(ours, (drive_BD * layer.spread(state_BD)).sum(1))
    largest, chosen = layer.pooled(drive_BD)
    torch.testing.assert_close(layer.summed(drive_BD * chosen), largest)


@pytest.mark.parametrize("build", oracle.BUILDS)
def test_slopes_and_weight_gradients_are_autograds(build: str) -> None:
    network = oracle.network(**oracle.BUILDS[build])
    states = oracle.states(network, oracle.data(network))
    tensors = [*states[1:], *network.weights()]
    for tensor in tensors:
        tensor.requires_grad_()
    with torch.enable_grad():
        oracles = torch.autograd.grad(network.energy(states).sum(), tensors)
    for tensor in tensors:
        tensor.requires_grad_(False)
    terms = network.terms(states)
    signals = [term.signal_BD for term in terms]
    pulls = [term.pull_BD for term in terms[1:]] + [network.latent_precision() * states[-1]]
    slopes = [network.slope(i, pull, signals) for i, pull in enumerate(pulls, start=1)]
    gradients = [g * len(states[0]) for g in weight_gradients(network, states, terms)]
    for found, expected in zip([*slopes, *gradients], oracles, strict=True):
        torch.testing.assert_close(found, expected)
    assert all(gradient.is_contiguous() for gradient in gradients)


@pytest.mark.parametrize("kind", [Dense, TransposedConvolution, Convolution])
def test_only_the_units_with_too_large_a_norm_are_scaled_down(kind: type) -> None:
    draw = generator(0)
    units = 1
    layer: Layer
    if kind is Dense:
        layer = Dense.initial((1, 1, 300), (1, 1, 200), draw)
    elif kind is TransposedConvolution:
        units, above, below = 0, (60, 4, 4), (20, 8, 8)
        layer = TransposedConvolution.initial(below, above, 4, draw, is_data=False)
    else:
        weight = torch.randn(40, 60, 3, 3, generator=draw) / math.sqrt(60 * 9)
        layer = Convolution(weight, None, (60, 8, 8))
    others = [dim for dim in range(layer.weight.ndim) if dim != units]
    expected = layer.weight.square().sum(others).mean().sqrt()
    before = layer.weight.clone()
    layer.limit_norms(10.0)
    assert torch.equal(layer.weight, before)
    # One unit far above the limit, half of the others at it.
    layer.weight.select(units, 3).mul_(5.0)
    before = layer.weight.clone()
    layer.limit_norms(1.0)
    ratio = layer.weight.square().sum(others).sqrt() / before.square().sum(others).sqrt()
    norms = layer.weight.square().sum(others).sqrt()
    torch.testing.assert_close(norms.max(), expected, rtol=0.05, atol=0)
    assert ratio.argmin() == 3
    assert 0.25 < (ratio == 1).float().mean() < 0.75
    cosine = functional.cosine_similarity(layer.weight.flatten(), before.flatten(), dim=0)
    assert cosine > 0.9


def test_a_start_drive_is_met_as_the_bias_allows() -> None:
    layer = TransposedConvolution.initial((2, 4, 4), (3, 2, 2), 4, generator(0), is_data=True)
    drive = torch.cat([torch.full((16,), 0.25), torch.arange(16) / 16])
    layer.set_prediction(drive)
    assert layer.bias is not None
    torch.testing.assert_close(layer.bias, torch.tensor([0.25, 7.5 / 16]))


def test_the_convolutions_preconditioner_is_positive_and_near_the_inverse() -> None:
    network = oracle.network(
        layers=([2, 8, 8],), shape=(3, 16, 16), kernel=4, activation="linear", latent=1.0, gain=3.0
    )
    eye = torch.eye(128, dtype=torch.float64)
    (inverse,) = BlockDiagonal(network)([eye])
    torch.testing.assert_close(inverse, inverse.T)
    assert torch.linalg.eigvalsh(inverse).min() > 0
    weight = network.layers[0].matrix()
    curvature = weight.T @ weight + eye
    before = torch.linalg.cond(curvature)
    values = torch.linalg.eigvals(inverse @ curvature).real
    assert values.max() / values.min() < 0.7 * before


@pytest.mark.parametrize(
    ("table", "shape", "reason"),
    [
        ({"layers": [[2, 3, 3]]}, (1, 8, 8), "same whole factor"),
        ({"layers": [[2, 4, 4]]}, (1, 8, 12), "same whole factor"),
        ({"layers": [[2, 2, 2]], "kernel": 3}, (1, 8, 8), "leaves gaps at stride 4"),
        ({"layers": [[2, 8, 8]]}, (1, 8, 8), "must be odd"),
        ({"layers": [[2, 4, 4]], "kernel": [4, 4]}, (1, 8, 8), "2 values for 1 convolutions"),
        ({"layers": [2, 3], "skips": [[0, 1]]}, 4, "at least two layers below"),
        ({"layers": [2, 3], "skips": [[0, 3]]}, 4, "at least two layers below"),
        ({"layers": [2, 3], "skips": [[-1, 2]]}, 4, "at least two layers below"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    table: dict[str, Any], shape: int | Shape, reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason):
        build(ModelTable(**table), shape, generator(0))


@pytest.mark.parametrize("width", [3, 512, 700])
def test_a_gram_matrix_of_one_triangle_is_whole(width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(20, width, generator=draw, dtype=torch.float64)
    found = torch.full((width, width), torch.nan, dtype=torch.float64)
    gram(weight, found)
    torch.testing.assert_close(found, weight.T @ weight)
