"""The energy of one layer: what its value costs, given the drive from above.

Every kind answers the same questions, so that inference and learning need not know which it is. A
mask (1 visible, 0 hidden) drops units from the energy. Energies are in nats per image, summed over
units. Additive constants (2 pi) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.model.activations import Activation


@dataclass(slots=True)
class Terms:
    """One layer's energy and its slopes at a point."""

    energy_B: Tensor
    """Nats per image."""
    prediction_BD: Tensor
    pull_BD: Tensor
    """dE/dx: the precision-weighted error, which pulls the layer to its prediction."""
    signal_BD: Tensor
    """-dE/da, a the drive: the error as it is sent to the layer above."""
    slope_BD: Tensor | None
    """f'(a) of a Gaussian layer; the others need none."""

    def of(self, index: Tensor) -> Terms:
        """Return the terms of some of the images."""
        return Terms(
            self.energy_B[index],
            self.prediction_BD[index],
            self.pull_BD[index],
            self.signal_BD[index],
            None if self.slope_BD is None else self.slope_BD[index],
        )

    def where_not(self, images_B: Tensor, other: Terms) -> Terms:
        """Return these terms, but another point's for the marked images."""
        column = images_B[:, None]
        slope = self.slope_BD
        if slope is not None and other.slope_BD is not None:
            slope = torch.where(column, other.slope_BD, slope)
        return Terms(
            torch.where(images_B, other.energy_B, self.energy_B),
            torch.where(column, other.prediction_BD, self.prediction_BD),
            torch.where(column, other.pull_BD, self.pull_BD),
            torch.where(column, other.signal_BD, self.signal_BD),
            slope,
        )


class LayerEnergy(Protocol):
    """A layer's energy as a function of its value x and its drive a = W x_above + b."""

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        """Return the energy and its slopes."""

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        """Return the Gauss-Newton second derivative (B,) along a move of value and drive.

        `move_BD` is None where the layer's value is clamped.
        """

    def predict(self, drive_BD: Tensor) -> Tensor:
        """Return the layer's expected value."""

    def bound(self) -> Tensor:
        """Return an upper bound of d2E/da2, () or (D,)."""

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch means (D,) of -d2E/dadx and of d2E/da2 (Gauss-Newton)."""


@dataclass(slots=True)
class Gaussian:
    """E = 1/2 sum pi (x - f(a))^2, pi () or (D,); -1/2 log det pi is `Network.log_det`'s."""

    activation: Activation
    precision: Tensor

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        prediction = self.activation.value(drive_BD)
        error = value_BD - prediction
        if mask_BD is not None:
            error = error * mask_BD
        return self._terms(error, drive_BD, prediction)

    def terms_at_error(self, error_BD: Tensor, drive_BD: Tensor) -> Terms:
        """Return the energy and its slopes where the value is the prediction plus an error."""
        return self._terms(error_BD, drive_BD, self.activation.value(drive_BD))

    def _terms(self, error: Tensor, drive_BD: Tensor, prediction: Tensor) -> Terms:
        slope = self.activation.slope(drive_BD, prediction)
        pull = error * self.precision
        energy = 0.5 * torch.linalg.vecdot(error, pull)
        return Terms(energy, prediction, pull, pull * slope, slope)

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        assert terms.slope_BD is not None
        change = terms.slope_BD * drive_move_BD
        if move_BD is not None:
            change = change - move_BD
        if mask_BD is not None:
            change = change * mask_BD
        return torch.linalg.vecdot(change, change * self.precision)

    def predict(self, drive_BD: Tensor) -> Tensor:
        return self.activation.value(drive_BD)

    def bound(self) -> Tensor:
        return self.precision * self.activation.steepest**2

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.activation.slope(drive_BD, self.activation.value(drive_BD))
        return self.precision * slope.mean(0), self.precision * slope.square().mean(0)


@dataclass(slots=True)
class Bernoulli:
    """E = sum softplus(a) - x a: minus the log-likelihood of x in [0, 1] with logits a.

    For x strictly between 0 and 1 this is the cross entropy, whose least value is not 0.
    """

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        prediction = torch.sigmoid(drive_BD)
        cost = functional.softplus(drive_BD) - value_BD * drive_BD
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


@dataclass(slots=True)
class Categorical:
    """E = logsumexp(a) - x'a: minus the log-likelihood of a one-hot x with logits a.

    The layer is one observation: a mask hides all of an image's classes or none.
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
        # diag(p) - p p' has no eigenvalue above 1/2 (Boehning, 1992).
        return torch.tensor(0.5)

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        prediction = torch.softmax(drive_BD, 1)
        return torch.ones_like(prediction[0]), prediction.mean(0)
