"""The energy of one layer, as a function of the layer's value and of its drive.

The drive a = W x_above + b is the input from the layer above. Each kind of energy has the same
methods, so that inference and learning work with all of them. A mask (1 visible, 0 hidden) drops
units from the energy. Energies are in nats per image, summed over units, without the constants that
contain 2 pi.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.errors import RecipeError
from pcgen.model.activations import Activation
from pcgen.model.layers import Convolution
from pcgen.registry import LIKELIHOODS


@dataclass(slots=True)
class Terms:
    """One layer's energy and its slopes at a point."""

    energy_B: Tensor
    """Nats per image."""
    prediction_BD: Tensor
    """The expected value of the layer."""
    pull_BD: Tensor
    """dE/dx: the precision-weighted error, which pulls the value towards the prediction."""
    signal_BD: Tensor
    """-dE/da: the error that is sent to the layer above."""
    slope_BD: Tensor | None
    """The activation's derivative f'(a) in a Gaussian layer; None in the others."""

    def of(self, index: Tensor) -> Terms:
        """Return the terms of the images with these numbers."""
        return self._each(lambda tensor, _: tensor.index_select(0, index), self)

    def with_images(self, index: Tensor, other: Terms) -> Terms:
        """Return these terms, except that the images with these numbers have those of `other`.

        These terms are overwritten.
        """
        return self._each(lambda tensor, old: with_images(tensor, index, old), other)

    def _each(self, change: Callable[[Tensor, Tensor], Tensor], other: Terms) -> Terms:
        slope, old = self.slope_BD, other.slope_BD
        return Terms(
            change(self.energy_B, other.energy_B),
            change(self.prediction_BD, other.prediction_BD),
            change(self.pull_BD, other.pull_BD),
            change(self.signal_BD, other.signal_BD),
            None if slope is None or old is None else change(slope, old),
        )


def with_images(tensor: Tensor, index: Tensor, other: Tensor) -> Tensor:
    """Return a tensor of all images, except that those with these numbers are as in `other`.

    The tensor is overwritten, so it must not be used elsewhere. On a CPU this takes a tenth of the
    time of `torch.where`.
    """
    own = tensor if tensor.is_contiguous() else tensor.clone()
    return own.index_copy_(0, index, other.index_select(0, index))


def slope_of(terms: Terms) -> Tensor:
    """Return the activation's derivative (B, D) of a Gaussian layer."""
    assert terms.slope_BD is not None
    return terms.slope_BD


def weighted_square(error_BD: Tensor, precision: Tensor) -> Tensor:
    """Return sum pi error^2 (B,) for a precision pi of shape () or (D,)."""
    if precision.ndim:
        return torch.linalg.vecdot(error_BD, error_BD * precision)
    # One pass over the memory, where a scalar product takes two.
    return precision * torch.linalg.vector_norm(error_BD, dim=1).square()


class LayerEnergy(Protocol):
    """A layer's energy as a function of its value x and its drive a."""

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        """Return the energy and its slopes."""

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        """Return the second derivative (B,) along a move of value and drive.

        It is the Gauss-Newton approximation, which leaves out the curvature of the activation and
        is never negative.

        Args:
            move_BD: the move of the value; None where the value is clamped.
        """

    def predict(self, drive_BD: Tensor) -> Tensor:
        """Return the layer's expected value (B, D)."""

    def bound(self) -> Tensor:
        """Return an upper bound of d2E/da2, () or (D,)."""

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch means (D,) of -d2E/dadx and of d2E/da2 (Gauss-Newton)."""

    def draw(self, prediction_BD: Tensor, normal_BD: Tensor) -> Tensor:
        """Return a random value (B, D) around the prediction, made of standard normal numbers."""


@dataclass(slots=True)
class Gaussian:
    """E = 1/2 sum pi (x - f(a))^2 with a precision pi of shape () or (D,).

    `Network.log_det` adds the term -1/2 log det pi of learned precisions.
    """

    activation: Activation
    precision: Tensor
    is_unit: bool = field(init=False)
    """Whether the precision is known to be 1. On a GPU nobody looks, because that would wait."""

    def __post_init__(self) -> None:
        precision = self.precision
        self.is_unit = precision.ndim == 0 and precision.is_cpu and precision.item() == 1

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        prediction, slope = self.response(drive_BD)
        error = value_BD - prediction
        if mask_BD is not None:
            error = error * mask_BD
        return self._terms(error, prediction, slope)

    def terms_at_error(self, error_BD: Tensor, drive_BD: Tensor) -> Terms:
        """Return the energy and its slopes where the value is the prediction plus this error."""
        return self._terms(error_BD, *self.response(drive_BD))

    def terms_at_value(self, value_BD: Tensor, terms: Terms) -> Terms:
        """Return the energy and its slopes at another value, and the same drive."""
        return self._terms(value_BD - terms.prediction_BD, terms.prediction_BD, slope_of(terms))

    def response(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prediction and its slope in the drive."""
        prediction = self.activation.value(drive_BD)
        return prediction, self.activation.slope(drive_BD, prediction)

    def _terms(self, error: Tensor, prediction: Tensor, slope: Tensor) -> Terms:
        pull = self.weighted(error)
        signal = pull if self.activation.is_linear else pull * slope
        energy = 0.5 * weighted_square(error, self.precision)
        return Terms(energy, prediction, pull, signal, slope)

    def weighted(self, error_BD: Tensor) -> Tensor:
        """Return pi times an error (B, D)."""
        return error_BD if self.is_unit else error_BD * self.precision

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        if move_BD is not None:
            change = torch.addcmul(move_BD, slope_of(terms), drive_move_BD, value=-1)
        elif self.activation.is_linear:
            change = drive_move_BD
        else:
            change = slope_of(terms) * drive_move_BD
        change = change if mask_BD is None else change * mask_BD
        return weighted_square(change, self.precision)

    def predict(self, drive_BD: Tensor) -> Tensor:
        return self.activation.value(drive_BD)

    def bound(self) -> Tensor:
        return self.precision * self.activation.largest_slope**2

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.activation.slope(drive_BD, self.activation.value(drive_BD))
        return self.precision * slope.mean(0), self.precision * slope.square().mean(0)

    def draw(self, prediction_BD: Tensor, normal_BD: Tensor) -> Tensor:
        return prediction_BD + normal_BD * self.precision.rsqrt()


@dataclass(slots=True)
class Pooled(Gaussian):
    """E = 1/2 sum pi (x - pool(f(a)))^2: of each window of a map, the largest response counts.

    The slope is that of the largest response, and 0 at all others.
    """

    layer: Convolution

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        change = self.layer.summed(slope_of(terms) * drive_move_BD)
        change = change if move_BD is None else move_BD - change
        return weighted_square(change, self.precision)

    def predict(self, drive_BD: Tensor) -> Tensor:
        return self.layer.pooled(self.activation.value(drive_BD))[0]

    def response(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        response = self.activation.value(drive_BD)
        prediction, chosen = self.layer.pooled(response)
        return prediction, self.activation.slope(drive_BD, response) * chosen

    def _terms(self, error: Tensor, prediction: Tensor, slope: Tensor) -> Terms:
        pull = self.weighted(error)
        energy = 0.5 * weighted_square(error, self.precision)
        return Terms(energy, prediction, pull, self.layer.spread(pull) * slope, slope)


@dataclass(slots=True)
class Bernoulli:
    """E = sum softplus(a) - x a: the negative log-likelihood of x in [0, 1] with logits a.

    For x between 0 and 1 it is the cross entropy, whose least value is not 0.
    """

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        prediction = torch.sigmoid(drive_BD)
        cost = torch.addcmul(functional.softplus(drive_BD), value_BD, drive_BD, value=-1)
        error = value_BD - prediction
        pull = -drive_BD
        if mask_BD is not None:
            cost, error, pull = cost * mask_BD, error * mask_BD, pull * mask_BD
        return Terms(cost.sum(1), prediction, pull, error, None)

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        variance = terms.prediction_BD * (1 - terms.prediction_BD)
        if mask_BD is not None:
            variance = variance * mask_BD
        return torch.linalg.vecdot(drive_move_BD * variance, drive_move_BD)

    def predict(self, drive_BD: Tensor) -> Tensor:
        return torch.sigmoid(drive_BD)

    def bound(self) -> Tensor:
        return torch.tensor(0.25)

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        prediction = torch.sigmoid(drive_BD)
        variance = prediction * (1 - prediction)
        return torch.ones_like(variance[0]), variance.mean(0)

    def draw(self, prediction_BD: Tensor, normal_BD: Tensor) -> Tensor:
        return (torch.special.ndtr(normal_BD) < prediction_BD).to(prediction_BD)


@dataclass(slots=True)
class Categorical:
    """E = logsumexp(a) - x'a: the negative log-likelihood of a one-hot x with logits a.

    The layer is a single observation: a mask hides all classes of an image or none.
    """

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        prediction = torch.softmax(drive_BD, 1)
        energy = torch.logsumexp(drive_BD, 1) - torch.linalg.vecdot(value_BD, drive_BD)
        error, pull = value_BD - prediction, -drive_BD
        if mask_BD is not None:
            energy, error, pull = energy * mask_BD[:, 0], error * mask_BD, pull * mask_BD
        return Terms(energy, prediction, pull, error, None)

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        weighted = terms.prediction_BD * drive_move_BD
        variance = torch.linalg.vecdot(weighted, drive_move_BD) - weighted.sum(1).square()
        return variance if mask_BD is None else variance * mask_BD[:, 0]

    def predict(self, drive_BD: Tensor) -> Tensor:
        return torch.softmax(drive_BD, 1)

    def bound(self) -> Tensor:
        # The eigenvalues of diag(p) - p p' are at most 1/2 (Boehning, 1992).
        return torch.tensor(0.5)

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        prediction = torch.softmax(drive_BD, 1)
        return torch.ones_like(prediction[0]), prediction.mean(0)

    def draw(self, prediction_BD: Tensor, normal_BD: Tensor) -> Tensor:
        # The largest of log p plus Gumbel noise is a draw from p.
        gumbel_BD = -(-torch.special.log_ndtr(normal_BD)).log()
        chosen_B = (prediction_BD.log() + gumbel_BD).argmax(1)
        return functional.one_hot(chosen_B, prediction_BD.shape[1]).to(prediction_BD)


@dataclass(slots=True)
class AutogradEnergy:
    """E = sum cost(x, a): a likelihood given by its cost, with slopes by autograd.

    Wherever the others use the curvature in the drive, this energy uses its upper bound. Steps are
    then shorter than they could be, but still lower the energy.

    Attributes:
        cost: (value, drive) -> nats of each unit, elementwise.
        mean: drive -> expected value of each unit, elementwise.
        largest_curvature: an upper bound of the cost's second derivative in the drive.
        sample: (prediction, standard normal numbers) -> a random value of each unit, for
            `pcgen sample`; optional.
    """

    cost: Callable[[Tensor, Tensor], Tensor]
    mean: Callable[[Tensor], Tensor]
    largest_curvature: float
    sample: Callable[[Tensor, Tensor], Tensor] | None = None

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        with torch.enable_grad():
            value, drive = (x.detach().requires_grad_() for x in (value_BD, drive_BD))
            cost = self.cost(value, drive)
            if mask_BD is not None:
                cost = cost * mask_BD
            pull, slope = torch.autograd.grad(cost.sum(), (value, drive))
        return Terms(cost.detach().sum(1), self.mean(drive_BD), pull, -slope, None)

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        move = drive_move_BD if mask_BD is None else drive_move_BD * mask_BD
        return self.largest_curvature * torch.linalg.vecdot(move, move)

    def predict(self, drive_BD: Tensor) -> Tensor:
        return self.mean(drive_BD)

    def bound(self) -> Tensor:
        return torch.tensor(self.largest_curvature)

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        bound_D = torch.full_like(drive_BD[0], self.largest_curvature)
        return bound_D, bound_D

    def draw(self, prediction_BD: Tensor, normal_BD: Tensor) -> Tensor:
        if self.sample is None:
            raise RecipeError(
                "model.likelihood: this likelihood has no `sample` function to draw data with",
                "Register it with one, or draw what is predicted (without --draw)",
            )
        return self.sample(prediction_BD, normal_BD)


LIKELIHOODS.define({"gaussian": Gaussian, "bernoulli": Bernoulli, "categorical": Categorical})


def register_likelihood(name: str, make: Callable[[], LayerEnergy]) -> None:
    """Make a likelihood of the data known by its name, for `model.likelihood`.

    Args:
        make: returns the energy of the data layer: an `AutogradEnergy`, or any object with the
            methods of `LayerEnergy`.

    Example:
        >>> import pcgen, torch
        >>> from pcgen.model.energy import AutogradEnergy
        >>> def log_cosh(value, drive):
        ...     return torch.log(torch.cosh(value - drive))
        >>> def energy():
        ...     return AutogradEnergy(log_cosh, mean=lambda drive: drive, largest_curvature=1.0)
        >>> pcgen.register_likelihood("log-cosh", energy)
    """
    LIKELIHOODS.register(name, make)
