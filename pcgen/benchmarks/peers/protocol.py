"""Answer the requests of a benchmark with one library: `python protocol.py MODULE`.

`process.Peer` runs it with the Python of the library's environment. A request and its answer are
one JSON object a line, on standard input and output; arrays come as .npz files. This file imports
nothing of pcgen, which the environments of other libraries do not have. Times are seconds.

MODULE has a class `Library`, one network in one library. Requests that `Worker` does not know are
methods of it:

    setup(message)   builds the network; the answer is `ok`, or the `reason` why it cannot
    use(setting)     goes back to the set-up's weights; takes the rate, momentum and steps
    infer()          moves the states from their start by the setting's steps
    train()          infers a batch, then steps the weights
    energy()         returns each image's energy (B,) where the last inference ended
    wait()           waits until everything that was asked for is computed
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

import numpy as np

Message = dict[str, Any]


class Worker:
    """Answers requests with a library: one method for each."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.ready: Message = {}

    def answer(self, message: Message) -> Message:
        """Return the answer to a request."""
        method = getattr(self, message["do"], None) or getattr(self.library, message["do"])
        return method(message)

    def time(self, message: Message) -> Message:
        """Time `infer` or `train` at a setting.

        Returns:
            `seconds` of each repetition, `processors` (the processor time of all threads by the
            time that passed), and whether the energies are `finite`.
        """
        work = getattr(self.library, message["what"])
        what = {"what": message["what"], "setting": message["setting"]}
        if self.ready != what:
            self.library.use(message["setting"])
            for _ in range(2):  # compilation; and the second batch still takes twice its time
                work()
            self.ready = what
        seconds, busy = [], 0.0
        for _ in range(message["repeats"]):
            self.library.wait()
            began, busy_before = time.perf_counter(), time.process_time()
            work()
            self.library.wait()
            seconds.append(time.perf_counter() - began)
            busy += time.process_time() - busy_before
        return {
            "seconds": seconds,
            "processors": busy / sum(seconds),
            "finite": bool(np.isfinite(self.library.energy()).all()),
        }

    def energy(self, message: Message) -> Message:
        """Return the mean energy after inference at a setting, None if it is not finite."""
        self.library.use(message["setting"])
        self.library.infer()
        self.ready = {}
        energy = float(self.library.energy().mean())
        return {"energy": energy if np.isfinite(energy) else None}


def serve(module: str) -> None:
    """Answer each line of standard input until it ends or asks to quit.

    Only processor affinity limits jax: its thread pool has a thread for each processor that it may
    use, whatever OMP_NUM_THREADS is, and XLA's own flags leave some of its work on all of them. On
    a system without affinity (macOS) nothing is limited.
    """
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: int(os.environ["OMP_NUM_THREADS"])])
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
