"""From scores to p-values, to thresholds with a guarantee, and to the guarantee in words.

A higher score is more unusual. Every guarantee rests on one assumption: known inputs, in
calibration and in use, are exchangeable, as independent draws from one source are. Arrays are
float64:

    s   scores of new inputs (B,), of several kinds (B, J)
    c   calibration scores (N,), (N, J)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pcgen.errors import CalibrationError

Array = NDArray[np.float64]
Guarantee = Literal["pac", "marginal"]

CONFIDENCE = 0.95
"""For `pac`: the share of calibration draws whose threshold keeps the false-alarm rate."""

# The share of known inputs for which a score that is an alarm counts.
_ALARM = 0.2
# Replaces a score that is infinite or not a number: more unusual than any finite score.
_LARGEST = 1e30


def finite(scores: Any) -> Array:
    """Return scores as finite float64; a score that is not a number becomes the largest."""
    array = np.asarray(scores, dtype=np.float64)
    array = np.nan_to_num(array, nan=_LARGEST, posinf=_LARGEST, neginf=-_LARGEST)
    return array.clip(-_LARGEST, _LARGEST)


def p_values(scores_B: Any, calibration_N: Any) -> Array:
    """Return the conformal p-value of each score.

        p = (1 + #{c >= s}) / (n + 1)

    Under exchangeability P(p <= a) <= a for every a and every n.

    Source: Vovk, Gammerman and Shafer, 2005, eq. 2.20, without randomised ties.
    """
    ordered_N = np.sort(finite(calibration_N))
    below_B = np.searchsorted(ordered_N, finite(scores_B), side="left")
    return np.asarray((1 + len(ordered_N) - below_B) / (1 + len(ordered_N)), np.float64)


def fisher(scores_BJ: Any, calibration_NJ: Any, is_alarm_J: Sequence[bool] = ()) -> Array:
    """Return the combined score of each input (B,): high if any of its J scores is unusual.

        T      = sum_j -log(p_j / level_j) where p_j < level_j, + tail_j
        tail_j = max(0, (s_j - max c_j) / (max c_j - q95 c_j))

    The level of most scores is 1. That of an *alarm* is 0.2: it counts only where it is rare among
    known inputs, and elsewhere it does not blur what the others find.

    p_j is the conformal p-value at calibration scores and linear between them, so that few
    calibration inputs cause no ties. The tail continues where p_j has reached its floor 1/(n+1).
    T is only a score, and its own p-value comes from other calibration inputs. So the guarantee
    holds although the p_j depend on one another and are interpolated.

    Args:
        is_alarm_J: whether each score is an alarm; without it, none is.

    Source: Fisher, 1932, for the sum; Zaykin et al., 2002, for leaving out large p-values; the
    interpolation and the tail are ours.
    """
    scores_BJ, calibration_NJ = finite(scores_BJ), finite(calibration_NJ)
    total_B = np.zeros(len(scores_BJ))
    alarms_J = is_alarm_J or [False] * scores_BJ.shape[1]
    parts = zip(scores_BJ.T, calibration_NJ.T, alarms_J, strict=True)
    for scores_B, calibration_N, is_alarm in parts:
        largest, high = calibration_N.max(), np.quantile(calibration_N, 0.95)
        # A score that hardly varies has no scale of its own, and rounding must not look unusual.
        scale = max(largest - high, 1e-6 * abs(largest), 1e-12)
        level = _ALARM if is_alarm else 1.0
        total_B -= np.log(np.minimum(_smooth(scores_B, calibration_N) / level, 1.0))
        total_B += np.maximum(0.0, (scores_B - largest) / scale)
    return total_B


def _smooth(scores_B: Array, calibration_N: Array) -> Array:
    """Return p-values that are linear between calibration scores."""
    count = len(calibration_N)
    places, ties = np.unique(calibration_N, return_counts=True)
    reached = count - np.cumsum(ties) + ties
    reached_B = np.interp(scores_B, places, reached, left=count, right=0)
    return np.asarray((1 + reached_B) / (1 + count), np.float64)


def smallest(fpr: float, guarantee: Guarantee, confidence: float = CONFIDENCE) -> int:
    """Return the least number of calibration scores that the guarantee needs."""
    if guarantee == "pac":
        return math.ceil(math.log(1 - confidence) / math.log(1 - fpr) - 1e-9)
    return math.ceil(1 / fpr - 1 - 1e-9)


def least_fpr(count: int, guarantee: Guarantee, confidence: float = CONFIDENCE) -> float:
    """Return the smallest false-alarm rate that so many calibration scores allow."""
    if guarantee == "pac":
        return float(1 - (1 - confidence) ** (1 / count))
    return 1 / (count + 1)


def allowed(count: int, fpr: float, guarantee: Guarantee, confidence: float = CONFIDENCE) -> int:
    """Return k, the number of the `count` calibration scores that may lie above the threshold.

    `pac` takes the largest k with P(Beta(k+1, n-k) <= fpr) >= confidence: the share of known
    inputs above the (k+1)-th largest score has this distribution or a smaller one. `marginal`
    takes floor(fpr (n+1)) - 1, which holds on average over calibration draws.

    Raises:
        CalibrationError: there are fewer scores than the guarantee needs.

    Source: Vovk, 2012, prop. 2a, for `pac`.
    """
    needed = smallest(fpr, guarantee, confidence)
    if count < needed:
        lighter = "" if guarantee == "marginal" else ", or --guarantee marginal"
        raise CalibrationError(
            f"{count} calibration inputs are too few for a false-alarm rate of {fpr:g} "
            f"({guarantee}): {needed} are needed",
            f"Calibrate on more, or ask for less: a larger --fpr{lighter}",
        )
    if guarantee == "marginal":
        return math.floor(fpr * (count + 1) + 1e-9) - 1
    from scipy.special import betainc

    k = np.arange(count)
    return int(np.flatnonzero(betainc(k + 1, count - k, fpr) >= confidence)[-1])


def threshold(
    calibration_N: Any, fpr: float, guarantee: Guarantee, confidence: float = CONFIDENCE
) -> float:
    """Return the score above which an input is flagged: the (k+1)-th largest in calibration.

    Raises:
        CalibrationError: there are fewer scores than the guarantee needs.
    """
    k = allowed(len(calibration_N), fpr, guarantee, confidence)
    return float(np.sort(finite(calibration_N))[-1 - k])


def cross_margin(scores_FB: Array, calibration: Sequence[Array], allowed: int) -> Array:
    """Return how far each input (B,) is below the threshold of a cross-calibration.

        margin = the (k+1)-th largest of all c_i - s_f(i)

    f(i) is the fold of calibration input i. Its score c_i is of the model that was fitted to the
    other folds, and s_f is the new input's score by the same model. The margin is below 0 where
    `cross_p_values` are at most (k+1) / (n+1).

    Args:
        scores_FB: s, by the model of each fold.
        calibration: c of each fold (N_f,).
        allowed: k, the number of calibration scores that may lie above the threshold.

    Source: Barber, Candes, Ramdas and Tibshirani, 2021, section 3.1 (CV+), for scores.
    """
    largest = [np.sort(finite(own))[::-1][: allowed + 1] for own in calibration]
    folds = zip(largest, finite(scores_FB), strict=True)
    margins_NB = np.concatenate([own[:, None] - scores_B for own, scores_B in folds])
    rank = len(margins_NB) - 1 - allowed
    return np.asarray(np.partition(margins_NB, rank, axis=0)[rank], np.float64)


def cross_p_values(scores_FB: Array, calibration: Sequence[Array]) -> Array:
    """Return the cross-conformal p-value of each input (B,).

        p = (1 + #{i: c_i >= s_f(i)}) / (n + 1)

    Under exchangeability P(p <= a) <= 2 a + `cross_excess`, for settings that do not depend on the
    inputs. Measured, it is close to a or below.

    Args:
        scores_FB: by the model of each fold.
        calibration: of each fold, by the model that was fitted to the other folds.

    Source: Vovk, 2015, for the p-value; Barber et al., 2021, theorem 4, for the bound.
    """
    count = sum(map(len, calibration))
    reached_B = np.zeros(scores_FB.shape[1])
    for own, scores_B in zip(calibration, finite(scores_FB), strict=True):
        reached_B += len(own) - np.searchsorted(np.sort(finite(own)), scores_B, side="left")
    return np.asarray((1 + reached_B) / (1 + count), np.float64)


def cross_excess(count: int, folds: int) -> float:
    """Return what the proven rate of cross-calibrated alarms exceeds twice the promise by.

    Source: Barber et al., 2021, theorem 4.
    """
    few, many = 2 * (1 - 1 / folds) / (count / folds + 1), (1 - folds / count) / (folds + 1)
    return min(few, many)


def benjamini_hochberg(p_B: Any) -> Array:
    """Return q-values (B,): flagging q <= Q keeps the false discovery rate at or below Q.

        q_(i) = min over j >= i of p_(j) m / j

    Conformal p-values that share a calibration set depend on one another positively, for which
    the procedure is valid.

    Source: Benjamini and Hochberg, 1995; Bates et al., 2023, theorem 2, for conformal p-values.
    """
    p_B = np.asarray(p_B, dtype=np.float64)
    order = np.argsort(p_B, kind="stable")
    scaled = p_B[order] * len(p_B) / np.arange(1, len(p_B) + 1)
    q_B = np.empty_like(p_B)
    q_B[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1.0)
    return q_B


def needed_for_a_discovery(inputs: int, calibration: int, fdr: float) -> int:
    """Return how many inputs need the smallest possible p-value before any of them is flagged."""
    return max(1, math.ceil(inputs / (fdr * (calibration + 1)) - 1e-9))


def share_interval(part: int, whole: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact confidence interval of the share part / whole.

    Source: Clopper and Pearson, 1934.
    """
    from scipy.special import betaincinv

    if not whole:
        return 0.0, 1.0
    outside = (1 - confidence) / 2
    low = betaincinv(part, whole - part + 1, outside) if part else 0.0
    high = betaincinv(part + 1, whole - part, 1 - outside) if part < whole else 1.0
    return float(low), float(high)


def batch_p_value(
    flagged: int, inputs: int, calibration: int, fpr: float, guarantee: Guarantee
) -> float:
    """Return the probability that so many of m known inputs, or more, are flagged.

        pac        P(Binomial(m, fpr) >= flagged), which is right if the alarm rate is fpr and too
                   large if it is lower, as it is with 95 % confidence
        marginal   P(BetaBinomial(m, k+1, n-k) >= flagged), over draws of both kinds of inputs

    Args:
        calibration: n, the number of calibration scores.
    """
    from scipy.special import betainc, betaln

    if not flagged:
        return 1.0
    if guarantee == "pac":
        return float(betainc(flagged, inputs - flagged + 1, fpr))
    above = allowed(calibration, fpr, guarantee) + 1
    x = np.arange(flagged, inputs + 1)
    logs = betaln(x + above, inputs - x + calibration + 1 - above) - betaln(inputs - x + 1, x + 1)
    logs -= math.log(inputs + 1) + betaln(above, calibration + 1 - above)
    return min(1.0, float(np.exp(logs).sum()))


def batch_statement(fpr: float, guarantee: Guarantee) -> str:
    """Return the meaning of a batch's p-value in words, with its assumption."""
    test, holds = "beta-binomial", "on average over the draw of those in calibration"
    if guarantee == "pac":
        test, holds = (
            "binomial",
            f"with {100 * CONFIDENCE:g} % confidence over the draw of those in calibration",
        )
    return (
        f"The probability that so many of the inputs, or more, are flagged if all are known (exact "
        f"{test} test of at most {100 * fpr:g} %). It holds {holds}, if known inputs are "
        "independent draws from the source of the calibration inputs."
    )


def statement(count: int, fpr: float, guarantee: Guarantee, confidence: float = CONFIDENCE) -> str:
    """Return the guarantee of a threshold in words, with its assumption."""
    if guarantee == "pac":
        return (
            f"With {100 * confidence:g} % confidence over the draw of the {count:,} calibration "
            f"inputs, at most {100 * fpr:g} % of inputs like them are flagged. {ASSUMPTION}"
        )
    return (
        f"On average over draws of {count:,} calibration inputs, at most {100 * fpr:g} % of "
        f"inputs like them are flagged. {ASSUMPTION}"
    )


def cross_statement(
    count: int, folds: int, fpr: float, guarantee: Guarantee, confidence: float = CONFIDENCE
) -> str:
    """Return in words what holds for a threshold of a cross-calibration, proven and measured."""
    sure = f"with {100 * confidence:g} % confidence" if guarantee == "pac" else "on average"
    proven = min(1.0, 2 * fpr + cross_excess(count, folds))
    return (
        f"The threshold is meant to flag, {sure}, at most {100 * fpr:g} % of inputs like the "
        f"{count:,} known ones, which all fit and calibrate, in {folds} folds. Proven is at most "
        f"{100 * proven:.3g} % on average, for settings that do not depend on them. {ASSUMPTION}"
    )


def fdr_statement(count: int, fdr: float) -> str:
    """Return the guarantee of flagging by q-value in words, with its assumption."""
    return (
        f"On average, at most {100 * fdr:g} % of the flagged inputs are like the {count:,} "
        f"calibration inputs (Benjamini-Hochberg). {ASSUMPTION}"
    )


ASSUMPTION = (
    "This assumes that known inputs are exchangeable with the calibration inputs: both come from "
    "the same source. How many unusual inputs are found is not guaranteed."
)
