"""Libraries as processes: start one, send it requests, and stop it.

Each peer (another library) pins its own version of jax. So each has an environment, `.peers/NAME`,
which `make peers` builds, and a module here, `NAME_worker.py`, which `protocol.py` serves with that
environment's Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pcgen.errors import PcgenError

# The flags each library is fastest with. pcx pins a jax whose newer CPU runtime is 1.5 times slower
# on unrolled steps than the older one, and no faster on scanned ones.
FLAGS = {"pcx": "--xla_cpu_use_thunk_runtime=false", "fabricpc": ""}

PROTOCOL = Path(__file__).with_name("protocol.py")
_TAIL = 5  # lines of standard error that a message quotes


class PeerError(PcgenError):
    """A peer is not installed, died, was too slow, or sent something that is no answer."""

    kind = "peer"


def installed(root: Path) -> list[str]:
    """Return the names of the peers whose environments are in `root`/.peers."""
    return [name for name in FLAGS if os.access(_python(root, name), os.X_OK)]


class Peer:
    """One library's worker, running on `threads` processors of this machine.

    Only processor affinity limits jax: its thread pool has a thread for each processor that it may
    use, whatever OMP_NUM_THREADS is, and XLA's own flags leave some of its work on all of them.

    Example:
        with Peer("pcx", Path(), threads=1) as peer:
            answer = peer.ask({"do": "setup", ...}, timeout=120)

    Raises:
        PeerError: no environment for this peer under `root`.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        threads: int = 1,
        command: Sequence[str | Path] | None = None,
    ) -> None:
        """Start the worker with its peer's Python, or with another command."""
        self.name = name
        python = _python(root, name)
        if command is None and not os.access(python, os.X_OK):
            raise PeerError(f"{name}: no environment at {python.parents[1]}", "make peers")
        # A file and not a pipe: nobody reads it while the worker runs, and a full pipe would hang.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        with _affinity(threads):
            words = list(command or (python, PROTOCOL, f"{name}_worker"))
            same_python = Path(words[0]) == Path(sys.executable)
            self._process = subprocess.Popen(  # noqa: S603
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=_environment(name, threads, os.environ, same_python),
                bufsize=0,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._unread = b""

    def ask(self, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send one request and return its answer, waiting at most `timeout` seconds.

        An error stops the worker, because its state can no longer be trusted.

        Raises:
            PeerError: it died, did not answer in time or with a JSON object, or reported an error.
        """
        try:
            with contextlib.suppress(BrokenPipeError):  # `_line` raises the error with its reason
                self._stdin.write(json.dumps(message).encode() + b"\n")
            answer = self._answer(self._line(str(message["do"]), timeout))
        except BaseException:
            self._stop()
            raise
        if "error" in answer:
            self._stop()
            raise PeerError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ask the worker to quit; kill it if it does not within 5 seconds."""
        if self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self._stdin.write(b'{"do": "quit"}\n')
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._stop()
        for file in (self._stdin, self._stdout, self._stderr):
            file.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _line(self, request: str, timeout: float) -> bytes:
        """Return the next line of standard output, without its end."""
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._error(f"no answer to '{request}' within {timeout:g} seconds")
                piece = os.read(self._stdout.fileno(), 1 << 16)
                if not piece:
                    code = self._process.wait()
                    raise self._error(f"died at '{request}' (exit code {code})")
                self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._error(f"not a JSON object: {line[:80].decode(errors='replace')!r}")
        return answer

    def _error(self, reason: str) -> PeerError:
        """Return an error that quotes the last lines of the worker's standard error."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").splitlines()
        return PeerError("\n".join([f"{self.name}: {reason}", *lines[-_TAIL:]]))

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def _python(root: Path, name: str) -> Path:
    # Links are not resolved: the Python that the link points at does not have the libraries.
    return (root / ".peers" / name / "bin" / "python").absolute()


def _environment(
    name: str, threads: int, inherited: Mapping[str, str], same_python: bool
) -> dict[str, str]:
    """Return the worker's environment variables.

    The user's settings of Python go only to a worker that runs in this Python: PYTHONPATH may be
    where it finds pcgen. Another library's Python must not see them.
    """
    kept = {
        key: value
        for key, value in inherited.items()
        if same_python or not key.startswith("PYTHON")
    }
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": str(threads),
        "XLA_FLAGS": FLAGS.get(name, ""),
    }


@contextlib.contextmanager
def _affinity(threads: int) -> Iterator[None]:
    """Limit this thread, and so the process that it starts here, to that many processors.

    The child could do this itself in a `preexec_fn`, but that may deadlock beside torch's threads.
    On a system without affinity (macOS) nothing is limited.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
