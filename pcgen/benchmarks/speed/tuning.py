"""Everybody's best setting: the fewest steps to equilibrium, the fewest updates to an error.

Both are counted once for each workload, with pcgen's own loops. The descent of another library
needs as many as ours, because it is timed only if its energies are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pcgen.benchmarks.speed.workloads import MOST_UPDATES, Setting, Workload

Ask = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Sends a request to pcgen's worker and returns the answer."""

MOST_STEPS = 400
SOLVERS = ("majorise", "newton", "errors")
# Among which descent is tuned: falling rates, as multiples of the workload's, and momenta.
RATES, MOMENTA = (5, 4, 3, 2, 1, 0.5), (0.8, 0.9, 0.5)
# Solvers and steps a batch that train until the error. `backprop` is the autoencoder.
LEARNERS = (
    ("majorise", 2),
    ("majorise", 5),
    ("newton", 1),
    ("newton", 3),
    ("errors", 5),
    ("backprop", 1),
)


def equilibrium_settings(workload: Workload, ask: Ask) -> dict[str, Setting | None]:
    """Return the setting with the fewest steps to equilibrium of each solver.

    `descent` has the best rate and momentum, `plain` the best rate without momentum. A solver that
    does not arrive within `MOST_STEPS` has None.
    """
    best = {name: _fewest_steps([{"solver": name}], ask) for name in SOLVERS}
    rates = [rate * workload.rate for rate in RATES]
    for name, momenta in (("descent", MOMENTA), ("plain", (0.0,))):
        best[name] = None
        for momentum in momenta:
            settings = [{"solver": "descent", "rate": r, "momentum": momentum} for r in rates]
            best[name] = _fewest_steps(settings, ask, best[name])
    return best


def _fewest_steps(
    settings: Iterable[Setting], ask: Ask, best: Setting | None = None
) -> Setting | None:
    """Return the best setting so far or of these, whose rates fall."""
    arrived = False
    for setting in settings:
        most = best["steps"] - 1 if best else MOST_STEPS
        steps = ask({"do": "steps", "setting": setting, "most": most})["steps"]
        if steps is not None:
            best, arrived = setting | {"steps": max(1, steps)}, True
        elif arrived:  # a smaller rate is slower still
            break
    return best


def error_settings(
    workload: Workload, tuned: Mapping[str, Setting | None], ask: Ask
) -> tuple[float | None, dict[str, list[tuple[int, Setting]]]]:
    """Return the error that descent reaches, and how each solver arrives there.

    Args:
        tuned: from `equilibrium_settings`.

    Returns:
        The error, None if descent diverges. For each solver, its settings that arrive, each with
        the number of updates: at each number of steps the setting with the fewest.
    """
    standard = workload.descent()
    error = ask({"do": "updates", "setting": standard, "most": MOST_UPDATES, "target": 0.0})["mse"]
    arrivals: dict[str, list[tuple[int, Setting]]] = {}
    if error is None:
        return None, arrivals
    for name, settings in _learners(workload, tuned):
        updates, best = MOST_UPDATES + 1, None
        for setting in settings:
            request = {"do": "updates", "setting": setting, "most": updates - 1, "target": error}
            answer = ask(request)["updates"]
            if answer is not None:
                updates, best = answer, setting
        if best is not None:
            arrivals.setdefault(name, []).append((updates, best))
    return error, arrivals


def _learners(
    workload: Workload, tuned: Mapping[str, Setting | None]
) -> Iterator[tuple[str, list[Setting]]]:
    """Yield solvers and their settings with the same number of steps."""
    for solver, steps in LEARNERS:
        yield solver, [{"solver": solver, "steps": steps}]
    standard = workload.descent()
    for name in ("descent", "plain"):
        best = tuned[name]
        own = standard if name == "descent" else standard | {"momentum": 0.0}
        for steps in (workload.steps, workload.steps // 4):
            yield name, [x | {"steps": steps} for x in (best, own) if x is not None]
