"""The table: every score against every unusual set, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pcgen.benchmarks.ood.families import FAMILIES
from pcgen.benchmarks.ood.family_scores import KNOWN, PART_A, PART_B, FamilyScores
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
# Share of the held-out known images in each calibration part; the rest stands for new images. Few
# images calibrate and many are counted, so that the result varies by calibration, not by counting.
_PARTS = 0.125


ALONE = {
    "network alone": ("energy-layers", "cause-layers", "cause-direction"),
    "linear twin alone": ("twin-layers", "twin-density"),
    "class-wise PPCA alone": ("class-energy", "class-latent", "class-layers"),
}
"""What each kind of network finds without the others, combined as `pc-fisher` is."""
_FISHER = "fisher"  # A classifier's scores, combined in the same way; its family's name precedes.


@dataclass(frozen=True, slots=True)
class Scores:
    """One method's scores; each list has one entry per seed.

    Attributes:
        method: its name in the table.
        known: scores of the known test images (N,).
        unusual: scores of each unusual set (M,).
        measured: the family's results that they are from.
    """

    method: str
    known: list[Array]
    unusual: dict[str, list[Array]]
    measured: list[FamilyScores]

    @property
    def is_ours(self) -> bool:
        """Return whether the predictive coding network gives this score."""
        return self.measured[0].family == "pc"


@dataclass(slots=True)
class Pair:
    """The metrics of every method on a known and an unusual set.

    Attributes:
        exact: every method's metrics.
        replicates: every method's AUROC in the bootstrap (R,).
    """

    known: str
    unusual: Unusual
    exact: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    replicates: dict[str, Array] = field(default_factory=dict)


def methods(families: Sequence[Sequence[FamilyScores]]) -> list[Scores]:
    """Return the methods of all families, from each family's list of seeds."""
    table = []
    for seeds in families:
        first = seeds[0]
        columns = [combined(one) for one in seeds]
        for name in columns[0][KNOWN]:
            method = f"{first.family} {name}" if FAMILIES[first.family].named else name
            known = [one[KNOWN][name] for one in columns]
            sets = [key for key in columns[0] if key not in (KNOWN, PART_A, PART_B)]
            unusual = {key: [one[key][name] for one in columns] for key in sets}
            table.append(Scores(method, known, unusual, list(seeds)))
    return table


def combined(scores: FamilyScores) -> dict[str, dict[str, Array]]:
    """Return the columns of every set, the combined score and its parts alone first, if any."""
    if not scores.components:
        return scores.sets
    first = _FISHER if FAMILIES[scores.family].named else COMBINED
    ways = {first: scores.components} | {
        name: parts for name, parts in ALONE.items() if set(parts) <= set(scores.names)
    }
    known = {name: _columns(scores, PART_A, parts) for name, parts in ways.items()}
    alarms = dict.fromkeys(ways, ()) | {first: _are_alarms(scores)}
    return {
        key: {
            name: calibration.fisher(_columns(scores, key, parts), known[name], alarms[name])
            for name, parts in ways.items()
        }
        | columns
        for key, columns in scores.sets.items()
    }


def pairs(known: str, table: Sequence[Scores], unusual: Sequence[Unusual]) -> Iterator[Pair]:
    """Yield the metrics of each unusual set; all methods share the draws of seeds and images."""
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
        seconds = float(np.mean([one.seconds for one in scores.measured]))
        for metric in METRICS:
            value = pair.exact[scores.method][metric]
            rows.append(
                row(dataset, scores.method, metric, value, len(scores.known))
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
    """Yield our method with each that it is compared with.

    These are softmax and the best of the scores of logits, of the convnet and of all baselines.
    """
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
    """Return the method with the largest AUROC of a pair, chosen on the test images themselves."""
    return max(names, key=lambda name: pair.exact[name]["auroc"].value, default=None)


def difference_of(pair: Pair, ours: str, against: str) -> Estimate:
    """Return the difference of two methods' AUROC, with its paired interval."""
    value = pair.exact[ours]["auroc"].value - pair.exact[against]["auroc"].value
    return estimate(value, pair.replicates[ours] - pair.replicates[against])


def row(dataset: str, method: str, metric: str, estimated: Estimate, seeds: int) -> dict[str, Any]:
    """Return a row with the columns that every table has."""
    return {
        "dataset": dataset,
        "method": method,
        "metric": metric,
        "value": estimated.value,
        "ci_low": estimated.low,
        "ci_high": estimated.high,
        "published": None,
        "source": "measured",
        "seconds": None,
        "seeds": seeds,
        "against": None,
    }


def guarantee_rows(known: str, seeds: Sequence[FamilyScores]) -> list[dict[str, Any]]:
    """Return how often known images are flagged where at most 5 % should be.

    `false_alarms_at_5`: the share of known test images flagged, mean and range over seeds.
    `splits_within_5`: the held-out training images are split many times into calibration and new
    images; the share of splits in which at most 5 % of the new images are flagged. There are no
    rows if too few images are held out.
    """
    least = calibration.smallest(FPR, "pac")
    if min(len(_components(one, PART_B)) for one in seeds) < 1.5 * least:
        return []
    rates = []
    for one in seeds:
        columns = combined(one)
        limit = calibration.threshold(columns[PART_B][COMBINED], FPR, "pac")
        rates.append(float((columns[KNOWN][COMBINED] > limit).mean()))
    shares = [_share_of_splits(one) for one in seeds]
    return [
        row(f"{known} itself", COMBINED, metric, _range(values), len(seeds))
        for metric, values in (("false_alarms_at_5", rates), ("splits_within_5", shares))
    ]


def _share_of_splits(scores: FamilyScores) -> float:
    """Return the share of splits of the held-out known images that keep the guarantee."""
    held_out = np.concatenate([_components(scores, PART_A), _components(scores, PART_B)])
    count = max(round(_PARTS * len(held_out)), calibration.smallest(FPR, "pac"))
    kept = 0
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(held_out))
        part_a, part_b, new = np.split(held_out[order], [count, 2 * count])
        reference, found = (
            calibration.fisher(part, part_a, _are_alarms(scores)) for part in (part_b, new)
        )
        limit = calibration.threshold(reference, FPR, "pac")
        kept += float((found > limit).mean()) <= FPR
    return kept / SPLITS


def _are_alarms(scores: FamilyScores) -> list[bool]:
    return [name in scores.alarms for name in scores.components]


def _components(scores: FamilyScores, key: str) -> Array:
    return _columns(scores, key, scores.components)


def _columns(scores: FamilyScores, key: str, names: Sequence[str]) -> Array:
    return np.column_stack([scores.sets[key][name] for name in names])


def fact_rows(known: str, families: Sequence[Sequence[FamilyScores]]) -> list[dict[str, Any]]:
    """Return each family's speed and other facts, mean and range over seeds."""
    rows = []
    for seeds in families:
        facts = {name: [one.facts[name] for one in seeds] for name in seeds[0].facts}
        facts["images_per_second"] = [one.per_second for one in seeds]
        for metric, values in facts.items():
            family = seeds[0].family
            rows.append(row(f"{known} itself", family, metric, _range(values), len(seeds)))
    return rows


def _range(values: Sequence[float]) -> Estimate:
    """Return the mean of values, with their range as its interval."""
    return Estimate(float(np.mean(values)), min(values), max(values))
