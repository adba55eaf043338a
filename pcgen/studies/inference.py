"""How near the solvers come to stationary points on trained models, and what they say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.solvers import Method, prepare
from pcgen.model.network import Network

SOLVERS = ("errors", "newton", "majorise", "descent")
# Steps in float64 that follow an equilibrium down to its stationary point, and when that is found.
_FOLLOWED = 300
_FOUND = 1e-8


def inference_rows(
    name: str,
    network: Network,
    table: InferenceTable,
    images: Images,
    tell: Callable[[str, int], None],
) -> Iterator[dict[str, Any]]:
    """Yield a row for each solver: shares of images, and energies in nats per image.

    Every equilibrium is followed in float64, by `errors`, to the stationary point below it.
    """
    exact = network.to("cpu", torch.float64)
    follow = prepare(exact, msgspec.structs.replace(table, solver="errors"), reduced=False)
    data_BD = images.rows(range(len(images))).pixels_BD.to(network.layers[0].weight)
    ends, bottoms_B = [], []
    for number, solver in enumerate(SOLVERS):
        tell(solver, number)
        chosen = msgspec.structs.replace(table, solver=solver, test_solver="")
        end = infer(
            prepare(network, chosen), data_BD, steps=table.test_steps, tolerance=table.tolerance
        )
        ends.append(end)
        bottoms_B.append(_bottom(follow, end))
    least_B = torch.stack(bottoms_B).nan_to_num(torch.inf).amin(0)
    for solver, end, bottom_B in zip(SOLVERS, ends, bottoms_B, strict=True):
        yield {
            "model": name,
            "hidden_precision": network.table.precision.hidden,
            "solver": solver,
            **_measured(end, bottom_B, least_B, table.tolerance),
        }


def _measured(
    end: Equilibrium, bottom_B: Tensor, least_B: Tensor, tolerance: float
) -> dict[str, float | None]:
    energy_B = end.energy_B.double()
    excess_B = (energy_B - bottom_B) / energy_B.abs()
    wrong_B = end.converged_B & (excess_B > tolerance)
    numbers = {
        "energy": energy_B.mean(),
        "excess_median": excess_B.median(),
        "excess_worst": excess_B.max(),
        "above_least": ((energy_B - least_B) / least_B.abs()).mean(),
        "converged": end.converged_B.double().mean(),
        "wrongly_converged": wrong_B.double().mean(),
        "steps": end.steps_B.double().mean(),
    }
    # A solver that diverges has no energy.
    return {name: float(x) if x.isfinite() else None for name, x in numbers.items()}


def _bottom(method: Method, end: Equilibrium) -> Tensor:
    """Return the energy (B,) of the stationary points below an equilibrium, by a float64 solver."""
    states = [layer.double() for layer in end.states]
    inference = method.at(states, None, clamp_latent=False)
    images = torch.arange(len(states[0]))
    for step in range(1, _FOLLOWED + 1):
        inference.step()
        if inference.refines_at(step):
            bound_B = inference.excess_bound(images, True)
            if (bound_B <= _FOUND * inference.energy_B.abs()).all():
                break
    return inference.energy_B + method.network.log_det()


MODELS: Sequence[tuple[str, str]] = (
    ("digits", "digits:test"),
    ("digits-ood", "digits:test"),
    ("mnist", "mnist:test"),
    ("mnist-ood", "mnist:test"),
    ("mnist-sampler", "mnist:test"),
    ("fashion-mnist", "fashion-mnist:test"),
    ("cifar10", "cifar10:test"),
    ("cifar10-large", "cifar10:test"),
)
"""The shipped models with images of their test sets."""
