"""How many known images a detector flags, over and over: the promise of `ood-score`, measured.

    python docs/studies/ood_alarms.py mnist-ood

The images that a detector set aside are divided at random into parts A and B and new images, as
many each, twenty times. Prints the share of the new ones that is flagged, and in how many divisions
that was as promised. Nothing is trained or scored: the detector holds its scores of all these.
"""

from __future__ import annotations

import sys
from typing import get_args

import numpy as np

from pcgen.evaluation import calibration
from pcgen.evaluation.calibration import Guarantee
from pcgen.ood import open_detector

DIVISIONS = 20
RATES = (0.05, 0.01)


def flagged(parts_NJ: np.ndarray, fpr: float, guarantee: Guarantee, seed: int) -> float:
    """Return the share of new images flagged in one division of known ones.

    Args:
        parts_NJ: the scores that are combined.
    """
    order = np.random.default_rng(seed).permutation(len(parts_NJ))
    part_a, part_b, new = (parts_NJ[rows] for rows in np.array_split(order, 3))
    limit = calibration.threshold(calibration.fisher(part_b, part_a), fpr, guarantee)
    return float((calibration.fisher(new, part_a) > limit).mean())


def main() -> None:
    detector = open_detector(sys.argv[1])
    parts_NJ = np.column_stack([detector.columns[name] for name in detector.components])
    print(f"{len(parts_NJ):,} images set aside, a third each for A, B and new ones")
    for guarantee in get_args(Guarantee):
        for fpr in RATES:
            if len(parts_NJ) // 3 < calibration.smallest(fpr, guarantee):
                continue
            shares = np.array([flagged(parts_NJ, fpr, guarantee, i) for i in range(DIVISIONS)])
            print(
                f"{guarantee} {fpr:.0%}: {shares.mean():.2%} on average, {shares.max():.2%} at "
                f"most, within the promise in {(shares <= fpr).sum()} of {DIVISIONS}"
            )


if __name__ == "__main__":
    main()
