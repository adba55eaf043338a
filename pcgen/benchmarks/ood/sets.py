"""The sets of the benchmark: the split of the known images, and the unusual sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pcgen.data.images import Images, parts, split
from pcgen.data.shifts import SHIFTS, intensity_matched, of_label, shifted

# Share of the images that do not train: half of it calibrates the components of the combined score,
# half the combined score itself.
CALIBRATION = 0.2

# The unusual data sets of each known one. A known set that is not here has only its shifts.
OTHERS = {
    "mnist": ("fashion-mnist", "omniglot", "kannada-mnist", "dig-mnist", "usps"),
    "fashion-mnist": ("mnist", "omniglot", "kannada-mnist", "dig-mnist", "usps"),
}
# Unusual sets that are digits too, as the known set is: a shift of the source, not other objects.
SAME_KIND = {"mnist": ("kannada-mnist", "dig-mnist", "usps")}
# The set whose images get the known set's pixel values, so that brightness does not separate them.
SWAPPED = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}

Open = Callable[[str], Images | None]
"""From a data set's name to its test images, or None if it is not here."""


@dataclass(frozen=True, slots=True)
class Known:
    """One seed's split of the known images.

    Attributes:
        name: of the data set.
        kept: images that networks learn from and scores are fitted to.
        validation: images that choose the epoch.
        part_a: images that calibrate the components of the combined score.
        part_b: images that calibrate the combined score.
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
        """Return the split of a seed: 20 % to calibrate, a share of the rest for validation.

        Raises:
            DataError: a split that leaves no images to train on.
        """
        kept, held_out, aside = parts(images, validation, CALIBRATION, seed)
        part_b, part_a = split(aside, 0.5, seed, "part A")
        return cls(name, kept, held_out, part_a, part_b, test, seed)


@dataclass(frozen=True, slots=True)
class Unusual:
    """Images that are not like the known ones.

    Attributes:
        name: in the table.
        images: of the known images' shape.
        kind: `other` objects, the `same` kind from another source, a `shift` of the known test
            images, or a `left-out` class.
    """

    name: str
    images: Images
    kind: str


def unusual_sets(known: str, test: Images, opened: Open, limit: int, seed: int) -> list[Unusual]:
    """Return the unusual sets of a known one: the other data sets that are here, then its shifts.

    Args:
        test: the known set's test images.
        limit: images of each set at most.
        seed: of the shifts.
    """
    sets = []
    for name in OTHERS.get(known, ()):
        images = opened(name)
        if images is not None:
            kind = "same" if name in SAME_KIND.get(known, ()) else "other"
            sets.append(Unusual(name, images.head(limit), kind))
    swapped = opened(SWAPPED[known]) if known in SWAPPED else None
    if swapped is not None:
        name = f"{SWAPPED[known]}, brightness matched"
        sets.append(Unusual(name, intensity_matched(swapped.head(limit), test, seed), "other"))
    for name in SHIFTS:
        if name != "rot90" or test.shape[1] == test.shape[2]:
            sets.append(Unusual(name, shifted(test.head(limit), name, seed), "shift"))
    return sets


def left_out(
    known: str, images: Images, test: Images, validation: float, limit: int, seed: int
) -> tuple[Known, list[Unusual]]:
    """Return the known images without one class, and that class as the unusual set.

    Each seed leaves out another class.

    Raises:
        DataError: images without several labels.
    """
    label = seed % max(1, test.class_count)
    _, others = of_label(images, label)
    own, others_test = of_label(test, label)
    name = f"{known} without {label}"
    split = Known.of(name, others, others_test.head(limit), validation, seed)
    return split, [Unusual("left-out class", own.head(limit), "left-out")]
