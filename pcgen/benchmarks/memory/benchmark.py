"""`pcgen bench memory`: what memories of many sizes restore, beside look-ups and others' values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.baselines import seeded
from pcgen.benchmarks.memory.lookups import Hopfield, principal_memory
from pcgen.benchmarks.memory.published import (
    SETTINGS,
    WIDTHS,
    published_recall,
    published_training,
    stable_rate,
)
from pcgen.benchmarks.reconstruction import interval
from pcgen.config import Recipe, units
from pcgen.data.images import Images
from pcgen.device import generator
from pcgen.errors import DivergenceError
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.train import Training
from pcgen.memory.corruptions import Corruption, Cues, corruption_of
from pcgen.memory.recall import Memory, Prior, Recalled, recall
from pcgen.memory.restore import EXACT
from pcgen.memory.training import Memorising, learner_of
from pcgen.model.network import Network

_PAPER = "Pinchetti et al. 2025, table 3"
# Mean squared error x 1e-4 over all pixels; the steps and rates were tuned on these very values.
_PUBLISHED_NOISE = {
    50: (6.06, 5.91, 5.95),
    100: (6.99, 6.76, 6.16),
    250: (9.95, 10.14, 8.90),
}
_PUBLISHED_MASK = {50: (0.06, 0.01, 0.00), 100: (1.15, 1.01, 0.11), 250: (39.1, 3.74, 0.22)}
_PUBLISHED = {"noise:0.2": _PUBLISHED_NOISE, "mask:bottom": _PUBLISHED_MASK}

CORRUPTIONS = ("noise:0.2", "mask:bottom", "mask:75%", "occlude:8")
# Images that were never stored, of the same classes, whose energies are compared.
_UNKNOWN = 250
# Epochs where more images are stored than the last hidden layer has units: one fit is not exact.
_EPOCHS_BEYOND = 20
_MODERN_SHARPNESS = 1.0

# Columns beside the error, each the mean over the seeds.
_MEANS = (
    "mse_hidden",
    "exact",
    "known",
    "known_others",
    "auroc",
    "steps",
    "most_steps",
    "training",
)

Tell = Callable[[str, int, int], None]


def published(count: int, width: int, corrupt: str) -> float | None:
    """Return the published mean squared error of a cell, if there is one."""
    row = _PUBLISHED.get(corrupt, {}).get(count)
    return 1e-4 * row[WIDTHS.index(width)] if row and width in WIDTHS else None


@dataclass(slots=True)
class Cell:
    """One method at one number of images and one corruption, a value per seed."""

    images: int
    width: int | None
    corrupt: str
    method: str
    bytes: int
    note: str = ""
    found: list[dict[str, float | None]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return the row of the table: means over seeds, the interval of the error.

        A seed that diverged has no error; the note says so.
        """

        def mean(name: str) -> float | None:
            values = [found[name] for found in self.found if found.get(name) is not None]
            return sum(values) / len(values) if values else None  # type: ignore[arg-type]

        errors = [found["mse"] for found in self.found if found["mse"] is not None]
        low, high = interval(errors)
        return {
            "dataset": f"tiny-imagenet, {self.images} images",
            "method": self.method,
            "metric": f"mse, {self.corrupt}",
            "value": mean("mse"),
            "ci_low": low,
            "ci_high": high,
            "published": None,
            "source": "measured",
            "seconds": mean("seconds"),
            "images": self.images,
            "width": self.width,
            "corrupt": self.corrupt,
            **{name: mean(name) for name in _MEANS},
            "bytes": self.bytes,
            "seeds": len(self.found),
            "note": self.note,
        }


def memory_rows(
    recipe: Recipe,
    images: Images,
    counts: Sequence[int],
    widths: Sequence[int],
    corruptions: Sequence[str] = CORRUPTIONS,
    *,
    seeds: int = 1,
    published_steps: int = 0,
    tell: Tell = lambda stage, done, total: None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the memory table, as they are measured.

    Args:
        images: of which so many are stored at random, others for each seed.
        widths: of the hidden layers.
        published_steps: at most, of the published procedure, on the same networks and on those
            trained as published; 0 leaves it out.
    """
    made = [corruption_of([word], images.shape) for word in corruptions]
    for count in counts:
        sets = [_Set.draw(images, count, seed) for seed in range(seeds)]
        for method in _lookups(recipe.model.layers[0]):
            yield from _lookup_rows(method, sets, made, count)
        for width in widths:
            yield from _network_rows(recipe, sets, made, count, width, published_steps, tell)
            if published_steps:
                yield from _published_rows(recipe, sets, made, count, width, published_steps, tell)


@dataclass(frozen=True, slots=True)
class _Set:
    """Images to be stored, and others of their classes."""

    seed: int
    stored: Images
    stored_ND: Tensor
    other_BD: Tensor

    @classmethod
    def draw(cls, images: Images, count: int, seed: int) -> _Set:
        order = torch.randperm(len(images), generator=generator(seed, "memory", count))
        chosen, rest = order[:count], order[count:]
        if images.labels is not None:
            known = torch.isin(images.labels[rest], images.labels[chosen])
            rest = rest[known]
        rest = rest[:_UNKNOWN]
        stored = images.subset(chosen)
        stored_ND = stored.rows(range(count)).pixels_BD
        return cls(seed, stored, stored_ND, images.rows(rest).pixels_BD)

    def cues(self, corruption: Corruption) -> tuple[Cues, Cues]:
        """Return the cues of the stored and of the other images."""
        shape, count = self.stored.shape, len(self.stored_ND)
        numbers = range(count, count + len(self.other_BD))
        return (
            corruption.cues(self.stored_ND, range(count), shape, self.seed),
            corruption.cues(self.other_BD, numbers, shape, self.seed),
        )


Lookup = Callable[[Tensor], Any]


def _lookups(components: Any) -> list[tuple[str, str, Lookup]]:
    bound = "keeps the data: a look-up bound"
    return [
        (
            "modern Hopfield, dot, softmax",
            bound,
            lambda stored_ND: Hopfield(stored_ND, "dot", _MODERN_SHARPNESS),
        ),
        ("universal Hopfield, dot, max", bound, lambda stored_ND: Hopfield(stored_ND, "dot")),
        ("universal Hopfield, L1, max", bound, lambda stored_ND: Hopfield(stored_ND, "l1")),
        ("universal Hopfield, L2, max", bound, lambda stored_ND: Hopfield(stored_ND, "l2")),
        (
            f"pca-{components}",
            "as many components as latents; N - 1 if that is less",
            lambda stored_ND: principal_memory(stored_ND, components),
        ),
    ]


def _lookup_rows(
    method: tuple[str, str, Lookup], sets: Sequence[_Set], made: Sequence[Corruption], count: int
) -> Iterator[dict[str, Any]]:
    name, note, fit = method
    cells = [Cell(count, None, " ".join(c.words), name, 0, note) for c in made]
    for one in sets:
        began = time.monotonic()
        memory = fit(one.stored_ND)
        training = time.monotonic() - began
        for cell, corruption in zip(cells, made, strict=True):
            cues, _ = one.cues(corruption)
            began = time.monotonic()
            images_BD = memory(cues)
            seconds = (time.monotonic() - began) / count
            cell.bytes = memory.bytes
            cell.found.append(
                _errors(images_BD, one.stored_ND, cues)
                | {"seconds": seconds, "steps": 1.0, "training": training}
            )
    yield from (cell.row() for cell in cells)


def _errors(images_BD: Tensor, truth_BD: Tensor, cues: Cues) -> dict[str, float | None]:
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
    sets: Sequence[_Set],
    made: Sequence[Corruption],
    count: int,
    width: int,
    published_steps: int,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the networks of one width."""
    name = f"pcn {recipe.model.layers[0]}-{width}-{width}"
    words = [" ".join(corruption.words) for corruption in made]
    priors: tuple[Prior, ...] = ("mixture", "gaussian")
    notes = {"mixture": "", "gaussian": "Gaussian prior alone"}
    cells = {
        (prior, word): Cell(count, width, word, f"{name}, {prior} prior", 0, notes[prior])
        for prior in priors
        for word in words
    }
    old = {word: Cell(count, width, word, f"{name}, published recall", 0) for word in words}
    for one in sets:
        training, seconds = memorised(recipe, one.stored, width, one.seed, tell)
        parameters = sum(t.numel() * t.element_size() for t in training.network.weights())
        stored = training.latents_NL.numel() * training.latents_NL.element_size()
        memory = Memory.of(training.network, training.latents_NL)
        for word, corruption in zip(words, made, strict=True):
            cues, other = one.cues(corruption)
            for prior in priors:
                tell(f"{name}, {count} images, {word}", len(cells[prior, word].found), len(sets))
                measured = _recalled(memory, recipe, cues, other, one.stored_ND, prior)
                cells[prior, word].found.append(measured | {"training": seconds})
                cells[prior, word].bytes = parameters + stored
            settings = SETTINGS.get((word, count), {}).get(width)
            if published_steps and settings is not None:
                rate = min(settings.rate, stable_rate(training.network))
                steps = min(settings.recall_steps, published_steps)
                found = _recalled_as_published(training.network, cues, one.stored_ND, steps, rate)
                old[word].found.append(found | {"training": seconds})
                old[word].bytes = parameters
                old[word].note = f"rate {rate:.2g}, published {settings.rate:.2g}"
    for (prior, word), cell in cells.items():
        row = cell.row()
        if prior == "mixture":
            row["published"] = published(count, width, word)
            row["source"] = _PAPER if row["published"] is not None else "measured"
        yield row
    yield from (cell.row() for cell in old.values() if cell.found)


def _published_rows(
    recipe: Recipe,
    sets: Sequence[_Set],
    made: Sequence[Corruption],
    count: int,
    width: int,
    published_steps: int,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of networks trained and recalled from as published, where that was."""
    name = f"pcn {recipe.model.layers[0]}-{width}-{width}, published training and recall"
    for corruption in made:
        word = " ".join(corruption.words)
        settings = SETTINGS.get((word, count), {}).get(width)
        if settings is None:
            continue
        cell = Cell(count, width, word, name, 0)
        steps = min(settings.recall_steps, published_steps)
        for one in sets:
            began = time.monotonic()
            training = published_training(recipe, one.stored, width, one.seed, settings)
            try:
                for progress in training.run(one.stored, None):
                    tell(f"{name}, {count} images, {word}", progress.epoch, progress.epochs)
            except DivergenceError as error:
                cell.note = f"seed {one.seed}: {error}"
                cell.found.append({"mse": None})
                continue
            seconds = time.monotonic() - began
            cues, _ = one.cues(corruption)
            network = training.network
            found = _recalled_as_published(network, cues, one.stored_ND, steps, settings.rate)
            cell.found.append(found | {"training": seconds})
            cell.bytes = sum(t.numel() * t.element_size() for t in network.weights())
        yield cell.row() | {"published": published(count, width, word), "source": _PAPER}


def _recalled_as_published(
    network: Network, cues: Cues, truth_BD: Tensor, steps: int, rate: float
) -> dict[str, float | None]:
    began = time.monotonic()
    images_BD = published_recall(network, cues, steps, rate)
    seconds = (time.monotonic() - began) / len(truth_BD)
    if not images_BD.isfinite().all():
        return {"mse": None, "seconds": seconds, "steps": float(steps)}
    return _errors(images_BD, truth_BD, cues) | {"seconds": seconds, "steps": float(steps)}


def memorised(
    recipe: Recipe, images: Images, width: int, seed: int, tell: Tell
) -> tuple[Memorising, float]:
    """Return the finished training of a memory of one width, and its seconds."""
    latents, *hidden = recipe.model.layers
    model = msgspec.structs.replace(recipe.model, layers=[latents, *[width] * len(hidden)])
    epochs = recipe.learning.epochs if len(images) <= width else _EPOCHS_BEYOND
    learning = msgspec.structs.replace(
        recipe.learning,
        epochs=epochs,
        batch_size=max(recipe.learning.batch_size, len(images)),
        # Equal steps of more units add up to a larger step of the drive.
        rate=recipe.learning.rate * units(recipe.model.layers[-1]) / width,
    )
    mine = seeded(msgspec.structs.replace(recipe, model=model, learning=learning), seed)
    began = time.monotonic()
    sample_BD = sample(images, seed)
    network = initial_network(mine, sample_BD, images.shape)
    training = learner_of(network, mine, sample_BD, len(images))
    assert isinstance(training, Memorising)
    for progress in Training(training).run(images, None):
        tell(f"memorising {len(images)} images, width {width}", progress.epoch, epochs)
    return training, time.monotonic() - began


def _recalled(
    memory: Memory, recipe: Recipe, cues: Cues, other: Cues, truth_BD: Tensor, prior: Prior
) -> dict[str, float | None]:
    began = time.monotonic()
    found = recall(memory, cues, recipe.inference, prior=prior)
    seconds = (time.monotonic() - began) / len(truth_BD)
    measured: dict[str, float | None] = {
        "seconds": seconds,
        "steps": found.steps_B.double().mean().item(),
        "most_steps": float(found.steps_B.max()),
        "known": found.known_B.double().mean().item(),
    }
    if prior == "mixture" and len(other.pixels_BD):
        unknown = recall(memory, other, recipe.inference)
        measured["auroc"] = _auroc(found, unknown)
        measured["known_others"] = unknown.known_B.double().mean().item()
    return _errors(found.images_BD, truth_BD, cues) | measured


def _auroc(found: Recalled, unknown: Recalled) -> float:
    """Return how well the energy tells images that were never stored from those that were."""
    from sklearn.metrics import roc_auc_score

    energies = torch.cat([found.energy_B, unknown.energy_B]).numpy()
    is_unknown = [0] * len(found.energy_B) + [1] * len(unknown.energy_B)
    return float(roc_auc_score(is_unknown, energies))
