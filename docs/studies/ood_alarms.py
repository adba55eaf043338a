"""Count how many known images a detector flags, and compare it with the guarantee of `ood-score`.

    python docs/studies/ood_alarms.py mnist-ood

The calibration images of a detector are divided at random, twenty times, into calibration parts A
and B and new images: first into thirds, then into an eighth, an eighth and the rest. The guarantee
is about the rate over all possible new images. The rate over a few scatters around it, so more new
images show it more clearly. Prints the share of new images that is flagged, and in how many
divisions the guarantee held. Nothing is trained or scored: the detector holds all these scores.
"""

from __future__ import annotations

import itertools
import sys
from typing import get_args

import numpy as np

from pcgen.commands.session import open_detector
from pcgen.ood import conformal as calibration
from pcgen.ood.conformal import Guarantee

DIVISIONS = 20
RATES = (0.05, 0.01)
PARTS = (1 / 3, 1 / 8)


def flagged(
    scores_NJ: np.ndarray,
    is_alarm_J: list[bool],
    count: int,
    fpr: float,
    guarantee: Guarantee,
    seed: int,
) -> float:
    """Return the share of new images flagged in one division of known ones.

    Args:
        scores_NJ: the scores that are combined.
        is_alarm_J: which of them are alarms.
        count: images in part A, and in part B.
    """
    order = np.random.default_rng(seed).permutation(len(scores_NJ))
    part_a, part_b, new = np.split(scores_NJ[order], [count, 2 * count])
    known, found = (calibration.fisher(part, part_a, is_alarm_J) for part in (part_b, new))
    return float((found > calibration.threshold(known, fpr, guarantee)).mean())


def main() -> None:
    detector = open_detector(sys.argv[1])
    scores_NJ = np.column_stack([detector.columns[name] for name in detector.components])
    is_alarm_J = [name in detector.alarms for name in detector.components]
    for part, guarantee, fpr in itertools.product(PARTS, get_args(Guarantee), RATES):
        count = int(part * len(scores_NJ))
        if count < calibration.smallest(fpr, guarantee):
            continue
        shares = np.array(
            [flagged(scores_NJ, is_alarm_J, count, fpr, guarantee, i) for i in range(DIVISIONS)]
        )
        print(
            f"A and B {count:,} each, {len(scores_NJ) - 2 * count:,} new; {guarantee} {fpr:.0%}: "
            f"{shares.mean():.2%} on average, {shares.max():.2%} at most, within the guarantee in "
            f"{(shares <= fpr).sum()} of {DIVISIONS}"
        )


if __name__ == "__main__":
    main()
