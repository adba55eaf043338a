"""Chains around a mode, from the Gaussian there to the density of the states given data."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.inference.coordinates import determined_states, error_slopes
from pcgen.model.energy import Terms
from pcgen.model.network import Network
from pcgen.sampling.langevin import Layers
from pcgen.sampling.modes import Modes, component_terms, components
from pcgen.sampling.noise import SampleNoise

# Friction per unit of time, in the coordinates in which the Gaussian is standard normal.
_FRICTION = 0.5
# Steps follow the wished acceptance with this gain, from this step on.
FIRST_STEP = 0.3
_ACCEPTANCE = 0.9
_GAIN = 0.3


class ModeChains:
    """Chains in coordinates xi in which the Gaussian around their mode is standard normal.

    At the temperature b they draw from N(xi; 0, 1)^(1 - b) (exp(-E_k(u)) r_j(z))^b. The shares r_j
    of the modes of one component sum to 1, so that no mode counts twice.

    Attributes:
        xi_BX: where the chains are.
        energy_B: E_k(u) - log r_j(z) there.
        probable_B: the probability with which the last step was accepted.
    """

    def __init__(
        self,
        network: Network,
        data_BD: Tensor,
        mask_BD: Tensor | None,
        modes: Modes,
        mode_B: Tensor,
        xi: Layers,
        noise: SampleNoise,
    ) -> None:
        """Begin.

        Args:
            modes: for each chain, those of the component that it is of.
            mode_B: the number of the chain's own mode.
            xi: (B, D_l) where it begins.
        """
        self.network, self.data_BD, self.mask_BD, self.modes = network, data_BD, mask_BD, modes
        self.prior, self.mode_B, self.noise = components(network), mode_B, noise
        self.around = modes.around(mode_B)
        self.widths = [layer.shape[1] for layer in xi]
        self.xi_BX = torch.cat(xi, 1)
        self.rows_B = torch.arange(len(mode_B), device=mode_B.device)
        self.component_B = modes.components_BJ[self.rows_B, mode_B]
        self.energy_B, self.slope_BX = self._evaluate(self.xi_BX)
        self.probable_B = torch.ones_like(self.energy_B)
        self.velocity_BX = torch.cat(noise.draw(), 1)

    def move(self, share: float, step: Tensor) -> None:
        """Take a leapfrog step at this temperature; a refused one turns the velocity round.

        Args:
            step: () or (B, 1).
        """
        slope_BX = share * self.slope_BX + (1 - share) * self.xi_BX
        velocity_BX = self.velocity_BX - 0.5 * step * slope_BX
        xi_BX = self.xi_BX + step * velocity_BX
        energy_B, new_BX = self._evaluate(xi_BX)
        velocity_BX = velocity_BX - 0.5 * step * (share * new_BX + (1 - share) * xi_BX)
        worse_B = share * (energy_B - self.energy_B)
        worse_B = worse_B + (1 - share) * (square(xi_BX) - square(self.xi_BX))
        worse_B = worse_B + square(velocity_BX) - square(self.velocity_BX)
        # An energy that is not finite is refused.
        self.probable_B = (-worse_B).clamp(max=0).exp().nan_to_num(0.0)
        taken_B = self.noise.uniform_B < self.probable_B
        taken = taken_B[:, None]
        self.velocity_BX = torch.where(taken, velocity_BX, -self.velocity_BX)
        self.xi_BX = torch.where(taken, xi_BX, self.xi_BX)
        self.slope_BX = torch.where(taken, new_BX, self.slope_BX)
        self.energy_B = torch.where(taken_B, energy_B, self.energy_B)

    def refresh(self, step: Tensor) -> None:
        """Renew the velocity in part, as friction and noise do in the time of a step."""
        decay = (-_FRICTION * step).exp()
        noise_BX = torch.cat(self.noise.draw(), 1)
        self.velocity_BX = decay * self.velocity_BX + (1 - decay.square()).sqrt() * noise_BX

    def point(self) -> Layers:
        """Return the hidden errors and the latent (B, D_l)."""
        return self.around.point(list(torch.split(self.xi_BX, self.widths, 1)))

    def slopes(self) -> Layers:
        """Return the slopes of the energy in the hidden errors and in the latent (B, D_l)."""
        return self.around.slopes_of(list(torch.split(self.slope_BX, self.widths, 1)))

    def terms(self, errors: Layers) -> tuple[list[Tensor], list[Terms]]:
        """Return the states and terms that these errors and this latent determine."""
        network = self.network
        held = network.sizes[1 : network.depth] if len(errors) == 1 else []
        still = [errors[-1].new_zeros(len(errors[-1]), size) for size in held]
        return determined_states(
            network, self.data_BD, errors[-1], [*still, *errors[:-1]], self.mask_BD
        )

    def _evaluate(self, xi_BX: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy (B,), without constants, and its slope in xi (B, X)."""
        network = self.network
        errors = self.around.point(list(torch.split(xi_BX, self.widths, 1)))
        states, terms = self.terms(errors)
        energy_B, pull_BL = component_terms(self.prior, states[-1], self.component_B)
        slopes = error_slopes(network, terms, pull_BL, network.depth)[-len(errors) :]
        if self.modes.log_weights_BJ.shape[1] > 1:
            log_shares_BJ, share_slopes_BJL = self.modes.log_shares(states[-1])
            slopes[-1] = slopes[-1] - share_slopes_BJL[self.rows_B, self.mode_B]
            energy_B = energy_B - log_shares_BJ[self.rows_B, self.mode_B]
        for term in terms:
            energy_B = energy_B + term.energy_B
        return energy_B, torch.cat(self.around.slopes(slopes), 1)


def adapted(step: Tensor, probable: Tensor) -> Tensor:
    """Return a step whose acceptance is nearer to the wished one, from its present acceptance."""
    return step * (_GAIN * (probable - _ACCEPTANCE)).exp()


def square(xi_BX: Tensor) -> Tensor:
    """Return minus the log density (B,) of standard normal numbers, without the 2 pi."""
    return 0.5 * xi_BX.square().sum(1)
