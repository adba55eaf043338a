"""`pcgen bench speed`: set up all competitors, check that they agree, then time them in turns."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcgen.benchmarks.peers.process import PROTOCOL, Peer, PeerError, installed
from pcgen.benchmarks.speed.cells import BATCH, STEP, Cell, Place, rows_of
from pcgen.benchmarks.speed.floor import floors
from pcgen.benchmarks.speed.races import WAIT, equilibrium_cells, error_cells
from pcgen.benchmarks.speed.workloads import WORKLOADS, Workload, setup, write
from pcgen.benchmarks.table import Tell
from pcgen.config import from_dict
from pcgen.data.images import Rows
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Batch
from pcgen.model.network import Network

# Name, library, mode. The peers run only on the CPU: their environments have a jax without CUDA.
COMPETITORS = (
    ("pcgen", "pcgen", "pcgen"),
    ("torch autograd", "pcgen", "autograd"),
    ("backprop autoencoder", "pcgen", "backprop"),
    ("pcx, scan", "pcx", "scan"),
    ("pcx, unrolled", "pcx", "unrolled"),
    ("fabricpc", "fabricpc", "scan"),
)
_AGREE = 1e-4
_CHECKED_STEPS = 5
_TURN = 5  # timings of one competitor in a row
_UPDATES = 30
# Seconds for a competitor to get ready, compilation included, or to train a few batches. To compile
# an unrolled loop of 60 steps and 30 layers takes more than 7 minutes.
_PATIENCE = 180.0


def speed_rows(
    names: Sequence[str], samples: int, places: Sequence[Place], root: Path, tell: Tell
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table, workload by workload.

    Args:
        root: the folder whose `.peers` holds the other libraries' environments.
    """
    for name in names:
        workload = WORKLOADS[name]
        network, data_BD = prepared(workload)
        for place in places:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                npz = Path(folder) / "network.npz"
                write(network, data_BD, npz)
                batches, peers = _set_up(workload, network, npz, place, root, stack)
                _check(peers, batches)
                steps = {method: Cell(method, STEP) for method in batches}
                for done in range(0, samples, _TURN):
                    tell(f"{name}, {place}", done, samples)
                    repeats = min(_TURN, samples - done)
                    for method in list(peers):
                        _time(peers, batches[method], steps[method], workload.steps, repeats)
                timed = [cell for cell in steps.values() if cell.seconds]
                yield from rows_of([*batches.values()], name, place)
                yield from rows_of(timed, name, place)
                for cell in floors(workload, network, place, batches["pcgen"]):
                    yield cell.row(name, place, None)
                if "pcgen" not in peers:
                    continue
                tell(f"{name}, time to an error", 0, 1)
                yield from rows_of(error_cells(workload, peers, batches, Path(folder)), name, place)
                if workload.rates:
                    tell(f"{name}, time to equilibrium", 0, 1)
                    cells = equilibrium_cells(
                        network, data_BD, workload.rates, peers, Path(folder), samples
                    )
                    yield from rows_of([*cells], name, place)


def prepared(workload: Workload) -> tuple[Network, Tensor]:
    """Return a workload's network and a batch; train the network if its equilibrium is timed."""
    network = workload.network()
    data_BD = workload.data(workload.batch)
    if not workload.rates:
        return network, data_BD
    tables = workload.tables()
    tables["inference"] = {"solver": "majorise", "steps": 5}
    tables["learning"]["rate"] = 1e-3
    learner = PredictiveCoding(network, from_dict(tables), data_BD)
    images_BD = workload.data(workload.batch * _UPDATES)
    status = ["ok"] * workload.batch
    for i in range(_UPDATES):
        index_B = torch.arange(i * workload.batch, (i + 1) * workload.batch)
        rows = Rows(images_BD[index_B], status, [""] * workload.batch, index_B)
        learner.learn(Batch(rows, index_B, batches=_UPDATES))
    return network, data_BD


def _set_up(
    workload: Workload,
    network: Network,
    npz: Path,
    place: Place,
    root: Path,
    stack: ExitStack,
) -> tuple[dict[str, Cell], dict[str, Peer]]:
    """Return a cell for every competitor, and the workers of those that could be set up."""
    on_cpu = place.device == "cpu"
    cells = {method: Cell(method, BATCH) for method, _, _ in COMPETITORS}
    peers: dict[str, Peer] = {}
    ready = installed(root) if on_cpu else []
    for method, library, mode in COMPETITORS:
        if library == "pcgen":
            command = (sys.executable, PROTOCOL, "pcgen.benchmarks.speed.pcgen_worker")
            peer = Peer("pcgen", root, place.threads, command)
        elif library in ready:
            peer = Peer(library, root, place.threads)
        else:
            cells[method].note = "not installed: make peers" if on_cpu else "on the CPU only"
            continue
        stack.callback(peer.close)
        try:
            answer = peer.ask(setup(workload, network, npz, mode, place.device), _PATIENCE)
        except PeerError as error:
            if mode == "pcgen":  # without it there is nothing to compare with
                raise
            cells[method].note = error.message.splitlines()[0]
            continue
        cells[method].note = answer["note"] if answer["ok"] else answer["reason"]
        if answer["ok"]:
            peers[method] = peer
    return cells, peers


def _check(peers: dict[str, Peer], cells: dict[str, Cell]) -> None:
    """Rule out the competitors whose energies after a few steps differ from ours."""
    request = {"do": "energies", "steps": _CHECKED_STEPS}
    ours = peers["pcgen"].ask(request, WAIT)["energy"]
    for method, peer in peers.items():
        if method in ("pcgen", "backprop autoencoder"):
            continue
        theirs = peer.ask(request, WAIT)["energy"]
        if any(energy is None for energy in theirs):
            cells[method].rule_out("its energies diverge")
            continue
        first = abs(theirs[0] / ours[0] - 1)
        rest = max(abs(a / b - 1) for a, b in zip(theirs, ours, strict=True))
        if first > _AGREE:
            cells[method].rule_out(f"another energy at the start, by {first:.1g}")
        elif rest > _AGREE and "no momentum" not in cells[method].note:
            cells[method].rule_out(f"other energies after {_CHECKED_STEPS} steps, by {rest:.1g}")


def _time(peers: dict[str, Peer], batch: Cell, step: Cell, steps: int, repeats: int) -> None:
    """Add timings of batches and, for state descent, of loops of `steps`; remove a failed peer."""
    peer = peers[batch.method]
    try:
        answer = peer.ask({"do": "batch", "repeats": repeats}, _PATIENCE)
        batch.seconds += answer["seconds"]
        if batch.method not in ("torch autograd", "backprop autoencoder"):
            request = {"do": "steps", "steps": steps, "repeats": repeats}
            step.seconds += peer.ask(request, WAIT)["seconds"]
    except PeerError as error:
        batch.rule_out(error.message.splitlines()[0])
        del peers[batch.method]
        return
    if not answer["finite"] and batch.ranked:
        batch.rule_out("it diverges")
    step.ranked = batch.ranked
