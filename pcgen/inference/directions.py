"""Directions: rules that turn the energy's slopes into a move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Direction(Protocol):
    """A rule for one batch's states; made anew for each batch.

    Attributes:
        searches: whether the length of the move is searched for each image, so that no image's
            energy rises; otherwise the move is taken as it is.
    """

    searches: bool

    def __call__(self, slopes: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return a move per free layer and the energy (B,) that a full step is expected to win."""

    def restart(self, images_B: Tensor) -> None:
        """Forget the history of the marked images, whose last move was refused."""

    def select(self, index: Tensor) -> None:
        """Go on with some of the batch's images only."""


class Descent:
    """Gradient descent with momentum: v <- momentum v - rate dE/dx, x <- x + v.

    Source: the state dynamics of Rao and Ballard (1999) with the momentum of Pinchetti et al.
    (2025); slopes are of the summed energy, so the rate does not depend on the batch size.
    """

    searches = False

    def __init__(self, rate: float, momentum: float) -> None:
        """Begin at rest."""
        self.rate = rate
        self.momentum = momentum
        self.velocity: list[Tensor] | None = None

    def __call__(self, slopes: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        if self.velocity is None:
            self.velocity = [-self.rate * slope for slope in slopes]
        else:
            for velocity, slope in zip(self.velocity, slopes, strict=True):
                velocity.mul_(self.momentum).sub_(slope, alpha=self.rate)
        return self.velocity, 0.5 * self.rate / (1 - self.momentum) * _dot(slopes, slopes)

    def restart(self, images_B: Tensor) -> None:
        raise AssertionError("descent refuses no move")

    def select(self, index: Tensor) -> None:
        if self.velocity is not None:
            self.velocity = [velocity[index] for velocity in self.velocity]


class Conjugate:
    """Preconditioned nonlinear conjugate gradients; the length of each image's move is searched.

        z = M^-1 dE/dx;  d <- -z + beta d,  beta = max(0, (z - z_old)' dE/dx / z_old' dE/dx_old)

    There is no rate to choose. M is one of `preconditioners`.

    Source: Polak and Ribiere (1969) with the automatic restart of Powell (1984), each image on its
    own.
    """

    searches = True

    def __init__(self, precondition: Callable[[list[Tensor]], list[Tensor]]) -> None:
        self.precondition = precondition
        self.move: list[Tensor] | None = None
        self.slopes: list[Tensor] = []
        self.decrement_B: Tensor = torch.empty(0)

    def __call__(self, slopes: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        steepest = self.precondition(slopes)
        decrement_B = _dot(slopes, steepest)
        if self.move is None:
            move = [-step for step in steepest]
        else:
            change_B = decrement_B - _dot(self.slopes, steepest)
            beta_B = (change_B / self.decrement_B).nan_to_num_(0.0, 0.0, 0.0).clamp_(min=0.0)
            move = [
                torch.addcmul(-step, beta_B[:, None], old)
                for step, old in zip(steepest, self.move, strict=True)
            ]
        self.move, self.slopes, self.decrement_B = move, slopes, decrement_B
        return move, 0.5 * decrement_B

    def restart(self, images_B: Tensor) -> None:
        # An infinite decrement makes the next beta 0.
        self.decrement_B = self.decrement_B.masked_fill(images_B, torch.inf)

    def select(self, index: Tensor) -> None:
        if self.move is not None:
            self.move = [move[index] for move in self.move]
            self.slopes = [slope[index] for slope in self.slopes]
            self.decrement_B = self.decrement_B[index]


class Steepest:
    """Preconditioned descent without a memory; the length of each image's move is searched."""

    searches = True

    def __init__(self, precondition: Callable[[list[Tensor]], list[Tensor]]) -> None:
        self.precondition = precondition

    def __call__(self, slopes: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        steepest = self.precondition(slopes)
        return [-step for step in steepest], 0.5 * _dot(slopes, steepest)

    def restart(self, images_B: Tensor) -> None:
        pass

    def select(self, index: Tensor) -> None:
        pass


def _dot(left: list[Tensor], right: list[Tensor]) -> Tensor:
    total = torch.linalg.vecdot(left[0], right[0])
    for a, b in zip(left[1:], right[1:], strict=True):
        total = total + torch.linalg.vecdot(a, b)
    return total
