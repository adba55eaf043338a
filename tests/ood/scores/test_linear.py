"""Linear networks in closed form: their energy is a Gaussian's, through a window or not."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pcgen.ood.scores.linear import LinearNetworks, Window, fit_networks, octaves_of


def _data(count: int, units: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(units, units, generator=generator, dtype=torch.float64)
    scales = torch.logspace(0, -1, units, dtype=torch.float64)
    drawn = torch.randn(count, units, generator=generator, dtype=torch.float64)
    return drawn @ (mix * scales) + 3.0


def _fitted(data: Tensor, window: Window, groups: int = 1) -> LinearNetworks:
    seen, outside = window.see(data)
    centred = seen - seen.mean(0)
    member = torch.arange(len(data)) % groups
    return fit_networks(seen, outside, member, centred.T @ centred / len(data), window)


def _parts(networks: LinearNetworks, window: Window, data: Tensor) -> tuple[Tensor, ...]:
    seen, outside = window.see(data)
    return (*networks.parts(seen), outside)


def test_the_energy_is_the_negative_log_density_of_the_networks_gaussian() -> None:
    data = _data(4000, 12)
    window = Window.of(data)
    networks = _fitted(data, window)
    factors, noise = networks.factors_EPQ[0], networks.noise_E[0]
    spread = torch.diag(networks.variances_EQ[0] - noise)
    covariance = factors @ spread @ factors.T + noise * torch.eye(12, dtype=torch.float64)
    seen, outside = window.see(data[:50])
    expected = -MultivariateNormal(networks.means_EP[0], covariance).log_prob(seen)
    energy = networks.energy(*networks.parts(seen), outside)[:, 0]
    torch.testing.assert_close(energy, expected - 6 * math.log(2 * math.pi), rtol=2e-3, atol=2e-3)


def test_what_lies_outside_the_window_is_noise() -> None:
    data = _data(500, 12)
    window = Window(data.mean(0), torch.eye(12, dtype=torch.float64)[:, :8])
    networks = _fitted(data, window)
    moved = data[:5].clone()
    moved[:, 10] = data.mean(0)[10] + 7.0
    still = data[:5].clone()
    still[:, 10] = data.mean(0)[10]
    (seen, outside), (as_seen, less) = (window.see(rows) for rows in (moved, still))
    torch.testing.assert_close(seen, as_seen)
    torch.testing.assert_close(outside, less + 49.0)
    found, before = (networks.energy(*networks.parts(seen), missed) for missed in (outside, less))
    torch.testing.assert_close(found, before + 24.5 / networks.noise_E)


def test_octaves_are_all_of_the_latents_energy() -> None:
    data = _data(500, 40)
    window = Window.of(data)
    networks = _fitted(data, window)
    octaves, _ = networks.parts(window.see(data)[0])
    assert octaves_of(networks.factors_EPQ.shape[2]) == [1, 1, 3, 5]
    latents = (window.see(data)[0] - networks.means_EP) @ networks.factors_EPQ[0]
    expected = 0.5 * (latents.square() / networks.variances_EQ).sum(1)
    torch.testing.assert_close(octaves.sum(2)[:, 0], expected)


def test_a_group_without_images_gets_no_network() -> None:
    data = _data(300, 6)
    window = Window.of(data)
    seen, outside = window.see(data)
    member = torch.where(torch.arange(300) < 100, 0, 4)
    covariance = torch.cov(seen.T)
    assert len(fit_networks(seen, outside, member, covariance, window).noise_E) == 2


def test_a_constant_unit_leaves_the_energies_finite() -> None:
    data = _data(200, 6)
    data[:, 2:] = 0.5
    window = Window.of(data)
    networks = _fitted(data, window)
    energy = networks.energy(*_parts(networks, window, data + 1.0))
    assert energy.isfinite().all()


def test_wide_data_are_seen_through_their_largest_components() -> None:
    generator = torch.Generator().manual_seed(3)
    strong = torch.randn(300, 4, generator=generator) * torch.tensor([9.0, 7.0, 5.0, 4.0])
    basis = torch.linalg.qr(torch.randn(1100, 4, generator=generator)).Q
    data = strong @ basis.T + 0.01 * torch.randn(300, 1100, generator=generator)
    window = Window.of(data)
    kept = (basis.T @ window.basis_DP).square().sum(1)
    torch.testing.assert_close(kept, torch.ones(4), rtol=0, atol=1e-2)
