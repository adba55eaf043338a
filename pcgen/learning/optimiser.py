"""Weight steps: torch's optimisers with the recipe's schedule of the rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcgen.config import LearningTable, PrecisionTable


class WeightSteps:
    """Steps weights down their gradients; what it remembers is part of a resumable run."""

    def __init__(
        self, weights: Sequence[Tensor], table: LearningTable, name: str = "optimiser"
    ) -> None:
        """Begin with no memory.

        Args:
            name: of what it remembers, among the tensors of a run.
        """
        self.weights = list(weights)
        self.table = table
        self.name = name
        self.optimiser: torch.optim.Optimizer
        if table.optimiser == "sgd":
            self.optimiser = torch.optim.SGD(
                self.weights,
                lr=table.rate,
                momentum=table.momentum,
                weight_decay=table.weight_decay,
                fused=True,
            )
        else:
            self.optimiser = torch.optim.AdamW(
                self.weights, lr=table.rate, weight_decay=table.weight_decay, fused=True
            )

    def step(self, gradients: Sequence[Tensor | None], update: int, total: int) -> None:
        """Step the weights once.

        Args:
            gradients: of each weight, in order; a weight with None stays.
            update: number of the step, from 0.
            total: steps of the whole run, which the rate's schedule spans.
        """
        for tensor, gradient in zip(self.weights, gradients, strict=True):
            tensor.grad = gradient
        self.optimiser.param_groups[0]["lr"] = rate_at(self.table, update, total)
        self.optimiser.step()

    def release(self) -> None:
        """Free the gradients."""
        for tensor in self.weights:
            tensor.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return what the optimiser remembers, by name."""
        return _state(self.optimiser, self.name)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `tensors()` returned."""
        _load(self.optimiser, self.name, tensors)


class PrecisionSteps:
    """Steps the log precisions by Adam, where the recipe learns them."""

    def __init__(self, log_precisions: Sequence[Tensor], table: PrecisionTable) -> None:
        self.log_precisions = list(log_precisions)
        self.table = table
        self.optimiser = torch.optim.Adam(self.log_precisions, lr=table.rate)

    def are_learned(self, epoch: int) -> bool:
        """Return whether precisions learn in an epoch, counted from 0."""
        return self.table.learned and epoch >= self.table.warmup

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Step the log precisions once; none passes the largest that the recipe allows."""
        for tensor, gradient in zip(self.log_precisions, gradients, strict=True):
            tensor.grad = gradient
        self.optimiser.step()
        for tensor in self.log_precisions:
            tensor.clamp_(max=-math.log(self.table.floor))

    def tensors(self) -> dict[str, Tensor]:
        """Return what the optimiser remembers, by name."""
        return _state(self.optimiser, "precision_optimiser")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `tensors()` returned."""
        _load(self.optimiser, "precision_optimiser", tensors)


def rate_at(table: LearningTable, update: int, total: int) -> float:
    """Return the weight rate of an update (from 0): a rise, then constant or a cosine to 1 %."""
    rise = min(1.0, (update + 1) / table.warmup) if table.warmup else 1.0
    if table.schedule == "constant":
        return table.rate * rise
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, update / max(1, total))))
    return table.rate * rise * max(fall, 0.01)


def _state(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}.{i}.{key}": value
        for i, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def _load(optimiser: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
