"""Masses: what the Langevin samplers take for the curvature, fixed while they run.

A mass M is asked for M^-1 slope and for draws from N(0, M^-1), layer by layer from the first free
one upwards. Any fixed positive M samples the same distribution; a good one in fewer steps.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pcgen.model.network import Network

# Latents at which the curvature of the errors is looked at.
_PLACES = 16


class Mass(Protocol):
    """A positive matrix with a block for every free layer."""

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return M^-1 slope."""

    def root(self, noise: list[Tensor]) -> list[Tensor]:
        """Return draws from N(0, M^-1), made of standard normals."""


class Unit:
    """M = 1, as published samplers have it."""

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        return slopes

    def root(self, noise: list[Tensor]) -> list[Tensor]:
        return noise


class ErrorMass:
    """The mean Gauss-Newton curvature over errors: whole for the latent, diagonal for hidden ones.

        M_L = pi_L + mean J' H J,   M_l = pi_l + mean diag(J_l' H J_l)

    J and J_l are the slopes of the data's drive in the latent and in layer l, H the data energy's
    curvature in its drive, and the means are over typical latents: of the squares, other than in
    `ErrorDiagonal`, since a stable step must know the steep places too. Of a mixture pi_L is the
    mean of its causes' precisions. The diagonals are summed over random signs of the data's units
    (Bekas, Kokiopoulou and Saad, 2007).
    """

    def __init__(self, network: Network, *, hidden_data: bool = False) -> None:
        """Take the network at its present weights; hidden data has no curvature."""
        latents = network.typical_latents[:_PLACES]
        states = network.states_from(latents)
        terms = network.terms(states)
        data = network.energies()[0]
        drives = network.drive(0, states)
        own = [data.mean_curvature(drives[i : i + 1])[1] for i in range(len(latents))]
        root_SD = torch.stack(own).clamp_min(0).sqrt() * (not hidden_data)
        slopes = [root_SD, *(t.slope_BD for t in terms[1:] if t.slope_BD is not None)]
        precisions = [p.exp() for p in network.log_precisions]
        self.hidden = self._hidden(network, slopes, precisions)
        self.labels = [precisions[-1]] * network.table.labels
        jacobian = self._jacobian(network, slopes)
        curvature = jacobian.flatten(1) @ jacobian.flatten(1).T / len(latents)
        jitter = 1e-6 * curvature.diagonal().mean() + 1e-12
        curvature.diagonal().add_(jitter)
        if network.mixture is None:
            curvature.diagonal().add_(precisions[network.latent])
        else:
            curvature += network.mixture.mean_precision()
        factor = torch.linalg.cholesky(curvature)
        self.inverse_UU = torch.cholesky_inverse(factor)
        self.factor_UU = torch.linalg.cholesky(self.inverse_UU)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> ErrorMass:
        """Return the mass that `tensors` gave."""
        mass = cls.__new__(cls)
        for name, held in (("hidden", []), ("labels", [])):
            count = sum(key.startswith(name) for key in tensors)
            held += [tensors[f"{name}.{i}"] for i in range(count)]
            setattr(mass, name, held)
        mass.inverse_UU, mass.factor_UU = tensors["inverse"], tensors["factor"]
        return mass

    def tensors(self) -> dict[str, Tensor]:
        """Return all it is made of, by name."""
        parts = {"hidden": self.hidden, "labels": self.labels}
        named = {f"{name}.{i}": t for name, held in parts.items() for i, t in enumerate(held)}
        return named | {"inverse": self.inverse_UU, "factor": self.factor_UU}

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return M^-1 slope for eps_1.. upwards, the latent and the labels, as far as given."""
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

    @staticmethod
    def _hidden(network: Network, slopes: list[Tensor], precisions: list[Tensor]) -> list[Tensor]:
        """Return the masses (D_l,) of the errors of the layers below the latent."""
        source = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, slopes[0].shape, generator=source) * 2 - 1
        carried, hidden = [signs.to(slopes[0]) * slopes[0]], []
        for i in range(1, network.latent):
            arrived = network.adjoint(i, carried)
            hidden.append(precisions[i] + arrived.square().mean(0))
            carried.append(arrived * slopes[i])
        return hidden

    @staticmethod
    def _jacobian(network: Network, slopes: list[Tensor]) -> Tensor:
        """Return the root of H times the slopes (D_L, S, D_0) of the data's drive in the latent."""
        units, places = network.sizes[network.latent], len(slopes[0])
        eye = torch.eye(units, dtype=slopes[0].dtype, device=slopes[0].device)
        latent = eye.repeat_interleave(places, 0)
        moves = [latent] * network.latent
        for i in range(network.latent - 1, 0, -1):
            moves[i - 1] = slopes[i].repeat(units, 1) * network.drive_move(i, moves)
        return slopes[0].repeat(units, 1).mul(network.drive_move(0, moves)).view(units, places, -1)
