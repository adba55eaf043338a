"""The benchmark of one known data set, from its images to the rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pcgen.benchmarks.ood import table
from pcgen.benchmarks.ood.families import FAMILIES, Recipes
from pcgen.benchmarks.ood.measured import Measured, measure
from pcgen.benchmarks.ood.sets import Known, Open, Unusual, left_out, unusual_sets
from pcgen.benchmarks.reconstruction import Tell
from pcgen.data.images import Images
from pcgen.errors import DataError

LIMIT = 10_000
"""Images of a set at most, the known test images included."""
# What a left-out class is compared by: the others say little more and take as long again.
_LEFT_OUT = ("pc", "convnet", "ppca", "trivial")


Split = tuple[Known, list[Unusual]]


@dataclass(slots=True)
class Outcome:
    """The table of one known set, and what its page shows.

    Attributes:
        rows: of the table.
        pairs: what each unusual set's part says.
        scores: every method's scores, by the known set's name: whole, and without one class.
    """

    known: str
    test: Images
    rows: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[table.Pair] = field(default_factory=list)
    scores: dict[str, list[table.Scores]] = field(default_factory=dict)

    def take_in(self, known: str, scores: list[table.Scores], sets: Sequence[Unusual]) -> None:
        """Add the parts of the table that scores make."""
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
        opened: gives the other data sets.
        with_left_out: whether to train again without one class, another for each seed.
        families: of `FAMILIES`, the first of them the network's where it is wanted at all.
        keep: a folder for the scores, from which a later call goes on.

    Raises:
        DataError: images without labels, or that cannot be read.
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

    def measured(split: Callable[[int], Split], chosen: Sequence[str]) -> list[list[Measured]]:
        """Return the scores of each family, a seed each; add them to the outcome."""
        found: dict[str, list[Measured]] = {family: [] for family in chosen}
        for seed in range(seeds):
            known, unusual = split(seed)
            for family, own in found.items():
                own.append(measure(family, known, unusual, recipes, device, tell, keep))
        for_all = name if split is whole else f"{name} without one class"
        outcome.take_in(for_all, table.methods(list(found.values())), unusual)
        return list(found.values())

    found = measured(whole, families)
    outcome.rows += table.fact_rows(name, found)
    for own in found:
        if own[0].components:
            outcome.rows += table.promise_rows(name, own)
    chosen = [family for family in families if family in _LEFT_OUT]
    if with_left_out and chosen and test.class_count > 2:
        measured(without, chosen)
    return outcome
