"""Langevin samplers: rules that turn slopes and noise into moves which draw from exp(-E / T).

All samplers have the same methods and stand in the table `SAMPLERS`. M is the mass matrix, the
preconditioner (`mass_matrices`). Samplers use it only through `down` = M^-1 dE/dx and through
noise xi ~ N(0, M^-1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from pcgen.inference.directions import dot

Layers = list[Tensor]
"""(B, D_l) of every free layer."""


class Sampler(Protocol):
    """A rule for one batch of chains. Each batch has its own.

    Attributes:
        is_reversible: whether a Metropolis test can make it exact.
        step_B: the step h of each chain. It may change between steps.
    """

    is_reversible: bool
    step_B: Tensor

    def begin(self, xi: Layers) -> None:
        """Draw the velocities, if the sampler has them, from their equilibrium."""

    def propose(self, slopes: Layers, down: Layers, xi: Layers) -> Layers:
        """Return the move from dE/dx, M^-1 dE/dx and xi ~ N(0, M^-1)."""

    def arrive(self, slopes: Layers, down: Layers) -> Tensor:
        """Complete the step at the slopes of the new point.

        Returns:
            The other part (B,) of the Metropolis test, beside E: a step is accepted with the
            probability exp(-(E_new - E_old + this) / T).
        """

    def reject(self, samples_B: Tensor) -> None:
        """Undo the step of the marked chains, whose states go back to where they were."""


class Overdamped:
    """Overdamped Langevin, the Euler-Maruyama step.

        x <- x - h M^-1 dE/dx + sqrt(2 h T) xi

    It is stable for h below 2 / c, with the curvature c of M^-1 E''. It is biased by O(h): the
    variance is T / (c (1 - h c / 2)). A Metropolis test (MALA) removes the bias.

    Source: Roberts and Tweedie (1996). Oliviers et al. (2024) use it with M = 1.
    """

    is_reversible = True

    def __init__(self, step_B: Tensor, friction: float, temperature: float) -> None:
        """Set the step h. The friction is not used: in this limit it is infinite."""
        self.step_B = step_B
        self.size = math.sqrt(temperature)
        self.slopes: Layers = []
        self.down: Layers = []
        self.xi: Layers = []

    def begin(self, xi: Layers) -> None:
        pass

    def propose(self, slopes: Layers, down: Layers, xi: Layers) -> Layers:
        self.slopes, self.down, self.xi = slopes, down, xi
        step = self.step_B[:, None]
        scale = (2 * step).sqrt() * self.size
        return [scale * x - step * z for x, z in zip(xi, down, strict=True)]

    def arrive(self, slopes: Layers, down: Layers) -> Tensor:
        # T times the logarithm of the ratio of proposal densities, there and back.
        slopes, down = _sums(slopes, self.slopes), _sums(down, self.down)
        noise_B = (0.5 * self.step_B).sqrt() * self.size * dot(slopes, self.xi)
        return 0.25 * self.step_B * dot(slopes, down) - noise_B

    def reject(self, samples_B: Tensor) -> None:
        pass


class Momentum:
    """Momentum Langevin as published, with noise added to the gradient.

        m <- mu m + M^-1 dE/dx + sqrt(2 (1 - mu) T / h) xi;   x <- x - h m

    `friction` is 1 - mu. It is stable for h below 2 (1 + mu) / c, with the curvature c. It is
    biased by O(h / (1 - mu)) and not reversible, so that no Metropolis test can remove the bias. It
    is here for comparison.

    Source: Pinchetti et al. (2025), the noisy inference of their generative models, with M = 1.
    """

    is_reversible = False

    def __init__(self, step_B: Tensor, friction: float, temperature: float) -> None:
        """Set the step h and 1 - mu."""
        self.step_B = step_B
        self.decay = 1 - friction
        self.variance = 2 * friction * temperature
        self.momentum: Layers = []

    def begin(self, xi: Layers) -> None:
        # At rest, as published.
        self.momentum = [torch.zeros_like(x) for x in xi]

    def propose(self, slopes: Layers, down: Layers, xi: Layers) -> Layers:
        scale = (self.variance / self.step_B).sqrt()[:, None]
        self.momentum = [
            torch.addcmul(z, scale, x).add_(m, alpha=self.decay)
            for z, x, m in zip(down, xi, self.momentum, strict=True)
        ]
        return [-self.step_B[:, None] * m for m in self.momentum]

    def arrive(self, slopes: Layers, down: Layers) -> Tensor:
        return torch.zeros_like(slopes[0][:, 0])

    def reject(self, samples_B: Tensor) -> None:
        raise AssertionError("momentum has no Metropolis test")


class Kinetic:
    """Kinetic (underdamped) Langevin in the splitting BAOAB; v is a velocity.

        B  v <- v - h/2 M^-1 dE/dx     A  x <- x + h/2 v
        O  v <- c v + sqrt((1 - c^2) T) xi,   c = exp(-friction h)     A     B

    A step needs one gradient, the one at its end. It is stable for h below 2 / sqrt(c), with the
    curvature c of M^-1 E''. On a Gaussian target the variance of x is then exact for every h; on
    other targets it is biased by O(h^2). A Metropolis test removes the bias: it accepts by the
    change of E + v'Mv/2 in B and A, and a refused step reverses the velocity.

    Source: Leimkuhler and Matthews (2013); for the test, Sivak, Chodera and Crooks (2014).
    """

    is_reversible = True

    def __init__(self, step_B: Tensor, friction: float, temperature: float) -> None:
        """Set the step h and the friction per unit of time."""
        self.step_B = step_B
        self.friction = friction
        self.size = math.sqrt(temperature)
        self.velocity: Layers = []
        self.before: Layers = []
        self.change_B = torch.empty(0)

    def begin(self, xi: Layers) -> None:
        self.velocity = [self.size * x for x in xi]

    def propose(self, slopes: Layers, down: Layers, xi: Layers) -> Layers:
        self.before = self.velocity
        first, self.change_B = self._kicked(slopes, down)
        decay = (-self.friction * self.step_B).exp()[:, None]
        scale = self.size * (1 - decay.square()).sqrt()
        self.velocity = [scale * x + decay * v for x, v in zip(xi, first, strict=True)]
        half = 0.5 * self.step_B[:, None]
        return [half * both for both in _sums(first, self.velocity)]

    def arrive(self, slopes: Layers, down: Layers) -> Tensor:
        self.velocity, change_B = self._kicked(slopes, down)
        return self.change_B + change_B

    def reject(self, samples_B: Tensor) -> None:
        column = samples_B[:, None]
        self.velocity = [
            torch.where(column, -old, new)
            for old, new in zip(self.before, self.velocity, strict=True)
        ]

    def _kicked(self, slopes: Layers, down: Layers) -> tuple[Layers, Tensor]:
        """Return the velocity after B, and the change (B,) of v'Mv/2."""
        half_B = 0.5 * self.step_B
        half = half_B[:, None]
        kicked = [v - half * z for v, z in zip(self.velocity, down, strict=True)]
        return kicked, -0.5 * half_B * dot(slopes, _sums(self.velocity, kicked))


SAMPLERS: dict[str, Callable[[Tensor, float, float], Sampler]] = {
    "langevin": Overdamped,
    "momentum": Momentum,
    "kinetic": Kinetic,
}
"""For each name, a function of the steps (B,), the friction and the temperature."""


def largest_step(sampler: str, curvature: float, friction: float) -> float:
    """Return the largest stable step, given the largest eigenvalue of M^-1 E''."""
    if sampler == "kinetic":
        return 2 / math.sqrt(curvature)
    if sampler == "momentum":
        return 2 * (2 - friction) / curvature
    return 2 / curvature


def _sums(left: Layers, right: Layers) -> Layers:
    return [a + b for a, b in zip(left, right, strict=True)]
