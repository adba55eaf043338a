"""Chains: a batch of runs of one Langevin sampler, over states or over errors.

The errors eps_l = x_l - mu_l have the same density as the states, since the change of variables has
a determinant of 1. Where hidden precisions are high, the density over errors is nearly that of
independent normal numbers, whatever the weights are. Hidden data are dropped from the energy. That
is exact for sampling too: given the layer above, the data integrate to a constant. They are drawn
from their prediction afterwards (`ancestral`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.errors import DivergenceError, RecipeError
from pcgen.inference.coordinates import determined_states
from pcgen.inference.directions import dot
from pcgen.inference.errors import ErrorInference
from pcgen.inference.preconditioners import BlockDiagonal
from pcgen.inference.states import StateInference
from pcgen.model.energy import Terms
from pcgen.model.network import Network
from pcgen.model.prior import choose
from pcgen.sampling.langevin import SAMPLERS, Layers, Sampler, largest_step
from pcgen.sampling.mass_matrices import ErrorMass, Mass, Unit
from pcgen.sampling.modes import Modes, hidden_errors
from pcgen.sampling.noise import SampleNoise

# The step of each sampler where the recipe gives none. M bounds the curvature (over states, half of
# it), and these steps are well below the largest stable ones under such a bound.
DEFAULT_STEPS = {"langevin": 0.05, "momentum": 0.02, "kinetic": 0.5}
# The drives are updated by increments, and rounding adds up: they are computed anew this often.
REFRESH_EVERY = 200
# The largest stable step is found from this many samples with this many power iterations. It only
# appears in an error message.
CURVATURE_SAMPLES = 16
POWER_ITERATIONS = 40
# How fast a chain's step follows the acceptance: the logarithm of the step changes by this times
# (accepted - wished). With 0.2, four refusals in a row halve the step; a larger value makes the
# step jump about, a smaller one needs a longer burn-in.
STEP_GAIN = 0.2
# Draws among which a jump chooses. Their cost is about that of as many steps.
TRIES = 8
# A chain has diverged when its energy is this many times larger than the energy at the start plus
# the number of free units, which is the order of magnitude that chains in equilibrium have.
DIVERGED_AT = 1e3


class _Still:
    """The direction of states that a sampler moves: there is none."""

    searches = False

    def __call__(self, slopes: list[Tensor], terms: Sequence[Terms]) -> tuple[list[Tensor], Tensor]:
        raise AssertionError("a sampler moves these states")

    def restart(self, images_B: Tensor) -> None:
        pass

    def select(self, index: Tensor) -> None:
        pass


class _MakeMass(Protocol):
    def __call__(self, network: Network, *, hidden_data: bool) -> Mass: ...


@dataclass(slots=True)
class Posterior:
    """The distribution exp(-E / T) of a network's states, and the sampler of a recipe.

    Attributes:
        network: the network that gives E, at its present weights.
        table: the recipe's inference table, with the temperature T.
    """

    network: Network
    table: InferenceTable
    _masses: dict[bool, Mass] = field(default_factory=dict)

    @property
    def sampler(self) -> str:
        """Return the sampler's name: the recipe's solver if that is one, else `kinetic`."""
        return self.table.solver if self.table.solver in SAMPLERS else "kinetic"

    @property
    def step(self) -> float:
        """Return the recipe's step in units of M, or the sampler's own.

        Raises:
            RecipeError: the recipe has neither a step nor a preconditioner. With M = 1 no step is
                safe without knowing the curvature.
        """
        chosen = self.table.sampling.step
        if chosen is None and not self.table.sampling.precondition:
            raise RecipeError(
                "inference.sampling.step: must be set where the preconditioner is off",
                "Use --set inference.sampling.step=0.01",
            )
        return DEFAULT_STEPS[self.sampler] if chosen is None else chosen

    def mass(self, hidden_data: bool) -> Mass:
        """Return M, computed once for these weights."""
        if hidden_data not in self._masses:
            table = self.table.sampling
            errors = table.coordinates == "errors"
            make: _MakeMass = ErrorMass if errors else BlockDiagonal
            self._masses[hidden_data] = (
                make(self.network, hidden_data=hidden_data) if table.precondition else Unit()
            )
        return self._masses[hidden_data]

    def tensors(self) -> dict[str, Tensor]:
        """Return the mass matrix over errors that was computed for visible data, by name."""
        mass = self._masses.get(False)
        return mass.tensors() if isinstance(mass, ErrorMass) else {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Use the mass matrix that `tensors()` returned, although the weights have changed."""
        if tensors:
            self._masses[False] = ErrorMass.of(tensors)

    def begin(
        self,
        states: list[Tensor],
        noise: Callable[[Layers], SampleNoise],
        *,
        mask_BD: Tensor | None = None,
        clamp_top: bool = False,
        step_B: Tensor | None = None,
    ) -> Chains:
        """Return chains that start at these states (B, D_l), data first.

        Args:
            noise: makes the random streams for the free layers.
            mask_BD: 1 visible, 0 hidden data.
            clamp_top: keep the uppermost layer (the latent or the labels) where it is.
            step_B: the step of each chain; the recipe's if not given.
        """
        table = self.table.sampling
        if self.sampler == "momentum" and table.friction > 1:
            raise RecipeError(
                "inference.sampling.friction: for momentum it is 1 - mu, so it is at most 1"
            )
        if step_B is None:
            step_B = torch.full_like(states[0][:, 0], self.step)
        sampler = SAMPLERS[self.sampler](step_B, table.friction, table.temperature)
        if table.metropolis and not sampler.is_reversible:
            raise RecipeError(
                f"inference.sampling.metropolis: {self.sampler} has no Metropolis test",
                "Use --set inference.solver=kinetic",
            )
        surface = self._surface(states, mask_BD, clamp_top)
        mass = self.mass(mask_BD is not None and not mask_BD.any().item())
        free = surface.states[1 : surface.last_free + 1]
        return Chains(self, surface, sampler, mass, noise(free))

    def largest_step(self, chains: Chains) -> float:
        """Return the largest stable step at the states where the chains began.

        Linear theory gives it from the largest eigenvalue of M^-1 E'', which power iteration finds
        with differences of slopes in float64.
        """
        network = self.network.to("cpu", torch.float64)
        exact = Posterior(network, self.table)
        states, mask_BD = chains.start
        states = [layer[:CURVATURE_SAMPLES].double().cpu() for layer in states]
        mask_BD = None if mask_BD is None else mask_BD[:CURVATURE_SAMPLES].double().cpu()
        surface = exact._surface(states, mask_BD, chains.surface.last_free < network.depth)
        mass = exact.mass(mask_BD is not None and not mask_BD.any().item())
        base, source = surface.slopes(), torch.Generator().manual_seed(0)
        pushed = [torch.randn(s.shape, generator=source, dtype=s.dtype) for s in base]
        curvature_B = torch.ones_like(surface.energy_B)
        for _ in range(POWER_ITERATIONS):
            along = mass(pushed)
            scale_B = torch.stack([a.square().sum(1) for a in along]).sum(0).sqrt()
            length = 1e-6 / scale_B[:, None]
            before = surface.position()
            surface.move([length * a for a in along])
            changed = [
                (new - old) / length for new, old in zip(surface.slopes(), base, strict=True)
            ]
            surface.restore(before)
            curvature_B = dot(along, changed) / dot(along, pushed)
            pushed = [c / scale_B[:, None] for c in changed]
        curvature = max(float(curvature_B.abs().max()), 1e-30)
        return largest_step(self.sampler, curvature, self.table.sampling.friction)

    def _surface(
        self, states: list[Tensor], mask_BD: Tensor | None, clamp_top: bool
    ) -> StateInference:
        kind = ErrorInference if self.table.sampling.coordinates == "errors" else StateInference
        return kind(self.network, states, _Still(), mask_BD, clamp_top)


class Chains:
    """The present states of a batch of chains, and their next step.

    Attributes:
        posterior: the distribution that is sampled.
        surface: the states, with the energy and its slopes.
        accepted_B: the number of accepted steps; all steps without a Metropolis test.
        steps: the number of steps so far.
        start: the states and the mask with which the chains began.
    """

    def __init__(
        self,
        posterior: Posterior,
        surface: StateInference,
        sampler: Sampler,
        mass: Mass,
        noise: SampleNoise,
    ) -> None:
        """Begin at a surface's states. `Posterior.begin` calls this."""
        self.posterior = posterior
        self.surface = surface
        self.sampler = sampler
        self.mass = mass
        self.noise = noise
        self.metropolis = posterior.table.sampling.metropolis
        self.steps = 0
        self.accepted_B = torch.zeros_like(surface.energy_B)
        self.start = (surface.states, surface.mask_BD)
        self.first_B = surface.energy_B
        self.slopes = surface.slopes()
        self.down = mass(self.slopes)
        sampler.begin(mass.root(noise.draw()))

    @property
    def states(self) -> list[Tensor]:
        """Return the states (B, D_l) of every layer, data first."""
        return self.surface.states

    @property
    def energy_B(self) -> Tensor:
        """Return nats per sample, without the log-det constant."""
        return self.surface.energy_B

    def step(self, *, adapt: bool = False) -> None:
        """Take one step of every chain.

        Args:
            adapt: then change each chain's step size towards the recipe's acceptance, which needs
                a Metropolis test. Samples drawn while step sizes change are not quite exact.
        """
        moves = self.sampler.propose(self.slopes, self.down, self.mass.root(self.noise.draw()))
        before = self.surface.position()
        self.surface.move(moves)
        self.steps += 1
        if self.steps % REFRESH_EVERY == 0:
            self.surface.refresh()
        slopes = self.surface.slopes()
        down = self.mass(slopes)
        other_B = self.sampler.arrive(slopes, down)
        if not self.metropolis:
            self.slopes, self.down = slopes, down
            self.accepted_B += 1
            return
        worse_B = self.surface.energy_B - before.energy_B + other_B
        temperature = self.posterior.table.sampling.temperature
        # A comparison with an energy that is not finite is false, so such a step is refused.
        accepted_B = self.noise.uniform_B.log() < -worse_B / temperature
        self.accepted_B += accepted_B
        if adapt:
            over_B = accepted_B.to(worse_B) - self.posterior.table.sampling.acceptance
            self.sampler.step_B = self.sampler.step_B * (STEP_GAIN * over_B).exp()
        refused_B = ~accepted_B
        if refused_B.any():
            self.surface.put_back(before, refused_B)
            self.sampler.reject(refused_B)
            slopes = self._chosen(refused_B, self.slopes, slopes)
            down = self._chosen(refused_B, self.down, down)
        self.slopes, self.down = slopes, down

    def jump(self, modes: Modes) -> Tensor:
        """Choose for each chain among its states and draws around its modes; return who moved.

        This is for modes that are too far apart for small steps. With q the Gaussians around the
        modes, it takes one of u_0 (where the chain is) and u_1, .., u_N ~ q with the probability

            w_n / sum w,   w = exp(-E(u) / T) / q(u)

        It is exact whatever q is. The velocities stay as they are.

        Args:
            modes: of each chain's data.

        Returns:
            (B,) whether each chain moved.

        Source: iterated sampling importance resampling (Andrieu, Lee and Vihola, 2018, eq. 2).
        """
        surface = self.surface
        here = [*hidden_errors(surface.states, surface.terms), surface.states[-1]]
        places, energies = [here], [surface.energy_B]
        for _ in range(TRIES):
            normals = self.noise.draw()
            chosen_B = choose(modes.log_weights_BJ, self.noise.uniform_B)
            places.append(modes.around(chosen_B).point(normals))
            energies.append(self._energy(places[-1]))
        temperature = self.posterior.table.sampling.temperature
        log_w_BN = torch.stack(
            [
                -energy_B / temperature - modes.log_density(place)
                for place, energy_B in zip(places, energies, strict=True)
            ],
            1,
        )
        self.noise.draw()
        number_B = choose(log_w_BN.nan_to_num(-torch.inf), self.noise.uniform_B)
        rows_B = torch.arange(len(number_B), device=number_B.device)
        there = [torch.stack(layers)[number_B, rows_B] for layers in zip(*places, strict=True)]
        if not isinstance(surface, ErrorInference):
            there = self._determined(there)[0][1:]
            here = surface.states[1:]
        moved_B = number_B > 0
        surface.move([(new - old) * moved_B[:, None] for new, old in zip(there, here, strict=True)])
        self.slopes = surface.slopes()
        self.down = self.mass(self.slopes)
        return moved_B

    def _determined(self, errors: Layers) -> tuple[list[Tensor], list[Terms]]:
        """Return the states and terms that hidden errors and a latent determine."""
        surface = self.surface
        return determined_states(
            self.posterior.network, surface.states[0], errors[-1], errors[:-1], surface.mask_BD
        )

    def _energy(self, errors: Layers) -> Tensor:
        """Return the energy (B,) of hidden errors and a latent."""
        energy_B = self.posterior.network.prior_energy(errors[-1])
        for terms in self._determined(errors)[1]:
            energy_B = energy_B + terms.energy_B
        return energy_B

    @contextmanager
    def relaxed(self, steps: int) -> Iterator[StateInference]:
        """Yield the surface after descent steps of all layers below the latent, then undo them."""
        before = self.surface.position()
        errors = self.posterior.table.sampling.coordinates == "errors"
        # Over states the curvature is at most twice M; over errors M is close to the curvature.
        length = 1.0 if errors else 0.5
        below = self.posterior.network.latent - 1
        slopes = self.slopes
        for step in range(steps):
            down = self.mass(slopes) if step else self.down
            self.surface.move(
                [-length * z if i < below else torch.zeros_like(z) for i, z in enumerate(down)]
            )
            if step + 1 < steps:
                slopes = self.surface.slopes()
        yield self.surface
        self.surface.restore(before)

    def require_finite(self) -> None:
        """Raise DivergenceError unless all energies are finite and of a plausible size.

        The message names the largest stable step.
        """
        if not self.first_B.isfinite().all():
            raise DivergenceError(
                "sampling: the energy is not finite where the chains begin",
                DivergenceError.too_large,
            )
        free = sum(layer.shape[1] for layer in self.slopes)
        limit_B = DIVERGED_AT * (self.first_B.abs() + free)
        if (self.energy_B.abs() <= limit_B).all():
            return
        largest = self.posterior.largest_step(self)
        raise DivergenceError(
            f"sampling, step {self.steps}: the energy is not finite or far too large; "
            f"the step is {self.posterior.step:.3g}, the largest stable one here is {largest:.3g}",
            f"Use --set inference.sampling.step={0.5 * largest:.2g}, "
            "or --set inference.sampling.metropolis=true",
        )

    @staticmethod
    def _chosen(marked_B: Tensor, old: Layers, new: Layers) -> Layers:
        column = marked_B[:, None]
        return [torch.where(column, a, b) for a, b in zip(old, new, strict=True)]
