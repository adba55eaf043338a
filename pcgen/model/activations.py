"""Activations, their slopes in closed form, and the bound that `majorise` needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Activation:
    """A unit's response to its drive.

    Attributes:
        name: as written in recipes.
        value: drive -> response, elementwise.
        slope: (drive, response) -> derivative, elementwise; at a kink, either side's.
        steepest: the least upper bound of |slope|.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    steepest: float


def _gelu_slope(drive: Tensor, _response: Tensor) -> Tensor:
    density = drive.square().mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    share = torch.erf(drive * math.sqrt(0.5)).add_(1).mul_(0.5)
    return share.addcmul_(drive, density)


def _tanh(drive: Tensor) -> Tensor:
    # Exact to rounding, and a third of torch.tanh's time on a CPU; a GPU has a fast one.
    if drive.device.type != "cpu":
        return torch.tanh(drive)
    return 2 * torch.sigmoid(2 * drive) - 1


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("linear", lambda a: a, lambda a, y: torch.ones_like(a), 1.0),
        Activation("tanh", _tanh, lambda a, y: 1 - y.square(), 1.0),
        Activation("hard_tanh", functional.hardtanh, lambda a, y: (a.abs() < 1).to(a.dtype), 1.0),
        Activation("relu", torch.relu, lambda a, y: (a > 0).to(a.dtype), 1.0),
        # The steepest point of GELU lies at drive sqrt(2).
        Activation("gelu", functional.gelu, _gelu_slope, 1.1290),
        Activation("sigmoid", torch.sigmoid, lambda a, y: y - y.square(), 0.25),
    )
}
