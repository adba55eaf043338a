"""The benchmark's order of events: set up, check that all agree, then time them in turns."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.config import InferenceTable, from_dict
from pcgen.data.images import Rows
from pcgen.evaluation.peers.process import Peer, PeerError, found
from pcgen.evaluation.speed.floor import measured_rate, multiply_adds
from pcgen.evaluation.speed.workloads import WORKLOADS, Workload, setup, write
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.train import Training
from pcgen.model.network import Network

Tell = Callable[[str, int, int], None]

# Name, library, mode; the peers' rows appear where their environments are.
COMPETITORS = (
    ("pcgen", "pcgen", "pcgen"),
    ("torch autograd", "pcgen", "autograd"),
    ("backprop autoencoder", "pcgen", "backprop"),
    ("pcx, scan", "pcx", "scan"),
    ("pcx, unrolled", "pcx", "unrolled"),
    ("fabricpc", "fabricpc", "scan"),
)
_REFERENCE = "pcx"
_TIE = 0.1  # medians that differ by less are called equal
_AGREE = 1e-4
_CHECKED_STEPS = 5
_TURN = 5  # timings of one competitor in a row, after its warm-up
_NEAR = 1e-3
_UPDATES = 30
_WAIT = 900.0  # seconds for one answer, compilation included
# Rates and momenta among which every library's descent is tuned for the time to equilibrium.
RATES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
MOMENTA = (0.5, 0.8, 0.9)
SOLVERS = ("majorise", "newton", "errors", "auto")
# Updates of the time to an error, how often it is looked at, and the rate of the weights.
_CURVE, _EVERY, _CURVE_RATE = 40, 4, 1e-3
_HELD_OUT = 50
LEARNERS = (("majorise", 5), ("newton", 3), ("errors", 5))


@dataclass(slots=True)
class Cell:
    """One competitor's timings of one thing, in seconds."""

    method: str
    metric: str
    seconds: list[float] = field(default_factory=list)
    note: str = ""
    ranked: bool = True

    def row(self, dataset: str, threads: int, reference: float | None) -> dict[str, Any]:
        """Return the row of the table: median, quartiles and the ratio to the reference."""
        scale = 1.0 if self.metric.startswith("seconds") else 1e3
        row: dict[str, Any] = {
            "dataset": dataset,
            "threads": threads,
            "device": "cpu",
            "method": self.method,
            "metric": self.metric,
            "value": None,
            "ci_low": None,
            "ci_high": None,
            "published": None,
            "source": "measured",
            "seconds": sum(self.seconds) or None,
            "samples": len(self.seconds),
            "ratio": None,
            "note": self.note,
        }
        if self.seconds:
            low, median, high = quartiles(self.seconds)
            row |= {"value": scale * median, "ci_low": scale * low, "ci_high": scale * high}
            if reference and self.ranked:
                row["ratio"] = median / reference
                if abs(row["ratio"] - 1) < _TIE and not self.method.startswith(_REFERENCE):
                    row["note"] = "; ".join(filter(None, [self.note, "a tie"]))
        return row


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def reference_of(cells: Sequence[Cell], metric: str) -> float | None:
    """Return the median seconds of the reference's faster mode, if it was measured."""
    medians = [
        quartiles(cell.seconds)[1]
        for cell in cells
        if cell.method.startswith(_REFERENCE)
        and cell.metric == metric
        and cell.ranked
        and cell.seconds
    ]
    return min(medians, default=None)


def speed_rows(
    names: Sequence[str], samples: int, threads: Sequence[int], root: Path, tell: Tell
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table, workload by workload.

    Args:
        root: the folder whose `.peers` holds the other libraries' environments.
    """
    for name in names:
        workload = WORKLOADS[name]
        network, data_BD = prepared(workload)
        for count in threads:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                npz = Path(folder) / "network.npz"
                write(network, data_BD, npz)
                cells, peers = _set_up(workload, network, npz, count, root, stack)
                _check(peers, cells)
                metric = "ms per training batch"
                for done in range(0, samples, _TURN):
                    tell(f"{name}, {count} threads", done, samples)
                    for method, peer in list(peers.items()):
                        _time(peer, cells[method], peers, min(_TURN, samples - done))
                reference = reference_of(list(cells.values()), metric)
                for cell in cells.values():
                    yield cell.row(name, count, reference)
                yield from _floor_row(workload, network, count, cells)
                tell(f"{name}, time to an error", 0, 1)
                yield from _errors(workload, peers, cells, Path(folder), count)
                if workload.equilibrium:
                    tell(f"{name}, time to equilibrium", 0, 1)
                    yield from _equilibria(
                        name, network, data_BD, peers, Path(folder), count, samples
                    )


def prepared(workload: Workload) -> tuple[Network, Tensor]:
    """Return a workload's network, briefly trained where its equilibrium matters, and a batch."""
    network = workload.network()
    data_BD = workload.data(workload.batch)
    if not workload.equilibrium:
        return network, data_BD
    tables = workload.tables()
    tables["inference"] = {"solver": "majorise", "steps": 5}
    tables["learning"]["rate"] = 1e-3
    training = Training(network, from_dict(tables), data_BD)
    images_BD = workload.data(workload.batch * _UPDATES)
    status = ["ok"] * workload.batch
    for i in range(_UPDATES):
        index_B = torch.arange(i * workload.batch, (i + 1) * workload.batch)
        rows = Rows(images_BD[index_B], status, [""] * workload.batch, index_B)
        training.learn(rows, _UPDATES)
    return network, data_BD


def _set_up(
    workload: Workload,
    network: Network,
    npz: Path,
    threads: int,
    root: Path,
    stack: ExitStack,
) -> tuple[dict[str, Cell], dict[str, Peer]]:
    """Start and set up a worker for every competitor."""
    cells = {name: Cell(name, "ms per training batch") for name, _, _ in COMPETITORS}
    peers: dict[str, Peer] = {}
    there = found(root)
    for method, library, mode in COMPETITORS:
        if library == "pcgen":
            script = Path(__file__).with_name("worker.py")
            peer = Peer("pcgen", root, threads, script, Path(sys.executable))
        elif library in there:
            peer = Peer(library, root, threads)
        else:
            cells[method].note = "not installed: make peers"
            continue
        stack.callback(peer.close)
        try:
            answer = peer.ask(setup(workload, network, npz, mode), _WAIT)
        except PeerError as error:
            cells[method].note = error.message.splitlines()[0]
            continue
        cells[method].note = answer.get("note", "") if answer["ok"] else answer["reason"]
        if answer["ok"]:
            peers[method] = peer
    return cells, peers


def _check(peers: dict[str, Peer], cells: dict[str, Cell]) -> None:
    """Note the competitors whose energies after a few steps are not ours."""
    ours = peers["pcgen"].ask({"do": "energies", "steps": _CHECKED_STEPS}, _WAIT)["energy"]
    for method, peer in peers.items():
        if method in ("pcgen", "backprop autoencoder"):
            continue
        theirs = peer.ask({"do": "energies", "steps": _CHECKED_STEPS}, _WAIT)["energy"]
        if any(energy is None for energy in theirs):
            _out(cells[method], "its energies diverge")
            continue
        first = abs(theirs[0] / ours[0] - 1)
        rest = max(abs(a / b - 1) for a, b in zip(theirs, ours, strict=True))
        if first > _AGREE:
            _out(cells[method], f"another energy at the start, by {first:.1g}")
        elif rest > _AGREE and "no momentum" not in cells[method].note:
            _out(cells[method], f"other energies after {_CHECKED_STEPS} steps, by {rest:.1g}")


def _out(cell: Cell, why: str) -> None:
    cell.ranked = False
    cell.note = "; ".join(filter(None, [cell.note, why]))


def _time(peer: Peer, cell: Cell, peers: dict[str, Peer], repeats: int) -> None:
    try:
        answer = peer.ask({"do": "batch", "repeats": repeats}, _WAIT)
    except PeerError as error:
        _out(cell, error.message.splitlines()[0])
        del peers[cell.method]
        return
    cell.seconds += answer["seconds"]
    if not answer["finite"] and cell.ranked:
        _out(cell, "it diverges")


def _floor_row(
    workload: Workload, network: Network, threads: int, cells: dict[str, Cell]
) -> Iterator[dict[str, Any]]:
    """Yield the floor of our batch: its multiply-adds at the rate of this machine's products."""
    needed = multiply_adds(network, workload.batch, workload.steps)
    if needed is None or not cells["pcgen"].seconds:
        return
    floor = 2 * needed / measured_rate(network, workload.batch, threads)
    cell = Cell("floor of the operations", "ms per training batch", [floor])
    median = quartiles(cells["pcgen"].seconds)[1]
    cell.note = f"pcgen takes {median / floor:.2f} times the floor"
    yield cell.row(workload.name, threads, None)


def _errors(
    workload: Workload,
    peers: dict[str, Peer],
    batches: dict[str, Cell],
    folder: Path,
    threads: int,
) -> Iterator[dict[str, Any]]:
    """Yield the seconds of training until the validation MSE that descent ends with.

    The other libraries' descent takes our updates, as its energies are ours, and its own time.
    """
    stream = folder / "stream.npz"
    images_BD = workload.data(workload.batch * _CURVE + _HELD_OUT)
    train_TBD = images_BD[:-_HELD_OUT].reshape(_CURVE, workload.batch, -1)
    np.savez(stream, train_TBD=train_TBD.numpy(), held_out_BD=images_BD[-_HELD_OUT:].numpy())
    request = {
        "do": "curve",
        "stream_npz": str(stream),
        "updates": _CURVE,
        "every": _EVERY,
        "rate": _CURVE_RATE,
    }
    metric = "seconds to the validation MSE"
    curves = {"pcgen, descent": peers["pcgen"].ask(request, _WAIT)["curve"]}
    for solver, steps in LEARNERS:
        table = {"inference": {"solver": solver, "steps": steps}}
        try:
            found = peers["pcgen"].ask(request | table, _WAIT)["curve"]
        except PeerError:
            found = []
        curves[f"pcgen, {solver}, {steps} steps"] = found
    if "backprop autoencoder" in peers:
        curves["backprop autoencoder"] = peers["backprop autoencoder"].ask(request, _WAIT)["curve"]
    target = curves["pcgen, descent"][-1][2]
    cells = []
    for method, curve in curves.items():
        cell = Cell(method, metric)
        reached = next(((n, t) for n, t, mse in curve if mse <= target), None)
        if reached is None:
            cell.note = f"not {target:.3g} within {_CURVE} updates" if curve else "cannot be used"
        else:
            cell.note, cell.seconds = f"{target:.3g} after {reached[0]} updates", [reached[1]]
        cells.append(cell)
    for method, batch in batches.items():
        if method not in ("pcgen", "backprop autoencoder") and batch.seconds and batch.ranked:
            seconds = _CURVE * quartiles(batch.seconds)[1]
            note = f"{_CURVE} times its batch"
            cells.append(Cell(f"{method}, descent", metric, [seconds], note))
    reference = reference_of(cells, metric)
    for cell in cells:
        yield cell.row(workload.name, threads, reference)


def _equilibria(
    name: str,
    network: Network,
    data_BD: Tensor,
    peers: dict[str, Peer],
    folder: Path,
    threads: int,
    samples: int,
) -> Iterator[dict[str, Any]]:
    """Yield the times until every image is within 1e-3 of its least energy."""
    target = folder / "target.npz"
    least_B = least_energy(network, data_BD)
    np.savez(target, target_B=((1 + _NEAR) * least_B).numpy())
    metric = "seconds to equilibrium"
    cells: list[Cell] = []
    ours = {"do": "equilibrium", "target_npz": str(target), "max_steps": 400}
    for solver in SOLVERS:
        table = {"solver": solver}
        request = ours | {"inference": table, "repeats": samples}
        answer = peers["pcgen"].ask(request, _WAIT)
        cells.append(Cell(f"pcgen, {solver}", metric, answer["seconds"] or []))
        cells[-1].note = _steps_note(answer)
    grid = [(rate, momentum) for momentum in MOMENTA for rate in RATES]
    for method, peer in peers.items():
        if method in ("torch autograd", "backprop autoencoder", "pcx, unrolled"):
            continue
        settings = [(r, m) for r, m in grid if method != "fabricpc" or m == MOMENTA[0]]
        best: tuple[float, Cell] | None = None
        for rate, momentum in settings:
            if method == "pcgen":
                tuned = {"solver": "descent", "rate": rate, "momentum": momentum}
                request = ours | {"inference": tuned, "repeats": 3}
            else:
                request = {
                    "do": "equilibrium",
                    "target_npz": str(target),
                    "rate": rate,
                    "momentum": momentum,
                    "check_every": 5,
                    "max_steps": 400,
                }
            try:
                answer = peer.ask(request, _WAIT)
            except PeerError as error:
                cells.append(Cell(f"{method}, descent", metric, [], error.message, ranked=False))
                break
            seconds = answer["seconds"]
            if seconds is None:
                continue
            taken = seconds if isinstance(seconds, list) else [seconds]
            note = f"rate {rate:g}, momentum {momentum:g}, best of {len(settings)}; "
            cell = Cell(f"{method}, descent", metric, taken, note + _steps_note(answer))
            if best is None or statistics.median(taken) < best[0]:
                best = statistics.median(taken), cell
        if best is None:
            note = f"none of {len(settings)} settings arrives in 400 steps"
            cells.append(Cell(f"{method}, descent", metric, [], note, ranked=False))
        else:
            cells.append(best[1])
    reference = reference_of(cells, metric)
    for cell in cells:
        yield cell.row(name, threads, reference)


def _steps_note(answer: dict[str, Any]) -> str:
    if answer["steps"] is None:
        return "not within 400 steps"
    note = f"{answer['steps']} steps"
    if answer.get("tolerance"):
        note += f" at most, tolerance {answer['tolerance']:g}"
    if answer.get("prepare"):
        note += f", of which {answer['prepare']:.3g} s once a weight update"
    return note


def least_energy(network: Network, data_BD: Tensor) -> Tensor:
    """Return the least energy (B,) that a long run of two solvers finds."""
    found_B = [
        infer(prepare(network, InferenceTable(solver=solver)), data_BD, steps=150).energy_B
        for solver in ("newton", "majorise")
    ]
    return torch.minimum(*found_B)
