"""The fixed-step loop: the states of plain descent, whatever form its products take."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcgen.config import InferenceTable
from pcgen.inference import fast_descent as fixed
from pcgen.inference.directions import Descent
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.inference.states import StateInference
from pcgen.model.network import Network
from tests import oracle

TABLE = InferenceTable(solver="descent", rate=0.03, momentum=0.6)


def plain(network: Network, start: list[torch.Tensor], steps: int, clamp: bool) -> StateInference:
    """Return the inference that looks at every energy."""
    inference = StateInference(network, start, Descent(0.03, 0.6), clamp_latent=clamp)
    for _ in range(steps):
        inference.step()
    return inference


BUILDS: dict[str, dict[str, Any]] = {
    **{name: oracle.BUILDS[name] for name in ("dense", "maps", "same size", "mixed")},
    "equal layers": {"layers": (4,) * 13, "shape": 4},
    "two groups": {"layers": (3, 3, 3, 6, 6), "shape": 9},
    "wide below the data": {"layers": (3, 40), "shape": 5},
}


@pytest.mark.parametrize("activation", oracle.ACTIVATIONS)
@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("build", BUILDS)
def test_the_loop_takes_the_steps_of_plain_descent(
    build: str, activation: str, output: str
) -> None:
    network = oracle.network(
        activation=activation, output=output, hidden=2.0, latent=0.5, data=1.5, **BUILDS[build]
    )
    assert fixed.fits(network)
    data = oracle.data(network)
    start = oracle.states(network, data)
    for clamp in (False, True):
        loops = fixed.Loops(network, 0.03, 0.6)
        for _ in range(2):  # the second run begins at rest, in the first one's buffers
            found = loops.run(start, 12, clamp)
        expected = plain(network, start, 12, clamp).states
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_layers_of_unequal_precision_do_not_move_as_one() -> None:
    network = oracle.network(layers=(4,) * 5, shape=4, hidden=[1.0, 1.0, 3.0, 0.5], latent=0.2)
    start = oracle.states(network, oracle.data(network))
    found = fixed.Loops(network, 0.03, 0.6).run(start, 9, False)
    for a, b in zip(found, plain(network, start, 9, False).states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_loop_follows_the_weights() -> None:
    network = oracle.network(layers=(4, 4, 4), shape=9)
    start = oracle.states(network, oracle.data(network))
    loops = fixed.Loops(network, 0.03, 0.6)
    loops.run(start, 5, False)
    for weight in network.weights():
        weight.mul_(0.7)
    found = loops.run(start, 5, False)
    for a, b in zip(found, plain(network, start, 5, False).states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_inference_without_a_tolerance_goes_through_the_loop(count: int) -> None:
    network = oracle.network()
    method = prepare(network, TABLE)
    data = oracle.data(network)[:count]
    found = infer(method, data, steps=20)
    start = network.states_from(network.start_latent(data), data)
    expected = plain(network, start, 20, clamp=False)
    torch.testing.assert_close(found.energy_B, expected.energy_B, rtol=1e-9, atol=1e-9)
    assert found.steps_B.tolist() == [20] * count
    again = infer(method, data.flip(0), steps=20)
    torch.testing.assert_close(again.energy_B.flip(0), found.energy_B)
    torch.testing.assert_close(found.states[1], expected.states[1])


@pytest.mark.parametrize(
    "build",
    [{"skips": ([0, 2],)}, {"diagonal": True}, {"learned": True}, {"likelihood": "bernoulli"}],
)
def test_what_the_loop_does_not_know_goes_the_general_way(build: dict[str, Any]) -> None:
    network = oracle.network(**build)
    assert not fixed.fits(network)
    data = oracle.data(network)
    start = network.states_from(network.start_latent(data), data)
    found = infer(prepare(network, TABLE), data, steps=7)
    torch.testing.assert_close(
        found.energy_B - network.log_det(), plain(network, start, 7, clamp=False).energy_B
    )


def test_a_size_that_comes_again_is_captured_once_and_gives_the_same_numbers() -> None:
    network = oracle.network()
    start = oracle.states(network, oracle.data(network))
    captured = []

    def capture(work: Any, data: torch.Tensor, states: Any) -> Any:
        captured.append(len(data))
        return work

    def refuse(work: Any, data: torch.Tensor, states: Any) -> Any:
        captured.append(-1)
        raise RuntimeError("an operation that cannot be captured")

    expected = plain(network, start, 6, clamp=False).states
    for way, count in ((capture, 6), (refuse, -1)):
        loops = fixed.Loops(network, 0.03, 0.6, way)
        captured.clear()
        for _ in range(4):
            found = loops.run(start, 6, False)
            torch.testing.assert_close(found[-1], expected[-1], rtol=1e-9, atol=1e-9)
        loops.run([states[:2] for states in start], 6, False)
        assert captured == [count]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a cuda device")
def test_a_graph_on_the_gpu_takes_the_loops_steps() -> None:
    network = oracle.network(layers=(4, 4, 4), shape=9).to("cuda", torch.float64)
    start = [s.cuda() for s in oracle.states(network, torch.rand(6, 9, dtype=torch.float64))]
    loops = fixed.Loops(network, 0.03, 0.6)
    first = loops.run(start, 8, False)
    for _ in range(3):
        for a, b in zip(loops.run(start, 8, False), first, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [3, 512, 700])
def test_a_gram_matrix_of_one_triangle_is_whole(width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(20, width, generator=draw, dtype=torch.float64)
    found = torch.full((width, width), torch.nan, dtype=torch.float64)
    fixed.gram(weight, found)
    torch.testing.assert_close(found, weight.T @ weight)
