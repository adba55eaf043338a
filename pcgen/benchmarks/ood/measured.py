"""Scores of every set by one family and seed, kept on disk so that none is computed twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcgen import __version__
from pcgen.benchmarks.ood.families import FAMILIES, Recipes
from pcgen.benchmarks.ood.sets import Known, Unusual
from pcgen.benchmarks.reconstruction import Tell
from pcgen.data.images import Images
from pcgen.errors import DataError, RunError
from pcgen.ood.scoring import Columns, joined, scored

KNOWN, PART_A, PART_B = "known", "part A", "part B"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one family's scorer says of every set.

    Attributes:
        family: a key of `FAMILIES`.
        names: its scores.
        components: those that are combined; none where no combination is made.
        sets: the columns of each set: `KNOWN` test images, unusual sets and, where there are
            components, the calibration parts.
        seconds: that training, fitting and scoring took.
        per_second: images scored a second.
        facts: what else is worth saying, such as a classifier's accuracy.
    """

    family: str
    names: tuple[str, ...]
    components: tuple[str, ...]
    sets: dict[str, Columns]
    seconds: float
    per_second: float
    facts: dict[str, float]


def measure(
    family: str,
    known: Known,
    unusual: Sequence[Unusual],
    recipes: Recipes,
    device: torch.device,
    tell: Tell,
    keep: Path | None = None,
) -> Measured:
    """Return the scores of a family, from the folder `keep` where it has them already.

    Raises:
        DataError: an image that cannot be read: every method must judge the same images.
        RunError: a folder that cannot be written.
    """
    print_ = _fingerprint(family, known, unusual, recipes)
    path = None
    if keep is not None:
        path = keep / f"{known.name.replace(' ', '-')}-{family}-{known.seed}.npz"
        found = _read(path, print_)
        if found is not None:
            return found
    began = time.monotonic()
    scorer = FAMILIES[family].train(known, recipes, device, tell)
    trained = time.monotonic() - began
    components = tuple(getattr(scorer, "components", ()))
    named = {KNOWN: known.test}
    if components:
        named |= {PART_A: known.part_a, PART_B: known.part_b}
    named |= {one.name: one.images for one in unusual}
    sets, total = {}, sum(map(len, named.values()))
    done = 0
    for name, images in named.items():
        sets[name] = _columns(scorer, images, device)
        done += len(images)
        tell(f"scoring by {family}, seed {known.seed}", done, total)
    seconds = time.monotonic() - began
    found = Measured(
        family,
        tuple(scorer.names),
        components,
        sets,
        seconds,
        total / max(seconds - trained, 1e-9),
        _facts(scorer, known.test),
    )
    if path is not None:
        _write(path, print_, found)
    return found


def _columns(scorer: Any, images: Images, device: torch.device) -> Columns:
    columns, unreadable = joined(scored([scorer], images, device))
    if unreadable:
        row, reason = unreadable[0]
        raise DataError(
            f"{images.source}: {images.id(row)}: {reason}",
            "The benchmark needs every image",
        )
    return {name: columns[name] for name in scorer.names}


def _facts(scorer: Any, test: Images) -> dict[str, float]:
    from pcgen.classification.network import Classifier
    from pcgen.classification.training import accuracy

    network = getattr(scorer, "network", None)
    if isinstance(network, Classifier):
        return {"accuracy": accuracy(network, test).accuracy}
    return {}


def _fingerprint(family: str, known: Known, unusual: Sequence[Unusual], recipes: Recipes) -> str:
    """Return a hash of all that the scores depend on but this program's code."""
    images = [known.kept, known.validation, known.part_a, known.part_b, known.test]
    words = [
        __version__,
        family,
        str(known.seed),
        json.dumps(FAMILIES[family].settings(recipes, known), sort_keys=True),
        *(table.fingerprint() for table in images),
        *(f"{one.name} {one.images.fingerprint()}" for one in unusual),
    ]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _read(path: Path, print_: str) -> Measured | None:
    """Return what a file holds, or nothing where it is of something else, or no such file."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if header["fingerprint"] != print_:
                return None
            sets: dict[str, Columns] = {}
            for i, (name, column) in enumerate(header["columns"]):
                sets.setdefault(name, {})[column] = file[f"column{i}"].astype(np.float64)
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return Measured(
        header["family"],
        tuple(header["names"]),
        tuple(header["components"]),
        sets,
        header["seconds"],
        header["per_second"],
        header["facts"],
    )


def _write(path: Path, print_: str, found: Measured) -> None:
    columns = [(name, column) for name, table in found.sets.items() for column in table]
    header = {
        "fingerprint": print_,
        "family": found.family,
        "names": found.names,
        "components": found.components,
        "columns": columns,
        "seconds": found.seconds,
        "per_second": found.per_second,
        "facts": found.facts,
    }
    arrays: dict[str, Any] = {
        f"column{i}": found.sets[name][column] for i, (name, column) in enumerate(columns)
    }
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
