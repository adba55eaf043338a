"""Files are written whole or not at all, in their place and in no other."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pcgen.errors import RunError
from pcgen.storage import files
from pcgen.storage.files import remove_strays, replacing, require_writable, write_whole


def dead_process() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write(*paths: Path, then: type[BaseException] | None = None) -> None:
    with replacing(*paths) as parts:
        for part in parts:
            part.write(b"new")
        if then is not None:
            raise then


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_of_several_files_all_are_replaced_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    paths = [tmp_path / name for name in ("a.csv", "b.npz")]
    for path in paths:
        path.write_bytes(b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match="No space left on device"):
        write(*paths)
    assert [path.read_bytes() for path in paths] == [b"old", b"old"]
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "b.npz"]
    monkeypatch.undo()
    write(*paths)
    assert [path.read_bytes() for path in paths] == [b"new", b"new"]


def test_an_interrupted_write_leaves_the_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write(path, then=KeyboardInterrupt)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_arrays_that_the_disk_cannot_hold_are_an_error_of_one_line(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from pcgen.errors import RunError
from pcgen.storage.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for save in (np.savez, np.savez_compressed):
    try:
        with replacing(Path(sys.argv[1])) as (file,):
            save(file, x=np.random.default_rng(0).random(300_000))
    except RunError as error:
        print(error.message)
"""
    path = tmp_path / "x.npz"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == 2 * f"{path}: cannot be written: File too large\n"
    assert result.stderr == ""
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.npz"]


def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to("there/file")
    write_whole(link, b"new")
    assert os.readlink(link) == "there/file"
    assert target.read_bytes() == b"new"
    link.unlink()
    link.symlink_to("there/new")
    write_whole(link, b"newer")
    assert (tmp_path / "there" / "new").read_bytes() == b"newer"


def test_one_of_many_replaces_a_link_and_not_the_file_that_it_names(tmp_path: Path) -> None:
    target, link = tmp_path / "photo.png", tmp_path / "map.png"
    target.write_bytes(b"photo")
    link.symlink_to(target)
    with replacing(link, one_of_many=True) as (file,):
        file.write(b"map")
    assert target.read_bytes() == b"photo"
    assert link.read_bytes() == b"map"


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "link to a device"])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    else:
        path.symlink_to("/dev/null")
    before = os.lstat(path)
    for write in (require_writable, lambda path: write_whole(path, b"new")):
        with pytest.raises(RunError, match=r"out: cannot be written: is a (folder|device)"):
            write(path)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert os.listdir(tmp_path) == ["out"]


def test_permissions_of_the_older_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    usual = os.umask(0o027)
    try:
        write_whole(path, b"")
    finally:
        os.umask(usual)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_whole(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "\N{GREEK SMALL LETTER MU}" * 127):
        write_whole(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    assert len(os.listdir(tmp_path)) == 2


def test_parts_of_dead_processes_are_removed_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    dead = dead_process()
    (tmp_path / f".a.csv.{dead}.part").write_bytes(b"cut")
    kept = [
        *(f".a.csv.{os.getppid()}.part", f".b.csv.{dead}.part", f".a.csv.x.{dead}.part"),
        *("a.csv.part", ".a.csv.part", f".a.csv.{dead}.parts", f".a.csv.{dead + 1}x.part"),
    ]
    for name in kept:
        (tmp_path / name).write_bytes(b"")
    write_whole(tmp_path / "a.csv", b"new")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "a.csv"])


def test_a_part_that_another_machine_writes_stays(tmp_path: Path) -> None:
    part = tmp_path / f".a.{dead_process()}.part"
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_strays(tmp_path, ["a"])
        assert part.exists()
    remove_strays(tmp_path, ["a"])
    assert not part.exists()


def test_two_writers_of_one_part_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as (first,):
        first.write(b"first")
        first.flush()
        with pytest.raises(RunError, match="another process is writing it"):
            write_whole(path, b"second")
    assert path.read_bytes() == b"first"


def test_a_place_that_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    cases = {
        tmp_path / "file" / "new" / "x": "file is a file, not a folder|Not a directory",
        loop: "symbolic links|symlink",
        tmp_path / ("n" * 256): "name too long",
        tmp_path / "a\0b": "null byte",
    }
    for path, reason in cases.items():
        with pytest.raises(RunError, match=f"cannot be written: .*({reason})"):
            require_writable(path)
    require_writable(tmp_path / "new" / "folder" / "x")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("protected", ["file", "folder"])
def test_a_protected_place_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protected: str
) -> None:
    path = tmp_path / "x"
    path.write_text("")
    refused = path if protected == "file" else tmp_path
    # Root may write everywhere, so the system's answer is given here.
    monkeypatch.setattr(files.os, "access", lambda place, mode: Path(place) != refused)
    with pytest.raises(RunError, match=r"write-protected|no permission"):
        require_writable(path)


def test_arrays_written_into_a_part_are_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.npz"
    with replacing(path) as (file,):
        np.savez_compressed(file, x=np.arange(3))
    with np.load(path) as arrays:
        assert arrays["x"].tolist() == [0, 1, 2]
