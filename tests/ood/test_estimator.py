"""The estimator keeps scikit-learn's contract, and its own promise."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import check_estimator

import pcgen
from pcgen.ood import conformal as calibration


def rows(count: int, seed: int) -> np.ndarray:
    """Return rows of six columns that two causes explain."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(count, 2))
    mixing = np.random.default_rng(99).normal(size=(2, 6))
    return np.tanh(causes @ mixing) + 0.1 * rng.normal(size=(count, 6))


@pytest.fixture(scope="module")
def fitted() -> pcgen.PCNOutlierDetector:
    return pcgen.PCNOutlierDetector(random_state=0).fit(rows(1000, 0))


def test_it_passes_scikit_learn_s_checks() -> None:
    with warnings.catch_warnings():
        # Checks that need pandas or SCIPY_ARRAY_API, and inputs of few or constant columns.
        warnings.simplefilter("ignore", SkipTestWarning)
        results = check_estimator(pcgen.PCNOutlierDetector(epochs=3), on_fail=None)
    failed = [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert failed == []


def test_signs_are_scikit_learn_s(fitted: pcgen.PCNOutlierDetector) -> None:
    usual, unusual = rows(300, 1), np.random.default_rng(2).normal(size=(300, 6))
    assert fitted.score_samples(unusual).mean() < fitted.score_samples(usual).mean()
    decision = fitted.decision_function(usual)
    assert decision == pytest.approx(fitted.score_samples(usual) - fitted.offset_)
    assert (fitted.predict(usual) == np.where(decision >= 0, 1, -1)).all()
    assert (fitted.predict(unusual) == -1).mean() > 0.9


def test_known_rows_are_flagged_as_seldom_as_promised(fitted: pcgen.PCNOutlierDetector) -> None:
    flagged = (fitted.predict(rows(4000, 3)) == -1).mean()
    # The share above a threshold of n = 200 varies with a standard deviation of 1.5 %.
    assert flagged < 0.05 + 3 * 0.015
    assert "at most 5 %" in fitted.statement_
    assert fitted.p_values(rows(4000, 4)).mean() == pytest.approx(0.5, abs=0.1)


def test_a_score_depends_on_its_row_alone_to_the_bit(fitted: pcgen.PCNOutlierDetector) -> None:
    new = rows(60, 5)
    whole = fitted.score_samples(new)
    assert (fitted.score_samples(new[::-1])[::-1] == whole).all()
    assert (
        np.concatenate([fitted.score_samples(new[i : i + 7]) for i in range(0, 60, 7)]) == whole
    ).all()


def test_the_same_seed_gives_the_same_detector() -> None:
    found = [pcgen.PCNOutlierDetector(epochs=3, random_state=7).fit(rows(200, 0)) for _ in "ab"]
    new = rows(50, 1)
    assert (found[0].score_samples(new) == found[1].score_samples(new)).all()


def test_too_few_rows_for_the_promise_flag_what_is_beyond_all_calibration_rows() -> None:
    found = pcgen.PCNOutlierDetector(epochs=2, guarantee="pac", random_state=0).fit(rows(60, 0))
    assert found.statement_ == ""
    reference = found.detector_.reference("pc-fisher")
    assert -found.offset_ == calibration.finite(reference).max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"score_name": "nonsense"},
        *({"fpr": fpr} for fpr in (2, 0, -0.1, float("nan"), "0.05", None)),
        {"guarantee": "pacc"},
        *({"calibration": share} for share in (1.5, 1.0, -0.2, 0.001)),
        *({"epochs": epochs} for epochs in (0, -3, 1.5)),
        *({"layers": layers} for layers in ((), (4, 0), (2.5,), 4)),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_a_value_error_that_names_it(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}="):
        pcgen.PCNOutlierDetector(**{"epochs": 1, **wrong}).fit(rows(60, 0))


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
    assert fitted.predict(np.full((2, 6), 1e39)).tolist() == [-1, -1]
    with pytest.raises(ValueError, match="row 1 has a value beyond"):
        pcgen.PCNOutlierDetector(epochs=1).fit(new * 1e4)
