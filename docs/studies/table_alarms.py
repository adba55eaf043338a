"""Measure how often `PCNOutlierDetector` flags new rows of the source it was fitted to.

    python docs/studies/table_alarms.py

Every fit has rows of its own, from three groups of six columns of different scales. Printed are the
share of 1,000 new rows that are flagged, the mean over the fits with its standard error, and for
`pac` in how many fits more than 5 % of them were.
"""

from __future__ import annotations

import sys

import numpy as np

from pcgen import PCNOutlierDetector
from pcgen.ood.conformal import Guarantee, allowed, cross_margin, smallest

NEW = 1000


def rows(count: int, seed: int) -> np.ndarray:
    """Return rows of three groups; a column is heavy-tailed, and one takes four values."""
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=count)
    mixing = np.random.default_rng(0).normal(size=(3, 3, 6))
    table = np.einsum("nl,nld->nd", rng.normal(size=(count, 3)), mixing[group])
    table += 3 * mixing[group, 0] + 0.3 * rng.normal(size=table.shape)
    table[:, 0] = np.sinh(table[:, 0])
    table[:, 1] = np.clip(np.round(table[:, 1]), -2, 1)
    return table


def main(fits: int = 100) -> None:
    """Print a line for each number of rows."""
    for count in (20, 60):
        shares: dict[Guarantee, list[float]] = {"marginal": [], "pac": []}
        for fit in range(fits):
            detector = PCNOutlierDetector(random_state=fit).fit(rows(count, 2 * fit + 1))
            energies_FB = detector.energies(rows(NEW, 2 * fit + 2))["energy"]
            known = detector.calibration_["energy"]
            for guarantee, own in shares.items():
                if count >= smallest(0.05, guarantee):
                    margin_B = cross_margin(energies_FB, known, allowed(count, 0.05, guarantee))
                    own.append(float((margin_B < 0).mean()))
        for guarantee, own in shares.items():
            if not own:
                continue
            error = np.std(own) / len(own) ** 0.5
            above = sum(share > 0.05 for share in own)
            line = f"{100 * np.mean(own):.2f} % +- {100 * error:.2f}; above 5 % in {above}"
            print(f"{count} rows, {guarantee}: {line} of {fits} fits", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
