"""Recall: a memory restores the images that damaged cues are of.

Hidden pixels are dropped from the energy, visible ones count with the cue's precision. Two priors
on the latent, both learnt from the stored latents, are used in turn: their Gaussian, under which
the energy has one wide valley, and then their mixture, whose minima are the stored latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.solvers import Method, prepare
from pcgen.learning.latent_prior import standard_latents, whiten
from pcgen.memory.corruptions import Cues
from pcgen.memory.mixture import Retrieval, prepare_mixture
from pcgen.memory.visible_reduction import Visible, is_reducible
from pcgen.model.energy import Gaussian
from pcgen.model.network import Network

Prior = Literal["mixture", "gaussian", "none"]

# A component's standard deviation, as a share of the distance between neighbours.
_WIDTH = 1e-3
# The least noise of a cue: with less, the stiffness of the energy buys nothing. Pixels of 8 bits
# are exact to .001.
_LEAST_NOISE = 0.01
# Share of the steps that are taken under the Gaussian.
_FIRST = 0.3
# An image is unknown if noise as large as the cue's leaves a stored one so much energy with less
# than this probability.
_UNLIKELY = 1e-3
BATCH = 250


@dataclass(frozen=True, slots=True)
class Memory:
    """A network that has memorised, over latents that are standard normal.

    Attributes:
        network: with a Gaussian prior of precision 1 on its latent.
        stored_NL: the latents of the memorised images.
        mixture_precision: of each stored latent's component.
    """

    network: Network
    stored_NL: Tensor
    mixture_precision: float

    @classmethod
    def of(cls, network: Network, latents_NL: Tensor) -> Memory:
        """Return the memory that a network and its images' latents are.

        Raises:
            RecipeError: a latent that no prior can be fitted to.
        """
        precision = msgspec.structs.replace(network.table.precision, learned=False)
        whitened = whiten(network, latents_NL)
        whitened.table = msgspec.structs.replace(
            whitened.table,
            precision=msgspec.structs.replace(precision, latent=1.0),
            start="zero",
        )
        whitened.start = None
        stored_NL = standard_latents(latents_NL)
        # Where inference of this memory's own images ends.
        whitened.typical_latents = stored_NL[: len(whitened.typical_latents)]
        return cls(whitened, stored_NL, 1 / (_WIDTH * _spacing(stored_NL)) ** 2)


def _spacing(stored_NL: Tensor) -> float:
    """Return the median distance of a latent to its nearest neighbour."""
    nearest = []
    for part in torch.split(stored_NL, 1000):
        distance = torch.cdist(part, stored_NL)
        # The nearest of all is the latent itself.
        nearest.append(distance.topk(2, largest=False).values[:, 1])
    return max(float(torch.cat(nearest).median()), 1e-6)


@dataclass(slots=True)
class Recalled:
    """What cues recalled.

    Attributes:
        images_BD: visible pixels of a cue without noise are kept.
        energy_B: nats, of the visible data, the hidden errors and the prior.
        unexplained_B: nats, of the visible data alone.
        likelihood_B: probability that noise leaves a stored image's cue this energy, or more.
        item_B: number of the stored latent that is nearest.
        steps_B: gradient evaluations.
        converged_B: whether the tolerance was met.
    """

    images_BD: Tensor
    energy_B: Tensor
    unexplained_B: Tensor
    likelihood_B: Tensor
    item_B: Tensor
    steps_B: Tensor
    converged_B: Tensor

    @property
    def known_B(self) -> Tensor:
        """Return which cues are of a stored image, as far as the energy can tell."""
        return self.likelihood_B >= _UNLIKELY


def recall(
    memory: Memory,
    cues: Cues,
    table: InferenceTable,
    *,
    prior: Prior = "mixture",
    on_batch: Callable[[int], None] = lambda done: None,
) -> Recalled:
    """Return what the memory makes of cues.

    Args:
        table: its `test_steps` are gradient evaluations at most, its `tolerance` ends them.
        prior: on the latent; `none` and `gaussian` for comparison.
        on_batch: told how many cues are done.
    """
    seer = _Seer(memory, cues, table, prior)
    parts = []
    for first in range(0, len(cues.pixels_BD), BATCH):
        parts.append(seer.recall(slice(first, first + BATCH)))
        on_batch(min(first + BATCH, len(cues.pixels_BD)))
    names = Recalled.__dataclass_fields__
    return Recalled(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class _Seer:
    """The solvers for one set of cues; those that share a mask share the work it takes."""

    def __init__(self, memory: Memory, cues: Cues, table: InferenceTable, prior: Prior) -> None:
        self.memory, self.cues, self.table, self.prior = memory, cues, table, prior
        self.network = _at(memory.network, cues.noise, {"none": -math.inf}.get(prior, 0.0))
        first_D = cues.visible_BD[0]
        self.visible: Visible | None = None
        if is_reducible(self.network) and bool((cues.visible_BD == first_D).all()):
            self.visible = Visible(self.network, first_D)
        seen = self.network if self.visible is None else self.visible.network
        self.gaussian = prepare(seen, _errors(table), reduced=False)
        self.mixture: Method | None = None
        self.retrieval: Retrieval | None = None
        if prior == "mixture":
            narrow = _over(seen, math.log(memory.mixture_precision))
            self.mixture = prepare_mixture(narrow, memory.stored_NL)
            self.retrieval = Retrieval(
                self.mixture, seen, memory.stored_NL, decodes=self.visible is not None
            )

    def recall(self, part: slice) -> Recalled:
        pixels_BD, visible_BD = self.cues.pixels_BD[part], self.cues.visible_BD[part]
        pixels_BD = pixels_BD.to(self.memory.stored_NL)
        visible_BD = visible_BD.to(pixels_BD.device)
        mask_BD = None if self.visible is not None else visible_BD.to(pixels_BD.dtype)
        data_BD = pixels_BD if self.visible is None else self.visible.project(pixels_BD)
        found = self._settle(data_BD, mask_BD)
        drive_BD = self.network.drive(0, [pixels_BD, *found.states[1:]])
        energy = self.network.energies()[0]
        terms = energy.terms(pixels_BD, drive_BD, visible_BD.to(pixels_BD.dtype))
        seen_B = found.energy_B - _data_energy(self._seen, found.states, mask_BD) + terms.energy_B
        images_BD = terms.prediction_BD
        if self.cues.noise == 0:
            images_BD = torch.where(visible_BD, pixels_BD, images_BD)
        half = 0.5 * visible_BD.sum(1).to(pixels_BD.dtype)
        # Of Gaussian data the least energy is half a chi-squared variable, errors of the hidden
        # layers and the prior included; the mixture's has a constant besides.
        constant = 0.0 if self.mixture is None else math.log(len(self.memory.stored_NL))
        likelihood_B = torch.special.gammaincc(half, (seen_B - constant).clamp_min(0))
        item_B = torch.cdist(found.states[-1], self.memory.stored_NL).argmin(1)
        return Recalled(
            images_BD,
            seen_B,
            terms.energy_B,
            likelihood_B,
            item_B,
            found.steps_B,
            found.converged_B,
        )

    @property
    def _seen(self) -> Network:
        return self.gaussian.network

    def _settle(self, data_BD: Tensor, mask_BD: Tensor | None) -> Equilibrium:
        """Return the states under the prior, and the steps of both phases."""
        steps, tolerance = self.table.test_steps, self.table.tolerance
        first = steps if self.mixture is None else math.ceil(_FIRST * steps)
        found = infer(self.gaussian, data_BD, steps=first, tolerance=tolerance, mask_BD=mask_BD)
        if self.mixture is None or self.retrieval is None:
            return found
        left = steps - first - self.retrieval.evaluations
        if left < 1:
            return found
        latent_BL = self.retrieval(found.states, mask_BD)
        settled = infer(
            self.mixture,
            data_BD,
            steps=left,
            tolerance=tolerance,
            mask_BD=mask_BD,
            latent_BD=latent_BL,
        )
        settled.steps_B += found.steps_B + self.retrieval.evaluations
        return settled


def _data_energy(network: Network, states: list[Tensor], mask_BD: Tensor | None) -> Tensor:
    return network.energies()[0].terms(states[0], network.drive(0, states), mask_BD).energy_B


def _errors(table: InferenceTable) -> InferenceTable:
    return msgspec.structs.replace(table, solver="errors")


def _at(network: Network, noise: float, log_latent: float) -> Network:
    """Return the network with the cue's precision on its data, and that of the prior.

    A cue's pixel differs from what the memory holds by the cue's noise and the memory's error.
    """
    found = _over(network, log_latent)
    if isinstance(network.energies()[0], Gaussian):
        variance = max(noise, _LEAST_NOISE) ** 2 + (-network.log_precisions[0]).exp()
        found.log_precisions[0] = -variance.log()
    return found


def _over(network: Network, log_latent: float) -> Network:
    """Return the network, its weights shared, with another precision of the prior."""
    last = torch.full_like(network.log_precisions[-1], log_latent)
    found = Network(
        network.table, network.layers, [*network.log_precisions[:-1], last], network.skips
    )
    found.typical_latents = network.typical_latents
    return found
