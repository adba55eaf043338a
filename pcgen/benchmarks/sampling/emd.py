"""How far a table's samples are from its rows: the earth mover's distance, and histograms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcgen.benchmarks.sampling.density import held_out
from pcgen.benchmarks.sampling.generation import earth_movers_distance, histogram_distance
from pcgen.benchmarks.sampling.rows import PUBLISHED, row
from pcgen.benchmarks.table import Measured, Tell
from pcgen.benchmarks.training import seeded, train_network
from pcgen.config import Recipe
from pcgen.data.images import Images, split
from pcgen.device import generator
from pcgen.model.network import Network
from pcgen.sampling.draw import ancestral

# Of the sets of samples, one in so many is a larger one; samples for each row in those.
_LARGER_SHARE = 20
_LARGER = 10
# Times, at most, that the data is split into a half to learn from and one to compare with.
_SPLITS = 4


def table_rows(
    dataset: str, recipe: Recipe, network: Network, images: Images, tell: Tell, sets: int
) -> list[dict[str, Any]]:
    """Return how far samples are from a table's rows, and how far sets of its own rows are.

    Columns are standardised; distances are means over sets, with their 95 % intervals. A set has as
    many samples as there are rows, as published, or ten times as many, each row then weighing ten.

    Args:
        network: trained by the recipe, on all rows.
        sets: number of sets of samples whose distances are averaged.
    """
    real = images.rows(range(len(images))).pixels_BD
    count, source = len(real), generator(0, "halves")
    samples, halves, again, histograms = [], [], [], []
    for i in range(sets):
        tell("earth mover's distance", i + 1, sets)
        drawn = ancestral(network, count, i, draw=True).data_BD
        samples.append(earth_movers_distance(drawn, real))
        histograms.append(histogram_distance(drawn, real))
        left, right = real[torch.randperm(count, generator=source)][: count // 2 * 2].chunk(2)
        halves.append(earth_movers_distance(left, right))
        resampled = real[torch.randint(count, (count,), generator=source)]
        again.append(earth_movers_distance(resampled, real))
    rows = [
        row("pcn", "emd", samples, dataset),
        row("pcn", "emd, best set", [min(samples)], dataset),
        row("pcn", "share of sets with emd <= 0.06", [_share_below(samples)], dataset),
        row("two halves of the data", "emd", halves, dataset),
        row("data resampled", "emd", again, dataset),
        row("data resampled", "share of sets with emd <= 0.06", [_share_below(again)], dataset),
    ]
    rows += _larger_rows(dataset, network, real, tell, sets)
    rows += _halves_rows(dataset, recipe, images, tell, sets)
    names = images.columns or []
    for name, values in zip(names, zip(*histograms, strict=True), strict=False):
        rows.append(row("pcn", f"histogram of {name}", values, dataset))
    return rows


def _larger_rows(
    dataset: str, network: Network, real_ND: Tensor, tell: Tell, sets: int
) -> list[dict[str, Any]]:
    """Return the distances of larger sets, in which less is due to chance."""
    count, source = _LARGER * len(real_ND), generator(0, "larger sets")
    repeated, samples, again = real_ND.repeat(_LARGER, 1), [], []
    larger = max(1, sets // _LARGER_SHARE)
    for i in range(larger):
        tell("earth mover's distance, larger sets", i + 1, larger)
        drawn = ancestral(network, count, sets + i, draw=True).data_BD
        samples.append(earth_movers_distance(drawn, repeated))
        resampled = real_ND[torch.randint(len(real_ND), (count,), generator=source)]
        again.append(earth_movers_distance(resampled, repeated))
    metric = f"emd, {_LARGER} samples a row"
    return [row("pcn", metric, samples, dataset), row("data resampled", metric, again, dataset)]


def _halves_rows(
    dataset: str, recipe: Recipe, images: Images, tell: Tell, sets: int
) -> list[dict[str, Any]]:
    """Return how far samples learnt from one half are from the other, beside that half itself.

    Also return the log-likelihood of the other half, and of mixtures fitted to the same half, with
    their differences to the network, paired by splits.
    """
    samples, resampled, itself, likelihoods = [], [], [], []
    source = generator(0, "halves resampled")
    splits = min(_SPLITS, sets)
    for seed in range(splits):
        kept, other = split(images, len(images) // 2, seed)
        network = train_network(seeded(recipe, seed), kept, other, torch.device("cpu"), tell)
        left, right = (part.rows(range(len(part))).pixels_BD for part in (kept, other))
        itself.append(earth_movers_distance(left[: len(right)], right))
        likelihoods.append(held_out(network, left, right, seed))
        for i in range(sets // splits):
            drawn = ancestral(network, len(right), i, draw=True).data_BD
            samples.append(earth_movers_distance(drawn, right))
            again = left[torch.randint(len(left), (len(right),), generator=source)]
            resampled.append(earth_movers_distance(again, right))
    metric = "emd to the other half"
    return [
        row("pcn trained on one half", metric, [_mean(samples)], dataset),
        row("that half resampled", metric, [_mean(resampled)], dataset),
        row("that half itself", metric, [_mean(itself)], dataset),
        *_likelihood_rows(dataset, likelihoods),
    ]


def _likelihood_rows(
    dataset: str, splits: list[dict[str, tuple[float, int]]]
) -> list[dict[str, Any]]:
    """Return a row of each method's held-out log-likelihoods, one for each split."""
    methods = [
        Measured(
            name,
            "held-out log-likelihood",
            [split[name][0] for split in splits],
            parameters=splits[0][name][1],
        )
        for name in splits[0]
    ]
    own = methods[0]
    return [method.row(dataset) | method.against(own) for method in methods]


def _mean(distances: list[float]) -> float:
    return sum(distances) / len(distances)


def _share_below(distances: list[float]) -> float:
    return sum(value <= PUBLISHED["pcn", "emd"][0] for value in distances) / len(distances)
