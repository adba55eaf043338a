"""The table: every score against every unusual set, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pcgen.benchmarks.ood.families import FAMILIES
from pcgen.benchmarks.ood.measured import KNOWN, PART_A, PART_B, Measured
from pcgen.benchmarks.ood.metrics import METRICS, Bootstrap, Estimate, estimate, estimates
from pcgen.benchmarks.ood.sets import Unusual
from pcgen.ood import conformal as calibration
from pcgen.ood.conformal import Array
from pcgen.ood.scores.classifier import LOGIT_SCORES

COMBINED = "pc-fisher"
SOFTMAX = "convnet msp"
_CONVNET = "convnet "
_OF_LOGITS = (*LOGIT_SCORES, "odin")
FPR = 0.05
SPLITS = 20
# Of the held-out known images: both calibration parts and the rest, which stands for new ones. With
# few to calibrate on and many to count, what the guarantee leaves open is seen, not the counting.
_PARTS = 0.125


@dataclass(frozen=True, slots=True)
class Scores:
    """One method's scores, a seed each.

    Attributes:
        method: as it stands in the table.
        known: of the known test images (N,).
        unusual: of each unusual set (M,).
        measured: where they are from, a seed each.
    """

    method: str
    known: list[Array]
    unusual: dict[str, list[Array]]
    measured: list[Measured]

    @property
    def is_ours(self) -> bool:
        return self.measured[0].family == "pc"


@dataclass(slots=True)
class Pair:
    """What a page shows of a known and an unusual set.

    Attributes:
        exact: every method's metrics.
        replicates: every method's AUROC in the bootstrap (R,).
    """

    known: str
    unusual: Unusual
    exact: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    replicates: dict[str, Array] = field(default_factory=dict)


def methods(found: Sequence[Sequence[Measured]]) -> list[Scores]:
    """Return the methods of all families; `found` has a list of seeds for each family."""
    table = []
    for seeds in found:
        first = seeds[0]
        columns = [combined(one) for one in seeds]
        for name in columns[0][KNOWN]:
            method = name if FAMILIES[first.family].bare else f"{first.family} {name}"
            known = [one[KNOWN][name] for one in columns]
            sets = [key for key in columns[0] if key not in (KNOWN, PART_A, PART_B)]
            unusual = {key: [one[key][name] for one in columns] for key in sets}
            table.append(Scores(method, known, unusual, list(seeds)))
    return table


def combined(found: Measured) -> dict[str, dict[str, Array]]:
    """Return the columns of every set, the combined score first where there are components."""
    if not found.components:
        return found.sets
    calibration_NJ = _parts(found, PART_A)
    return {
        key: {COMBINED: calibration.fisher(_parts(found, key), calibration_NJ), **columns}
        for key, columns in found.sets.items()
    }


def pairs(known: str, table: Sequence[Scores], unusual: Sequence[Unusual]) -> Iterator[Pair]:
    """Yield what every unusual set's part of the table says, seeds and images drawn alike."""
    for number, one in enumerate(unusual):
        known_sizes = [len(scores) for scores in table[0].known]
        unusual_sizes = [len(scores) for scores in table[0].unusual[one.name]]
        shared = one.kind != "left-out"
        bootstrap = Bootstrap(known_sizes, unusual_sizes, shared=shared, seed=number)
        pair = Pair(known, one)
        for scores in table:
            both = list(zip(scores.known, scores.unusual[one.name], strict=True))
            replicates = bootstrap.replicates(both)
            pair.exact[scores.method] = estimates(both, replicates)
            pair.replicates[scores.method] = replicates["auroc"]
        yield pair


def rows_of(pair: Pair, table: Sequence[Scores]) -> list[dict[str, Any]]:
    """Return the rows of a pair: every method's metrics, then the paired differences."""
    dataset = f"{pair.known} vs {pair.unusual.name}"
    rows = []
    for scores in table:
        seconds = float(np.mean([found.seconds for found in scores.measured]))
        for metric in METRICS:
            found = pair.exact[scores.method][metric]
            rows.append(
                row(dataset, scores.method, metric, found, len(scores.known))
                | {
                    "seconds": seconds,
                    "kind": pair.unusual.kind,
                    "images": len(scores.unusual[pair.unusual.name][0]),
                }
            )
    for ours, against in _compared(pair, table):
        difference = difference_of(pair, ours, against)
        rows.append(
            row(dataset, ours, "auroc_difference", difference, len(table[0].known))
            | {"against": against, "kind": pair.unusual.kind}
        )
    return rows


def _compared(pair: Pair, table: Sequence[Scores]) -> Iterator[tuple[str, str]]:
    """Yield what ours is compared with: softmax, the best of the logits, of the convnet, of all."""
    ours = (
        COMBINED if COMBINED in pair.exact else next((s.method for s in table if s.is_ours), None)
    )
    others = [scores.method for scores in table if not scores.is_ours]
    of_convnet = [name for name in others if name.startswith(_CONVNET)]
    of_logits = [name for name in of_convnet if name.removeprefix(_CONVNET) in _OF_LOGITS]
    softmax = [name for name in others if name == SOFTMAX]
    best = [best_of(pair, names) for names in (softmax, of_logits, of_convnet, others)]
    for against in dict.fromkeys(best):
        if ours is not None and against is not None:
            yield ours, against


def best_of(pair: Pair, names: Sequence[str]) -> str | None:
    """Return the method of the largest AUROC in a pair: chosen on the test images themselves."""
    return max(names, key=lambda name: pair.exact[name]["auroc"].value, default=None)


def difference_of(pair: Pair, ours: str, against: str) -> Estimate:
    """Return the difference of two methods' AUROC, with its paired interval."""
    value = pair.exact[ours]["auroc"].value - pair.exact[against]["auroc"].value
    return estimate(value, pair.replicates[ours] - pair.replicates[against])


def row(dataset: str, method: str, metric: str, found: Estimate, seeds: int) -> dict[str, Any]:
    """Return a row with the columns that every table has."""
    return {
        "dataset": dataset,
        "method": method,
        "metric": metric,
        "value": found.value,
        "ci_low": found.low,
        "ci_high": found.high,
        "published": None,
        "source": "measured",
        "seconds": None,
        "seeds": seeds,
        "against": None,
    }


def promise_rows(known: str, found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return what becomes of the promised 5 %: on the test images, and on exchangeable splits.

    `false_alarms_at_5`: the share of known test images flagged, mean and range over seeds.
    `splits_within_5`: of splits of the held-out training images into calibration and new ones, the
    share in which at most 5 % of the new ones are flagged. Nothing where too few are held out.
    """
    rates, kept = [], []
    least = calibration.smallest(FPR, "pac")
    if min(len(_parts(one, PART_B)) for one in found) < 1.5 * least:
        return []
    for one in found:
        columns = combined(one)
        limit = calibration.threshold(columns[PART_B][COMBINED], FPR, "pac")
        rates.append(float((columns[KNOWN][COMBINED] > limit).mean()))
        kept.append(_splits_kept(one))
    rows = []
    for metric, values in (("false_alarms_at_5", rates), ("splits_within_5", kept)):
        between = Estimate(float(np.mean(values)), min(values), max(values))
        rows.append(row(f"{known} itself", COMBINED, metric, between, len(found)))
    return rows


def _splits_kept(found: Measured) -> float:
    """Return the share of splits of the held-out known images in which the promise was kept."""
    held_out = np.concatenate([_parts(found, PART_A), _parts(found, PART_B)])
    count = max(round(_PARTS * len(held_out)), calibration.smallest(FPR, "pac"))
    kept = 0
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(held_out))
        part_a, part_b, new = np.split(held_out[order], [count, 2 * count])
        limit = calibration.threshold(calibration.fisher(part_b, part_a), FPR, "pac")
        kept += float((calibration.fisher(new, part_a) > limit).mean()) <= FPR
    return kept / SPLITS


def _parts(found: Measured, key: str) -> Array:
    return np.column_stack([found.sets[key][name] for name in found.components])


def fact_rows(known: str, found: Sequence[Sequence[Measured]]) -> list[dict[str, Any]]:
    """Return each family's speed and what else it tells of itself, mean and range over seeds."""
    rows = []
    for seeds in found:
        family = seeds[0].family
        told = {name: [one.facts[name] for one in seeds] for name in seeds[0].facts}
        told["images_per_second"] = [one.per_second for one in seeds]
        for metric, values in told.items():
            between = Estimate(float(np.mean(values)), min(values), max(values))
            rows.append(row(f"{known} itself", family, metric, between, len(seeds)))
    return rows
