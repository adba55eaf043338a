"""Libraries as processes: start one, send it requests, and stop it.

Each peer (another library) pins its own version of jax. So each has an environment, `.peers/NAME`,
which `make peers` builds, and a module here, `NAME_worker.py`, which `protocol.py` serves with that
environment's Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcgen.errors import PcgenError

# pcx pins a jax whose newer CPU runtime is no faster on a scan than the older one, and slower on
# unrolled steps.
FLAGS = {"pcx": "--xla_cpu_use_thunk_runtime=false", "fabricpc": ""}

PROTOCOL = Path(__file__).with_name("protocol.py")
_TAIL = 5  # lines of standard error that a message quotes


class PeerError(PcgenError):
    """A peer is not installed, died, was too slow, or sent something that is no answer."""

    kind = "peer"


def python_of(root: Path, name: str) -> Path:
    """Return the Python of a peer's environment under `root`, which may not exist."""
    # Links are not resolved: the Python that the link points at does not have the libraries.
    return (root / ".peers" / name / "bin" / "python").absolute()


class Peer(contextlib.AbstractContextManager["Peer"]):
    """One library's worker, told to run on so many processors of this machine.

    Example:
        with Peer("pcx", Path(), threads=1) as peer:
            answer = peer.ask({"do": "setup", ...}, timeout=120)

    Raises:
        PeerError: no environment for this peer under `root`.
    """

    def __init__(
        self, name: str, root: Path, threads: int = 1, command: Sequence[str | Path] | None = None
    ) -> None:
        """Start the worker with its peer's Python, or with another command."""
        self.name = name
        python = python_of(root, name)
        if command is None and not os.access(python, os.X_OK):
            raise PeerError(f"{name}: no environment at {python.parents[1]}", "make peers")
        words = list(command or (python, PROTOCOL, f"{name}_worker"))
        # Another library's Python must not see the user's settings of Python; this one needs them:
        # PYTHONPATH may be where it finds pcgen.
        is_own = Path(words[0]) == Path(sys.executable)
        kept = {k: x for k, x in os.environ.items() if is_own or not k.startswith("PYTHON")}
        own = {"OMP_NUM_THREADS": str(threads), "XLA_FLAGS": FLAGS.get(name, "")}
        # A file and not a pipe: nobody reads it while the worker runs, and a full pipe would hang.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**kept, "JAX_PLATFORMS": "cpu", **own},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def ask(self, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send one request and return its answer, waiting at most `timeout` seconds.

        An error stops the worker, because its state can no longer be trusted.

        Raises:
            PeerError: it died, did not answer in time or with a JSON object, or reported an error.
        """
        request = message["do"]
        deadline = time.monotonic() + timeout
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        try:
            self._send(message)
            line = self._stdout.readline()
            if not line:
                code = self._process.wait()
                if time.monotonic() >= deadline:
                    raise self._error(f"no answer to '{request}' within {timeout:g} seconds")
                raise self._error(f"died at '{request}' (exit code {code})")
            return self._read(line)
        except BaseException:
            self._stop()
            raise
        finally:
            timer.cancel()

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the answer is missing, for the true reason
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._error(f"not a JSON object: {line[:80].decode(errors='replace').strip()!r}")
        if "error" in answer:
            raise PeerError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ask the worker to quit; kill it if it does not within 5 seconds."""
        if self._process.poll() is None:
            self._send({"do": "quit"})
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._stop()
        for file in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                file.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _error(self, reason: str) -> PeerError:
        """Return an error that quotes the last lines of the worker's standard error."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").splitlines()
        return PeerError("\n".join([f"{self.name}: {reason}", *lines[-_TAIL:]]))

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
