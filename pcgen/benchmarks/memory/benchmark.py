"""`pcgen bench memory`: how well memories of many sizes restore images, beside look-ups."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.memory.lookups import Hopfield, principal_memory
from pcgen.benchmarks.memory.published import (
    SETTINGS,
    WIDTHS,
    published_recall,
    published_training,
    stable_rate,
)
from pcgen.benchmarks.table import Tell
from pcgen.benchmarks.training import seeded
from pcgen.config import Recipe, units
from pcgen.data.images import Images
from pcgen.device import generator
from pcgen.errors import DivergenceError
from pcgen.intervals import interval
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.train import Training
from pcgen.memory.corruptions import Corruption, Cues, corruption_of
from pcgen.memory.recall import Memory, Prior, Recalled, recall
from pcgen.memory.restore import EXACT
from pcgen.memory.training import Memorising, learner_of
from pcgen.model.network import Network

_PAPER = "Pinchetti et al. 2025, table 3"
# Mean squared error x 1e-4 over all pixels; the steps and rates were tuned on these very values.
_PUBLISHED_NOISE = {50: (6.06, 5.91, 5.95), 100: (6.99, 6.76, 6.16), 250: (9.95, 10.14, 8.90)}
_PUBLISHED_MASK = {50: (0.06, 0.01, 0.00), 100: (1.15, 1.01, 0.11), 250: (39.1, 3.74, 0.22)}
_PUBLISHED = {"noise:0.2": _PUBLISHED_NOISE, "mask:bottom": _PUBLISHED_MASK}

CORRUPTIONS = ("noise:0.2", "mask:bottom", "mask:75%", "occlude:8")
# Images of the same classes that are not stored, whose energies are compared.
_OTHERS = 250
# Epochs where more images are stored than the last hidden layer has units: one fit is not exact.
_EPOCHS_BEYOND = 20
_MODERN_SHARPNESS = 1.0
_PRIORS: dict[Prior, str] = {
    "lookup": "looks up the stored latents",
    "groups": "groups of stored latents",
    "gaussian": "Gaussian prior alone",
}
"""The priors of a recall, each with the note of its rows."""

# Columns beside the error, each the mean over the seeds.
_MEANS = (
    *("mse_hidden", "exact", "known", "known_others", "auroc", "steps", "most_steps"),
    *("training", "item", "unseen"),
)

Values = dict[str, float | None]
"""One seed's value of each column."""


def published(count: int, width: int, corrupt: str) -> float | None:
    """Return the published mean squared error of a cell, if there is one."""
    row = _PUBLISHED.get(corrupt, {}).get(count)
    return 1e-4 * row[WIDTHS.index(width)] if row and width in WIDTHS else None


@dataclass(slots=True)
class Cell:
    """One method's results for one number of images and one corruption, one entry per seed."""

    images: int
    width: int | None
    corrupt: str
    method: str
    note: str = ""
    published: float | None = None
    bytes: int = 0
    data: str = "tiny-imagenet"
    seeds: list[Values] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return the row of the table: means over seeds, and the interval of the error.

        A seed that diverged has no error; the note says so.
        """
        low, high = interval(self._values("mse"))
        return {
            "dataset": f"{self.data}, {self.images} images",
            "method": self.method,
            "metric": f"mse, {self.corrupt}",
            "value": self._mean("mse"),
            "ci_low": low,
            "ci_high": high,
            "published": self.published,
            "source": "measured" if self.published is None else _PAPER,
            "seconds": self._mean("seconds"),
            "images": self.images,
            "width": self.width,
            "corrupt": self.corrupt,
            **{name: self._mean(name) for name in _MEANS},
            "bytes": self.bytes,
            "seeds": len(self.seeds),
            "note": self.note,
        }

    def _values(self, column: str) -> list[float]:
        values = [seed.get(column) for seed in self.seeds]
        return [value for value in values if value is not None]

    def _mean(self, column: str) -> float | None:
        values = self._values(column)
        return sum(values) / len(values) if values else None


def memory_rows(
    recipe: Recipe,
    images: Images,
    counts: Sequence[int],
    widths: Sequence[int],
    corruptions: Sequence[str] = CORRUPTIONS,
    *,
    seeds: int = 1,
    published_steps: int = 0,
    others: Images | None = None,
    share: float = 0.0,
    tell: Tell = lambda stage, done, total: None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the memory table, as they are measured.

    Args:
        images: from which each seed draws the images that it stores.
        others: images that are not stored; without them, the rest of `images`.
        share: of the images' 8-bit bytes; if it is not 0, the rows are those of memories that keep
            so many bytes.
        counts: numbers of images that are stored.
        widths: of the hidden layers.
        published_steps: limit on the steps of the published recall, which is measured on the same
            networks and on networks trained as published; 0 leaves it out.
    """
    from pcgen.benchmarks.memory.equal_bytes import equal_byte_rows

    made = {name: corruption_of([name], images.shape) for name in corruptions}
    for count in counts:
        sets = [StoredSet.draw(images, count, seed, others) for seed in range(seeds)]
        if share:
            yield from equal_byte_rows(recipe, sets, made, share, tell)
            continue
        for name, (note, fit) in _lookups(recipe.model.layers[0]).items():
            cells = {word: Cell(count, None, word, name, note, data=images.source) for word in made}
            _measure_lookup(fit, sets, made, cells)
            yield from (cell.row() for cell in cells.values())
        for width in widths:
            yield from _network_rows(recipe, sets, made, count, width, published_steps, tell)
            if published_steps:
                yield from _published_rows(recipe, sets, made, count, width, published_steps, tell)


@dataclass(frozen=True, slots=True)
class StoredSet:
    """Images to be stored, and others of their classes."""

    seed: int
    stored: Images
    stored_ND: Tensor
    other_BD: Tensor

    @classmethod
    def draw(cls, images: Images, count: int, seed: int, others: Images | None = None) -> StoredSet:
        """Return `count` images drawn with a seed, and others."""
        order = torch.randperm(len(images), generator=generator(seed, "memory", count))
        chosen, rest = order[:count], order[count:]
        if images.labels is not None:
            rest = rest[torch.isin(images.labels[rest], images.labels[chosen])]
        stored = images.subset(chosen)
        stored_ND = stored.rows(range(count)).pixels_BD
        if others is not None:
            images, rest = others, torch.arange(len(others))
        return cls(seed, stored, stored_ND, images.rows(rest[:_OTHERS]).pixels_BD)

    def cues(self, corruption: Corruption, most: int | None = None) -> tuple[Cues, Cues]:
        """Return the cues of the first `most` stored images, or of all, and of the others."""
        shape, count = self.stored.shape, len(self.stored_ND)
        numbers = range(count, count + len(self.other_BD))
        stored_BD = self.stored_ND[:most]
        return (
            corruption.cues(stored_BD, range(len(stored_BD)), shape, self.seed),
            corruption.cues(self.other_BD, numbers, shape, self.seed),
        )


Lookup = Callable[[Tensor], Any]
"""From the stored images (N, D) to a memory."""


def _lookups(components: Any) -> dict[str, tuple[str, Lookup]]:
    """Return the memories that need no training, by name, each with its note."""
    note = "keeps the data: a look-up bound"
    return {
        "modern Hopfield, dot, softmax": (note, lambda x: Hopfield(x, "dot", _MODERN_SHARPNESS)),
        "universal Hopfield, dot, max": (note, lambda x: Hopfield(x, "dot")),
        "universal Hopfield, L1, max": (note, lambda x: Hopfield(x, "l1")),
        "universal Hopfield, L2, max": (note, lambda x: Hopfield(x, "l2")),
        f"pca-{components}": (
            "as many components as latents; N - 1 if that is less",
            lambda x: principal_memory(x, components),
        ),
    }


def _measure_lookup(
    fit: Lookup, sets: Sequence[StoredSet], made: dict[str, Corruption], cells: dict[str, Cell]
) -> None:
    """Add the results of a look-up to its cells."""
    for one in sets:
        began = time.monotonic()
        memory = fit(one.stored_ND)
        training = time.monotonic() - began
        for word, corruption in made.items():
            cues, _ = one.cues(corruption)
            began = time.monotonic()
            images_BD = memory(cues)
            seconds = (time.monotonic() - began) / len(one.stored_ND)
            cells[word].bytes = memory.bytes
            timed: Values = {"seconds": seconds, "steps": 1.0, "training": training}
            cells[word].seeds.append(errors_of(images_BD, one.stored_ND, cues) | timed)


def errors_of(images_BD: Tensor, truth_BD: Tensor, cues: Cues) -> Values:
    """Return the errors of clipped images; visible pixels without noise are the cue's."""
    images_BD = images_BD.clamp(0, 1)
    if cues.noise == 0:
        images_BD = torch.where(cues.visible_BD, cues.pixels_BD, images_BD)
    squared_BD = (images_BD - truth_BD).square()
    hidden_BD = ~cues.visible_BD
    return {
        "mse": squared_BD.mean().item(),
        "mse_hidden": squared_BD[hidden_BD].mean().item() if hidden_BD.any() else None,
        "exact": (squared_BD.mean(1) < EXACT).double().mean().item(),
    }


def _network_rows(
    recipe: Recipe,
    sets: Sequence[StoredSet],
    made: dict[str, Corruption],
    count: int,
    width: int,
    published_steps: int,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the networks of one width."""
    name, source = f"pcn {recipe.model.layers[0]}-{width}-{width}", sets[0].stored.source
    cells = {
        (prior, word): Cell(count, width, word, f"{name}, {prior} prior", note, data=source)
        for prior, note in _PRIORS.items()
        for word in made
    }
    as_published = {
        word: Cell(count, width, word, f"{name}, published recall", data=source) for word in made
    }
    for word in made:
        if source == "tiny-imagenet":
            cells["lookup", word].published = published(count, width, word)
    for one in sets:
        learner, seconds = memorised(recipe, one.stored, width, one.seed, tell)
        memory = Memory.of(learner.network, learner.latents_NL, learner.errors_N)
        for word, corruption in made.items():
            cues, other = one.cues(corruption)
            for prior in _PRIORS:
                cell = cells[prior, word]
                tell(f"{name}, {count} images, {word}", len(cell.seeds), len(sets))
                values = _recalled(memory, recipe, cues, other, one.stored_ND, prior)
                cell.seeds.append(values | {"training": seconds})
                cell.bytes = _bytes(*learner.network.weights(), learner.latents_NL)
            settings = SETTINGS.get((word, count), {}).get(width)
            if published_steps and settings is not None:
                rate = min(settings.rate, stable_rate(learner.network))
                steps = min(settings.recall_steps, published_steps)
                values = _recalled_as_published(learner.network, cues, one.stored_ND, steps, rate)
                cell = as_published[word]
                cell.seeds.append(values | {"training": seconds})
                cell.bytes = _bytes(*learner.network.weights())
                cell.note = f"rate {rate:.2g}, published {settings.rate:.2g}"
    yield from (cell.row() for cell in [*cells.values(), *as_published.values()] if cell.seeds)


def _published_rows(
    recipe: Recipe,
    sets: Sequence[StoredSet],
    made: dict[str, Corruption],
    count: int,
    width: int,
    published_steps: int,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of networks that train and recall as published, where settings are known."""
    name = f"pcn {recipe.model.layers[0]}-{width}-{width}, published training and recall"
    for word, corruption in made.items():
        settings = SETTINGS.get((word, count), {}).get(width)
        if settings is None:
            continue
        cell = Cell(
            count,
            width,
            word,
            name,
            published=published(count, width, word),
            data=sets[0].stored.source,
        )
        steps = min(settings.recall_steps, published_steps)
        for one in sets:
            began = time.monotonic()
            training = published_training(recipe, one.stored, width, one.seed, settings)
            try:
                for progress in training.run(one.stored, None):
                    tell(f"{name}, {count} images, {word}", progress.epoch, progress.epochs)
            except DivergenceError as error:
                cell.note = f"seed {one.seed}: {error}"
                cell.seeds.append({"mse": None})
                continue
            seconds = time.monotonic() - began
            cues, _ = one.cues(corruption)
            network = training.network
            values = _recalled_as_published(network, cues, one.stored_ND, steps, settings.rate)
            cell.seeds.append(values | {"training": seconds})
            cell.bytes = _bytes(*network.weights())
        yield cell.row()


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _recalled_as_published(
    network: Network, cues: Cues, truth_BD: Tensor, steps: int, rate: float
) -> Values:
    """Return the errors of the published recall, the error None if it diverged."""
    began = time.monotonic()
    images_BD = published_recall(network, cues, steps, rate)
    seconds = (time.monotonic() - began) / len(truth_BD)
    if not images_BD.isfinite().all():
        return {"mse": None, "seconds": seconds, "steps": float(steps)}
    return errors_of(images_BD, truth_BD, cues) | {"seconds": seconds, "steps": float(steps)}


def memorised(
    recipe: Recipe, images: Images, width: int | None, seed: int, tell: Tell
) -> tuple[Memorising, float]:
    """Return a trained memory, and how many seconds its training took.

    Args:
        width: of all hidden layers; the recipe's if not given.
    """
    latents, *hidden = recipe.model.layers
    model, epochs = recipe.model, recipe.learning.epochs
    if width is None:
        width = units(latents)
    else:
        model = msgspec.structs.replace(model, layers=[latents, *[width] * len(hidden)])
        epochs = epochs if len(images) <= width else _EPOCHS_BEYOND
    learning = msgspec.structs.replace(
        recipe.learning,
        epochs=epochs,
        batch_size=max(recipe.learning.batch_size, len(images)),
    )
    own = seeded(msgspec.structs.replace(recipe, model=model, learning=learning), seed)
    began = time.monotonic()
    sample_BD = sample(images, seed)
    network = initial_network(own, sample_BD, images.shape)
    learner = learner_of(network, own, sample_BD, len(images))
    assert isinstance(learner, Memorising)
    for progress in Training(learner).run(images, None):
        tell(f"memorising {len(images)} images, width {width}", progress.epoch, epochs)
    return learner, time.monotonic() - began


def _recalled(
    memory: Memory, recipe: Recipe, cues: Cues, other: Cues, truth_BD: Tensor, prior: Prior
) -> Values:
    """Return the errors of a recall and how well it knows stored images from others."""
    began = time.monotonic()
    stored = recall(memory, cues, recipe.inference, prior=prior)
    seconds = (time.monotonic() - began) / len(truth_BD)
    values = errors_of(stored.images_BD, truth_BD, cues) | {
        "seconds": seconds,
        "steps": stored.steps_B.double().mean().item(),
        "most_steps": float(stored.steps_B.max()),
        "known": stored.known_B.double().mean().item(),
    }
    if prior == "lookup" and len(other.pixels_BD):
        unknown = recall(memory, other, recipe.inference)
        values["auroc"] = _auroc(stored, unknown)
        values["known_others"] = unknown.known_B.double().mean().item()
    return values


def _auroc(stored: Recalled, unknown: Recalled) -> float:
    """Return the AUROC of the energy as a score of images that were never stored."""
    from sklearn.metrics import roc_auc_score

    energies = torch.cat([stored.energy_B, unknown.energy_B]).numpy()
    is_unknown = [0] * len(stored.energy_B) + [1] * len(unknown.energy_B)
    return float(roc_auc_score(is_unknown, energies))
