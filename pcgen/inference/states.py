"""The states of one batch while inference lowers their energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pcgen.inference.certificate import Certificate, LatentCurvature
from pcgen.inference.coordinates import error_slopes
from pcgen.inference.directions import Direction, dot, selected
from pcgen.model.energy import Gaussian, Terms, with_images
from pcgen.model.network import Network
from pcgen.model.upward import Guide

# If a move would raise an image's energy, the image stays where it is, and its next move is shorter
# by the first factor. After each accepted move it is longer by the second, up to its full length.
# Any factors below and above 1 work; these find a good length within a few steps.
SHORTER = 0.25
LONGER = 2.0


class Inference(Protocol):
    """The states of one batch, and their next move.

    Attributes:
        network: the network whose energy is lowered.
        last_free: the uppermost layer that moves.
        frozen_B: the images that no longer move.
    """

    network: Network
    last_free: int
    frozen_B: Tensor

    @property
    def states(self) -> list[Tensor]:
        """Return the states (B, D_l) of every layer, data first."""

    @property
    def energy_B(self) -> Tensor:
        """Return nats per image, without the term of learned precisions."""

    @property
    def mask_BD(self) -> Tensor | None:
        """Return 1 for visible data and 0 for hidden; None if all are visible."""

    @property
    def terms(self) -> list[Terms]:
        """Return every layer's energy and slopes at the states, data first."""

    def step(self) -> Tensor:
        """Move the states once; return the energy (B,) that a full step should win."""

    def refines_at(self, step: int) -> bool:
        """Return whether a sharp bound after this step would also make the next moves better."""

    def excess_bound(self, images: Tensor, sharp: bool) -> Tensor:
        """Return the nats that these images (numbers) can still lose at most, as (len(images),).

        Args:
            sharp: whether a smaller bound may take longer.
        """

    def refresh(self) -> None:
        """Compute drives and energies again, for example after the weights have changed."""

    def select(self, index: Tensor) -> None:
        """Continue with the images of these numbers only."""


@dataclass(frozen=True, slots=True)
class Position:
    """The states of a batch, with everything computed from them."""

    states: list[Tensor]
    drives: list[Tensor]
    terms: list[Terms]
    energy_B: Tensor
    prior_pull_BD: Tensor


class StateInference:
    """The states of one batch, and their next move.

    The drives a_l are linear in the states. After a move of length t along d they are a + t W d,
    which needs no further product with the weights. So a search for t costs activations only, and
    a step costs two products per layer, the same as in plain gradient descent.

    Attributes:
        states: (B, D_l) of every layer, data first.
        terms: the energy and its slopes of every layer, data first.
        energy_B: nats per image, without the term of learned precisions.
        prior_pull_BD: slope of the prior's energy in the uppermost layer.
        frozen_B: the images that no longer move.
        guide: what the upward chain predicts of the latent, if there is one.
    """

    guide: Guide | None = None

    def __init__(
        self,
        network: Network,
        states: list[Tensor],
        direction: Direction,
        mask_BD: Tensor | None = None,
        clamp_latent: bool = False,
        certificate: Certificate | None = None,
    ) -> None:
        self.network = network
        self.certificate = certificate or Certificate(network)
        self.states = states
        self.direction = direction
        self.mask_BD = mask_BD
        self.last_free = network.depth - 1 if clamp_latent else network.depth
        self.frozen_B = torch.zeros(len(states[0]), dtype=torch.bool, device=states[0].device)
        # The share of the Gauss-Newton length that each image moves.
        self.trust_B = torch.ones_like(states[0][:, 0])
        self.energy_B = torch.zeros_like(self.trust_B)
        self.prior_energy_B: Tensor | None = None
        self.prior_pull_BD = torch.zeros_like(states[-1])
        self.drives: list[Tensor] = []
        self.terms: list[Terms] = []
        self.refresh()

    def refresh(self) -> None:
        """Compute drives and energies again, for example after the weights have changed."""
        self.energies = self.network.energies()
        self.drives = [self.network.drive(i, self.states) for i in range(self.network.depth)]
        self._evaluate()

    def follow(self, guide: Guide) -> None:
        """Add the energy of the upward chain, whose predictions these are, from now on."""
        self.guide = guide
        self.prior_energy_B = None
        self._add_up()

    def refines_at(self, step: int) -> bool:
        return False

    def excess_bound(self, images: Tensor, sharp: bool) -> Tensor:
        network, certificate, terms = self.network, self.certificate, self.terms
        index = None if len(images) == len(self.energy_B) else images
        slopes = error_slopes(network, terms, self.prior_pull_BD, self.last_free, index)
        if not slopes:
            return torch.zeros_like(self.energy_B[images])
        bound_B = certificate.plain_bound(slopes)
        needed = sharp or not certificate.has_prior
        # The sharp bound does not know the upward chain. The plain one holds with it: its energy
        # only adds curvature.
        if self.last_free < network.depth or not needed or self.guide is not None:
            return bound_B
        states, mask_BD = self.states, self.mask_BD
        if index is not None:
            states, terms = selected(states, index), [term.of(index) for term in terms]
            mask_BD = None if mask_BD is None else mask_BD.index_select(0, index)
        curvature = certificate.latent_curvature(terms, mask_BD)
        if curvature is None:
            return bound_B
        self.take_in(images, curvature)
        return bound_B.minimum(certificate.sharp_bound(states, terms, slopes, curvature, mask_BD))

    def take_in(self, images: Tensor, curvature: LatentCurvature) -> None:
        """Use the curvature of these images' latents for their next moves, if that helps."""

    def slopes(self) -> list[Tensor]:
        """Return dE/dx (B, D_l) of the free layers, from layer 1 upwards."""
        return [self.slope(i) for i in range(1, self.last_free + 1)]

    def slope(self, i: int) -> Tensor:
        """Return dE/dx (B, D_i) of layer i."""
        top = i == self.network.depth
        pull = self.prior_pull_BD if top else self.terms[i].pull_BD
        return self.network.slope(i, pull, [terms.signal_BD for terms in self.terms])

    def step(self) -> Tensor:
        """Move the states once; return the energy (B,) that a full step should win."""
        slopes = self.slopes()
        moves, expected_B = self.direction(slopes, self.terms)
        moves, known = moves[: len(slopes)], moves[len(slopes) :]
        drive_moves = (
            [self.network.drive_move(0, moves), *known] if known else self.drive_moves(moves)
        )
        if self.direction.searches:
            self._search(slopes, moves, drive_moves)
        else:
            self._advance(moves, drive_moves, (~self.frozen_B).to(self.energy_B.dtype))
        return expected_B

    def move(self, moves: list[Tensor]) -> None:
        """Move all images by these moves (B, D_l) of the free layers, even if energies rise."""
        self._advance(moves, self.drive_moves(moves), torch.ones_like(self.energy_B))

    def position(self) -> Position:
        """Return the present position of all images, for `restore` and `put_back`."""
        return Position(self.states, self.drives, self.terms, self.energy_B, self.prior_pull_BD)

    def restore(self, before: Position) -> None:
        """Move all images back to an earlier position."""
        self.states, self.drives = before.states, before.drives
        self.terms, self.energy_B = before.terms, before.energy_B
        self.prior_pull_BD = before.prior_pull_BD

    def put_back(self, before: Position, images_B: Tensor) -> None:
        """Move the marked images (B,) back to an earlier position, in the present tensors."""
        index = images_B.nonzero()[:, 0]
        if not len(index):
            return

        def back(new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
            return [with_images(a, index, b) for a, b in zip(new, old, strict=True)]

        self.states = [self.states[0], *back(self.states[1:], before.states[1:])]
        self.drives = back(self.drives, before.drives)
        self.terms = [
            new.with_images(index, old) for new, old in zip(self.terms, before.terms, strict=True)
        ]
        self.energy_B = with_images(self.energy_B, index, before.energy_B)
        self.prior_pull_BD = with_images(self.prior_pull_BD, index, before.prior_pull_BD)

    def drive_moves(self, moves: list[Tensor]) -> list[Tensor]:
        """Return the changes of the drives (B, D_l) of all layers below, for these moves."""
        return [self.network.drive_move(i, moves) for i in range(len(moves))]

    def select(self, index: Tensor) -> None:
        """Continue with the images of these numbers only."""
        self.states = selected(self.states, index)
        self.mask_BD = None if self.mask_BD is None else self.mask_BD.index_select(0, index)
        self.frozen_B = self.frozen_B[index]
        self.trust_B = self.trust_B[index]
        self.energy_B = self.energy_B[index]
        if self.prior_energy_B is not None:
            self.prior_energy_B = self.prior_energy_B[index]
        self.prior_pull_BD = self.prior_pull_BD.index_select(0, index)
        self.guide = None if self.guide is None else self.guide.of(index)
        self.drives = selected(self.drives, index)
        self.terms = [terms.of(index) for terms in self.terms]
        self.direction.select(index)

    def _search(self, slopes: list[Tensor], moves: list[Tensor], drive_moves: list[Tensor]) -> None:
        """Move each image by its Gauss-Newton length times its trust, unless its energy rises."""
        curvature_B = self._curvature(moves, drive_moves)
        length_B = (-dot(slopes, moves) / curvature_B).nan_to_num_(0.0, 0.0, 0.0).clamp_(min=0.0)
        length_B.mul_(self.trust_B).masked_fill_(self.frozen_B, 0.0)
        before = self.position()
        self._advance(moves, drive_moves, length_B)
        refused_B = ~(self.energy_B <= before.energy_B)
        # An image that did not move can only have a higher energy by rounding.
        too_long_B = refused_B & (length_B != 0)
        self.trust_B = torch.where(
            too_long_B, SHORTER * self.trust_B, (LONGER * self.trust_B).clamp(max=1.0)
        )
        self.put_back(before, refused_B)
        self.direction.restart(refused_B)

    def _curvature(self, moves: list[Tensor], drive_moves: list[Tensor]) -> Tensor:
        total_B = torch.zeros_like(self.energy_B)
        for i, drive_move in enumerate(drive_moves):
            move = moves[i - 1] if i > 0 else None
            mask = self.mask_BD if i == 0 else None
            total_B += self.energies[i].curvature(self.terms[i], move, drive_move, mask)
        if self.last_free == self.network.depth:
            total_B += self.network.prior_curvature(self.states[-1], moves[-1], self.guide)
        else:
            # The layer below a clamped latent moves, but its drive does not.
            still = torch.zeros_like(self.drives[-1])
            total_B += self.energies[-1].curvature(self.terms[-1], moves[-1], still, None)
        return total_B

    def _advance(self, moves: list[Tensor], drive_moves: list[Tensor], length_B: Tensor) -> None:
        length = length_B[:, None]
        self.states = [
            self.states[0],
            *(torch.addcmul(x, length, d) for x, d in zip(self.states[1:], moves, strict=False)),
            *self.states[self.last_free + 1 :],
        ]
        self.drives = [
            *(torch.addcmul(a, length, d) for a, d in zip(self.drives, drive_moves, strict=False)),
            *self.drives[self.last_free :],
        ]
        self._evaluate(self.last_free)

    def _evaluate(self, still: int | None = None) -> None:
        """Compute all terms; from layer `still` (at least 1) up, the drives are as they were."""
        still = self.network.depth if still is None else max(1, still)
        parts = zip(self.energies, self.states, self.drives, strict=False)
        before, self.terms = self.terms, []
        for i, (energy, value, drive) in enumerate(parts):
            if i < still:
                terms = energy.terms(value, drive, self.mask_BD if i == 0 else None)
            else:
                assert isinstance(energy, Gaussian)
                terms = energy.terms_at_value(value, before[i])
            self.terms.append(terms)
        self._add_up()

    def _add_up(self) -> None:
        # The prior's energy of a clamped latent stays as it was.
        if self.last_free == self.network.depth or self.prior_energy_B is None:
            self.prior_energy_B, self.prior_pull_BD = self.network.prior_terms(
                self.states[-1], self.guide
            )
        self.energy_B = self.prior_energy_B
        for terms in self.terms:
            self.energy_B = self.energy_B + terms.energy_B
