"""Peers are other people's programs: an answer, or the reason why there is none, comes back."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcgen.benchmarks.peers.process import PROTOCOL, Peer, PeerError, python_of

# Read here: within a test the variables of the user's own settings are gone.
ROOT = Path(os.environ.get("PCGEN_PEERS") or Path(__file__).parents[2])
PROCESSORS = os.sched_getaffinity(0)

WORKER = """
import json, os, sys, time

for line in sys.stdin:
    message = json.loads(line)
    if message["do"] == "quit":
        break
    if message["do"] == "die":
        print("the last words", file=sys.stderr)
        sys.exit(3)
    if message["do"] == "hang":
        time.sleep(60)
    if message["do"] == "babble":
        print("compiling ...", flush=True)
    elif message["do"] == "fail":
        print(json.dumps({"error": "ValueError: no such layer"}), flush=True)
    else:
        os.write(1, b"{")
        time.sleep(0.05)
        seen = {"threads": os.environ["OMP_NUM_THREADS"], "path": os.environ.get("PYTHONPATH")}
        os.write(1, json.dumps(seen)[1:].encode() + b"\\n")
"""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    with Peer("fake", tmp_path, threads=1, command=[sys.executable, worker]) as peer:
        yield peer


def test_an_answer_in_pieces_comes_back_whole(peer: Peer) -> None:
    for _ in range(2):
        assert peer.ask({"do": "answer"}, timeout=120)["threads"] == "1"


def test_settings_of_python_go_only_to_workers_in_this_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    for python, expected in ((Path(sys.executable), str(tmp_path)), (other, None)):
        with Peer("fake", tmp_path, threads=1, command=[python, worker]) as peer:
            assert peer.ask({"do": "answer"}, timeout=60)["path"] == expected


def test_a_worker_has_as_many_processors_as_threads_and_this_process_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = "import os\nclass Library:\n    def count(self, message):\n"
    module += "        return {'processors': len(os.sched_getaffinity(0))}\n"
    (tmp_path / "counting.py").write_text(module)
    with Peer("fake", tmp_path, 1, [sys.executable, PROTOCOL, "counting"]) as peer:
        assert peer.ask({"do": "count"}, timeout=120)["processors"] == 1
    assert os.sched_getaffinity(0) == PROCESSORS


def test_a_worker_that_dies_is_quoted(peer: Peer) -> None:
    with pytest.raises(PeerError, match=r"(?s)fake: died at 'die' \(exit code 3\).*last words"):
        peer.ask({"do": "die"}, timeout=120)
    with pytest.raises(PeerError, match=r"fake: died at 'answer'"):
        peer.ask({"do": "answer"}, timeout=120)


def test_a_worker_that_hangs_is_stopped_in_time(peer: Peer) -> None:
    assert peer.ask({"do": "answer"}, timeout=120)
    with pytest.raises(PeerError, match=r"fake: no answer to 'hang' within 0\.2 seconds"):
        peer.ask({"do": "hang"}, timeout=0.2)
    with pytest.raises(PeerError, match=r"died at 'answer'"):
        peer.ask({"do": "answer"}, timeout=120)


def test_a_line_that_is_no_answer_is_quoted(peer: Peer) -> None:
    with pytest.raises(PeerError, match=r"fake: not a JSON object: 'compiling \.\.\.'"):
        peer.ask({"do": "babble"}, timeout=120)


def test_an_error_of_the_library_is_reported(peer: Peer) -> None:
    with pytest.raises(PeerError, match=r"fake: ValueError: no such layer"):
        peer.ask({"do": "fail"}, timeout=120)


def test_a_peer_without_an_environment_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="pcx: no environment at") as caught:
        Peer("pcx", tmp_path)
    assert caught.value.hint == "make peers"


def decoder(sizes: list[int], images: int) -> dict[str, np.ndarray]:
    """Return data (B, D) and a random tanh decoder's weights, the data layer first."""
    draw = np.random.default_rng(0)
    arrays = {"data_BD": draw.uniform(size=(images, sizes[0])).astype(np.float32)}
    for layer, (below, above) in enumerate(itertools.pairwise(sizes)):
        weight = draw.normal(size=(below, above)) / np.sqrt(above)
        arrays[f"w{layer}"] = weight.astype(np.float32)
        arrays[f"b{layer}"] = draw.normal(size=below).astype(np.float32) / 10
    return arrays


def descent(arrays: dict[str, np.ndarray], rate: float, momentum: float, steps: int) -> float:
    """Return the energy per image after the steps, in float64.

    tanh hidden layers, a linear data layer; v <- momentum v - rate dE/dx, x <- x + v.
    """
    layers = range(sum(name.startswith("w") for name in arrays))
    weights = [arrays[f"w{n}"].astype(np.float64) for n in layers]
    biases = [arrays[f"b{n}"].astype(np.float64) for n in layers]
    data_BD = arrays["data_BD"].astype(np.float64)

    def predict(states: list[np.ndarray], n: int) -> np.ndarray:
        drive = states[n + 1] @ weights[n].T + biases[n]
        return drive if n == 0 else np.tanh(drive)

    states = [np.zeros((len(data_BD), weight.shape[1])) for weight in [weights[0], *weights]]
    for n in reversed(layers):
        states[n] = predict(states, n)
    states[0] = data_BD
    speeds = [np.zeros_like(state) for state in states]
    for step in range(steps + 1):
        predicted = [predict(states, n) for n in layers]
        errors = [states[n] - predicted[n] for n in layers]
        if step == steps:
            break
        for n in layers:
            slope = 1 if n == 0 else 1 - predicted[n] ** 2
            own = errors[n + 1] if n + 1 in layers else 0
            gradient = own - (errors[n] * slope) @ weights[n]
            speeds[n + 1] = momentum * speeds[n + 1] - rate * gradient
            states[n + 1] = states[n + 1] + speeds[n + 1]
    return sum(float((error**2).sum()) / 2 for error in errors) / len(data_BD)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "momentum"), [("pcx", 0.5), ("fabricpc", 0.0)])
def test_a_peer_descends_as_numpy_does_to_1e_4(tmp_path: Path, name: str, momentum: float) -> None:
    if not python_of(ROOT, name).exists():
        pytest.skip(f"needs the peer {name}: make peers")
    arrays = decoder([12, 7, 5, 3], images=6)
    np.savez(tmp_path / "network.npz", **arrays)  # type: ignore[arg-type]
    npz = str(tmp_path / "network.npz")
    setup: dict[str, Any] = {"do": "setup", "npz": npz, "kind": "dense", "weight_rate": 0.001}
    setting = {"steps": 5, "rate": 0.1, "momentum": momentum}
    time: dict[str, Any] = {"do": "time", "setting": setting, "repeats": 3}
    with Peer(name, ROOT, threads=1) as peer:
        assert peer.ask(setup, timeout=600)["ok"]
        # Training first: the energies must be those of the set-up's weights all the same.
        answer = peer.ask({**time, "what": "train"}, timeout=600)
        assert (len(answer["seconds"]), answer["finite"]) == (3, True)
        assert answer["processors"] < 1.1
        energy = peer.ask({"do": "energy", "setting": setting}, timeout=600)["energy"]
    np.testing.assert_allclose(energy, descent(arrays, 0.1, momentum, 5), rtol=1e-4)
