"""How many known images a detector flags, over and over: the promise of `ood-score`, measured.

    python docs/studies/ood_alarms.py mnist-ood

The images that a detector set aside are divided at random into parts A and B and new images, twenty
times: into thirds, then into an eighth, an eighth and the rest. What is promised is the rate of all
new images; that of a few scatters around it, so that more new ones show the promise more clearly.
Prints the share of the new ones that is flagged, and in how many divisions that was as promised.
Nothing is trained or scored: the detector holds its scores of all these.
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


def flagged(parts_NJ: np.ndarray, count: int, fpr: float, guarantee: Guarantee, seed: int) -> float:
    """Return the share of new images flagged in one division of known ones.

    Args:
        parts_NJ: the scores that are combined.
        count: images of part A, and of part B.
    """
    order = np.random.default_rng(seed).permutation(len(parts_NJ))
    part_a, part_b, new = np.split(parts_NJ[order], [count, 2 * count])
    limit = calibration.threshold(calibration.fisher(part_b, part_a), fpr, guarantee)
    return float((calibration.fisher(new, part_a) > limit).mean())


def main() -> None:
    detector = open_detector(sys.argv[1])
    parts_NJ = np.column_stack([detector.columns[name] for name in detector.components])
    for part, guarantee, fpr in itertools.product(PARTS, get_args(Guarantee), RATES):
        count = int(part * len(parts_NJ))
        if count < calibration.smallest(fpr, guarantee):
            continue
        shares = np.array([flagged(parts_NJ, count, fpr, guarantee, i) for i in range(DIVISIONS)])
        print(
            f"A and B {count:,} each, {len(parts_NJ) - 2 * count:,} new; {guarantee} {fpr:.0%}: "
            f"{shares.mean():.2%} on average, {shares.max():.2%} at most, within the promise in "
            f"{(shares <= fpr).sum()} of {DIVISIONS}"
        )


if __name__ == "__main__":
    main()
