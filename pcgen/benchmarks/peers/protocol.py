"""Answer the requests of a benchmark with one library: `python protocol.py MODULE`.

`process.Peer` runs it with the Python of the library's environment. MODULE has a class `Library`
that does the work. A request and its answer are one JSON object a line, on standard input and
output; arrays come as .npz files. This file imports nothing of pcgen, which the environments of
other libraries do not have. Times are seconds.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Message = dict[str, Any]


class Library(Protocol):
    """One network in one library. A method named like a request answers it instead of `Worker`."""

    def setup(self, message: Message) -> Message:
        """Build the network; return `ok`, and a `note`, or the `reason` why it cannot."""

    def restore(self, rate: float | None = None, momentum: float | None = None) -> None:
        """Set weights, optimisers, rate and momentum to those of the set-up, or to others."""

    def train(self) -> None:
        """Train on one batch."""

    def finite(self) -> bool:
        """Return whether training has not diverged."""

    def begin(self) -> None:
        """Set the states to their start."""

    def descend(self, steps: int) -> None:
        """Move the states so many steps down the energy."""

    def energy(self) -> np.ndarray:
        """Return each image's energy (B,)."""

    def wait(self) -> None:
        """Wait until everything that was asked for is computed."""


class Worker:
    """Answers requests with a library: one method for each."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def answer(self, message: Message) -> Message:
        """Return the answer to a request."""
        method = getattr(self.library, message["do"], None) or getattr(self, message["do"])
        return method(message)

    def batch(self, message: Message) -> Message:
        """Time whole training batches, from the set-up's weights on."""
        self.library.restore()
        for _ in range(2):  # compilation; and the second batch still takes twice its time
            self.library.train()
        seconds = [clock(self.library, self.library.train) for _ in range(message["repeats"])]
        return {"seconds": seconds, "finite": self.library.finite()}

    def steps(self, message: Message) -> Message:
        """Time the loop of state steps alone, per step."""
        self.library.restore()
        steps, seconds = message["steps"], []
        for _ in range(2 + message["repeats"]):  # the first two compile, or capture a graph
            self.library.begin()
            seconds.append(clock(self.library, lambda: self.library.descend(steps)) / steps)
        return {"seconds": seconds[2:]}

    def energies(self, message: Message) -> Message:
        """Return the energy per image, mean over the batch, after 0 to `steps` steps."""
        self.library.restore()
        self.library.begin()
        energies = [float(self.library.energy().mean())]
        for _ in range(message["steps"]):
            self.library.descend(1)
            energies.append(float(self.library.energy().mean()))
        return {"energy": [energy if math.isfinite(energy) else None for energy in energies]}

    def equilibrium(self, message: Message) -> Message:
        """Time the descent, from its start, until every image is at or below its target energy.

        A first run finds the number of steps. A second run, which does not look at the energy, is
        timed: it contains neither the checks nor compilation.
        """
        self.library.restore(message["rate"], message["momentum"])
        with np.load(message["target_npz"]) as arrays:
            target_B = arrays["target_B"]
        chunk = message["check_every"]
        chunks = self._search(target_B, chunk, message["max_steps"])
        if chunks is None:
            return {"seconds": None, "steps": None}

        def run() -> None:
            self.library.begin()
            for _ in range(chunks):
                self.library.descend(chunk)

        return {"seconds": [clock(self.library, run)], "steps": chunk * chunks}

    def _search(self, target_B: np.ndarray, chunk: int, max_steps: int) -> int | None:
        """Return the number of chunks of steps that reach the target, or None."""
        self.library.begin()
        for chunks in range(max_steps // chunk + 1):
            energy_B = self.library.energy()
            if (energy_B <= target_B).all():
                return chunks
            if not np.isfinite(energy_B).all():
                return None
            self.library.descend(chunk)
        return None


def clock(library: Library, work: Callable[[], object]) -> float:
    """Return the seconds that the work takes."""
    library.wait()
    began = time.perf_counter()
    work()
    library.wait()
    return time.perf_counter() - began


def serve(module: str) -> None:
    """Answer each line of standard input until it ends or asks to quit."""
    # Libraries print at import and C++ prints at any time: only answers go to standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(importlib.import_module(module).Library())
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "quit":
            return
        try:
            answer = worker.answer(message)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer, allow_nan=False) + "\n")


if __name__ == "__main__":
    serve(sys.argv[1])
