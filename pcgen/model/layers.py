"""Layers: the linear map from the states above to the drive of the states below."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Dense:
    """A fully connected layer: drive = weight x_above + bias.

    Attributes:
        weight: (D, U), from U units above to D units below.
        bias: (D,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight
        self.bias = bias

    @classmethod
    def initial(cls, below: int, above: int, generator: torch.Generator) -> Dense:
        """Return a layer with weights N(0, 1 / above) and no bias."""
        weight = torch.randn(below, above, generator=generator) / math.sqrt(above)
        return cls(weight, torch.zeros(below))

    def drive(self, above_BU: Tensor) -> Tensor:
        """Return the drive (B, D) of the layer below."""
        return torch.addmm(self.bias, above_BU, self.weight.T)

    def drive_move(self, move_BU: Tensor) -> Tensor:
        """Return the change (B, D) of the drive when the states above move."""
        return move_BU @ self.weight.T

    def pull_above(self, pull_BU: Tensor, signal_BD: Tensor) -> Tensor:
        """Return the energy's slope (B, U) in the states above: their pull less the signal."""
        return torch.addmm(pull_BU, signal_BD, self.weight, alpha=-1)

    def gradients(self, signal_BD: Tensor, above_BU: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy's batch-mean slopes in weight and bias: error times activity."""
        count = signal_BD.shape[0]
        return signal_BD.T @ above_BU / -count, signal_BD.sum(0) / -count

    def block(self, curvature_D: Tensor) -> Tensor:
        """Return weight' diag(curvature) weight, (U, U)."""
        return self.weight.T @ (curvature_D.expand(len(self.bias))[:, None] * self.weight)
