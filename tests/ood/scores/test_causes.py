"""The mixture of Gaussians over rows."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pcgen.ood.scores.causes import Causes, fit_causes


def fitted(rows: torch.Tensor, count: int, shrink: float = 2.0, floor: float = 1e-4) -> Causes:
    draw = torch.Generator().manual_seed(0)
    return fit_causes(rows, count, shrink=shrink, floor=floor, generator=draw)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Return 300 rows around (0, 0), and 100 around (9, 0) that scatter along one direction."""
    draw = torch.Generator().manual_seed(1)
    normal = torch.randn(400, 2, generator=draw, dtype=torch.float64)
    normal[300:] = normal[300:] * torch.tensor([0.5, 3.0]) + torch.tensor([9.0, 0.0])
    return normal


def test_two_groups_of_rows_are_found_with_their_weights_means_and_deviations(
    rows: torch.Tensor,
) -> None:
    causes = fitted(rows, 2)
    first, second = causes.means_KL[:, 0].argsort()
    assert causes.log_weights_K[first].exp() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(causes.means_KL[second], [9, 0], atol=0.5)
    deviations = 1 / causes.roots_KLL[second].norm(dim=0)
    np.testing.assert_allclose(deviations, [3, 0.5], rtol=0.15)


def test_the_energy_is_minus_the_log_density_without_2_pi(rows: torch.Tensor) -> None:
    causes = fitted(rows, 3)
    covariances = torch.linalg.inv(causes.roots_KLL @ causes.roots_KLL.mT)
    logs = [
        float(log_weight) + multivariate_normal(mean, covariance).logpdf(rows)
        for log_weight, mean, covariance in zip(
            causes.log_weights_K, causes.means_KL.numpy(), covariances.numpy(), strict=True
        )
    ]
    expected = -logsumexp(logs, axis=0) - np.log(2 * np.pi)
    np.testing.assert_allclose(causes.energy(rows), expected, rtol=1e-9)


def test_one_cause_has_the_mean_and_the_shrunk_covariance_of_the_rows(rows: torch.Tensor) -> None:
    causes = fitted(rows, 1, shrink=40.0)
    own = np.cov(rows.numpy().T, bias=True)
    usual = 0.5 * own + 0.5 * np.trace(own) / 2 * np.eye(2)
    root = causes.roots_KLL[0]
    np.testing.assert_allclose(causes.means_KL[0], rows.mean(0))
    np.testing.assert_allclose(
        np.linalg.inv(root @ root.T), (400 * own + 40 * usual) / 440, rtol=1e-9
    )


def test_no_direction_is_narrower_than_the_floor() -> None:
    flat = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    causes = fitted(flat, 1, shrink=0.0, floor=0.01)
    assert 1 / causes.roots_KLL[0].norm(dim=0)[1] == pytest.approx(0.1)


def test_more_causes_than_rows_become_one_a_row() -> None:
    causes = fitted(torch.tensor([[0.0], [5.0]]), 9)
    assert sorted(causes.means_KL[:, 0].tolist()) == pytest.approx([0, 5], abs=1e-3)


def test_blocks_of_rows_change_nothing(rows: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(rows, 2)
    monkeypatch.setattr("pcgen.ood.scores.causes._BLOCK", 64)
    np.testing.assert_allclose(fitted(rows, 2).means_KL, whole.means_KL, rtol=1e-9)
