"""Mass matrices: the curvature that the Langevin samplers assume, fixed while they run.

A mass matrix M multiplies slopes by M^-1 and makes draws from N(0, M^-1), layer by layer from the
first free one upwards. Every fixed positive M samples the same distribution; with a good one, fewer
steps are enough.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pcgen.inference.preconditioners import drive_slopes, error_signals
from pcgen.model.network import Network

# The curvature over errors is averaged over this many typical latents. It only sets how fast chains
# mix, and 16 latents are enough for a layer's mean.
PLACES = 16
# The share of the mean curvature that is added to the latent's matrix, so that it can be inverted
# where the data do not depend on a direction. The prior's precision dominates it.
JITTER = 1e-6


class Mass(Protocol):
    """A positive matrix M with a block for every free layer."""

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return M^-1 slope."""

    def root(self, noise: list[Tensor]) -> list[Tensor]:
        """Return draws from N(0, M^-1), made of standard normal numbers."""


class Unit:
    """M = 1, as in the published samplers."""

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        return slopes

    def root(self, noise: list[Tensor]) -> list[Tensor]:
        return noise


class ErrorMass:
    """The mean Gauss-Newton curvature over errors: a matrix for the latent, diagonals for the rest.

        M_L = pi_L + mean J' H J,   M_l = pi_l + mean diag(J_l' H J_l)

    J and J_l are the slopes of the data's drive in the latent and in layer l. H is the curvature of
    the data's energy in the drive. The means are over typical latents. They are means of squares,
    where `ErrorDiagonal` squares mean slopes: a step is stable only if M knows the steepest places.
    With a mixture prior pi_L is the mean precision of its components. The diagonals are estimated
    with random signs of the data's units (Bekas, Kokiopoulou and Saad, 2007).
    """

    def __init__(self, network: Network, *, hidden_data: bool = False) -> None:
        """Prepare for the network's present weights. Hidden data have no curvature."""
        latents = network.typical_latents[:PLACES]
        states = network.states_from(latents)
        data, drives = network.energies()[0], network.drive(0, states)
        own = [data.mean_curvature(drives[i : i + 1])[1] for i in range(len(latents))]
        root_SD = torch.stack(own).clamp_min(0).sqrt() * (not hidden_data)
        terms = network.terms(states)
        slopes = [root_SD, *(t.slope_BD for t in terms[1:] if t.slope_BD is not None)]
        precisions = [p.exp() for p in network.log_precisions]
        source = torch.Generator().manual_seed(0)
        signs_SD = torch.randint(0, 2, root_SD.shape, generator=source) * 2 - 1
        arrived = error_signals(network, slopes, signs_SD.to(root_SD) * root_SD, network.latent)
        self.hidden = [
            precision + signal.square().mean(0)
            for precision, signal in zip(precisions[1:], arrived, strict=False)
        ]
        self.labels = [precisions[-1]] * network.table.labels
        curvature = self._latent_curvature(network, slopes, root_SD)
        if network.mixture is None:
            curvature.diagonal().add_(precisions[network.latent])
        else:
            curvature += network.mixture.mean_precision()
        self.inverse_UU = torch.cholesky_inverse(torch.linalg.cholesky(curvature))
        self.factor_UU = torch.linalg.cholesky(self.inverse_UU)

    @staticmethod
    def _latent_curvature(network: Network, slopes: list[Tensor], root_SD: Tensor) -> Tensor:
        """Return mean J' H J (D_L, D_L) with a jitter; `root_SD` is the root of H."""
        places, units = len(root_SD), network.sizes[network.latent]
        jacobian = drive_slopes(network, slopes, network.latent) * root_SD.repeat(units, 1)
        flat = jacobian.view(units, -1)
        curvature = flat @ flat.T / places
        jitter = JITTER * curvature.diagonal().mean() + 1e-12
        curvature.diagonal().add_(jitter)
        return curvature

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> ErrorMass:
        """Return the mass matrix that `tensors` described."""
        mass = cls.__new__(cls)
        for name in ("hidden", "labels"):
            count = sum(key.startswith(name) for key in tensors)
            setattr(mass, name, [tensors[f"{name}.{i}"] for i in range(count)])
        mass.inverse_UU, mass.factor_UU = tensors["inverse"], tensors["factor"]
        return mass

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that determine it, by name."""
        named = {f"hidden.{i}": diagonal for i, diagonal in enumerate(self.hidden)}
        named |= {f"labels.{i}": diagonal for i, diagonal in enumerate(self.labels)}
        return named | {"inverse": self.inverse_UU, "factor": self.factor_UU}

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return M^-1 slope for the errors from layer 1 upwards, the latent and the labels.

        The uppermost of them are left out if no slope is given for them.
        """
        count = len(self.hidden)
        down = [slope / mass for slope, mass in zip(slopes, self.hidden, strict=False)]
        down += [slope @ self.inverse_UU for slope in slopes[count : count + 1]]
        above = slopes[count + 1 :]
        return down + [slope / mass for slope, mass in zip(above, self.labels, strict=False)]

    def root(self, noise: list[Tensor]) -> list[Tensor]:
        count = len(self.hidden)
        drawn = [xi * mass.rsqrt() for xi, mass in zip(noise, self.hidden, strict=False)]
        drawn += [xi @ self.factor_UU.T for xi in noise[count : count + 1]]
        above = noise[count + 1 :]
        return drawn + [xi * mass.rsqrt() for xi, mass in zip(above, self.labels, strict=False)]
