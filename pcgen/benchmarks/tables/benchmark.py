"""The protocol, and the rows of the table.

The usual rows of a table are shuffled with the split's number as the seed. Methods are fitted to
the first half, and score the second half and the unusual rows; of each at most `limit`. No row is
in both parts, and no method sees an unusual row before it scores it.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcgen.benchmarks.ood.metrics import metrics
from pcgen.benchmarks.table import Measured
from pcgen.benchmarks.tables.methods import FPR, METHODS, OURS, standardised
from pcgen.errors import DataError

Array = NDArray[np.float64]

ALL = "mean of tables"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One method on one split of one table.

    Attributes:
        alarms: share of the usual test rows that are flagged, of a method that flags.
        usual: their number.
        seconds: of the processor, to fit and score; of all scores that share a fit.
    """

    table: str
    split: int
    method: str
    auroc: float
    precision: float
    alarms: float | None
    usual: int
    seconds: float


def measure(
    path: Path, split: int, families: Sequence[str], limit: int = 2000
) -> Iterator[Outcome]:
    """Yield the outcome of each method on one split of a table.

    Raises:
        DataError: the file is no table with rows of both kinds.
    """
    known_ND, usual_BD, unusual_BD = parts_of(path, split, limit)
    new_BD = np.concatenate([usual_BD, unusual_BD])
    count = len(usual_BD)
    for family in families:
        known, new = (known_ND, new_BD) if family == OURS else standardised(known_ND, new_BD)
        start = time.process_time()
        found = METHODS[family](known, new, split)
        seconds = time.process_time() - start
        for method, own in found.items():
            values = metrics(own.scores_B[:count], own.scores_B[count:])
            alarms = None if own.flagged_B is None else float(own.flagged_B[:count].mean())
            yield Outcome(
                path.stem,
                split,
                method,
                values["auroc"],
                values["aupr_ood"],
                alarms,
                count,
                seconds,
            )


def parts_of(path: Path, split: int, limit: int) -> tuple[Array, Array, Array]:
    """Return known rows, usual test rows and unusual test rows of a table.

    Raises:
        DataError: the file cannot be read, or has too few rows of a kind.
    """
    try:
        with np.load(path) as file:
            values_ND, unusual_N = file["X"].astype(np.float64), file["y"].astype(bool)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: no table with arrays X and y: {error}") from None
    usual_ND, unusual_ND = values_ND[~unusual_N], values_ND[unusual_N]
    if len(usual_ND) < 8 or not len(unusual_ND):
        raise DataError(f"{path}: has {len(usual_ND)} usual and {len(unusual_ND)} unusual rows")
    rng = np.random.default_rng(split)
    rng.shuffle(usual_ND)
    rng.shuffle(unusual_ND)
    half = len(usual_ND) // 2
    return usual_ND[:half][:limit], usual_ND[half:][:limit], unusual_ND[:limit]


def rows_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the rows of every table, then those of the means over the tables.

    A table's interval is over its splits. The last rows' interval, and the difference to ours with
    its standard error, are over tables.
    """
    by_cell = defaultdict(list)
    for outcome in outcomes:
        by_cell[outcome.table, outcome.method].append(outcome)
    rows, means = [], defaultdict[tuple[str, str], list[float]](list)
    seconds = defaultdict[str, list[float]](list)
    for (table, method), own in by_cell.items():
        took = statistics.fmean(outcome.seconds for outcome in own)
        seconds[method].append(took)
        for metric, values in _values(own).items():
            measured = Measured(method, metric, values, took, note=_note(metric, own))
            rows.append(measured.row(table))
            means[method, metric].append(statistics.fmean(values))
    for (method, metric), values in means.items():
        took = statistics.fmean(seconds[method])
        measured = Measured(method, metric, values, took, note=_within(metric, by_cell, method))
        rows.append(measured.row(ALL) | _against_ours(measured, means.get((OURS, metric))))
    return rows


def _values(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """Return the values over the splits by metric."""
    alarms = [outcome.alarms for outcome in outcomes if outcome.alarms is not None]
    return {
        "auroc": [outcome.auroc for outcome in outcomes],
        "average precision": [outcome.precision for outcome in outcomes],
        **({"alarms": alarms} if alarms else {}),
    }


def _note(metric: str, outcomes: Sequence[Outcome]) -> str:
    if metric != "alarms":
        return ""
    return f"promised {FPR:g}, {'' if _keeps(outcomes) else 'not '}kept within 2 standard errors"


def _keeps(outcomes: Sequence[Outcome]) -> bool:
    """Return whether the mean share of alarms is at most the promise plus two standard errors.

    The error is that of one split's usual test rows and calibration rows, of which there are as
    many: splits share rows, so several are not less uncertain than one.
    """
    error = (2 * FPR * (1 - FPR) / outcomes[0].usual) ** 0.5
    return statistics.fmean(outcome.alarms or 0.0 for outcome in outcomes) <= FPR + 2 * error


def _within(metric: str, by_cell: dict[tuple[str, str], list[Outcome]], method: str) -> str:
    if metric != "alarms":
        return ""
    kept = [_keeps(own) for (_, name), own in by_cell.items() if name == method]
    return f"promised {FPR:g}; kept within 2 standard errors on {sum(kept)} of {len(kept)} tables"


def _against_ours(measured: Measured, ours: list[float] | None) -> dict[str, float | None]:
    """Return the mean difference to ours over tables, its interval and its standard error."""
    if ours is None or len(ours) != len(measured.values) or measured.method == OURS:
        return {}
    differences = [a - b for a, b in zip(measured.values, ours, strict=True)]
    error = statistics.stdev(differences) / len(ours) ** 0.5 if len(ours) > 1 else None
    own = Measured(OURS, measured.metric, ours)
    return measured.against(own) | {"standard_error": error}
