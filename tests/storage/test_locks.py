"""Locks: one process at a time, and never a lock of a process that has ended."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from pcgen.errors import RunError
from pcgen.storage import locks
from pcgen.storage.locks import locked

fork = multiprocessing.get_context("spawn")


def hold(lock: Path, connection: Connection) -> None:
    with locked(lock.parent, lock):
        connection.send("held")
        connection.recv()


@pytest.fixture
def other(tmp_path: Path) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    ours, theirs = fork.Pipe()
    process = fork.Process(target=hold, args=(tmp_path / "run.lock", theirs), daemon=True)
    process.start()
    assert ours.recv() == "held"
    return process, ours


def test_the_second_process_is_told_who_holds_the_place(
    tmp_path: Path, other: tuple[multiprocessing.process.BaseProcess, Connection]
) -> None:
    process, connection = other
    lock = tmp_path / "run.lock"
    holder = f"process {process.pid} on .* writes here since 20"
    with pytest.raises(RunError, match=holder), locked(tmp_path, lock):
        raise AssertionError
    assert lock.exists()
    connection.send("end")
    process.join()
    with locked(tmp_path, lock):
        pass
    assert not lock.exists()


def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, other: tuple[multiprocessing.process.BaseProcess, Connection]
) -> None:
    process, _ = other
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "run.lock").exists()
    with locked(tmp_path, tmp_path / "run.lock"):
        pass
    assert not (tmp_path / "run.lock").exists()


def test_a_lock_that_was_removed_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = tmp_path / "run.lock", []
    usual = locks.fcntl.flock

    def flock(file: int, operation: int) -> None:
        if not removed:
            removed.append(True)
            lock.unlink()
        usual(file, operation)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with locked(tmp_path, lock):
        assert lock.exists()


def test_where_the_file_system_has_no_locks_nothing_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with locked(tmp_path, tmp_path / "run.lock"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(RunError, match="cannot be written"), locked(tmp_path, tmp_path / "a" / "b"):
        pass
