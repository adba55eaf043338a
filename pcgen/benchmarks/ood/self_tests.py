"""Whether a detector's self-test foretells what the detector finds of real unusual pictures.

Every data set gives two detectors: one knows its classes of even number, the other those of odd
number. Unusual are the other half of the classes, and the pictures of every other data set. A
detector's training, calibration, new and unusual pictures are different rows of one split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from pcgen.benchmarks.ood.metrics import Array, estimate, metrics
from pcgen.benchmarks.tables.methods import METHODS
from pcgen.data.images import Images, require_readable
from pcgen.device import generator
from pcgen.errors import DataError
from pcgen.ood.self_test import POOR_AUROC

ALL = "all detectors"
OURS, MEAN, WORST = "pc-fisher", "self-test, mean of changes", "self-test, worst change"
LEFT_OUT, OTHERS = "left-out classes", "other data sets"
PICTURES = 500
"""Pictures of a set that are scored, at most."""
# Pixels are compared by these, from the benchmark of tables.
_PLAIN = ("lof", "knn")
_REPLICATES = 2000
_CORRELATIONS: dict[str, Callable[[Array, Array], Any]] = {
    "Pearson": stats.pearsonr,
    "Spearman": stats.spearmanr,
}


@dataclass(frozen=True, slots=True)
class Split:
    """The pictures of a detector.

    Attributes:
        name: of the detector.
        source: the name of its data set.
        known: to train and to calibrate, (N, C, H, W).
        new: others of the same classes.
        left_out: of the other classes.
    """

    name: str
    source: str
    known: Array
    new: Array
    left_out: Array


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a detector and the plain methods find.

    Attributes:
        test: the detector's self-test.
        found: of the left-out classes and of each other data set, the share above the threshold of
            the self-test.
        auroc: for each method, of the same sets.
    """

    name: str
    source: str
    test: dict[str, Any]
    found: dict[str, float]
    auroc: dict[str, dict[str, float]]


def splits(name: str, images: Images, limit: int) -> Iterator[Split]:
    """Yield the pictures of the two detectors of a data set.

    Args:
        limit: known pictures, at most; a fourth of the rows of their classes is always new.

    Raises:
        DataError: images without several labels, or a picture that cannot be read.
    """
    if images.labels is None or images.class_count < 2:
        raise DataError(
            f"{images.source}: has no labels of several classes", "Half of the classes are left out"
        )
    rows_N = torch.randperm(len(images), generator=generator(0, "self-tests", name))
    for half, odd in (("even", 0), ("odd", 1)):
        is_known_N = images.labels[rows_N] % 2 == odd
        own, others = rows_N[is_known_N], rows_N[~is_known_N]
        count = min(limit, 3 * len(own) // 4)
        parts = (own[:count], own[count : count + PICTURES], others[:PICTURES])
        yield Split(f"{name}, {half} classes", name, *(pictures(images.subset(p)) for p in parts))


def pictures(images: Images) -> Array:
    """Return all images (N, C, H, W).

    Raises:
        DataError: one cannot be read.
    """
    rows = images.rows(range(len(images)))
    require_readable(rows, images)
    return rows.pixels_BD.reshape(-1, *images.shape).numpy()


def sample(name: str, images: Images) -> Array:
    """Return some pictures of a data set that is unusual for a detector."""
    rows_N = torch.randperm(len(images), generator=generator(0, "self-tests", name))
    return pictures(images.subset(rows_N[:PICTURES]))


def outcome(
    split: Split,
    others: dict[str, Array],
    test: dict[str, Any],
    scores_B: Array,
    flagged_B: Array,
) -> Outcome:
    """Return what a detector finds, beside plain methods.

    Args:
        others: pictures of the other data sets, by name.
        test: the detector's self-test.
        scores_B: of the new pictures, of those left out and of the others, in this order.
        flagged_B: whether each of them is above the self-test's threshold.
    """
    sets = {LEFT_OUT: split.left_out, **others}
    every = [split.new, *sets.values()]
    ends = np.cumsum([len(images) for images in every])[:-1]
    new_BD = np.concatenate(every).reshape(sum(map(len, every)), -1).astype(np.float64)
    columns = {OURS: scores_B}
    for family in _PLAIN:
        found = METHODS[family](split.known.reshape(len(split.known), -1), new_BD, 0)
        columns |= {f"{method} of pixels": own.scores_B for method, own in found.items()}
    auroc = {}
    for method, column_B in columns.items():
        new, *unusual = np.split(column_B, ends)
        auroc[method] = {
            name: metrics(new, own)["auroc"] for name, own in zip(sets, unusual, strict=True)
        }
    shares = [float(part.mean()) for part in np.split(flagged_B, ends)[1:]]
    return Outcome(split.name, split.source, test, dict(zip(sets, shares, strict=True)), auroc)


def rows_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the rows of each detector, then the correlations and the warnings over all of them.

    The intervals are bootstraps over data sets: the two detectors of one are drawn together.
    """
    tables = [_values(one) for one in outcomes]
    rows = [
        _row(one.name, method, metric, value)
        for one, table in zip(outcomes, tables, strict=True)
        for metric, values in table.items()
        for method, value in values.items()
    ]
    sources = [one.source for one in outcomes]
    for kind in (OTHERS, LEFT_OUT):
        for metric in ("auroc", "found"):
            real_N = np.array([table[f"{metric} of {kind}"][OURS] for table in tables])
            for method in (MEAN, WORST):
                told_N = np.array([table[f"{metric} of copies"][method] for table in tables])
                for name in _CORRELATIONS:
                    numbers = _correlation(name, told_N, real_N, sources)
                    rows.append(_row(ALL, method, f"{name}, {metric} of {kind}", *numbers))
        rows.append(_warned(kind, tables))
    return rows


def _values(one: Outcome) -> dict[str, dict[str, float]]:
    """Return the values of a detector by metric and method; sets of one kind are averaged."""
    values: dict[str, dict[str, float]] = {}
    for metric in ("auroc", "found"):
        changes = [change[metric] for change in one.test["changes"]]
        values[f"{metric} of copies"] = {MEAN: float(np.mean(changes)), WORST: min(changes)}
    for kind in (OTHERS, LEFT_OUT):
        names = [name for name in one.found if (name == LEFT_OUT) == (kind == LEFT_OUT)]
        values[f"auroc of {kind}"] = {
            method: float(np.mean([own[name] for name in names]))
            for method, own in one.auroc.items()
        }
        values[f"found of {kind}"] = {OURS: float(np.mean([one.found[name] for name in names]))}
    return values


def _row(
    dataset: str,
    method: str,
    metric: str,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "method": method,
        "metric": metric,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "note": "",
    }


def _correlation(
    name: str, told_N: Array, real_N: Array, sources: Sequence[str]
) -> tuple[float | None, float | None, float | None]:
    """Return a correlation and its interval; None where one of the two does not vary."""
    groups = [np.flatnonzero(np.array(sources) == source) for source in dict.fromkeys(sources)]
    draws = np.random.default_rng(0).integers(0, len(groups), (_REPLICATES, len(groups)))

    def correlated(rows: Array) -> float | None:
        told, real = told_N[rows], real_N[rows]
        varies = len(rows) > 1 and np.ptp(told) > 0 and np.ptp(real) > 0
        return float(_CORRELATIONS[name](told, real).statistic) if varies else None

    value = correlated(np.arange(len(told_N)))
    drawn = [correlated(np.concatenate([groups[i] for i in draw])) for draw in draws]
    certain = np.array([each for each in drawn if each is not None])
    if value is None or len(groups) < 2:
        return value, None, None
    interval = estimate(value, certain)
    return value, interval.low, interval.high


def _warned(kind: str, tables: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return the share of poor detectors that the self-test warns about by its mean AUROC."""
    poor, warned = (
        np.array([table[metric][method] < POOR_AUROC for table in tables])
        for metric, method in ((f"auroc of {kind}", OURS), ("auroc of copies", MEAN))
    )
    share = float(warned[poor].mean()) if poor.any() else None
    metric = f"warned where auroc of {kind} < {POOR_AUROC:g}"
    words = (
        f"{(warned & poor).sum()} of {poor.sum()}; "
        f"of the {(~poor).sum()} others {(warned & ~poor).sum()}"
    )
    return _row(ALL, MEAN, metric, share) | {"note": words}
