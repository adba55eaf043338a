"""The scores of every set by one family and seed, kept on disk so that none is computed twice."""

from __future__ import annotations

import hashlib
import json
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
from pcgen.benchmarks.table import Tell
from pcgen.data.images import Images
from pcgen.errors import DataError
from pcgen.ood.scoring import Columns, joined, scored
from pcgen.storage.files import replacing

KNOWN, PART_A, PART_B = "known", "part A", "part B"
# What a file of scores says about them.
_KEPT = ("family", "names", "components", "alarms", "seconds", "per_second", "facts")


@dataclass(frozen=True, slots=True)
class FamilyScores:
    """The scores of every set by one family, for one seed.

    Attributes:
        family: a key of `FAMILIES`.
        names: of its scores.
        components: names of the scores that are combined; empty if none are.
        alarms: those of them that count only where they are rare among known images.
        sets: the columns of each set: `KNOWN` test images, unusual sets and, if there are
            components, the calibration parts.
        seconds: that training, fitting and scoring took.
        per_second: images scored a second.
        facts: other results, such as a classifier's accuracy.
    """

    family: str
    names: tuple[str, ...]
    components: tuple[str, ...]
    alarms: tuple[str, ...]
    sets: dict[str, Columns]
    seconds: float
    per_second: float
    facts: dict[str, float]


def score_sets(
    family: str,
    known: Known,
    unusual: Sequence[Unusual],
    recipes: Recipes,
    device: torch.device,
    tell: Tell,
    keep: Path | None = None,
) -> FamilyScores:
    """Return the scores of a family, read from the folder `keep` if it has them already.

    Raises:
        DataError: an image that cannot be read: every method must judge the same images.
        RunError: a folder that cannot be written.
    """
    fingerprint = _fingerprint(family, known, unusual, recipes)
    path = None
    if keep is not None:
        path = keep / f"{known.name.replace(' ', '-')}-{family}-{known.seed}.npz"
        kept = _read(path, fingerprint)
        if kept is not None:
            return kept
    began = time.monotonic()
    scorer = FAMILIES[family].train(known, recipes, device, tell)
    trained = time.monotonic() - began
    components = tuple(getattr(scorer, "components", FAMILIES[family].parts))
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
    scores = FamilyScores(
        family,
        tuple(scorer.names),
        components,
        tuple(getattr(scorer, "alarms", ())),
        sets,
        seconds,
        total / max(seconds - trained, 1e-9),
        _facts(scorer, known.test),
    )
    if path is not None:
        _write(path, fingerprint, scores)
    return scores


def _columns(scorer: Any, images: Images, device: torch.device) -> Columns:
    """Return the scores of all images, by name."""
    columns, unreadable = joined(scored([scorer], images, device))
    if unreadable:
        row, reason = unreadable[0]
        raise DataError(
            f"{images.source}: {images.id(row)}: {reason}", "The benchmark needs every image"
        )
    return {name: columns[name] for name in scorer.names}


def _facts(scorer: Any, test: Images) -> dict[str, float]:
    """Return the accuracy of a classifier; nothing of another scorer."""
    from pcgen.classification.network import Classifier
    from pcgen.classification.training import accuracy

    network = getattr(scorer, "network", None)
    if isinstance(network, Classifier):
        return {"accuracy": accuracy(network, test).accuracy}
    return {}


def _fingerprint(family: str, known: Known, unusual: Sequence[Unusual], recipes: Recipes) -> str:
    """Return a hash of all settings and images on which the scores depend."""
    images = [known.kept, known.validation, known.part_a, known.part_b, known.test]
    words = [
        __version__,
        family,
        *FAMILIES[family].parts,
        str(known.seed),
        json.dumps(FAMILIES[family].settings(recipes, known), sort_keys=True),
        *(table.fingerprint() for table in images),
        *(f"{one.name} {one.images.fingerprint()}" for one in unusual),
    ]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _read(path: Path, fingerprint: str) -> FamilyScores | None:
    """Return the scores in a file, or None if there is no such file or it holds other scores."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if header["fingerprint"] != fingerprint:
                return None
            sets: dict[str, Columns] = {}
            for i, (name, column) in enumerate(header["columns"]):
                sets.setdefault(name, {})[column] = file[f"column{i}"].astype(np.float64)
    except (OSError, ValueError, KeyError, EOFError):
        return None
    kept = {"alarms": []} | {name: header[name] for name in _KEPT if name in header}
    lists = {name: tuple(kept[name]) for name in ("names", "components", "alarms")}
    return FamilyScores(sets=sets, **kept | lists)


def _write(path: Path, fingerprint: str, scores: FamilyScores) -> None:
    columns = [(name, column) for name, table in scores.sets.items() for column in table]
    header = {
        "fingerprint": fingerprint,
        "columns": columns,
        **{name: getattr(scores, name) for name in _KEPT},
    }
    arrays: dict[str, Any] = {
        f"column{i}": scores.sets[name][column] for i, (name, column) in enumerate(columns)
    }
    with replacing(path) as (file,):
        np.savez(file, header=np.array(json.dumps(header)), **arrays)
