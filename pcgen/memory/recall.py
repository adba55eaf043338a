"""Recall: a memory restores whole images from damaged cues.

Hidden pixels are dropped from the energy; visible ones count with the cue's precision. The priors
on the latent are all fitted to the stored latents:

    gaussian   one Gaussian, under which the energy has one wide valley. It completes cues of images
               that were never stored
    groups     a mixture with one Gaussian for each group of `group_prior.GROUP` stored images. It
               restores stored images, and no single one is tried
    lookup     a mixture with a narrow component at each stored latent, after the Gaussian
    auto       the look-up, and for the cues that are then unknown a mixture that completes them:
               `completion_prior`, or the Gaussian where few images are stored
    none       no prior, for comparison
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import msgspec
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.preconditioners import latent_curvature
from pcgen.inference.reduction import Reduction, reduce
from pcgen.inference.solvers import Method, prepare
from pcgen.memory.completion_prior import Component, fit_completion_prior
from pcgen.memory.corruptions import Cues
from pcgen.memory.group_prior import Evidence, groups_of
from pcgen.memory.latent_prior import fit_latent_prior, standard_latents
from pcgen.memory.stored_prior import MemoryNetwork, Retrieval, Seen
from pcgen.model.energy import Gaussian, Terms
from pcgen.model.network import Network

Prior = Literal["auto", "lookup", "groups", "gaussian", "none"]

# A component's standard deviation, as a share of the distance between neighbouring latents.
_WIDTH = 1e-3
# Latents, at most, whose nearest neighbours are sought.
_SPACED = 5000
# The least noise that a cue is taken to have: less makes the energy stiffer and recall no better.
# Pixels of 8 bits are exact to .001.
LEAST_NOISE = 0.01
# Share of the steps that are taken under the Gaussian prior.
_FIRST = 0.3
# Added to the reduced data layer's Gram matrix, as a share of its mean diagonal: a memory's weights
# are often linearly dependent.
_RIDGE = 1e-12
# A cue is unknown if noise as large as the cue's would leave a stored image that much energy with
# a smaller probability than this.
UNLIKELY = 1e-3
# The largest error that is likely in an image's visible pixels, in units of the image's mean, and
# that of an image in units of all images' mean.
SPREAD = 2.0
# Variance of a visible pixel, of 0 to 1, with which images that were never stored are completed. By
# the cue's own, smaller one hidden pixels would follow every chance correlation of the stored
# images. The best variance is nowhere over 8 % better (docs/results/memory.md). Of the many images
# that a mixture needs, such correlations are few.
COMPLETION_VARIANCE = 0.25
_MIXTURE_VARIANCE = 0.02
# The least share of a component that takes part in a completion.
_LEAST_SHARE = 0.01
BATCH = 250


@dataclass(frozen=True)
class Memory:
    """A network that has memorised images, with latents that are standard normal.

    Attributes:
        network: with a Gaussian prior of precision 1 on its latent.
        stored_NL: the latents of the memorised images.
        mixture_precision: of each stored latent's component.
        errors_N: mean squared error per pixel of each stored image's own decoded latent.
    """

    network: Network
    stored_NL: Tensor
    mixture_precision: float
    errors_N: Tensor

    @classmethod
    def of(cls, network: Network, latents_NL: Tensor, errors_N: Tensor | None = None) -> Memory:
        """Return the memory made of a network and the latents of its images.

        Args:
            errors_N: taken as a few times the mean error where they are not known.

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
        if errors_N is None:
            errors_N = stored_NL.new_full((len(stored_NL),), SPREAD * _mean_error(network))
        return cls(fitted, stored_NL, 1 / (_WIDTH * _spacing(stored_NL)) ** 2, errors_N)

    @cached_property
    def components(self) -> list[Component]:
        """Return the components of the prior of completion."""
        return fit_completion_prior(self.network, self.stored_NL)

    @property
    def mean_error(self) -> float:
        """Return the mean squared error per pixel that the network's precision states."""
        return _mean_error(self.network)


def _mean_error(network: Network) -> float:
    return float((-network.log_precisions[0]).exp().mean())


def _spacing(stored_NL: Tensor) -> float:
    """Return the median distance of a latent to its nearest neighbour."""
    nearest = []
    step = max(1, len(stored_NL) // _SPACED)
    for latents_BL in torch.split(stored_NL[::step], 1000):
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
        completed_B: whether the image is the completion of an unknown cue.
    """

    images_BD: Tensor
    energy_B: Tensor
    unexplained_B: Tensor
    likelihood_B: Tensor
    item_B: Tensor
    steps_B: Tensor
    converged_B: Tensor
    completed_B: Tensor

    @property
    def known_B(self) -> Tensor:
        """Return which cues the energy takes for cues of stored images (B,), bool."""
        return self.likelihood_B >= UNLIKELY


def recall(
    memory: Memory,
    cues: Cues,
    table: InferenceTable,
    *,
    prior: Prior = "lookup",
    on_batch: Callable[[int], None] = lambda done: None,
) -> Recalled:
    """Return the images that the memory recalls from cues.

    Args:
        table: `test_solver` moves the states, `errors` if it is empty; `test_steps` is the
            largest number of gradient evaluations; `tolerance` stops earlier.
        prior: on the latent, as above.
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
        self.memory, self.cues = memory, cues
        self.network = _with_precisions(memory.network, cues.noise, has_prior=prior != "none")
        first_D = cues.visible_BD[0].to(memory.stored_NL.device)
        # Of a visible pixel; the mean where pixels have their own.
        self.precision = float(self.network.log_precisions[0].exp().mean())
        self.reduction: Reduction | None = None
        if bool((cues.visible_BD == cues.visible_BD[0]).all()):
            self.reduction = reduce(self.network, first_D, ridge=_RIDGE)
        visible = self.network if self.reduction is None else self.reduction.network
        self.table = table = table.for_use("errors")
        self.gaussian = prepare(visible, table, reduced=False)
        self.mixture: Method | None = None
        self.retrieval: Retrieval | None = None
        self.evidence: Evidence | None = None
        self.completes = prior == "auto"
        if prior in ("gaussian", "none"):
            return
        stored_NL = memory.stored_NL
        self.seen = Seen(visible, stored_NL, decodes=self.reduction is not None)
        if prior == "groups":
            self.groups = groups_of(stored_NL)
            parts = [group.part(self.seen.rows_NP) for group in self.groups]
            self.evidence = Evidence(parts, own=self.seen.own)
        else:
            narrow = MemoryNetwork(visible, stored_NL, memory.mixture_precision)
            self.mixture = prepare(narrow, table, reduced=False)
            self.retrieval = Retrieval(self.mixture, self.seen, stored_NL)

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
        settled = self._settle(data_BD, mask_BD)
        inferred = self.gaussian.network.terms(settled.states, mask_BD)[0]
        terms = self._data_terms(pixels_BD, settled, full_mask_BD)
        energy_B = settled.energy_B - inferred.energy_B + terms.energy_B
        item_B = torch.cdist(settled.states[-1], stored_NL).argmin(1)
        # For Gaussian data the least energy, with the hidden errors and the prior, is half a
        # chi-squared variable; under the look-up it has a constant besides, and an image that is
        # stored worse than the mean has more.
        half_B = 0.5 * full_mask_BD.sum(1)
        excess_N = (SPREAD * self.memory.errors_N - self.memory.mean_error).clamp_min(0)
        constant_B = half_B * self.precision * excess_N[item_B]
        if self.mixture is not None:
            constant_B += math.log(len(stored_NL))
        recalled = Recalled(
            terms.prediction_BD,
            energy_B,
            terms.energy_B,
            torch.special.gammaincc(half_B, (energy_B - constant_B).clamp_min(0)),
            item_B,
            settled.steps_B,
            settled.converged_B,
            torch.zeros_like(settled.converged_B),
        )
        unknown = (~recalled.known_B).nonzero()[:, 0]
        if self.completes and len(unknown):
            masks_BD = None if mask_BD is None else mask_BD[unknown]
            found = self._complete(data_BD[unknown], masks_BD)
            prediction_BD = self._data_terms(pixels_BD[unknown], found, None).prediction_BD
            recalled.images_BD[unknown] = prediction_BD
            recalled.steps_B[unknown] += found.steps_B
            recalled.converged_B[unknown] = found.converged_B
            recalled.completed_B[unknown] = True
        if self.cues.noise == 0:
            recalled.images_BD = torch.where(visible_BD, pixels_BD, recalled.images_BD)
        return recalled

    def _data_terms(self, pixels_BD: Tensor, found: Equilibrium, mask_BD: Tensor | None) -> Terms:
        drive_BD = self.network.drive(0, [pixels_BD, *found.states[1:]])
        return self.network.energies()[0].terms(pixels_BD, drive_BD, mask_BD)

    def _complete(self, data_BD: Tensor, mask_BD: Tensor | None) -> Equilibrium:
        """Return the states that the prior of completion expects of images never stored.

        Under a mixture they are the mean of those of its components, weighed by their evidence.
        """
        steps, tolerance = self.table.test_steps, self.table.tolerance
        start = infer(self.loose, data_BD, steps=steps, tolerance=tolerance, mask_BD=mask_BD)
        if not self.components:
            return start
        shares_BK = (-self.kinds.energy(start.states[-1].double() @ self.metric_LL)).softmax(1)
        shares_BK = shares_BK.to(data_BD) * (shares_BK > _LEAST_SHARE)
        shares_BK = shares_BK / shares_BK.sum(1, keepdim=True)
        mean = [torch.zeros_like(state_BD) for state_BD in start.states]
        for number, one in enumerate(self.components):
            rows = shares_BK[:, number].nonzero()[:, 0]
            if not len(rows):
                continue
            method = prepare(one.over(self.loose.network), self.table, reduced=False)
            part = infer(method, data_BD[rows], steps=steps, tolerance=tolerance)
            part.states[-1] = one.latent(part.states[-1])
            for mean_BD, state_BD in zip(mean, part.states, strict=True):
                mean_BD[rows] += shares_BK[rows, number, None] * state_BD
            start.converged_B[rows] &= part.converged_B
            start.steps_B[rows] += part.steps_B
        start.states[:] = mean
        return start

    @property
    def components(self) -> list[Component]:
        """Return the components of completion; none where each cue has a mask of its own.

        Only for a shared mask the evidence is known in closed form.
        """
        return [] if self.reduction is None else self.memory.components

    @cached_property
    def metric_LL(self) -> Tensor:
        """Return R: the data's energy over the latent is 1/2 ||R (z - z_0)||^2 - 1/2 ||z||^2."""
        curvature_LL = latent_curvature(self.loose.network).double()
        curvature_LL.diagonal().add_(1.0)
        return torch.linalg.cholesky(curvature_LL)

    @cached_property
    def kinds(self) -> Evidence:
        """Return the evidence of the prior of completion's components."""
        return Evidence([one.part(self.metric_LL) for one in self.components], own=1.0)

    @cached_property
    def loose(self) -> Method:
        """Return the solver under the Gaussian prior at the variance of completion."""
        variance = _MIXTURE_VARIANCE if self.components else COMPLETION_VARIANCE
        if bool(self.cues.visible_BD.all()):
            return self.gaussian
        visible = self.gaussian.network
        data, *others = visible.log_precisions
        unit = self.precision if self.reduction else 1.0
        data = torch.full_like(data, -math.log(unit * variance))
        loose = Network.of(visible.table, visible.layers, [data, *others], visible.skips)
        loose.typical_latents = visible.typical_latents
        return prepare(loose, self.table, reduced=False)

    def _settle(self, data_BD: Tensor, mask_BD: Tensor | None) -> Equilibrium:
        """Return the states of least energy under the prior, with the steps of both phases."""
        steps, tolerance = self.table.test_steps, self.table.tolerance
        has_second = self.retrieval is not None or self.evidence is not None
        first = math.ceil(_FIRST * steps) if has_second else steps
        start = infer(self.gaussian, data_BD, steps=first, tolerance=tolerance, mask_BD=mask_BD)
        tries = 1 if self.retrieval is None else self.retrieval.evaluations
        left = steps - first - tries
        if not has_second or left < 1:
            return start
        if self.mixture is None or self.retrieval is None:
            return self._within_groups(start, mask_BD, left)
        settled = infer(
            self.mixture,
            data_BD,
            steps=left,
            tolerance=tolerance,
            mask_BD=mask_BD,
            latent_BD=self.retrieval(start.states, mask_BD),
        )
        settled.steps_B += start.steps_B + tries
        return settled

    def _within_groups(self, found: Equilibrium, mask_BD: Tensor | None, steps: int) -> Equilibrium:
        """Move the states to the least energy under the component that has the most evidence."""
        assert self.evidence is not None
        best_B = self.evidence.best(self.seen.target(found.states))
        for number in sorted(set(best_B.tolist())):
            rows = (best_B == number).nonzero()[:, 0]
            group = self.groups[number]
            part = infer(
                prepare(group.over(self.gaussian.network), self.table, reduced=False),
                found.states[0][rows],
                steps=steps,
                tolerance=self.table.tolerance,
                mask_BD=None if mask_BD is None else mask_BD[rows],
            )
            part.states[-1] = group.latent(part.states[-1])
            for state_BD, settled_BD in zip(found.states[1:], part.states[1:], strict=True):
                state_BD[rows] = settled_BD
            found.energy_B[rows] = part.energy_B
            found.converged_B[rows] = part.converged_B
            found.steps_B[rows] += part.steps_B + 1
        return found


def _with_precisions(network: Network, noise: float, *, has_prior: bool) -> Network:
    """Return the network, its weights shared, with the cue's precision on its data.

    A cue's pixel differs from the memory's by the cue's noise and by the memory's own error.
    Without a prior the latent's precision is 0.
    """
    data, *hidden, latent = network.log_precisions
    latent = torch.full_like(latent, 0.0 if has_prior else -math.inf)
    if isinstance(network.energies()[0], Gaussian):
        data = -(max(noise, LEAST_NOISE) ** 2 + (-data).exp()).log()
    changed = Network.of(network.table, network.layers, [data, *hidden, latent], network.skips)
    changed.typical_latents = network.typical_latents
    return changed
