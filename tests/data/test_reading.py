"""What is opened: regular files alone, links to them, and folders up to the stated limits."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pcgen.data import files
from pcgen.data.reading import UnreadableError, read_bytes, reading
from pcgen.data.sources import open_data, open_inputs
from pcgen.errors import DataError

from .pictures import png, random_pixels, refusal, write_png

PIXELS = random_pixels(12, 6, 5)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": a_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_a_row_in_a_folder_and_refused_by_name(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "a.png", PIXELS[0])
    SPECIAL[kind](tmp_path / "b.png")
    for images in (open_data(tmp_path), open_data(tmp_path, like=(1, 4, 4))):
        rows = images.rows([0, 1])
        assert images.id(1) == "b.png"
        assert rows.status == ["ok", "unreadable"]
        assert rows.reason[1] == "not a file"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.png\nb.png\n")))
    assert open_data("-", like=(1, 4, 4)).rows([0, 1]).reason[1] == "not a file"
    tables = open_inputs(["a.png", "a.png"], like=(1, 4, 4))
    assert [len(table) for table in tables] == [2]
    if kind != "folder":
        refusal(lambda: open_inputs(["a.png", "b.png"], like=(1, 4, 4)), "b.png: not a file")


@pytest.mark.parametrize(
    "name", ["x.png", "x.npy", "x.npz", "x.csv", "x.zip", "x.idx", "x", "x.gz"]
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_no_reader_waits_for_a_pipe_or_reads_a_device(tmp_path: Path, name: str, kind: str) -> None:
    SPECIAL[kind](tmp_path / name)
    refusal(lambda: open_data(str(tmp_path / name)), f"{name}: not a file")


def test_a_pipe_among_the_labels_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("val/images/1.png", "val/images/2.png"):
        write_png(tmp_path / name, PIXELS[0])
    os.mkfifo(tmp_path / "val/val_annotations.txt")
    assert open_data(tmp_path).labels is None


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    write_png(tmp_path / "a.png", PIXELS[0])
    (tmp_path / "x/b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "x/c.png").symlink_to(tmp_path / "none.png")
    rows = open_data(tmp_path / "x", like=(1, 6, 5)).rows([0, 1])
    assert rows.status == ["ok", "unreadable"]
    assert rows.reason[1] == "no such file or directory"
    np.save(tmp_path / "a.npy", PIXELS)
    (tmp_path / "b.npy").symlink_to(tmp_path / "a.npy")
    assert len(open_data(tmp_path / "b.npy")) == len(PIXELS)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    assert read_bytes(tmp_path / "x", 100) == bytes(100)
    with pytest.raises(UnreadableError, match="100 bytes, more than 99"):
        read_bytes(tmp_path / "x", 99)
    stateless = Path("/proc/self/status")  # its size is 0 until it is read
    if stateless.exists():
        assert read_bytes(stateless, 10**6)
        with pytest.raises(UnreadableError, match="more than 9 bytes"):
            read_bytes(stateless, 9)


@pytest.mark.parametrize(
    "error",
    [ValueError("a\nb"), KeyError(), MemoryError(), EOFError(), OverflowError(), OSError("x")],
)
def test_every_error_of_a_library_is_one_line(error: Exception) -> None:
    with pytest.raises(DataError, match=r"^data: [^\n]+$"), reading("data"):
        raise error
    with pytest.raises(AssertionError), reading("data"):
        raise AssertionError


def test_a_search_stops_at_each_of_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png(tmp_path / "a/b/c/1.png", PIXELS[0])
    write_png(tmp_path / "a/2.png", PIXELS[0])
    for i in range(30):
        (tmp_path / f"a/{i}.txt").touch()
    assert len(open_data(tmp_path)) == 2
    monkeypatch.setattr(files, "MOST_OTHERS", 10)
    refusal(lambda: open_data(tmp_path), "not searched further", "30", "no pictures")
    monkeypatch.setattr(files, "MOST_OTHERS", 20)
    assert len(open_data(tmp_path)) == 2
    monkeypatch.setattr(files, "DEEPEST", 2)
    refusal(lambda: open_data(tmp_path), "no deeper than 2")
    monkeypatch.setattr(files, "MOST_PICTURES", 0)
    refusal(lambda: open_data(tmp_path), "more than 0 pictures")


def test_a_folder_that_cannot_be_opened_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png(tmp_path / "cats/1.png", PIXELS[0])
    (tmp_path / "dogs").mkdir()
    usual = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "dogs":
            raise PermissionError(13, "Permission denied", path)
        return usual(path)

    monkeypatch.setattr(os, "scandir", scandir)
    images = open_data(tmp_path)
    assert [images.id(i) for i in range(2)] == ["cats/1.png", "dogs/"]
    assert images.rows([0, 1]).reason[1] == "a folder that cannot be opened"
    assert images.classes == ["cats", "dogs"]


ODD = ["a.jfif", "b.jpe", "c.dib", "d.avif", "e.heic", "f.CR2", "g.svg", "h.jp2", "i.jxl", "j.tga"]


def test_pictures_of_every_kind_are_rows_of_a_folder_and_of_a_zip(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "x").mkdir()
    formats = {".jfif": "JPEG", ".jpe": "JPEG", ".dib": "DIB", ".avif": "AVIF", ".jp2": "JPEG2000"}
    Image.init()
    for name in ODD:
        kind = formats.get(Path(name).suffix, "PNG")
        kind = kind if kind in Image.SAVE else "PNG"
        Image.fromarray(random_pixels(6, 6, 3)).save(tmp_path / "x" / name, kind)
    packed = shutil.make_archive(str(tmp_path / "y"), "zip", tmp_path / "x")
    for images in (open_data(tmp_path / "x"), open_data(packed)):
        assert [images.id(i) for i in range(len(images))] == ODD
        rows = images.rows(range(len(images)))
        refused = {name[0] for name, status in zip(ODD, rows.status, strict=True) if status != "ok"}
        assert refused == set("efgij")
        assert rows.reason[4] == "HEIC is not read: save it as PNG, JPEG or TIFF"
        assert rows.reason[5].startswith("camera raw")
    refusal(lambda: open_data(tmp_path / "x/e.heic"), "e.heic", "HEIC is not read")


NAMES = ["train/a/1.png", "train/b/2.png", "test/a/3.png"]


def test_a_zip_made_on_windows_reads_as_the_folder_does(tmp_path: Path) -> None:
    for name, pixels in zip(NAMES, PIXELS, strict=False):
        write_png(tmp_path / "x" / name, pixels)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("train\\", b"")
        for name, pixels in zip(NAMES, PIXELS, strict=False):
            member = zipfile.ZipInfo("x")
            member.filename = name.replace("/", "\\")
            archive.writestr(member, png(pixels))
    folder, packed = open_data(tmp_path / "x"), open_data(tmp_path / "x.zip")
    assert [packed.id(i) for i in range(3)] == sorted(NAMES)
    assert packed.classes == folder.classes == ["a", "b"]
    assert torch.equal(packed.rows(range(3)).pixels_BD, folder.rows(range(3)).pixels_BD)
    assert len(open_data(f"{tmp_path}/x.zip:test")) == 1


def test_a_zips_folder_with_a_pictures_name_is_a_row(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", png(PIXELS[0]))
        archive.writestr("b.png/", b"")
    assert open_data(tmp_path / "x.zip").rows([0, 1]).reason[1] == "not a file"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_packed_without_a_limit_is_a_row_with_a_reason(
    tmp_path: Path, method: int
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("1.png", png(PIXELS[0]))
    rows = open_data(tmp_path / "x.zip", like=(1, 4, 4)).rows([0])
    assert "deflate" in rows.reason[0]


def test_a_packed_table_is_read_as_the_table(tmp_path: Path) -> None:
    text = "a,b\r\n1,2\r\n3,4\r\n"
    (tmp_path / "x.csv").write_text(text, newline="")
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = open_data(tmp_path / "x.csv"), open_data(tmp_path / "x.csv.gz")
    assert packed.columns == plain.columns == ["a", "b"]
    assert torch.equal(packed.rows([0, 1]).pixels_BD, plain.rows([0, 1]).pixels_BD)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(text.encode())[:-9])
    refusal(lambda: open_data(tmp_path / "x.csv.gz"), "x.csv.gz", "ends early")


def test_a_packed_table_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10**5))
    monkeypatch.setattr("pcgen.data.reading._FREE", 10**5)
    refusal(lambda: open_data(tmp_path / "x.csv.gz"), "x.csv.gz", "100 times")


@pytest.mark.parametrize(
    ("name", "kind", "export"),
    [
        ("x.parquet", "Parquet", 'read_parquet("x.parquet").to_csv'),
        ("x.XLSX", "spreadsheet", "save as CSV"),
        ("x.json.gz", "JSON", "read_json"),
        ("x.h5", "HDF5", "numpy.savez"),
        ("x.mat", "MATLAB", "loadmat"),
        ("x.tar.gz", "archive", ".zip"),
        ("x.tgz", "archive", ".zip"),
        ("x.pkl", "could run code", "numpy.savez"),
        ("x.nii.gz", "medical", "PNG"),
    ],
)
def test_a_file_of_another_kind_is_named_with_the_export_that_helps(
    tmp_path: Path, name: str, kind: str, export: str
) -> None:
    (tmp_path / name).write_bytes(b"PAR1")
    error = refusal(lambda: open_data(tmp_path / name), name, kind)
    assert export in error.hint
