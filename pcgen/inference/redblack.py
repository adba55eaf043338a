"""Odd and even layers in turn: block Gauss-Seidel instead of block Jacobi.

While the even layers stand still, the odd ones do not look at one another, so each can take the
full step of its own curvature bound, and the other way round. A step moves both, one after the
other, and costs what a step of `majorise` costs, two products a layer, and the activations twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.inference.states import StateInference


class RedBlackInference(StateInference):
    """The states of one batch, odd layers and even layers in turn."""

    def step(self) -> Tensor:
        expected_B = torch.zeros_like(self.energy_B)
        for first in (1, 2):
            if first <= self.last_free:
                self._moving = range(first, self.last_free + 1, 2)
                expected_B += super().step()
        return expected_B

    def slopes(self) -> list[Tensor]:
        slopes = [torch.zeros_like(states) for states in self.states[1 : self.last_free + 1]]
        for i in self._moving:
            slopes[i - 1] = self.slope(i)
        return slopes

    def drive_moves(self, moves: list[Tensor]) -> list[Tensor]:
        drive_moves = [torch.zeros_like(drive) for drive in self.drives[: len(moves)]]
        for i in self._moving:
            for target, layer in self.network.outputs[i]:
                drive_moves[target] = drive_moves[target] + layer.drive_move(moves[i - 1])
        return drive_moves
