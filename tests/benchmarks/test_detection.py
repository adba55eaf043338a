"""Metrics of detection: the values of scikit-learn, and intervals that cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from pcgen.benchmarks.ood.metrics import METRICS, Bootstrap, estimate, estimates, metrics, roc

SCORES = st.lists(st.integers(-5, 5), min_size=2, max_size=40)


@given(known=SCORES, unusual=SCORES)
def test_metrics_are_scikit_learns_with_ties(known: list[int], unusual: list[int]) -> None:
    values = metrics(known, unusual)
    scores = np.array([*known, *unusual], float)
    labels = np.array([0] * len(known) + [1] * len(unusual))
    assert values["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert values["aupr_ood"] == pytest.approx(average_precision_score(labels, scores))
    assert values["aupr_id"] == pytest.approx(average_precision_score(1 - labels, -scores))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert values["fpr95_ood_positive"] == pytest.approx(fpr[tpr >= 0.95 - 1e-9].min())
    assert values["tpr_at_5"] == pytest.approx(tpr[fpr <= 0.05 + 1e-9].max())
    assert values["tpr_at_1"] == pytest.approx(tpr[fpr <= 0.01 + 1e-9].max())
    passed, _, _ = roc_curve(1 - labels, -scores, drop_intermediate=False)
    kept = roc_curve(1 - labels, -scores, drop_intermediate=False)[1]
    assert values["fpr95_id_positive"] == pytest.approx(passed[kept >= 0.95 - 1e-9].min())
    ours = roc(known, unusual)
    assert ours[0] == pytest.approx(fpr)
    assert ours[1] == pytest.approx(tpr)


def test_fpr95_has_two_meanings_that_differ() -> None:
    # A tenth of the known images looks stranger than all unusual ones.
    known = np.concatenate([np.zeros(90), np.full(10, 3.0)])
    unusual = np.ones(100)
    values = metrics(known, unusual)
    assert values["fpr95_ood_positive"] == pytest.approx(0.1)
    assert values["fpr95_id_positive"] == pytest.approx(1.0)


def test_weights_are_repetition() -> None:
    source = np.random.default_rng(0)
    known, unusual = source.normal(size=30), source.normal(1, size=20)
    bootstrap = Bootstrap([30], [20], replicates=5)
    values = bootstrap.replicates([(known, unusual)])
    for i in range(5):
        again = metrics(
            np.repeat(known, bootstrap.known[0][i]), np.repeat(unusual, bootstrap.unusual[0][i])
        )
        assert {name: values[name][i] for name in METRICS} == pytest.approx(again)


def test_one_half_of_the_known_is_not_told_from_the_other() -> None:
    scores = np.random.default_rng(1).normal(size=4000)
    assert metrics(scores[::2], scores[1::2])["auroc"] == pytest.approx(0.5, abs=0.03)


def test_intervals_cover_the_truth() -> None:
    # Normal scores one standard deviation apart: AUROC = Phi(1 / sqrt 2) = 0.7602.
    source, covered = np.random.default_rng(2), 0
    for i in range(60):
        pair = (source.normal(size=150), source.normal(1, size=150))
        estimated = estimates([pair], Bootstrap([150], [150], seed=i).replicates([pair]))["auroc"]
        assert estimated.low < estimated.value < estimated.high
        covered += estimated.low <= 0.76025 <= estimated.high
    assert covered >= 51


def test_differences_are_paired() -> None:
    source = np.random.default_rng(3)
    known, unusual = source.normal(size=300), source.normal(1, size=300)
    # A monotone score has the same AUROC in every replicate: the difference is exactly 0.
    bootstrap = Bootstrap([300, 300], [300, 300])
    first = bootstrap.replicates([(known, unusual), (known, unusual)])
    second = bootstrap.replicates([(np.exp(known), np.exp(unusual))] * 2)
    difference = estimate(0.0, first["auroc"] - second["auroc"])
    assert difference.low == difference.high == 0.0


def test_seeds_that_differ_widen_the_interval() -> None:
    source = np.random.default_rng(4)
    pair = (source.normal(size=500), source.normal(1, size=500))
    worse = (pair[0], pair[1] - 0.7)
    bootstrap = Bootstrap([500, 500], [500, 500])
    same, differing = ([pair, pair], [pair, worse])
    narrow = estimates(same, bootstrap.replicates(same))["auroc"]
    wide = estimates(differing, bootstrap.replicates(differing))["auroc"]
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_perfect_scores_are_perfect() -> None:
    values = metrics([0.0, 1.0], [2.0, 3.0])
    perfect = dict.fromkeys(METRICS, 1.0) | {"fpr95_ood_positive": 0.0, "fpr95_id_positive": 0.0}
    assert values == pytest.approx(perfect)


def test_seeds_that_judge_other_images_have_draws_of_their_own() -> None:
    source = np.random.default_rng(5)
    pairs = [(source.normal(size=n), source.normal(1, size=m)) for n, m in ((40, 30), (50, 20))]
    bootstrap = Bootstrap([40, 50], [30, 20], shared=False)
    assert [weights.shape[1] for weights in bootstrap.known] == [40, 50]
    estimated = estimates(pairs, bootstrap.replicates(pairs))["auroc"]
    assert estimated.low < estimated.value < estimated.high
