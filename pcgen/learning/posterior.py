"""Monte Carlo predictive coding: the weights learn from samples of the states.

The gradient of the data's log-likelihood is the mean of -dE/dW over p(states | data). A chain draws
the states of each image, and the local gradients of its samples are averaged. The published prior
N(b, I) is N(0, I) here: the drive below the latent is linear, so its bias has the same effect as b.

Source: Oliviers, Bogacz and Meulemans (2024). We differ in three points: chains can continue from
epoch to epoch (`persistent`; Han et al., 2017), the dynamics are kinetic, and every image has a
step size of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.config import Recipe
from pcgen.data.images import Rows
from pcgen.errors import RecipeError
from pcgen.inference.solvers import prepare
from pcgen.learning.gradients import precision_gradients, weight_gradients
from pcgen.model.energy import Terms
from pcgen.model.network import Network
from pcgen.sampling.ancestral import draw_states
from pcgen.sampling.chains import Chains, Posterior
from pcgen.sampling.langevin import Layers
from pcgen.sampling.noise import SampleNoise

# The mass matrix is computed again after so many updates. Any fixed one samples the same
# distribution.
_RENEW = 20


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch's last sample, and the mean gradients of all its samples.

    Attributes:
        weights: in the order of `Network.downward_weights`.
        precisions: of the log precisions; None where a layer has none.
        ends_BK: latent and step size at the end of each chain, for `take_in`.
    """

    states: list[Tensor]
    terms: list[Terms]
    energy_B: Tensor
    weights: list[Tensor]
    precisions: list[Tensor | None]
    ends_BK: Tensor


class PosteriorLearning:
    """Draws each batch's states, and stores the end of every image's chain."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        """Begin without chains.

        Raises:
            RecipeError: settings that do not fit together.
        """
        for key, is_set in (
            ("learning.incremental", recipe.learning.incremental),
            ("inference.schedule", recipe.inference.schedule),
            ("inference.starts", recipe.inference.starts != [1.0]),
            ("inference.keep_latents", recipe.inference.keep_latents),
        ):
            if is_set:
                raise RecipeError(
                    f"{key}: goes with solvers that descend, not with {recipe.inference.solver}"
                )
        if recipe.model.precision.latent == 0:
            raise RecipeError(
                "model.precision.latent: to sample, the latent needs a prior",
                "Use --set model.precision.latent=1",
            )
        if recipe.model.causes > 1 and not recipe.inference.sampling.persistent:
            raise RecipeError(
                "model.causes: a mixture is learned from chains that go on",
                "Use --set inference.sampling.persistent=true",
            )
        self.network = network
        self.recipe = recipe
        self.table = recipe.inference.sampling
        self.posterior = Posterior(network, recipe.inference)
        self.renewed = -1
        # Latent and step size of each image's chain; a step size of 0 marks one that has not begun.
        self.ends_NK = network.layers[0].weight.new_zeros(0, network.sizes[network.latent] + 1)

    def hold(self, count: int) -> None:
        """Allocate the chains of so many images, if that is not done yet."""
        if not len(self.ends_NK):
            self.ends_NK = self.ends_NK.new_zeros(count, self.ends_NK.shape[1])

    def draw(self, data_BD: Tensor, rows: Rows, labels_BK: Tensor | None, update: int) -> Drawn:
        """Return samples of a batch's states; the chains continue from their last end.

        Raises:
            DivergenceError: the step is too long; the message names the largest stable one.
        """
        self._renew(update)
        chains = self._begin(data_BD, rows, labels_BK, update)
        for _ in range(self.table.burn_in):
            chains.step(adapt=self.table.metropolis)
        count = self.table.samples
        weights: list[Tensor] = []
        precisions: list[Tensor | None] = []
        for sample in range(count):
            for _ in range(self.table.thin if sample else 1):
                chains.step()
            surface = chains.surface
            states = [data_BD, *surface.states[1:]]
            if self.recipe.model.precision.learned:
                found = precision_gradients(self.network, states, surface.terms)
                precisions = _add(precisions, found)
            with chains.relaxed(self.table.relax) as relaxed:
                states = [data_BD, *relaxed.states[1:]]
                weights = _add(weights, weight_gradients(self.network, states, relaxed.terms))
        chains.require_finite()
        latent_BD = chains.states[self.network.latent]
        ends_BK = torch.cat([latent_BD, chains.sampler.step_B[:, None]], 1)
        return Drawn(
            [data_BD, *chains.states[1:]],
            chains.surface.terms,
            chains.energy_B,
            [gradient / count for gradient in weights],
            [None if gradient is None else gradient / count for gradient in precisions],
            ends_BK,
        )

    def take_in(self, index_B: Tensor, ends_BK: Tensor) -> None:
        """Store the ends of the chains of these images."""
        if len(self.ends_NK):
            self.ends_NK[index_B.to(self.ends_NK.device)] = ends_BK

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a resumed run needs, by name."""
        named = {f"posterior.mass.{name}": t for name, t in self.posterior.tensors().items()}
        return named | {"posterior.ends": self.ends_NK}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors()` returned."""
        self.ends_NK = tensors["posterior.ends"].to(self.ends_NK)
        prefix = "posterior.mass."
        found = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        self.posterior.load({name: t.to(self.ends_NK) for name, t in found.items()})
        self.renewed = 0

    def _renew(self, update: int) -> None:
        """Compute the mass matrix again, if its time has come."""
        states = self.table.coordinates == "states"
        if states or self.renewed < 0 or update % _RENEW == 0 or update < _RENEW:
            self.posterior = Posterior(self.network, self.recipe.inference)
            self.renewed = update

    def _begin(self, data_BD: Tensor, rows: Rows, labels_BK: Tensor | None, update: int) -> Chains:
        """Return the batch's chains: from their last ends, or new ones from the least energy."""
        network = self.network
        step_B = torch.full_like(data_BD[:, 0], self.posterior.step)
        latent_BD = network.start_latent(data_BD)
        fresh_B = torch.ones_like(step_B, dtype=torch.bool)
        if len(self.ends_NK):
            ends_BK = self.ends_NK[rows.index_B.to(self.ends_NK.device)]
            fresh_B = ends_BK[:, -1] == 0
            step_B = torch.where(fresh_B, step_B, ends_BK[:, -1])
            if self.table.persistent:
                latent_BD = torch.where(fresh_B[:, None], latent_BD, ends_BK[:, :-1])
            else:
                fresh_B = torch.ones_like(fresh_B)
        noise = self._noise(data_BD, rows, update)
        states = draw_states(
            network, noise, latent_BD, labels_BK, temperature=self.table.temperature
        )
        states[0] = data_BD
        if self.table.warm and fresh_B.any():
            new = fresh_B.nonzero().squeeze(1)
            inference = prepare(network, self.recipe.inference).begin(
                data_BD[new],
                steps=self.table.warm,
                labels_BK=None if labels_BK is None else labels_BK[new],
                guided=False,
            )
            states = [
                layer.index_copy(0, new, warm)
                for layer, warm in zip(states, inference.states, strict=True)
            ]
        return self.posterior.begin(
            states, lambda like: noise, clamp_top=labels_BK is not None, step_B=step_B
        )

    def _noise(self, data_BD: Tensor, rows: Rows, update: int) -> SampleNoise:
        """Return noise that depends on the seed, the update and each image's number alone."""
        sizes = self.network.sizes[1 : self.network.latent + 1]
        like: Layers = [data_BD.new_empty(0, size) for size in sizes]
        return SampleNoise(self.recipe.seed, f"learning/{update}", rows.index_B, like)


def _add(total: list, more: list) -> list:  # type: ignore[type-arg]
    """Return the sums of two lists of gradients, of which the first may be empty."""
    if not total:
        return more
    return [None if a is None else a + b for a, b in zip(total, more, strict=True)]
