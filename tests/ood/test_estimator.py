"""The estimator keeps scikit-learn's contract, and its own promise."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import check_estimator

import pcgen
from pcgen.errors import PcgenWarning
from pcgen.ood import conformal


def rows(count: int, seed: int) -> np.ndarray:
    """Return rows of six columns that two causes explain."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(count, 2))
    mixing = np.random.default_rng(99).normal(size=(2, 6))
    return np.tanh(causes @ mixing) + 0.1 * rng.normal(size=(count, 6))


def fit(known: Any, **parameters: Any) -> pcgen.PCNOutlierDetector:
    return pcgen.PCNOutlierDetector(random_state=0, **parameters).fit(known)


@pytest.fixture(scope="module")
def fitted() -> pcgen.PCNOutlierDetector:
    return fit(rows(200, 0))


@pytest.mark.slow
@pytest.mark.parametrize("contamination", [None, 0.1])
def test_it_passes_scikit_learn_s_checks(contamination: float | None) -> None:
    with warnings.catch_warnings():
        # Checks that need pandas or SCIPY_ARRAY_API.
        warnings.simplefilter("ignore", SkipTestWarning)
        detector = pcgen.PCNOutlierDetector(contamination=contamination)
        results = check_estimator(detector, on_fail=None)
    failed = [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert failed == []


def test_signs_are_scikit_learn_s(fitted: pcgen.PCNOutlierDetector) -> None:
    usual, unusual = rows(300, 1), np.random.default_rng(2).normal(size=(300, 6))
    assert fitted.score_samples(unusual).mean() < fitted.score_samples(usual).mean()
    decision = fitted.decision_function(usual)
    assert decision == pytest.approx(fitted.score_samples(usual) - fitted.offset_)
    assert (fitted.predict(usual) == np.where(decision >= 0, 1, -1)).all()
    assert (fitted.predict(unusual) == -1).mean() > 0.9


@pytest.mark.parametrize("score", ["energy", "free-energy", "memory"])
def test_known_rows_are_flagged_as_seldom_as_promised(
    fitted: pcgen.PCNOutlierDetector, score: str
) -> None:
    p_B = conformal.cross_p_values(
        fitted.energies(rows(1000, 3))[score], fitted.calibration_[score]
    )
    # The share above a threshold of n = 200 varies with a standard deviation of 1.5 %.
    assert (p_B <= 0.05).mean() < 0.05 + 3 * 0.015
    assert p_B.mean() == pytest.approx(0.5, abs=0.1)
    assert "at most 5 %" in fitted.statement_


def test_a_row_is_flagged_exactly_if_its_p_value_is_at_most_the_rate(
    fitted: pcgen.PCNOutlierDetector,
) -> None:
    new = np.concatenate([rows(300, 5), rows(300, 6) + 0.3])
    assert ((fitted.predict(new) == -1) == (fitted.p_values(new) <= 0.05)).all()


def test_a_score_depends_on_its_row_alone_to_the_bit(fitted: pcgen.PCNOutlierDetector) -> None:
    new = rows(60, 5)
    whole = fitted.score_samples(new)
    assert (fitted.score_samples(new[::-1])[::-1] == whole).all()
    parts = [fitted.score_samples(new[i : i + 7]) for i in range(0, 60, 7)]
    assert (np.concatenate(parts) == whole).all()


def test_the_same_seed_gives_the_same_detector() -> None:
    new, known = rows(50, 1), rows(100, 0)
    assert (fit(known).score_samples(new) == fit(known).score_samples(new)).all()


def test_too_few_rows_for_the_promise_flag_what_is_beyond_all_calibration_rows() -> None:
    few = fit(rows(40, 0), guarantee="pac")
    assert few.statement_ == ""
    assert -few.offset_ == np.concatenate(few.calibration_["energy"]).max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"score_name": "pc-fisher"},
        *({"fpr": fpr} for fpr in (2, 0, -0.1, float("nan"), "0.05", None)),
        {"guarantee": "pacc"},
        *({"contamination": share} for share in (0.6, 0.0, -0.2, "auto")),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_a_value_error_that_names_it(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}="):
        fit(rows(60, 0), **wrong)


def test_a_parameter_of_the_former_network_warns_in_one_line() -> None:
    with pytest.warns(PcgenWarning, match="layers, epochs has no effect"):
        fit(rows(30, 0), layers=(4, 32), epochs=3)


def test_every_row_has_an_answer_and_one_beyond_float32_is_flagged(
    fitted: pcgen.PCNOutlierDetector,
) -> None:
    usual = rows(4, 1)
    for value in (1e39, -1e39, 1e300, 1e38):
        new = usual.copy()
        new[[1, 3], 2] = value
        assert fitted.predict(new)[[1, 3]].tolist() == [-1, -1]
        assert (fitted.score_samples(new)[::2] == fitted.score_samples(usual)[::2]).all()
        assert np.isfinite(fitted.decision_function(new)).all()
        assert fitted.p_values(new)[1] == fitted.p_values(new).min()
    with pytest.raises(ValueError, match="column column3: has a value beyond"):
        fit(np.tile(new * 1e4, (2, 1)))


@pytest.mark.parametrize(
    "known",
    [
        rows(60, 0)[:, :1],  # one column
        np.random.default_rng(0).normal(size=(20, 40)),  # more columns than rows
        np.ones((30, 3)),  # equal rows
        rows(4, 0),
    ],
    ids=["one column", "wide", "equal", "four rows"],
)
def test_a_table_of_an_extreme_form_is_fitted_and_finds_a_far_row(known: np.ndarray) -> None:
    detector = fit(known)
    assert detector.predict(np.full((1, known.shape[1]), 99.0)).tolist() == [-1]
    assert (detector.predict(known) == 1).mean() >= 0.9


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (rows(3, 0), "minimum of 4 is required"),
        (np.full((20, 2), np.nan), "column column1: has no value in any row"),
        (np.full((20, 2), np.inf), "infinity"),
    ],
    ids=["three rows", "empty column", "infinite"],
)
def test_a_table_that_cannot_be_fitted_is_refused_with_the_reason(
    known: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(known)


def test_a_missing_value_is_summed_out() -> None:
    rng = np.random.default_rng(0)
    known = rows(100, 0)
    known[rng.random(known.shape) < 0.1] = np.nan
    detector = fit(known)
    usual, unusual = rows(400, 1), rows(400, 2) + 3.0
    for table in (usual, unusual):
        table[rng.random(table.shape) < 0.1] = np.nan
    assert (detector.predict(usual) == -1).mean() < 0.12
    assert (detector.predict(unusual) == -1).mean() > 0.9


def test_a_category_is_one_hot_and_a_new_level_is_unusual() -> None:
    rng = np.random.default_rng(0)
    colours = rng.choice(["red", "green", "blue"], 80)
    known = np.stack([rng.normal(size=80).astype(object), colours], 1)
    known[3, 1] = None
    detector = fit(known)
    new = np.array([[0.0, "red"], [0.0, "purple"], [0.0, None], [99.0, "red"]], object)
    assert detector.predict(new).tolist() == [1, -1, 1, -1]
    with pytest.raises(ValueError, match="column column1: could not convert"):
        detector.predict(new[:, ::-1])


def test_numbers_are_a_category_if_the_user_says_so() -> None:
    rng = np.random.default_rng(0)
    known = np.stack([rng.normal(size=80), rng.choice([1.0, 3.0], 80)], 1)
    between = [[0.0, 2.0]]
    assert fit(known, categories=[1]).predict(between).tolist() == [-1]
    with pytest.raises(ValueError, match="categories: no column 'size'"):
        fit(known, categories=["size"])


def test_contaminated_rows_are_found_among_the_fitted_ones() -> None:
    known = np.concatenate([rows(190, 0), np.random.default_rng(1).normal(0, 9, size=(10, 6))])
    detector = fit(known, contamination=0.05)
    flagged = detector.predict(known) == -1
    assert flagged.sum() == 10
    assert flagged[190:].sum() >= 7
    assert detector.statement_ == ""


def test_the_margin_of_a_cross_calibration_is_that_of_its_p_value() -> None:
    rng = np.random.default_rng(0)
    known = [rng.normal(size=size) for size in (5, 4, 4)]
    scores_FB = rng.normal(size=(3, 50)) + 1
    for allowed in (0, 2):
        flagged = conformal.cross_margin(scores_FB, known, allowed) < 0
        p_B = conformal.cross_p_values(scores_FB, known)
        assert (flagged == (p_B <= (allowed + 1) / 14 + 1e-12)).all()
        assert flagged.any()
        assert not flagged.all()
