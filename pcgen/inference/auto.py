"""`auto`: each image begins with the first solver and changes it where that makes no progress.

A solver promises, with its slope and its model of the curvature, how much energy a step will win.
An image whose steps keep only a small part of what was promised goes on with the next solver, from
where it stands. No solver raises an energy, so nothing can diverge, and what an image does depends
on itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.inference.states import Inference
from pcgen.model.energy import Terms
from pcgen.model.network import Network

Begin = Callable[[list[Tensor], Tensor | None, bool], Inference]
"""Begins a solver at states, with a mask and perhaps a clamped latent."""

# A step is poor if it wins less than this share of what was promised; after so many poor steps in a
# row the image changes solver, when the number of steps is a multiple of _EVERY, and so often at
# most. The numbers are round; halving or doubling one changed no ranking.
_POOR = 0.1
_PATIENCE = 2
_EVERY = 4
_CHANGES = 6


@dataclass(slots=True)
class _Part:
    """The images that changed to the same solver at the same time."""

    solver: int
    index: Tensor
    inference: Inference


class AutoInference:
    """The states of one batch, each image with the solver that serves it.

    The surface is that of `StateInference`.
    """

    def __init__(
        self,
        network: Network,
        states: list[Tensor],
        solvers: Sequence[Begin],
        mask_BD: Tensor | None = None,
        clamp_latent: bool = False,
    ) -> None:
        self.network = network
        self.solvers = solvers
        self.clamp_latent = clamp_latent
        first = solvers[0](states, mask_BD, clamp_latent)
        self.last_free = first.last_free
        count = len(states[0])
        whole = torch.arange(count, device=states[0].device)
        self.parts = [_Part(0, whole, first)]
        self.frozen_B = first.frozen_B.clone()
        self.poor_B = torch.zeros_like(whole)
        self.changes_B = torch.zeros_like(whole)
        self.steps = 0

    @property
    def states(self) -> list[Tensor]:
        return self._gather([part.inference.states for part in self.parts])

    @property
    def energy_B(self) -> Tensor:
        return self._gather([[part.inference.energy_B] for part in self.parts])[0]

    @property
    def mask_BD(self) -> Tensor | None:
        masks = [part.inference.mask_BD for part in self.parts]
        found = [[mask] for mask in masks if mask is not None]
        return self._gather(found)[0] if found else None

    @property
    def terms(self) -> list[Terms]:
        """Return every layer's energy and slopes at the states, data first."""
        if len(self.parts) == 1:
            return self.parts[0].inference.terms
        return self.network.terms(self.states, self.mask_BD)

    def refresh(self) -> None:
        """Compute drives and energies anew, as after the weights changed."""
        for part in self.parts:
            part.inference.refresh()

    def step(self) -> Tensor:
        """Move the states once; return the energy (B,) that full steps were expected to win."""
        expected_B = torch.zeros_like(self.energy_B)
        for part in self.parts:
            inference = part.inference
            inference.frozen_B = self.frozen_B[part.index]
            before_B = inference.energy_B
            promised_B = inference.step()
            poor_B = before_B - inference.energy_B < _POOR * promised_B
            expected_B[part.index] = promised_B
            self.poor_B[part.index] = torch.where(poor_B, self.poor_B[part.index] + 1, 0)
        self.steps += 1
        if self.steps % _EVERY == 0:
            self._change()
        return expected_B

    def select(self, index: Tensor) -> None:
        """Go on with some of the images only."""
        place = torch.full_like(self.poor_B, -1)
        place[index] = torch.arange(len(index), device=index.device)
        self.frozen_B = self.frozen_B[index]
        self.poor_B, self.changes_B = self.poor_B[index], self.changes_B[index]
        parts = []
        for part in self.parts:
            kept = (place[part.index] >= 0).nonzero().squeeze(1)
            if len(kept):
                part.inference.select(kept)
                parts.append(_Part(part.solver, place[part.index[kept]], part.inference))
        self.parts = parts

    def _change(self) -> None:
        """Let the images without progress go on with their next solver."""
        leaving_B = (self.poor_B >= _PATIENCE) & (self.changes_B < _CHANGES) & ~self.frozen_B
        if not leaving_B.any():
            return
        self.changes_B += leaving_B
        self.poor_B = self.poor_B.masked_fill(leaving_B, 0)
        parts = []
        for part in self.parts:
            leaves = leaving_B[part.index]
            gone, kept = leaves.nonzero().squeeze(1), (~leaves).nonzero().squeeze(1)
            inference = part.inference
            if len(gone):
                solver = (part.solver + 1) % len(self.solvers)
                mask = None if inference.mask_BD is None else inference.mask_BD[gone]
                states = [layer[gone] for layer in inference.states]
                begun = self.solvers[solver](states, mask, self.clamp_latent)
                parts.append(_Part(solver, part.index[gone], begun))
            if len(kept):
                if len(gone):
                    inference.select(kept)
                parts.append(_Part(part.solver, part.index[kept], inference))
        self.parts = parts

    def _gather(self, pieces: list[list[Tensor]]) -> list[Tensor]:
        """Return the batch's tensors from those of its parts."""
        if len(pieces) == 1:
            return pieces[0]
        order = torch.cat([part.index for part in self.parts]).argsort()
        return [torch.cat(same)[order] for same in zip(*pieces, strict=True)]
