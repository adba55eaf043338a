"""Diagnostics: what is known of autoregressive series."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pcgen.sampling.diagnostics import BELIEVABLE, effective_sample_size, r_hat


def series(correlation: float, steps: int = 2000, chains: int = 4, seed: int = 0) -> Tensor:
    """Return stationary autoregressive chains (S, C, 1) of variance 1."""
    source = torch.Generator().manual_seed(seed)
    noise = torch.randn(steps, chains, 1, generator=source, dtype=torch.float64)
    values = [noise[0]]
    for xi in noise[1:]:
        values.append(correlation * values[-1] + (1 - correlation**2) ** 0.5 * xi)
    return torch.stack(values)


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.5, 0.9])
def test_effective_sample_size_is_that_of_theory(correlation: float) -> None:
    sizes = torch.cat([effective_sample_size(series(correlation, seed=seed)) for seed in range(8)])
    expected = 8000 * (1 - correlation) / (1 + correlation)
    assert float(sizes.mean()) == pytest.approx(expected, rel=0.1)


def test_r_hat_is_one_where_chains_agree_and_not_where_they_differ() -> None:
    mixed = series(0.5)
    assert float(r_hat(mixed)) < 1.01
    assert float(r_hat(mixed + torch.arange(4)[:, None])) > 1.5
    # The same mean, another spread: only the folded ranks see it.
    assert float(r_hat(mixed * torch.tensor([1, 1, 1, 5])[:, None])) > BELIEVABLE
    # A drift within each chain: only the halves see it.
    assert float(r_hat(mixed + torch.linspace(0, 3, 2000)[:, None, None])) > BELIEVABLE


def test_ranks_bear_any_monotone_map_and_constants() -> None:
    mixed = series(0.5)
    torch.testing.assert_close(effective_sample_size(mixed.exp()), effective_sample_size(mixed))
    still = torch.ones(100, 3, 1)
    assert float(r_hat(still)) == 1
    assert effective_sample_size(still).isnan().all()
    apart = still * torch.arange(3)[:, None]
    assert float(r_hat(apart)) == float("inf")


def test_quantities_are_judged_on_their_own() -> None:
    both = torch.cat([series(0.0), series(0.9, seed=1)], 2)
    alone = [float(effective_sample_size(both[..., i : i + 1])) for i in range(2)]
    assert effective_sample_size(both).tolist() == pytest.approx(alone)
