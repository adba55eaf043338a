"""p-values are valid, thresholds keep their promise, and too few scores are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pcgen.errors import CalibrationError
from pcgen.ood import conformal as calibration
from pcgen.ood.conformal import Guarantee


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("flagged", [0, 1, 7, 30])
def test_a_batch_s_p_value_is_that_of_the_exact_test(flagged: int) -> None:
    from scipy import stats

    binomial = stats.binomtest(flagged, 30, 0.05, "greater").pvalue
    assert calibration.batch_p_value(flagged, 30, 99, 0.05, "pac") == pytest.approx(binomial)
    k = calibration.allowed(99, 0.05, "marginal")
    wanted = stats.betabinom.sf(flagged - 1, 30, k + 1, 99 - k)
    assert calibration.batch_p_value(flagged, 30, 99, 0.05, "marginal") == pytest.approx(wanted)


@pytest.mark.parametrize("guarantee", ["pac", "marginal"])
def test_batches_of_known_inputs_have_p_values_below_a_at_most_a_share_a_of_the_time(
    guarantee: calibration.Guarantee,
) -> None:
    source = np.random.default_rng(0)
    p_values = []
    for _ in range(2000):
        known, new = source.random(100), source.random(200)
        flagged = int((new > calibration.threshold(known, 0.05, guarantee)).sum())
        p_values.append(calibration.batch_p_value(flagged, 200, 100, 0.05, guarantee))
    # 2,000 trials: 0.05 and three standard errors.
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_a_p_value_is_the_rank_among_the_calibration_scores() -> None:
    found = calibration.p_values([0, 1, 2.5, 9, np.nan, np.inf], [1, 2, 2, 3])
    assert found.tolist() == [1, 1, 2 / 5, 1 / 5, 1 / 5, 1 / 5]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_p_values_are_valid_for_every_small_sample_ties_included(values: list[int]) -> None:
    # Exchangeable: each of the values is the new one equally often.
    found = [
        calibration.p_values([values[i]], [*values[:i], *values[i + 1 :]])[0]
        for i in range(len(values))
    ]
    for level in {*found}:
        assert np.mean(np.array(found) <= level + 1e-12) <= level + 1e-12


def test_p_values_are_uniform_on_the_known_set() -> None:
    found = calibration.p_values(normal(4000, seed=1), normal(4000, seed=2))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_the_combined_score_is_fisher_s_at_the_calibration_scores() -> None:
    known = normal(1000, 3)
    new = np.column_stack([np.roll(known[:50, j], j) for j in range(3)])
    wanted = [
        stats.combine_pvalues(
            [calibration.p_values([s], known[:, j])[0] for j, s in enumerate(row)]
        ).statistic
        for row in new
    ]
    assert 2 * calibration.fisher(new, known) == pytest.approx(wanted)


def test_an_alarm_counts_only_where_it_is_rare_among_known_inputs() -> None:
    known, usual = normal(1000, 2), [0.5, 0.5]
    quiet, loud = ([0.5, np.quantile(known[:, 1], share)] for share in (0.79, 0.99))
    usual_1, quiet_1, loud_1 = calibration.fisher([usual, quiet, loud], known, [False, True])
    alone = calibration.fisher([usual[:1]], known[:, :1])[0]
    assert usual_1 == quiet_1 == pytest.approx(alone)
    assert loud_1 - alone == pytest.approx(np.log(20), rel=0.1)
    far = calibration.fisher([[0.5, 100.0]], known, [False, True])
    assert far > calibration.fisher([[0.5, 10.0]], known, [False, True]) > loud_1


def test_the_combined_score_has_no_ties_between_calibration_scores() -> None:
    new = np.linspace(-1, 1, 200)[:, None]
    found = calibration.fisher(new, normal(30, 1))
    assert (np.diff(found) > 0).all()
    steps = -np.log(calibration.p_values(new[:, 0], normal(30)))
    assert (found <= steps + 1e-12).all() or (found >= steps - 1e-12).all()


def test_the_combined_score_goes_on_rising_beyond_the_largest_calibration_score() -> None:
    known = normal(500, 2)
    new = np.array([[s, 0.0] for s in (3.5, 5, 10, 100, np.inf)])
    found = calibration.fisher(new, known)
    assert (np.diff(found) > 0).all()
    assert np.isfinite(found).all()


def test_a_score_that_is_constant_in_calibration_hears_no_rounding() -> None:
    known = np.column_stack([np.full(100, 7.0), normal(100)])
    same = calibration.fisher([[7.0 + 1e-13, 0.0]], known)
    assert same == pytest.approx(calibration.fisher([[7.0, 0.0]], known), abs=5)
    assert calibration.fisher([[8.0, 0.0]], known) > same + 100


def test_the_combined_p_value_is_uniform_although_the_parts_depend_on_each_other() -> None:
    shared = normal(6000, 1)
    scores = np.column_stack([shared, shared + 0.1 * normal(6000, 1, seed=1)])
    part_a, part_b, new = np.split(scores, 3)
    found = calibration.p_values(
        calibration.fisher(new, part_a), calibration.fisher(part_b, part_a)
    )
    assert stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("fpr", "guarantee", "needed"),
    [
        (0.05, "pac", 59),
        (0.01, "pac", 299),
        (0.001, "pac", 2995),
        (0.05, "marginal", 19),
        (0.01, "marginal", 99),
    ],
)
def test_too_few_calibration_scores_are_refused(
    fpr: float, guarantee: Guarantee, needed: int
) -> None:
    assert calibration.smallest(fpr, guarantee) == needed
    assert calibration.allowed(needed, fpr, guarantee) == 0
    with pytest.raises(CalibrationError, match=f"{needed} are needed") as caught:
        calibration.threshold(np.zeros(needed - 1), fpr, guarantee)
    assert "--fpr" in caught.value.hint


@pytest.mark.parametrize("count", [59, 75, 200, 1000, 5000])
def test_pac_allows_the_most_that_its_confidence_permits(count: int) -> None:
    k = calibration.allowed(count, 0.05, "pac")
    assert stats.beta(k + 1, count - k).cdf(0.05) >= 0.95
    assert stats.beta(k + 2, count - k - 1).cdf(0.05) < 0.95


def test_the_realised_alarm_rate_keeps_both_promises_over_many_draws() -> None:
    draws = normal(2000, 200)
    rates = {
        guarantee: stats.norm.sf([calibration.threshold(d, 0.05, guarantee) for d in draws])
        for guarantee in ("pac", "marginal")
    }
    # Binomial noise of 2,000 draws: three standard deviations are 0.015.
    assert np.mean(rates["pac"] <= 0.05) > 0.95 - 0.015
    assert np.mean(rates["marginal"]) == pytest.approx(10 / 201, abs=0.002)


def test_a_flag_is_a_p_value_below_the_level() -> None:
    known, new = normal(999), normal(2000, seed=1)
    flagged = new > calibration.threshold(known, 0.05, "marginal")
    assert (flagged == (calibration.p_values(new, known) <= 0.05)).all()


def test_q_values_are_scipy_s() -> None:
    p = np.random.default_rng(0).uniform(size=200) ** 2
    assert calibration.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert calibration.benjamini_hochberg([]).tolist() == []


@pytest.mark.parametrize(("inputs", "count", "fdr"), [(10_000, 999, 0.1), (50, 99, 0.2)])
def test_fewer_inputs_at_the_floor_than_said_are_no_discovery(
    inputs: int, count: int, fdr: float
) -> None:
    needed = calibration.needed_for_a_discovery(inputs, count, fdr)
    for extreme in (needed - 1, needed):
        p = np.ones(inputs)
        p[:extreme] = 1 / (count + 1)
        discovered = bool((calibration.benjamini_hochberg(p) <= fdr + 1e-12).any())
        assert discovered == (extreme >= needed)


def test_the_interval_of_a_share_is_exact() -> None:
    for part, whole in ((0, 10), (3, 10), (10, 10), (37, 1000)):
        wanted = stats.binomtest(part, whole).proportion_ci(0.95, "exact")
        assert calibration.share_interval(part, whole) == pytest.approx((wanted.low, wanted.high))
    assert calibration.share_interval(0, 0) == (0.0, 1.0)


def test_statements_name_the_number_the_rate_the_confidence_and_the_assumption() -> None:
    pac = calibration.statement(5000, 0.05, "pac")
    for words in ("95 % confidence", "5,000", "at most 5 %", "exchangeable", "not guaranteed"):
        assert words in pac
    assert "On average" in calibration.statement(100, 0.05, "marginal")
    assert "10 %" in calibration.fdr_statement(100, 0.1)
