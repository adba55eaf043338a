"""Depth: how many steps of inference a network of L layers needs.

The networks have L layers of one width above the data, which are digits. Weights are random
rotations, all precisions are 1, biases are 0. There are two kinds:

    plain      f(a) = tanh(a)
    residual   f(a) = a + s tanh(a) / sqrt(L),   s = 1 in every other unit and -1 in the rest

A rotation V before the second gives x + V' s tanh(V x) / sqrt(L) in rotated coordinates: a residual
block, scaled as in muPC (Innocenti et al., 2025), whose signals neither die nor explode. The latent
is clamped to another image (then both ends are), or free, with a quarter of the units and a prior.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pcgen.config import InferenceTable, ModelTable, PrecisionTable
from pcgen.data.sources import open_data
from pcgen.inference.directions import Descent, Direction
from pcgen.inference.solvers import Method, prepare
from pcgen.inference.states import StateInference
from pcgen.model.activations import Activation
from pcgen.model.energy import Gaussian, Terms
from pcgen.model.layers import Dense
from pcgen.model.network import TYPICAL, Network

SOLVERS = ("newton", "errors", "majorise", "nesterov", "descent")
NETWORKS, LATENTS = ("residual", "plain"), ("clamped", "free")
TOLERANCES = (1e-2, 1e-3)
# No curvature of these networks is much above 4, so rates from 1/2 up diverge.
RATES = (0.4, 0.3, 0.2, 0.1)
# Steps of `newton` and of `errors` that find the least energy, with which all solvers are compared.
_LONG = 50


@dataclass(frozen=True, slots=True)
class Problem:
    """A network and the ends of its images, (B, D_0) and (B, D_L); a free latent starts at 0."""

    network: Network
    data_BD: Tensor
    latent_BD: Tensor | None

    def begin(self, method: Method) -> StateInference:
        """Return the inference at its start."""
        clamp = self.latent_BD is not None
        inference = method.begin(self.data_BD, None, self.latent_BD, clamp)
        assert isinstance(inference, StateInference)
        return inference


class _Residual(Network):
    """A network whose hidden layers add to what they get."""

    def hidden_energies(self) -> list[Gaussian]:
        share = 1 / math.sqrt(self.depth)

        def signs(drive: Tensor) -> Tensor:
            return share * (1 - 2 * (torch.arange(drive.shape[-1]) % 2)).to(drive)

        residual = Activation(
            "residual",
            lambda drive: drive + signs(drive) * torch.tanh(drive),
            lambda drive, _: 1 + signs(drive) * (1 - torch.tanh(drive).square()),
            1 + share,
        )
        return [Gaussian(residual, p.exp()) for p in self.log_precisions[1:-1]]


class Nesterov:
    """Accelerated descent: y <- x + k / (k + 3) (x - x_old), x <- y - rate dE/dy.

    Source: Nesterov (1983).
    """

    searches = False

    def __init__(self, rate: float) -> None:
        """Begin at rest."""
        self.rate, self.taken = rate, 0
        self.ahead: list[Tensor] | None = None

    def __call__(self, slopes: list[Tensor], terms: Sequence[Terms]) -> tuple[list[Tensor], Tensor]:
        """Return the move from one y to the next."""
        ahead = self.ahead or [torch.zeros_like(slope) for slope in slopes]
        momentum, self.taken = self.taken / (self.taken + 3), self.taken + 1
        moves, self.ahead = [], []
        for slope, lead in zip(slopes, ahead, strict=True):
            self.ahead.append(momentum * (lead - self.rate * slope))
            moves.append(self.ahead[-1] - self.rate * slope)
        return moves, torch.zeros_like(slopes[0][:, 0])

    def restart(self, images_B: Tensor) -> None:
        """Do nothing: no move is refused."""

    def select(self, index: Tensor) -> None:
        """Do nothing: all images move to the end."""


def problem(kind: str, latent: str, depth: int, width: int, images: int) -> Problem:
    """Return a network of this kind and depth with the ends of its images, in float64."""
    source = torch.Generator().manual_seed(depth)
    units = width if latent == "clamped" else max(1, width // 4)
    table = ModelTable(layers=[units, *[width] * (depth - 1)], precision=PrecisionTable(latent=1.0))
    sizes = [width, *reversed(table.layers)]
    layers = [
        Dense(_rotation(below, above, source), torch.zeros(below, dtype=torch.float64))
        for below, above in itertools.pairwise(map(int, sizes))  # type: ignore[arg-type]
    ]
    ones = [torch.zeros((), dtype=torch.float64) for _ in sizes]
    network = (_Residual if kind == "residual" else Network).of(table, layers, ones)
    pixels_BD = open_data("digits").rows(range(2 * images + TYPICAL)).pixels_BD.double()
    pixels_BD = pixels_BD - pixels_BD.mean()
    ends_BD = pixels_BD @ _rotation(pixels_BD.shape[1], width, source)
    ends_BD = ends_BD / ends_BD.square().mean().sqrt()
    data_BD, other_BD, typical_BD = torch.split(ends_BD, [images, images, TYPICAL])
    if latent == "clamped":
        network.typical_latents = typical_BD
        return Problem(network, data_BD, other_BD)
    # As in training: the latents at which the inference of earlier images has ended.
    method = prepare(network, InferenceTable(solver="newton"), reduced=False)
    network.typical_latents = method.begin(typical_BD, steps=10).states[-1]
    return Problem(network, data_BD, None)


def methods(network: Network, solver: str) -> list[Method]:
    """Return the solver; `descent` and `nesterov` at every rate."""
    if solver == "descent":
        return [_at(network, partial(Descent, rate, 0.0)) for rate in RATES]
    if solver == "nesterov":
        return [_at(network, partial(Nesterov, rate)) for rate in RATES]
    return [prepare(network, InferenceTable(solver=solver), reduced=False)]


def steps_needed(at: Problem, solver: str, least_B: Tensor, most: int) -> Tensor:
    """Return the steps (T, B) to each of `TOLERANCES`, at the rate whose median is the smallest.

    An image that does not arrive within `most` steps has infinity.
    """
    best_TB: Tensor | None = None
    for method in methods(at.network, solver):
        steps_TB = _run(at.begin(method), least_B, most)
        if best_TB is None or steps_TB[-1].median() < best_TB[-1].median():
            best_TB = steps_TB
            # A rate that needs more steps for its slowest image is not wanted.
            most = int(steps_TB.max().clamp(max=most))
    assert best_TB is not None
    return best_TB


def _run(inference: StateInference, least_B: Tensor, most: int) -> Tensor:
    """Return the steps (T, B) after which each image stays within the tolerances."""
    tolerances = torch.tensor(TOLERANCES, dtype=torch.float64)[:, None]
    arrived_TB = torch.full((len(TOLERANCES), len(least_B)), torch.inf, dtype=torch.float64)
    for step in range(1, most + 1):
        inference.step()
        near_TB = inference.energy_B <= least_B * (1 + tolerances)
        arrived_TB = torch.where(near_TB, arrived_TB.clamp(max=step), torch.inf)
        if near_TB.all() or not inference.energy_B.isfinite().any():
            break
    return arrived_TB


def exponent(depths: Sequence[int], steps: Sequence[float]) -> float | None:
    """Return the slope of log steps against log depth by least squares; None below two points."""
    arrived = [
        (math.log(d), math.log(s)) for d, s in zip(depths, steps, strict=True) if s < math.inf
    ]
    if len(arrived) < 2:
        return None
    return statistics.linear_regression(*zip(*arrived, strict=True)).slope


def rows(
    depths: Sequence[int], widths: Sequence[int], solvers: Sequence[str], most: int, images: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for each network, latent, width, depth and solver, then its exponents.

    `median` and `worst` are steps over images, None where they do not arrive within `most`.
    """
    for width, latent, kind in itertools.product(widths, LATENTS, NETWORKS):
        where: dict[str, Any] = {"network": kind, "latent": latent, "width": width}
        medians: dict[tuple[str, float], list[float]] = {}
        for depth in depths:
            at = problem(kind, latent, depth, width, images)
            least_B = _least(at)
            for solver in solvers:
                steps_TB = steps_needed(at, solver, least_B, most)
                for tolerance, steps_B in zip(TOLERANCES, steps_TB, strict=True):
                    medians.setdefault((solver, tolerance), []).append(float(steps_B.median()))
                    yield where | {
                        "solver": solver,
                        "tolerance": tolerance,
                        "depth": depth,
                        "median": _whole(steps_B.median()),
                        "worst": _whole(steps_B.max()),
                        "exponent": None,
                    }
        for (solver, tolerance), steps in medians.items():
            law = {"depth": None, "median": None, "worst": None}
            law["exponent"] = exponent(depths, steps)  # type: ignore[assignment]
            yield where | {"solver": solver, "tolerance": tolerance} | law


def _least(at: Problem) -> Tensor:
    """Return the least energy (B,) that long runs of two solvers find from the start."""
    ends = [at.begin(*methods(at.network, solver)) for solver in ("newton", "errors")]
    for inference in ends:
        for _ in range(_LONG):
            inference.step()
    return torch.minimum(ends[0].energy_B, ends[1].energy_B)


def _whole(steps: Tensor) -> int | None:
    return int(steps) if steps.isfinite() else None


def _rotation(below: int, above: int, source: torch.Generator) -> Tensor:
    """Return a random matrix (below, above) with orthonormal rows or columns."""
    long, short = max(below, above), min(below, above)
    matrix = torch.randn(long, short, generator=source, dtype=torch.float64)
    rotation = torch.linalg.qr(matrix)[0]
    return rotation if below == long else rotation.T


def _at(network: Network, direction: Callable[[], Direction]) -> Method:
    return Method(network, StateInference, direction)
