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

from collections.abc import Sequence

import torch
from torch import Tensor

from pcgen.inference.certificate import LatentCurvature
from pcgen.inference.coordinates import determined_states, error_slopes
from pcgen.inference.directions import Conjugate
from pcgen.inference.preconditioners import DAMPING, ErrorDiagonal
from pcgen.inference.states import StateInference
from pcgen.model.energy import Terms, slope_of, weighted_square

# Each image's own curvature is computed again after so many steps. It costs as much as about 12
# steps. From 8 to 20 the whole time until the bound is met is the same within 10 %.
REFINE_EVERY = 10


class OwnCurvature(Conjugate):
    """Conjugate directions whose preconditioner takes in the curvature of each image's latent."""

    def __init__(self, precondition: ErrorDiagonal) -> None:
        super().__init__(self._solve)
        self.typical = precondition
        self.latent_BLL: Tensor | None = None

    def refine(self, images: Tensor, curvature: LatentCurvature, precision: Tensor) -> None:
        """Take these images' own curvature from now on, and forget their earlier moves."""
        if self.move is None:
            return
        if self.latent_BLL is None:
            self.latent_BLL = self.typical.latent.repeat(len(self.decrement_B), 1, 1)
        self.latent_BLL[images] = curvature.inverse(precision, DAMPING, self.typical.latent)
        # An infinite decrement makes the next beta 0.
        self.decrement_B = self.decrement_B.index_fill(0, images, torch.inf)

    def select(self, index: Tensor) -> None:
        super().select(index)
        if self.latent_BLL is not None:
            self.latent_BLL = self.latent_BLL.index_select(0, index)

    def _solve(self, slopes: list[Tensor], _: Sequence[Terms]) -> list[Tensor]:
        steps = self.typical(slopes)
        if self.latent_BLL is not None and len(slopes) > len(self.typical.hidden):
            steps[-1] = (slopes[-1][:, None] @ self.latent_BLL)[:, 0]
        return steps


class ErrorInference(StateInference):
    """The errors of one batch, and their next move: of the errors from layer 1 up, then the latent.

    Drives are not linear along a move of errors, so they are not stored.
    """

    def refresh(self) -> None:
        super().refresh()
        self.hidden = self.network.hidden_energies()
        self.drives = []

    def slopes(self) -> list[Tensor]:
        return error_slopes(self.network, self.terms, self.prior_pull_BD, self.last_free)

    def refines_at(self, step: int) -> bool:
        return step % REFINE_EVERY == 0 and self.certificate.is_cheap

    def take_in(self, images: Tensor, curvature: LatentCurvature) -> None:
        if isinstance(self.direction, OwnCurvature):
            self.direction.refine(images, curvature, self.network.latent_precision())

    def move(self, moves: list[Tensor]) -> None:
        self._advance(moves, [], torch.ones_like(self.energy_B))

    def drive_moves(self, moves: list[Tensor]) -> list[Tensor]:
        """Return the first-order change of the data's drive (B, D_0), as a list of one."""
        depth = self.network.depth
        whole = list(moves)
        if self.last_free < depth:
            whole.append(torch.zeros_like(self.states[-1]))
        for i in range(depth - 1, 0, -1):
            slope = slope_of(self.terms[i])
            whole[i - 1] = torch.addcmul(moves[i - 1], slope, self.network.drive_move(i, whole))
        return [self.network.drive_move(0, whole)]

    def _curvature(self, moves: list[Tensor], drive_moves: list[Tensor]) -> Tensor:
        total_B = self.energies[0].curvature(self.terms[0], None, drive_moves[0], self.mask_BD)
        for energy, move in zip(self.hidden, moves, strict=False):
            total_B = total_B + weighted_square(move, energy.precision)
        if self.last_free == self.network.depth:
            total_B = total_B + self.network.prior_curvature(self.states[-1], moves[-1], self.guide)
        return total_B

    def _advance(self, moves: list[Tensor], drive_moves: list[Tensor], length_B: Tensor) -> None:
        errors = [
            torch.addcmul(state - terms.prediction_BD, length_B[:, None], move)
            for state, terms, move in zip(self.states[1:-1], self.terms[1:], moves, strict=False)
        ]
        latent = self.states[-1]
        if self.last_free == self.network.depth:
            latent = torch.addcmul(latent, length_B[:, None], moves[-1])
        self.states, self.terms = determined_states(
            self.network, self.states[0], latent, errors, self.mask_BD
        )
        self._add_up()
