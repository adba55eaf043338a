"""Times to a result: to the equilibrium of every image, and to a validation error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.benchmarks.peers.process import Peer, PeerError
from pcgen.benchmarks.speed.cells import EQUILIBRIUM, ERROR, Cell
from pcgen.benchmarks.speed.workloads import Workload
from pcgen.config import InferenceTable
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network

WAIT = 900.0  # seconds for one answer, compilation included
_NEAR = 1e-3  # of the least energy
_MOST = 400  # steps
# Momenta among which every library's descent is tuned for the time to equilibrium.
MOMENTA = (0.5, 0.8, 0.9)
SOLVERS = ("majorise", "newton", "errors")
# Of the time to an error: updates, updates between two validations, and the rate of the weights.
_CURVE, _EVERY, _CURVE_RATE = 40, 4, 1e-3
_HELD_OUT = 50
LEARNERS = (("majorise", 5), ("newton", 3), ("errors", 5))
# Their energies and steps are ours, so that only their time for a batch differs.
_OTHERS = ("torch autograd", "pcx, scan", "pcx, unrolled", "fabricpc")


def error_cells(
    workload: Workload, peers: Mapping[str, Peer], batches: Mapping[str, Cell], folder: Path
) -> list[Cell]:
    """Return the seconds of training until the validation MSE that descent ends with.

    The descent of other libraries needs as many updates as ours, because its energies are the same.
    """
    request = _stream(workload, folder / "stream.npz")
    curves = {"pcgen, descent": _curve(peers["pcgen"], request)}
    for solver, steps in LEARNERS:
        table = {"inference": {"solver": solver, "steps": steps}}
        curves[f"pcgen, {solver}, {steps} steps"] = _curve(peers["pcgen"], request | table)
    if "backprop autoencoder" in peers:
        curves["backprop autoencoder"] = _curve(peers["backprop autoencoder"], request)
    descent = curves["pcgen, descent"]
    if not descent:
        return [Cell("pcgen, descent", ERROR, [], "diverges, so no error is set", ranked=False)]
    target = descent[-1][2]
    cells = [_arrival(method, curve, target) for method, curve in curves.items()]
    for method in _OTHERS:
        batch = batches[method]
        if batch.seconds and batch.ranked:
            seconds = [_CURVE * second for second in batch.seconds]
            cells.append(Cell(f"{method}, descent", ERROR, seconds, f"{_CURVE} times its batch"))
    return cells


def _curve(peer: Peer, request: dict[str, Any]) -> list[list[float]]:
    """Return [updates, seconds, error] on the way; an empty list if the worker fails."""
    try:
        curve: list[list[float]] = peer.ask(request, WAIT)["curve"]
    except PeerError:
        return []
    return curve


def _stream(workload: Workload, path: Path) -> dict[str, Any]:
    """Write batches to train on and images to validate with; return the request."""
    images_BD = workload.data(workload.batch * _CURVE + _HELD_OUT)
    train_TBD = images_BD[:-_HELD_OUT].reshape(_CURVE, workload.batch, -1)
    np.savez(path, train_TBD=train_TBD.numpy(), held_out_BD=images_BD[-_HELD_OUT:].numpy())
    return {
        "do": "curve",
        "stream_npz": str(path),
        "updates": _CURVE,
        "every": _EVERY,
        "rate": _CURVE_RATE,
    }


def _arrival(method: str, curve: list[list[float]], target: float) -> Cell:
    reached = next(((n, seconds) for n, seconds, mse in curve if mse <= target), None)
    if reached is not None:
        return Cell(method, ERROR, [reached[1]], f"{target:.3g} after {reached[0]:.0f} updates")
    why = f"not {target:.3g} within {_CURVE} updates" if curve else "cannot be used"
    return Cell(method, ERROR, [], why)


def equilibrium_cells(
    network: Network,
    data_BD: Tensor,
    rates: Sequence[float],
    peers: Mapping[str, Peer],
    folder: Path,
    samples: int,
) -> Iterator[Cell]:
    """Yield the times until every image is within 1e-3 of its least energy."""
    target = folder / "target.npz"
    least_B = least_energy(network, data_BD)
    np.savez(target, target_B=((1 + _NEAR) * least_B).numpy())
    request = {"do": "equilibrium", "target_npz": str(target), "max_steps": _MOST}
    for solver in SOLVERS:
        asked = request | {"inference": {"solver": solver}, "repeats": samples}
        answer = peers["pcgen"].ask(asked, WAIT)
        note = _steps_note(answer)
        yield Cell(f"pcgen, {solver}", EQUILIBRIUM, answer["seconds"] or [], note)
    for method in ("pcgen", "pcx, scan", "fabricpc"):
        if method in peers:
            yield _best_descent(method, peers[method], rates, request)


def _best_descent(method: str, peer: Peer, rates: Sequence[float], request: dict[str, Any]) -> Cell:
    """Return the time of a library's descent at its best rate and momentum."""
    momenta = MOMENTA[:1] if method == "fabricpc" else MOMENTA
    settings = [(rate, momentum) for momentum in momenta for rate in rates]
    cells = []
    for rate, momentum in settings:
        tuned: dict[str, Any] = {"rate": rate, "momentum": momentum, "check_every": 5}
        if method == "pcgen":
            table = {"solver": "descent", "rate": rate, "momentum": momentum}
            tuned = {"inference": table, "repeats": 3}
        try:
            answer = peer.ask(request | tuned, WAIT)
        except PeerError as error:
            return Cell(f"{method}, descent", EQUILIBRIUM, [], error.message, ranked=False)
        if answer["seconds"] is not None:
            note = f"rate {rate:g}, momentum {momentum:g}, best of {len(settings)}; "
            note += _steps_note(answer)
            cells.append(Cell(f"{method}, descent", EQUILIBRIUM, answer["seconds"], note))
    if cells:
        return min(cells, key=lambda cell: cell.median)
    note = f"none of {len(settings)} settings arrives in {_MOST} steps"
    return Cell(f"{method}, descent", EQUILIBRIUM, [], note, ranked=False)


def _steps_note(answer: dict[str, Any]) -> str:
    if answer["steps"] is None:
        return f"not within {_MOST} steps"
    note = f"{answer['steps']} steps"
    if answer.get("tolerance"):
        note += f" at most, tolerance {answer['tolerance']:g}"
    if answer.get("prepare"):
        note += f", of which {answer['prepare']:.3g} s once a weight update"
    return note


def least_energy(network: Network, data_BD: Tensor) -> Tensor:
    """Return the least energy (B,) that long runs of two solvers reach."""
    newton_B, majorise_B = (
        infer(prepare(network, InferenceTable(solver=solver)), data_BD, steps=150).energy_B
        for solver in ("newton", "majorise")
    )
    return torch.minimum(newton_B, majorise_B)
