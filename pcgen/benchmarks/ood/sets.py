"""What is known and what is unusual: the sets of the benchmark, and the split of the known one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pcgen.data.images import Images, parts, split
from pcgen.data.shifts import SHIFTS, intensity_matched, of_label, shifted

# Set aside from training: half of it calibrates the parts of a combined score, half the whole.
CALIBRATION = 0.2

# Data sets that are unusual where the one on the left is known; any other has its shifts alone.
OTHERS = {
    "mnist": ("fashion-mnist", "omniglot", "kannada-mnist", "dig-mnist", "usps"),
    "fashion-mnist": ("mnist", "omniglot", "kannada-mnist", "dig-mnist", "usps"),
}
# Digits, as the known set's images are: a shift of the same kind of thing, no strange objects.
SAME_KIND = {"mnist": ("kannada-mnist", "dig-mnist", "usps")}
# Whose images, with the known set's pixel values, no statistic of brightness tells apart.
SWAPPED = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}

Open = Callable[[str], Images | None]
"""From a data set's name to its test images, or nothing where it is not here."""


@dataclass(frozen=True, slots=True)
class Known:
    """One seed's split of the known images.

    Attributes:
        name: of the data set.
        kept: what networks learn from and scores are fitted to.
        validation: what chooses the epoch.
        part_a: calibration of a combined score's parts.
        part_b: calibration of the combined score.
        test: the official test images.
        seed: of the split and of everything after it.
    """

    name: str
    kept: Images
    validation: Images
    part_a: Images
    part_b: Images
    test: Images
    seed: int

    @classmethod
    def of(cls, name: str, images: Images, test: Images, validation: float, seed: int) -> Known:
        """Return the split of a seed: calibration 20 %, of the rest `validation` for the epoch.

        Raises:
            DataError: a split that leaves nothing to train on.
        """
        kept, held_out, aside = parts(images, validation, CALIBRATION, seed)
        part_b, part_a = split(aside, 0.5, seed, "part A")
        return cls(name, kept, held_out, part_a, part_b, test, seed)


@dataclass(frozen=True, slots=True)
class Unusual:
    """Images that are not like the known ones.

    Attributes:
        name: as it stands in the table.
        images: of the known images' shape.
        kind: `other` objects, the `same` kind from another source, a `shift` of the known test
            images, or a `left-out` class.
    """

    name: str
    images: Images
    kind: str


def unusual_sets(known: str, test: Images, opened: Open, limit: int, seed: int) -> list[Unusual]:
    """Return the unusual sets of a known one: other data sets that are here, then its shifts.

    Args:
        test: the known set's test images.
        limit: images of each set at most.
        seed: of the shifts.
    """
    found = []
    for name in OTHERS.get(known, ()):
        images = opened(name)
        if images is not None:
            kind = "same" if name in SAME_KIND.get(known, ()) else "other"
            found.append(Unusual(name, images.head(limit), kind))
    swapped = opened(SWAPPED[known]) if known in SWAPPED else None
    if swapped is not None:
        name = f"{SWAPPED[known]}, brightness matched"
        found.append(Unusual(name, intensity_matched(swapped.head(limit), test, seed), "other"))
    for name in SHIFTS:
        if name != "rot90" or test.shape[1] == test.shape[2]:
            found.append(Unusual(name, shifted(test.head(limit), name, seed), "shift"))
    return found


def left_out(
    known: str, images: Images, test: Images, validation: float, limit: int, seed: int
) -> tuple[Known, list[Unusual]]:
    """Return the known images without one class, another for each seed, and that class as unusual.

    Raises:
        DataError: images without several labels.
    """
    label = seed % max(1, test.class_count)
    _, others = of_label(images, label)
    own, others_test = of_label(test, label)
    name = f"{known} without {label}"
    split = Known.of(name, others, others_test.head(limit), validation, seed)
    return split, [Unusual("left-out class", own.head(limit), "left-out")]
