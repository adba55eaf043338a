"""Directions: rules that turn the slopes of the energy into a move of the states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pcgen.model.energy import Terms


class Direction(Protocol):
    """A rule for the states of one batch. Each batch has its own.

    Attributes:
        searches: whether the length of each image's move is searched so that its energy does not
            rise. Otherwise the move is taken as it is.
    """

    searches: bool

    def __call__(self, slopes: list[Tensor], terms: Sequence[Terms]) -> tuple[list[Tensor], Tensor]:
        """Return a move (B, D_l) of each free layer and the energy (B,) it is expected to win.

        After the moves may come the changes of the drives (B, D_l) that they cause, from layer 1
        up, where the direction knows them: two products are then one.

        Args:
            slopes: of the energy in the free layers, layer 1 first.
            terms: of every layer at the present states, data first.
        """

    def restart(self, images_B: Tensor) -> None:
        """Forget the earlier moves of the marked images, whose last move was refused."""

    def select(self, index: Tensor) -> None:
        """Continue with the images of these numbers only."""


class Descent:
    """Gradient descent with momentum: v <- momentum v - rate dE/dx, x <- x + v.

    Source: the state dynamics of Rao and Ballard (1999) with the momentum of Pinchetti et al.
    (2025). Here the slopes are those of the summed energy, so that the rate does not depend on the
    batch size.
    """

    searches = False

    def __init__(self, rate: float, momentum: float) -> None:
        """Begin at rest."""
        self.rate = rate
        self.momentum = momentum
        self.velocity: list[Tensor] | None = None

    def __call__(self, slopes: list[Tensor], terms: Sequence[Terms]) -> tuple[list[Tensor], Tensor]:
        if self.velocity is None:
            self.velocity = [-self.rate * slope for slope in slopes]
        else:
            for velocity, slope in zip(self.velocity, slopes, strict=True):
                velocity.mul_(self.momentum).sub_(slope, alpha=self.rate)
        return self.velocity, 0.5 * self.rate / (1 - self.momentum) * dot(slopes, slopes)

    def restart(self, images_B: Tensor) -> None:
        raise AssertionError("descent never refuses a move")

    def select(self, index: Tensor) -> None:
        if self.velocity is not None:
            self.velocity = selected(self.velocity, index)


Precondition = Callable[[list[Tensor], Sequence[Terms]], list[Tensor]]
"""(slopes, terms of all layers) -> M^-1 slopes, and after them the drives' changes if known."""


class Conjugate:
    """Preconditioned nonlinear conjugate gradients with a search for the length of each move.

        z = M^-1 dE/dx;  d <- -z + beta d,  beta = max(0, (z - z_old)' dE/dx / z_old' dE/dx_old)

    There is no rate to choose. M is one of the preconditioners.

    Source: Polak and Ribiere (1969) with the automatic restart of Powell (1984). Each image has its
    own beta.
    """

    searches = True

    def __init__(self, precondition: Precondition) -> None:
        self.precondition = precondition
        self.move: list[Tensor] | None = None
        self.slopes: list[Tensor] = []
        self.decrement_B: Tensor = torch.empty(0)

    def __call__(self, slopes: list[Tensor], terms: Sequence[Terms]) -> tuple[list[Tensor], Tensor]:
        steepest = self.precondition(slopes, terms)
        # After the steps of the layers may come the changes of the drives.
        steps = steepest[: len(slopes)]
        decrement_B = dot(slopes, steps)
        if self.move is None:
            move = [-step for step in steepest]
        else:
            change_B = decrement_B - dot(self.slopes, steps)
            beta_B = (change_B / self.decrement_B).nan_to_num_(0.0, 0.0, 0.0).clamp_(min=0.0)
            move = [
                (-step).addcmul_(beta_B[:, None], old)
                for step, old in zip(steepest, self.move, strict=True)
            ]
        self.move, self.slopes, self.decrement_B = move, slopes, decrement_B
        return move, 0.5 * decrement_B

    def restart(self, images_B: Tensor) -> None:
        # An infinite decrement makes the next beta 0.
        self.decrement_B = self.decrement_B.masked_fill(images_B, torch.inf)

    def select(self, index: Tensor) -> None:
        if self.move is not None:
            self.move = selected(self.move, index)
            self.slopes = selected(self.slopes, index)
            self.decrement_B = self.decrement_B[index]


def selected(layers: Sequence[Tensor], index: Tensor) -> list[Tensor]:
    """Return the rows of these numbers of every layer's tensor (B, D_l).

    On a CPU this takes a fifth of the time of `layer[index]`.
    """
    return [layer.index_select(0, index) for layer in layers]


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the scalar products (B,) of two moves, summed over all layers."""
    total = torch.linalg.vecdot(left[0], right[0])
    for a, b in zip(left[1:], right[1:], strict=True):
        total = total + torch.linalg.vecdot(a, b)
    return total
