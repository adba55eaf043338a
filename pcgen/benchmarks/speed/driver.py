"""`pcgen bench speed`: find everybody's best setting, check that all agree, then time in turns."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from pcgen.benchmarks.peers.process import PROTOCOL, Peer, PeerError
from pcgen.benchmarks.speed.cells import BATCH, EQUILIBRIUM, ERROR, Cell, Place, rows_of
from pcgen.benchmarks.speed.tuning import MOST_STEPS, SOLVERS, equilibrium_settings, error_settings
from pcgen.benchmarks.speed.workloads import MOST_UPDATES, WORKLOADS, Setting, Workload, setup
from pcgen.benchmarks.table import Tell
from pcgen.device import processor

_AGREE = 1e-4
_TURN = 5  # timings of one competitor in a row
# Seconds for an answer of another library, compilation included; pcgen's own worker may take long.
_LIMIT, _OWN_LIMIT = 600.0, 1e6
# The methods of both races, each with the solver of `tuning` whose settings it takes. The other
# libraries run only on the CPU: their environments have a jax without CUDA.
_METHODS = {
    **{f"pcgen, {solver}": solver for solver in SOLVERS},
    "pcgen, descent": "descent",
    "pcx": "descent",
    "fabricpc": "plain",
}
_TRAINED = _METHODS | {"backprop autoencoder": "backprop"}


def speed_rows(
    names: Sequence[str], samples: int, places: Sequence[Place], root: Path, tell: Tell
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table, workload by workload.

    Args:
        root: the folder whose `.peers` holds the other libraries' environments.
    """
    machine = {"processor": processor(), "cores": os.cpu_count()}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            tell(f"{name}, set up", 0, 1)
            message = setup(WORKLOADS[name], Path(folder))
            races: Races | None = None
            for place in places:
                with Workers(message, place, root) as workers:
                    if races is None:
                        races = Races(WORKLOADS[name], samples, tell, workers)
                    for row in races.rows(workers):
                        yield row | machine | {"product": workers.facts["product"]}


class Workers(ExitStack):
    """A worker for each library. One that fails is stopped; the next request starts a new one."""

    def __init__(self, message: Mapping[str, Any], place: Place, root: Path) -> None:
        super().__init__()
        self.message, self.place, self.root = message, place, root
        self.peers: dict[str, Peer] = {}
        self.facts: dict[str, Any] = {}

    def ask(self, library: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of a library's worker.

        Raises:
            PeerError: there is none, for the reason in the message.
        """
        limit = _OWN_LIMIT if library == "pcgen" else _LIMIT
        try:
            if library not in self.peers:
                self.peers[library] = self._start(library)
                setup = {**self.message, "device": self.place.device}
                answer = self.peers[library].ask(setup, limit)
                if not answer["ok"]:
                    raise PeerError(answer["reason"])
                if library == "pcgen":
                    self.facts = answer
            return self.peers[library].ask(message, limit)
        except PeerError:
            self.peers.pop(library, None)
            raise

    def _start(self, library: str) -> Peer:
        command = None
        if library == "pcgen":
            command = (sys.executable, PROTOCOL, "pcgen.benchmarks.speed.pcgen_worker")
        elif self.place.device != "cpu":
            raise PeerError("on the CPU only")
        return self.enter_context(Peer(library, self.root, self.place.threads, command))

    def turn(self, cell: Cell, what: str, repeats: int) -> None:
        """Time a cell, or take it out of the race: if it fails, diverges or has another energy."""
        if cell.setting is None:
            return
        request = {"setting": cell.setting, "what": what, "repeats": repeats}
        try:
            if not cell.seconds and cell.library != "pcgen":
                theirs, ours = (
                    self.ask(library, request | {"do": "energy"})["energy"]
                    for library in (cell.library, "pcgen")
                )
                if ours is None or theirs is None or abs(theirs / ours - 1) > _AGREE:
                    cell.exclude(f"another energy: {theirs}, ours {ours}")
                    return
            answer = self.ask(cell.library, request | {"do": "time"})
        except PeerError as error:
            if cell.library == "pcgen":  # without it there is nothing to compare with
                raise
            cell.exclude("; ".join(filter(None, [error.message.splitlines()[0], error.hint])))
            return
        cell.seconds += answer["seconds"]
        cell.processors = answer["processors"]
        if not answer["finite"]:
            cell.exclude("it diverges")


def race(workers: Workers, cells: Sequence[Cell], what: str, samples: int, tell: Tell) -> None:
    """Time the cells in turns."""
    for done in range(0, samples, _TURN):
        tell(f"{workers.place}, {what}", done, samples)
        for cell in cells:
            workers.turn(cell, what, min(_TURN, samples - done))


class Races:
    """The races of one workload; settings are found once, and timed at every place."""

    def __init__(self, workload: Workload, samples: int, tell: Tell, workers: Workers) -> None:
        self.workload, self.samples, self.tell = workload, samples, tell
        self.tuned: dict[str, Setting | None] = {}
        self.arrivals: dict[str, list[tuple[int, Setting]]] = {}
        self.error: float | None = None
        if workload.races:
            tell(f"{workload.name}, settings", 0, 2)
            ask = partial(workers.ask, "pcgen")
            self.tuned = equilibrium_settings(workload, ask)
            tell(f"{workload.name}, settings", 1, 2)
            self.error, self.arrivals = error_settings(workload, self.tuned, ask)

    def rows(self, workers: Workers) -> Iterator[dict[str, Any]]:
        """Yield the rows of one place."""
        name, place = self.workload.name, workers.place
        if self.workload.races:
            cells = [self._equilibrium(method) for method in _METHODS]
            race(workers, cells, "infer", self.samples, self.tell)
            yield from rows_of(cells, name, place, EQUILIBRIUM)
        batches = self._batches()
        race(workers, [cell for _, cell in batches], "train", self.samples, self.tell)
        if self.workload.races:
            cells = [self._arrival(method, batches) for method in _TRAINED]
            yield from rows_of(cells, name, place, ERROR)
        equal = [cell for updates, cell in batches if not updates]
        yield from rows_of([*equal, self._floor(workers, equal[0])], name, place, BATCH)

    def _equilibrium(self, method: str) -> Cell:
        setting = self.tuned[_METHODS[method]]
        if setting is None:
            return Cell(method, None, f"not within {MOST_STEPS} steps")
        return Cell(method, setting, _described(setting))

    def _batches(self) -> list[tuple[int, Cell]]:
        """Return all training batches to time: those of the equal algorithm, with 0 updates first.

        The others arrive at the validation error, after the number of updates beside them.
        """
        standard = self.workload.descent()
        plain = standard | {"momentum": 0.0}
        equal = [
            (0, Cell("pcgen, descent", standard)),
            (0, Cell("pcx", standard)),
            (0, Cell("fabricpc", plain, "no momentum: the library has none")),
        ]
        return equal + [
            (updates, Cell(method, setting, _described(setting)))
            for method, solver in _TRAINED.items()
            for updates, setting in self.arrivals.get(solver, [])
        ]

    def _arrival(self, method: str, batches: Sequence[tuple[int, Cell]]) -> Cell:
        """Return the seconds to the validation error at the fastest setting that arrives."""
        note = f"{self.error:.3g} after {{}} updates; " if self.error else ""
        cells = [
            cell.times(updates, note.format(updates) + cell.note)
            for updates, cell in batches
            if updates and cell.method == method
        ]
        if not cells:
            why = f"not {self.error:.3g} within {MOST_UPDATES} updates"
            return Cell(method, None, why if self.error else "descent diverges: no error is set")
        return min(cells, key=lambda cell: cell.median)

    def _floor(self, workers: Workers, ours: Cell) -> Cell:
        """Return the time that the products of our batch need at the rate of the largest one.

        A step takes both products of every layer; two more are the first prediction and the slope
        of the weights.
        """
        cell = Cell("floor of the products", self.workload.descent())
        race(workers, [cell], "product", self.samples, self.tell)
        facts = workers.facts
        rate = facts["operations"] / cell.median / 1e9
        cell.seconds = [
            second * facts["products"] * (2 * self.workload.steps + 2) for second in cell.seconds
        ]
        cell.note = f"{facts['product']}, {rate:.0f} GFLOP/s; "
        cell.note += f"pcgen takes {ours.median / cell.median:.2f} times as long"
        return cell


def _described(setting: Setting) -> str:
    words = f"{setting['steps']} step{'s'[: setting['steps'] > 1]}"
    if setting["solver"] == "descent":
        words += f", rate {setting['rate']:g}, momentum {setting['momentum']:g}"
    return words
