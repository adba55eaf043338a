"""Recall: a memory restores whole images from damaged cues.

Hidden pixels are dropped from the energy; visible ones count with the cue's precision. Two priors
on the latent are used in turn, both fitted to the stored latents: first a Gaussian, under which
the energy has one wide valley, then a mixture, whose minima are the stored latents.
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
from pcgen.inference.reduction import Reduction, reduce
from pcgen.inference.solvers import Method, prepare
from pcgen.memory.corruptions import Cues
from pcgen.memory.latent_prior import fit_latent_prior, standard_latents
from pcgen.memory.stored_prior import MemoryNetwork, Retrieval
from pcgen.model.energy import Gaussian
from pcgen.model.network import Network

Prior = Literal["mixture", "gaussian", "none"]

# A component's standard deviation, as a share of the distance between neighbouring latents.
_WIDTH = 1e-3
# The least noise that a cue is taken to have: less makes the energy stiffer and recall no better.
# Pixels of 8 bits are exact to .001.
_LEAST_NOISE = 0.01
# Share of the steps that are taken under the Gaussian prior.
_FIRST = 0.3
# Added to the reduced data layer's Gram matrix, as a share of its mean diagonal: a memory's weights
# are often linearly dependent.
_RIDGE = 1e-12
# A cue is unknown if noise as large as the cue's would leave a stored image that much energy with
# a smaller probability than this.
_UNLIKELY = 1e-3
BATCH = 250


@dataclass(frozen=True, slots=True)
class Memory:
    """A network that has memorised images, with latents that are standard normal.

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
        """Return the memory made of a network and the latents of its images.

        Raises:
            RecipeError: a latent that no prior can be fitted to.
        """
        precision = msgspec.structs.replace(network.table.precision, learned=False, latent=1.0)
        fitted = fit_latent_prior(network, latents_NL)
        fitted.table = msgspec.structs.replace(fitted.table, precision=precision, start="zero")
        fitted.start = None
        stored_NL = standard_latents(latents_NL)
        # Where inference of this memory's own images ends.
        fitted.typical_latents = stored_NL[: len(fitted.typical_latents)]
        return cls(fitted, stored_NL, 1 / (_WIDTH * _spacing(stored_NL)) ** 2)


def _spacing(stored_NL: Tensor) -> float:
    """Return the median distance of a latent to its nearest neighbour."""
    nearest = []
    for latents_BL in torch.split(stored_NL, 1000):
        distance_BN = torch.cdist(latents_BL, stored_NL)
        # The nearest of all is the latent itself.
        nearest.append(distance_BN.topk(2, largest=False).values[:, 1])
    return max(float(torch.cat(nearest).median()), 1e-6)


@dataclass(slots=True)
class Recalled:
    """The images recalled from cues, and how well they fit.

    Attributes:
        images_BD: recalled images; the visible pixels of a cue without noise are kept.
        energy_B: of the visible data, the hidden errors and the prior, in nats.
        unexplained_B: energy of the visible data alone, in nats.
        likelihood_B: probability that noise leaves a stored image's cue this energy or more.
        item_B: number of the nearest stored latent.
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
        """Return which cues the energy takes for cues of stored images (B,), bool."""
        return self.likelihood_B >= _UNLIKELY


def recall(
    memory: Memory,
    cues: Cues,
    table: InferenceTable,
    *,
    prior: Prior = "mixture",
    on_batch: Callable[[int], None] = lambda done: None,
) -> Recalled:
    """Return the images that the memory recalls from cues.

    Args:
        table: `test_solver` moves the states, `errors` if it is empty; `test_steps` is the
            largest number of gradient evaluations; `tolerance` stops earlier.
        prior: on the latent; `none` and `gaussian` are for comparison.
        on_batch: called with the number of cues that are done.
    """
    recaller = _Recaller(memory, cues, table, prior)
    batches = []
    for first in range(0, len(cues.pixels_BD), BATCH):
        batches.append(recaller.recall(slice(first, first + BATCH)))
        on_batch(min(first + BATCH, len(cues.pixels_BD)))
    names = Recalled.__dataclass_fields__
    return Recalled(*(torch.cat([getattr(batch, name) for batch in batches]) for name in names))


class _Recaller:
    """The solvers for one set of cues. Cues that share a mask share one reduction of the data."""

    def __init__(self, memory: Memory, cues: Cues, table: InferenceTable, prior: Prior) -> None:
        self.memory, self.cues, self.table = memory, cues, table
        self.network = _with_precisions(memory.network, cues.noise, has_prior=prior != "none")
        first_D = cues.visible_BD[0].to(memory.stored_NL.device)
        self.reduction: Reduction | None = None
        if bool((cues.visible_BD == cues.visible_BD[0]).all()):
            self.reduction = reduce(self.network, first_D, ridge=_RIDGE)
        visible = self.network if self.reduction is None else self.reduction.network
        own = table.for_use("errors")
        self.gaussian = prepare(visible, own, reduced=False)
        self.mixture: Method | None = None
        self.retrieval: Retrieval | None = None
        if prior == "mixture":
            narrow = MemoryNetwork(visible, memory.stored_NL, memory.mixture_precision)
            self.mixture = prepare(narrow, own, reduced=False)
            self.retrieval = Retrieval(
                self.mixture, visible, memory.stored_NL, decodes=self.reduction is not None
            )

    def recall(self, batch: slice) -> Recalled:
        """Return the images recalled from one batch of the cues."""
        stored_NL = self.memory.stored_NL
        pixels_BD = self.cues.pixels_BD[batch].to(stored_NL)
        visible_BD = self.cues.visible_BD[batch].to(pixels_BD.device)
        full_mask_BD = visible_BD.to(pixels_BD.dtype)
        data_BD, mask_BD = pixels_BD, None
        if self.reduction is None:
            mask_BD = full_mask_BD
        else:
            data_BD = self.reduction.project(pixels_BD)
        equilibrium = self._settle(data_BD, mask_BD)
        inferred = self.gaussian.network.terms(equilibrium.states, mask_BD)[0]
        drive_BD = self.network.drive(0, [pixels_BD, *equilibrium.states[1:]])
        terms = self.network.energies()[0].terms(pixels_BD, drive_BD, full_mask_BD)
        energy_B = equilibrium.energy_B - inferred.energy_B + terms.energy_B
        images_BD = terms.prediction_BD
        if self.cues.noise == 0:
            images_BD = torch.where(visible_BD, pixels_BD, images_BD)
        half_B = 0.5 * full_mask_BD.sum(1)
        # For Gaussian data the least energy, with the hidden errors and the prior, is half a
        # chi-squared variable; under the mixture it has a constant besides.
        constant = 0.0 if self.mixture is None else math.log(len(stored_NL))
        return Recalled(
            images_BD,
            energy_B,
            terms.energy_B,
            torch.special.gammaincc(half_B, (energy_B - constant).clamp_min(0)),
            torch.cdist(equilibrium.states[-1], stored_NL).argmin(1),
            equilibrium.steps_B,
            equilibrium.converged_B,
        )

    def _settle(self, data_BD: Tensor, mask_BD: Tensor | None) -> Equilibrium:
        """Return the states of least energy under the prior, with the steps of both phases."""
        steps, tolerance = self.table.test_steps, self.table.tolerance
        first = steps if self.mixture is None else math.ceil(_FIRST * steps)
        start = infer(self.gaussian, data_BD, steps=first, tolerance=tolerance, mask_BD=mask_BD)
        if self.mixture is None or self.retrieval is None:
            return start
        left = steps - first - self.retrieval.evaluations
        if left < 1:
            return start
        latent_BL = self.retrieval(start.states, mask_BD)
        settled = infer(
            self.mixture,
            data_BD,
            steps=left,
            tolerance=tolerance,
            mask_BD=mask_BD,
            latent_BD=latent_BL,
        )
        settled.steps_B += start.steps_B + self.retrieval.evaluations
        return settled


def _with_precisions(network: Network, noise: float, *, has_prior: bool) -> Network:
    """Return the network, its weights shared, with the cue's precision on its data.

    A cue's pixel differs from the memory's by the cue's noise and by the memory's own error.
    Without a prior the latent's precision is 0.
    """
    data, *hidden, latent = network.log_precisions
    latent = torch.full_like(latent, 0.0 if has_prior else -math.inf)
    if isinstance(network.energies()[0], Gaussian):
        data = -(max(noise, _LEAST_NOISE) ** 2 + (-data).exp()).log()
    changed = Network.of(network.table, network.layers, [data, *hidden, latent], network.skips)
    changed.typical_latents = network.typical_latents
    return changed
