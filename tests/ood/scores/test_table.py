"""The energy of tables' rows: exact marginals, and settings that follow from held-out rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pcgen.data.sources import open_data
from pcgen.ood.scores.causes import fit_causes
from pcgen.ood.scores.stored import choose_stored, fit_stored
from pcgen.ood.scores.table import Settings, choose_causes, draw_missing, fit_mixture, free_energy
from pcgen.ood.scores.table_scorer import TableScorer


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def rows_ND() -> torch.Tensor:
    mixing = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    return torch.randn(200, 3, generator=generator(), dtype=torch.float64) @ mixing


def test_the_free_energy_sums_missing_values_out(rows_ND: torch.Tensor) -> None:
    causes = fit_causes(rows_ND, 2, shrink=3.0, floor=0.01, generator=generator())
    weights = causes.log_weights_K.exp().numpy()
    covariances = torch.linalg.inv(causes.roots_KLL @ causes.roots_KLL.mT).numpy()
    row = rows_ND[0].numpy()
    for seen in ([0, 1, 2], [0, 2], [1], []):
        new = torch.full((1, 3), torch.nan, dtype=torch.float64)
        new[0, seen] = rows_ND[0, seen]
        density = [
            multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).pdf(row[seen])
            if seen
            else 1.0
            for mean, covariance in zip(causes.means_KL.numpy(), covariances, strict=True)
        ]
        expected = -math.log(weights @ np.array(density))
        assert free_energy(causes, new).item() == pytest.approx(expected, abs=1e-9)


def test_the_memory_is_a_mixture_of_its_rows_and_sums_missing_values_out(
    rows_ND: torch.Tensor,
) -> None:
    stored = fit_stored(rows_ND, 3, 0.7)
    new = rows_ND[:2] + 0.1
    new[1, 1] = torch.nan
    for seen, row, energy in zip(([0, 1, 2], [0, 2]), new, stored.energy(new), strict=True):
        densities = [
            multivariate_normal(own[seen], (width**2).item()).pdf(row[seen])
            for own, width in zip(stored.rows_ND.numpy(), stored.deviations_N, strict=True)
        ]
        assert energy.item() == pytest.approx(-math.log(np.mean(densities)), rel=1e-6)


def test_drawn_values_have_the_distribution_of_the_missing_ones(rows_ND: torch.Tensor) -> None:
    causes = fit_causes(rows_ND, 1, shrink=3.0, floor=0.01, generator=generator())
    new = rows_ND[:1].repeat(20_000, 1)
    new[:, 2] = torch.nan
    covariance = torch.linalg.inv(causes.roots_KLL[0] @ causes.roots_KLL[0].T)
    gain = torch.linalg.solve(covariance[:2, :2], covariance[:2, 2])
    mean = causes.means_KL[0, 2] + gain @ (rows_ND[0, :2] - causes.means_KL[0, :2])
    variance = covariance[2, 2] - gain @ covariance[:2, 2]
    drawn = draw_missing(causes, new, generator())
    assert (drawn[:, :2] == rows_ND[0, :2]).all()
    assert drawn[:, 2].mean().item() == pytest.approx(mean.item(), abs=0.05)
    assert drawn[:, 2].var().item() == pytest.approx(variance.item(), rel=0.05)


def test_a_mixture_of_rows_with_holes_keeps_the_covariance(rows_ND: torch.Tensor) -> None:
    holed = rows_ND.clone()
    holed[torch.rand(holed.shape, generator=generator()) < 0.2] = torch.nan
    settings = Settings(causes=1, shrink=0.1)
    roots = [
        fit_mixture(rows, settings, generator()).causes.roots_KLL[0] for rows in (rows_ND, holed)
    ]
    whole, own = (torch.linalg.inv(root @ root.T) for root in roots)
    assert own.diagonal().numpy() == pytest.approx(whole.diagonal().numpy(), rel=0.3)


def test_as_many_causes_are_chosen_as_there_are_groups() -> None:
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]], dtype=torch.float64)
    noise = torch.randn(400, 2, generator=generator(), dtype=torch.float64)
    rows_ND = centres.repeat(100, 1) + noise
    settings, fits = choose_causes(rows_ND, torch.arange(400) // 4 % 5, generator())
    assert settings.causes == 4
    assert [len(fit.complete_ND) for fit in fits] == [320] * len(fits)


def test_the_memory_s_widths_follow_the_density(rows_ND: torch.Tensor) -> None:
    neighbours, factor = choose_stored(rows_ND, generator())
    energies = []
    for times in (0.5, 1.0, 2.0):
        held_out = [
            fit_stored(torch.cat([rows_ND[:i], rows_ND[i + 1 :]]), neighbours, factor * times)
            .energy(rows_ND[i : i + 1])
            .item()
            for i in range(0, 200, 4)
        ]
        energies.append(np.mean(held_out))
    assert energies[1] == min(energies)


def test_a_scorer_of_a_table_loads_with_the_same_energies(
    rows_ND: torch.Tensor, tmp_path: Path
) -> None:
    np.savetxt(tmp_path / "known.csv", rows_ND, delimiter=",", header="a,b,c", comments="")
    scorer = TableScorer.fit(open_data(tmp_path / "known.csv"))
    new = torch.randn(5, 3, generator=generator())
    energies, loaded = scorer(new), TableScorer.load(scorer.tensors())(new)
    assert all(torch.equal(loaded[name], energy_B) for name, energy_B in energies.items())
    parts = energies["table-mixture"] + energies["table-memory"]
    assert torch.equal(energies["table-energy"], parts)
