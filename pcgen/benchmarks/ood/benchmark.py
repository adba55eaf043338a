"""The benchmark of one known data set, from its images to the rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pcgen.benchmarks.ood import table
from pcgen.benchmarks.ood.families import FAMILIES, Recipes
from pcgen.benchmarks.ood.family_scores import FamilyScores, score_sets
from pcgen.benchmarks.ood.sets import Known, Open, Unusual, left_out, unusual_sets
from pcgen.benchmarks.table import Tell
from pcgen.data.images import Images
from pcgen.errors import DataError

LIMIT = 10_000
"""Images of a set at most, the known test images included."""
# Families that are also trained without one class: the others add little and take as long again.
_LEFT_OUT = ("pc", "convnet", "ppca", "trivial")


Split = tuple[Known, list[Unusual]]


@dataclass(slots=True)
class Outcome:
    """The results of one known set, for its table and its page.

    Attributes:
        rows: of the table.
        pairs: the metrics of each unusual set.
        scores: every method's scores, by the name of the known set: whole, and without one class.
    """

    known: str
    test: Images
    rows: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[table.Pair] = field(default_factory=list)
    scores: dict[str, list[table.Scores]] = field(default_factory=dict)

    def add(self, known: str, scores: list[table.Scores], sets: Sequence[Unusual]) -> None:
        """Add scores, their metrics and their rows."""
        self.scores[known] = scores
        for pair in table.pairs(known, scores, sets):
            self.pairs.append(pair)
            self.rows += table.rows_of(pair, scores)


def benchmark(
    name: str,
    images: Images,
    test: Images,
    opened: Open,
    recipes: Recipes,
    *,
    seeds: int,
    device: torch.device,
    tell: Tell,
    limit: int = LIMIT,
    with_left_out: bool = True,
    families: Sequence[str] = tuple(FAMILIES),
    keep: Path | None = None,
) -> Outcome:
    """Return the table of a known data set.

    Args:
        opened: from a name to the images of another data set.
        with_left_out: whether to train again without one class, another for each seed.
        families: names from `FAMILIES`; the network's is first if it is one of them.
        keep: a folder for the scores, from which a later call continues.

    Raises:
        DataError: images that have no labels or cannot be read.
    """
    if images.labels is None:
        raise DataError(f"{images.source}: has no labels, which the classifiers need")
    test = test.head(limit)
    validation = recipes.classifier.data.validation
    outcome = Outcome(name, test)

    def whole(seed: int) -> Split:
        known = Known.of(name, images, test, validation, seed)
        return known, unusual_sets(name, test, opened, limit, 0)

    def without(seed: int) -> Split:
        return left_out(name, images, test, validation, limit, seed)

    def measured(split: Callable[[int], Split], chosen: Sequence[str]) -> list[list[FamilyScores]]:
        """Return each family's scores, one entry per seed; add them to the outcome."""
        by_family: dict[str, list[FamilyScores]] = {family: [] for family in chosen}
        for seed in range(seeds):
            known, unusual = split(seed)
            for family, own in by_family.items():
                own.append(score_sets(family, known, unusual, recipes, device, tell, keep))
        known_name = name if split is whole else f"{name} without one class"
        outcome.add(known_name, table.methods(list(by_family.values())), unusual)
        return list(by_family.values())

    by_family = measured(whole, families)
    outcome.rows += table.fact_rows(name, by_family)
    for own in by_family:
        if own[0].family == "pc":
            outcome.rows += table.guarantee_rows(name, own)
    chosen = [family for family in families if family in _LEFT_OUT]
    if with_left_out and chosen and test.class_count > 2:
        measured(without, chosen)
    return outcome
