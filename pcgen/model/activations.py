"""Activations, their slopes, and the bound of the slope that the solver `majorise` needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.device import has_fast_mkl
from pcgen.registry import ACTIVATIONS


@dataclass(frozen=True)
class Activation:
    """A unit's response to its drive.

    Attributes:
        name: its name in recipes.
        value: drive -> response, elementwise.
        slope: (drive, response) -> derivative, elementwise. At a kink it is that of either side.
        largest_slope: the least upper bound of |slope|.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    largest_slope: float

    @property
    def is_linear(self) -> bool:
        """Return whether the response is the drive itself."""
        return self.name == "linear"


def _gelu_slope(drive: Tensor, _response: Tensor) -> Tensor:
    # A quarter of the time of the formula with torch.erf and torch.exp.
    slope: Tensor = torch.ops.aten.gelu_backward(torch.ones_like(drive), drive)
    return slope


def _silu_slope(drive: Tensor, response: Tensor) -> Tensor:
    gate = torch.sigmoid(drive)
    return torch.addcmul(gate, response, 1 - gate)


def _tanh_slope(_drive: Tensor, response: Tensor) -> Tensor:
    return torch.addcmul(response.new_ones(()), response, response, value=-1)


def _sigmoid_slope(_drive: Tensor, response: Tensor) -> Tensor:
    return torch.addcmul(response, response, response, value=-1)


def _tanh(drive: Tensor) -> Tensor:
    # On a CPU torch.tanh is MKL's, which is three times as fast as what follows on Intel's
    # processors and takes 2.5 times as long on others. (The sigmoid is fast everywhere, but
    # 2 sigmoid(2 a) - 1 loses all digits of a small response.) A GPU has a fast tanh.
    if drive.device.type != "cpu" or has_fast_mkl():
        return torch.tanh(drive)
    # At a drive of 20 the response is 1 in every precision; e^40 is still a finite number.
    growth = torch.expm1(2 * drive.clamp(max=20.0))
    return growth / (growth + 2)


# The slope of a leaky ReLU below 0: torch's default.
LEAK = 0.01

ACTIVATIONS.define(
    {
        activation.name: activation
        for activation in (
            Activation("linear", lambda a: a, lambda a, y: a.new_ones(()).expand_as(a), 1.0),
            Activation("tanh", _tanh, _tanh_slope, 1.0),
            Activation(
                "hard_tanh", functional.hardtanh, lambda a, y: (a.abs() < 1).to(a.dtype), 1.0
            ),
            Activation("relu", torch.relu, lambda a, y: (a > 0).to(a.dtype), 1.0),
            Activation(
                "leaky_relu",
                functional.leaky_relu,
                lambda a, y: torch.where(a > 0, 1.0, LEAK).to(a.dtype),
                1.0,
            ),
            # The steepest point of GELU lies at drive sqrt(2).
            Activation("gelu", functional.gelu, _gelu_slope, 1.1290),
            Activation("silu", functional.silu, _silu_slope, 1.0999),
            Activation("sigmoid", torch.sigmoid, _sigmoid_slope, 0.25),
        )
    }
)


def activation(name: str) -> Activation:
    """Return the activation of a name.

    Raises:
        UnknownNameError: a name that is not registered.
    """
    return ACTIVATIONS.get(name)


def register_activation(
    name: str,
    value: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor, Tensor], Tensor] | None = None,
    largest_slope: float = 1.0,
) -> None:
    """Make an activation known by its name, in recipes, `--set` and Python.

    Args:
        name: for `model.activation`, `model.output` and `classifier.activation`.
        value: drive -> response, elementwise.
        slope: (drive, response) -> derivative, elementwise; by autograd if not given, which takes
            about twice the time.
        largest_slope: an upper bound of |slope|. The solver `majorise` bounds the curvature with
            it: too large a value makes steps short, too small a value makes the search for their
            length work more.

    Example:
        >>> import pcgen, torch
        >>> pcgen.register_activation("softsign", torch.nn.functional.softsign)
    """
    if slope is None:
        slope = partial(_derivative, value)
    ACTIVATIONS.register(name, Activation(name, value, slope, largest_slope))


def _derivative(value: Callable[[Tensor], Tensor], drive: Tensor, _response: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = drive.detach().requires_grad_()
        (slope,) = torch.autograd.grad(value(leaf).sum(), leaf)
    return slope


def second_derivative(activation: Activation, drive: Tensor) -> Tensor:
    """Return the response's second derivative in the drive, elementwise, by autograd."""
    with torch.enable_grad():
        leaf = drive.detach().requires_grad_()
        (slope,) = torch.autograd.grad(activation.value(leaf).sum(), leaf, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(drive)
        (bend,) = torch.autograd.grad(slope.sum(), leaf)
    return bend
