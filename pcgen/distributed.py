"""Several processes that share one job: each takes its part of every batch.

A launcher such as torchrun sets environment variables that number the processes. torch.distributed
is imported only if they are set.
"""

from __future__ import annotations

import importlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from pcgen.device import choose_device
from pcgen.errors import DeviceError, DistributedError, PcgenError

# A process that does not answer for so long counts as lost: reading a batch may take a while.
_PATIENCE = timedelta(minutes=10)
# A process that was told to end waits so many seconds for an exchange whose partner may be gone.
_GRACE = 5.0
_POLL = 1e-4
_joined = itertools.count()


def share(count: int, rank: int, size: int) -> range:
    """Return a rank's rows of `count`: contiguous, in rank order, of equal number within 1."""
    return range(count * rank // size, count * (rank + 1) // size)


class Group:
    """The group of processes, seen from one of them.

    Attributes:
        rank: from 0; rank 0 writes the files.
        size: number of processes.
        device: of this process.
        asked: returns whether this process was asked to stop after the batch.
        stopping: whether any process was, at the last exchange of a batch's sums.
    """

    def __init__(self, environment: Mapping[str, str], hint: str) -> None:
        """Meet the other processes.

        Args:
            environment: holds RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
            hint: the hint of the error that reports a lost process.

        Raises:
            DistributedError: the others cannot be reached.
        """
        import torch.distributed as dist
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]
        from torch.distributed.rendezvous import rendezvous

        self.rank, self.size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self.asked: Callable[[], bool] = lambda: self.told_at is not None
        self.stopping = False
        self.told_at: float | None = None
        self._hint, self._dist = hint, dist
        self._usual: Any = None
        self._store: Any = None
        # The functions of this module keep the present group as a default. An optimiser's first
        # step imports it; our group would then outlive `close`, and its threads the interpreter.
        importlib.import_module("torch.distributed.nn.functional")
        with self._exchange():
            store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
            self._store = PrefixStore(f"pcgen/{next(_joined)}", store)

    def open(self, device: str, local_rank: int) -> None:
        """Choose this process's device, and connect it with the others.

        Args:
            device: the user's word for it; each process takes a GPU of its own.
            local_rank: this process's number on this machine.

        Raises:
            DeviceError: there are fewer GPUs than processes on this machine.
        """
        self.device = choose_device(device)
        if self.device.type == "cuda":
            if ":" in device:
                raise DeviceError(f"{device}: each process needs its own", "Use --device cuda")
            self.device = choose_device(f"cuda:{local_rank}")
            torch.cuda.set_device(self.device)
        if threading.current_thread() is threading.main_thread():
            self._usual = signal.signal(signal.SIGTERM, self._remember)
        with self._exchange():
            self._dist.init_process_group(
                "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo",
                store=self._store,
                rank=self.rank,
                world_size=self.size,
                timeout=_PATIENCE,
                device_id=self.device if self.device.type == "cuda" else None,
            )

    @property
    def writes(self) -> bool:
        """Return whether this process writes the files."""
        return self.rank == 0

    def listen(self, interrupted: Callable[[], bool]) -> Callable[[], bool]:
        """Register this process's interrupt flag; return the group's, equal on all processes."""
        self.asked = lambda: interrupted() or self.told_at is not None
        return lambda: self.stopping

    def share(self, count: int) -> range:
        """Return this process's rows of `count`; a small batch may leave it none."""
        return share(count, self.rank, self.size)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums over all processes, equal to the bit on all.

        One exchange for each type of number among the tensors.

        Args:
            tensors: of the same shapes everywhere, and on one device.
        """
        sums = list(tensors)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
            bucket = torch.cat([tensors[i].reshape(-1) for i in places])
            with self._exchange():
                if bucket.is_cuda:
                    self._await(self._dist.all_reduce(bucket, async_op=True))
                else:
                    self._dist.all_reduce(bucket)
            parts = torch.split(bucket, [tensors[i].numel() for i in places])
            for i, part in zip(places, parts, strict=True):
                sums[i] = part.view_as(tensors[i])
        return sums

    def sum_and_look(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums over all processes; note in `stopping` whether one is to stop."""
        asked = tensors[0].new_tensor([float(self.asked())])
        *sums, asked = self.sum([*tensors, asked])
        self.stopping = bool(asked > 0)
        return sums

    def wait(self) -> None:
        """Wait for all processes."""
        self.sum([torch.zeros(1)])

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in rank order."""
        found: list[Any] = [None] * self.size
        with self._exchange():
            self._dist.all_gather_object(found, value)
        return found

    def require_equal(self, facts: Mapping[str, Any]) -> None:
        """Compare facts with the other processes.

        Raises:
            DistributedError: the processes differ; it names the first difference.
        """
        for rank, other in enumerate(self.gather(dict(facts))):
            for name, value in facts.items():
                if other[name] != value:
                    raise DistributedError(
                        f"processes {self.rank} and {rank} of the run differ in their {name}",
                        "All need the same data and the same run folder",
                    )

    def leave(self, error: BaseException) -> None:
        """Close the connections after an error; only the first process to fail reports it."""
        if isinstance(error, PcgenError):
            error.quiet = not self._is_first()
            if not error.quiet and self._usual is not None:
                # The launcher now ends every process; this one must report its error first.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif not isinstance(error, KeyboardInterrupt):
            self._is_first()
        # NCCL waits for its partner when it closes; the end of the process does not.
        if self._dist.is_initialized() and self.device.type == "cpu":
            self._dist.destroy_process_group()

    def close(self) -> None:
        """Close the process group."""
        self._dist.destroy_process_group()
        if self._usual is not None:
            signal.signal(signal.SIGTERM, self._usual)

    def _is_first(self) -> bool:
        if self._store is None:
            return True
        try:
            return int(self._store.add("errors", 1)) == 1
        except RuntimeError:  # the process that kept the count is lost: report twice, not never
            return True

    def _remember(self, number: int, frame: Any) -> None:
        self.told_at = self.told_at or time.monotonic()

    def _await(self, work: Any) -> None:
        """Wait for an exchange between GPUs, which does not end when a partner is gone."""
        while not work.is_completed():
            if self.told_at is not None and time.monotonic() - self.told_at > _GRACE:
                raise RuntimeError("told to end")
            time.sleep(_POLL)
        work.wait()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            late = "timed out" in str(error).lower() or "timeout" in str(error).lower()
            raise DistributedError(
                f"process {self.rank} of the run's {self.size} lost another: "
                + ("it does not answer" if late else "it was killed or its machine is gone")
                + ". What was saved is whole",
                self._hint,
            ) from error


@contextmanager
def joined(environment: Mapping[str, str], device: str, hint: str) -> Iterator[Group | None]:
    """Yield this process's group, or None if there is only one process.

    Args:
        environment: the process's environment; a launcher sets RANK and WORLD_SIZE.
        device: the user's word for the device.
        hint: how to continue after another process was lost.

    Raises:
        DistributedError: another process was lost.
    """
    if "RANK" not in environment or int(environment.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    group = Group(environment, hint)
    try:
        group.open(device, int(environment.get("LOCAL_RANK", environment["RANK"])))
        yield group
        group.wait()
    except BaseException as error:
        group.leave(error)
        raise
    group.close()
