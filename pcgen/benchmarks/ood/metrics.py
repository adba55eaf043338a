"""How well scores separate unusual images from known ones, with intervals over images and seeds.

A higher score is more unusual. N known images, M unusual ones, S model seeds, R
bootstrap replicates. Unusual images are the positives, unless a name says otherwise:

    auroc               P(unusual > known) + 1/2 P(equal)
    aupr_ood            average precision, unusual images positive
    aupr_id             average precision, known images positive
    fpr95_ood_positive  share of known images flagged where 95 % of the unusual are
    fpr95_id_positive   share of unusual images passed where 95 % of the known are
    tpr_at_1, tpr_at_5  share of unusual images flagged where at most 1 %, 5 % of the known are
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

METRICS = (
    *("auroc", "aupr_ood", "aupr_id", "fpr95_ood_positive", "fpr95_id_positive", "tpr_at_1"),
    "tpr_at_5",
)
REPLICATES = 200
_CONFIDENCE = 0.95
_CELLS = 2_000_000  # replicates x images that are in memory at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def metrics(known_N: Any, unusual_M: Any) -> dict[str, float]:
    """Return every metric of one score, exactly, ties included."""
    ones = [np.ones((1, len(scores))) for scores in (known_N, unusual_M)]
    values = _Ordered(known_N, unusual_M).metrics(*ones)
    return {name: float(value[0]) for name, value in values.items()}


def roc(known_N: Any, unusual_M: Any) -> tuple[Array, Array]:
    """Return the shares of known and of unusual images above each threshold, from none to all."""
    ones = [np.ones((1, len(scores))) for scores in (known_N, unusual_M)]
    flagged_known, flagged_unusual = _Ordered(known_N, unusual_M).flagged(*ones)
    return flagged_known[0] / len(known_N), flagged_unusual[0] / len(unusual_M)


class Bootstrap:
    """The same draws of seeds and images for every score, so that differences are paired.

    A replicate draws S of the S seeds, N of the known images and M of the unusual ones, all with
    replacement; its value is the mean over its seeds. A few seeds show little of how much seeds
    differ, so these intervals are somewhat too narrow.
    """

    def __init__(
        self,
        known: Sequence[int],
        unusual: Sequence[int],
        *,
        shared: bool = True,
        seed: int = 0,
        replicates: int = REPLICATES,
    ) -> None:
        """Draw the seeds and images of all replicates.

        Args:
            known: number of known images of each seed.
            unusual: number of unusual images of each seed.
            shared: whether all seeds score the same images.
        """
        source = np.random.default_rng(seed)
        seeds = len(known)
        self.seeds_RS = source.integers(0, seeds, (replicates, seeds))
        draws = 1 if shared else seeds
        self.known = [_weights(source, replicates, count) for count in known[:draws]]
        self.unusual = [_weights(source, replicates, count) for count in unusual[:draws]]
        if shared:
            self.known, self.unusual = self.known * seeds, self.unusual * seeds

    def replicates(self, pairs: Sequence[tuple[Any, Any]]) -> dict[str, Array]:
        """Return every metric of each replicate (R,), of the scores (N,), (M,) of each seed."""
        by_seed = []
        for (known_N, unusual_M), known_RN, unusual_RM in zip(
            pairs, self.known, self.unusual, strict=True
        ):
            ordered = _Ordered(known_N, unusual_M)
            step = max(1, _CELLS // (len(known_N) + len(unusual_M)))
            parts = [
                ordered.metrics(known_RN[i : i + step], unusual_RM[i : i + step])
                for i in range(0, len(known_RN), step)
            ]
            by_seed.append({name: np.concatenate([p[name] for p in parts]) for name in METRICS})
        rows = np.arange(len(self.seeds_RS))[:, None]
        return {
            name: np.stack([one[name] for one in by_seed], 1)[rows, self.seeds_RS].mean(1)
            for name in METRICS
        }


def estimates(
    pairs: Sequence[tuple[Any, Any]], replicates: dict[str, Array]
) -> dict[str, Estimate]:
    """Return every metric, its mean over seeds, with the interval of its replicates."""
    exact = [metrics(*pair) for pair in pairs]
    return {
        name: estimate(float(np.mean([one[name] for one in exact])), replicates[name])
        for name in METRICS
    }


def estimate(value: float, replicates_R: Array) -> Estimate:
    """Return a value with the percentile interval of its replicates."""
    outside = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(replicates_R, [outside, 1 - outside])
    return Estimate(value, float(low), float(high))


class _Ordered:
    """Two sets of scores in falling order, equal scores together."""

    def __init__(self, known_N: Any, unusual_M: Any) -> None:
        known_N, unusual_M = np.asarray(known_N, float), np.asarray(unusual_M, float)
        scores = np.concatenate([known_N, unusual_M])
        assert np.isfinite(scores).all()
        order = np.argsort(-scores, kind="stable")
        self.known = order[order < len(known_N)]
        self.unusual = order[order >= len(known_N)] - len(known_N)
        self.is_known = order < len(known_N)
        falling = scores[order]
        # Equal scores are flagged together, so a threshold lies only behind the last of them.
        self.ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))

    def flagged(self, known_RN: Array, unusual_RM: Array) -> tuple[Array, Array]:
        """Return the weights (R, T + 1) above each threshold, the first above all scores."""
        flagged = []
        for weights, order, own in (
            (known_RN, self.known, self.is_known),
            (unusual_RM, self.unusual, ~self.is_known),
        ):
            sums = np.zeros((len(weights), weights.shape[1] + 1), np.float64)
            np.cumsum(weights[:, order], axis=1, out=sums[:, 1:])
            passed = np.cumsum(own)[self.ends]
            flagged.append(sums[:, np.concatenate([[0], passed])])
        return flagged[0], flagged[1]

    def metrics(self, known_RN: Array, unusual_RM: Array) -> dict[str, Array]:
        """Return every metric (R,) under weights of the images."""
        known, unusual = self.flagged(known_RN, unusual_RM)
        fpr, tpr = known / known[:, -1:], unusual / unusual[:, -1:]
        return {
            "auroc": (np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1])).sum(1) / 2,
            "aupr_ood": _average_precision(unusual, known),
            "aupr_id": _average_precision(_from_below(known), _from_below(unusual)),
            "fpr95_ood_positive": _first(tpr >= 0.95 - 1e-12, fpr),
            "fpr95_id_positive": 1 - _last(fpr <= 0.05 + 1e-12, tpr),
            "tpr_at_1": _last(fpr <= 0.01 + 1e-12, tpr),
            "tpr_at_5": _last(fpr <= 0.05 + 1e-12, tpr),
        }


def _weights(source: np.random.Generator, replicates: int, count: int) -> Array:
    """Return how often each image is drawn, (R, count), each row's sum the count."""
    drawn = source.integers(0, count, (replicates, count))
    return np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.uint8)


def _from_below(flagged: Array) -> Array:
    """Return the weights passed below each threshold, from none to all."""
    return (flagged[:, -1:] - flagged)[:, ::-1]


def _average_precision(positives: Array, negatives: Array) -> Array:
    """Return sum over thresholds of the recall gained times the precision there."""
    hits, all_ = positives[:, 1:], positives[:, 1:] + negatives[:, 1:]
    precision = np.divide(hits, all_, out=np.zeros_like(hits), where=all_ > 0)
    return np.asarray((np.diff(positives) * precision).sum(1) / positives[:, -1])


def _first(holds: Array, values: Array) -> Array:
    """Return each row's value where it first holds; `holds` goes from false to true."""
    return np.take_along_axis(values, holds.argmax(1)[:, None], 1)[:, 0]


def _last(holds: Array, values: Array) -> Array:
    """Return each row's value where it last holds; `holds` goes from true to false."""
    return np.take_along_axis(values, holds.sum(1)[:, None] - 1, 1)[:, 0]
