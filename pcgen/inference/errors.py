"""Inference over errors: the latent and the hidden errors move, and they determine the states.

    x_L = z,   x_l = f_l(W x_{l+1} + b) + eps_l

The energy as a function of z and eps is the same, and so are its minima. Where hidden precisions
are high, states can only move along the curved surface on which errors are small, but errors can
move in straight lines, and every move reaches every layer. The price is a reverse sweep: slopes are
carried through all layers, which is not local (learning the weights still is), and a step costs
three products per layer instead of two.

Source: Goemaere et al. (2025), ePC. The latent is free as well here, and no rate is chosen:
moves are conjugate directions with a search for their length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.inference.states import StateInference
from pcgen.model.energy import Terms


class ErrorInference(StateInference):
    """The errors of one batch, and their next move: of the errors from layer 1 up, then the latent.

    Drives are not linear along a move of errors, so they are not stored.
    """

    def refresh(self) -> None:
        super().refresh()
        self.drives = []

    def slopes(self) -> list[Tensor]:
        slopes = []
        carried = [-self.terms[0].signal_BD]
        for i in range(1, self.network.depth):
            arrived = self.network.adjoint(i, carried)
            slopes.append(self.terms[i].pull_BD + arrived)
            slope = self.terms[i].slope_BD
            assert slope is not None
            carried.append(arrived * slope)
        if self.last_free == self.network.depth:
            slopes.append(self.prior_pull_BD + self.network.adjoint(self.network.depth, carried))
        return slopes

    def move(self, moves: list[Tensor]) -> None:
        self._advance(moves, [], torch.ones_like(self.energy_B))

    def drive_moves(self, moves: list[Tensor]) -> list[Tensor]:
        """Return the first-order change of the data's drive (B, D_0), as a list of one."""
        depth = self.network.depth
        whole = list(moves)
        if self.last_free < depth:
            whole.append(torch.zeros_like(self.states[-1]))
        for i in range(depth - 1, 0, -1):
            slope = self.terms[i].slope_BD
            assert slope is not None
            whole[i - 1] = torch.addcmul(moves[i - 1], slope, self.network.drive_move(i, whole))
        return [self.network.drive_move(0, whole)]

    def _curvature(self, moves: list[Tensor], drive_moves: list[Tensor]) -> Tensor:
        total_B = self.energies[0].curvature(self.terms[0], None, drive_moves[0], self.mask_BD)
        precisions = [p.exp() for p in self.network.log_precisions[1:-1]]
        for move, precision in zip(moves, precisions, strict=False):
            total_B = total_B + torch.linalg.vecdot(move, move * precision)
        if self.last_free == self.network.depth:
            total_B = total_B + self.network.prior_curvature(self.states[-1], moves[-1])
        return total_B

    def _advance(self, moves: list[Tensor], drive_moves: list[Tensor], length_B: Tensor) -> None:
        errors = [
            torch.addcmul(state - terms.prediction_BD, length_B[:, None], move)
            for state, terms, move in zip(self.states[1:-1], self.terms[1:], moves, strict=False)
        ]
        latent = self.states[-1]
        if self.last_free == self.network.depth:
            latent = torch.addcmul(latent, length_B[:, None], moves[-1])
        self.states, self.terms = self._sweep(latent, errors)
        self._add_up()

    def _sweep(self, latent_BD: Tensor, errors: list[Tensor]) -> tuple[list[Tensor], list[Terms]]:
        """Return the states and terms that a latent and errors determine."""
        states = [*self.states[:-1], latent_BD]
        terms: list[Terms] = []
        energies = self.network.hidden_energies()
        for i in range(self.network.depth - 1, 0, -1):
            drive = self.network.drive(i, states)
            terms.insert(0, energies[i - 1].terms_at_error(errors[i - 1], drive))
            states[i] = terms[0].prediction_BD + errors[i - 1]
        drive = self.network.drive(0, states)
        terms.insert(0, self.energies[0].terms(states[0], drive, self.mask_BD))
        return states, terms
