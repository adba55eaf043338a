"""Densities around known points, beside scikit-learn's local outlier factor."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor

from pcgen.ood.scores import moments
from pcgen.ood.scores.moments import LocalDensity


@pytest.mark.parametrize("block", [2**24, 500])
def test_the_factor_is_that_of_scikit_learn(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_BLOCK", block)
    source = torch.Generator().manual_seed(0)
    # Two groups of different density.
    known = torch.randn(120, 5, generator=source, dtype=torch.float64)
    known[60:] = 0.1 * known[60:] + 6
    known = known.half().double()
    new = torch.cat([known[:5] + 0.3, known[60:65] + 0.3, 20 + known[:2]])
    expected = LocalOutlierFactor(n_neighbors=10, novelty=True).fit(known.numpy())
    scales = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    found = LocalDensity.of(known).factor(new)
    torch.testing.assert_close(LocalDensity.of(known * scales, scales).factor(new * scales), found)
    assert found.tolist() == pytest.approx((-expected.score_samples(new.numpy())).tolist())
    # The same distance is unusual only beside the dense group.
    assert found[5:10].min() > 1.4 * found[:5].max()


def test_points_at_one_place_have_a_finite_density() -> None:
    known = torch.zeros(30, 3)
    density = LocalDensity.of(known)
    assert density.factor(torch.cat([known[:2], known[:2] + 1])).isfinite().all()
    assert density.factor(known[:2]).tolist() == pytest.approx([1.0, 1.0])
    assert LocalDensity.of(known[:2]).factor(known[:1] + 1).isfinite().all()
