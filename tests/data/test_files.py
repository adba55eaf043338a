"""Folders, zips and lists of pictures: order, classes, splits, damage, hostile names, memory."""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import session
from pcgen.commands.train import set_up
from pcgen.data.images import require_readable, split
from pcgen.data.sources import open_data

from .pictures import Array, png, random_pixels, refusal, write_idx, write_png

PIXELS = random_pixels(12, 6, 5)


def write_folder(root: Path, names: list[str], pixels: Array = PIXELS) -> Path:
    for name, one in zip(names, pixels, strict=False):
        write_png(root / name, one)
    return root


def write_zip(path: Path, names: list[str], pixels: Array = PIXELS) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, one in zip(names, pixels, strict=False):
            archive.writestr(name, png(one))
    return path


NESTED = ["b/2.png", "a/10.png", "a/9.png", "b/deep/1.png", "a/x.PNG"]
SORTED = ["a/10.png", "a/9.png", "a/x.PNG", "b/2.png", "b/deep/1.png"]


def test_folder_and_zip_give_the_same_rows_in_sorted_path_order(tmp_path: Path) -> None:
    folder = open_data(str(write_folder(tmp_path / "photos", NESTED)))
    packed = open_data(str(write_zip(tmp_path / "photos.zip", NESTED)))
    for images in (folder, packed):
        assert [images.id(i) for i in range(5)] == SORTED
        assert images.classes == ["a", "b"]
        assert images.labels is not None
        assert images.labels.tolist() == [0, 0, 0, 1, 1]
        wanted = torch.from_numpy(PIXELS[[1, 2, 4, 0, 3]]).reshape(5, -1).float() / 255
        assert torch.equal(images.rows(range(5)).pixels_BD, wanted)


def test_a_folder_is_equal_to_the_array_it_was_written_from_at_any_size(tmp_path: Path) -> None:
    names = [f"{i:02}.png" for i in range(12)]
    folder = str(write_folder(tmp_path / "photos", names))
    array = str(write_idx(tmp_path / "x.idx.gz", PIXELS))
    for options in ({}, {"size": (8, 8)}, {"like": (3, 4, 4)}, {"channels": 3}):
        images = [open_data(source, **options) for source in (folder, array)]
        rows = [found.rows(range(12)).pixels_BD for found in images]
        assert torch.equal(rows[0], rows[1])
        assert images[0].preprocessing == images[1].preprocessing


def test_limit_means_the_same_first_rows(tmp_path: Path) -> None:
    images = open_data(str(write_folder(tmp_path / "photos", NESTED)), limit=2)
    assert [images.id(i) for i in range(len(images))] == SORTED[:2]
    assert images.classes == ["a", "b"]


def test_a_limit_by_class_takes_the_first_of_every_class_in_turn(tmp_path: Path) -> None:
    names = [f"train/{name}" for name in (*SORTED, "c/1.png")]
    path = str(write_zip(tmp_path / "photos.zip", [*names, "test/a/1.png", "test/b/1.png"]))
    images = open_data(f"{path}:train", limit=5, by_class=True)
    wanted = ["a/10.png", "b/2.png", "c/1.png", "a/9.png", "b/deep/1.png"]
    assert [images.id(i) for i in range(5)] == [f"train/{name}" for name in wanted]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 2, 0, 1]
    rows = images.rows(range(5)).pixels_BD
    assert torch.equal(rows, torch.from_numpy(PIXELS[[0, 3, 5, 1, 4]]).reshape(5, -1).float() / 255)
    flat = str(write_folder(tmp_path / "flat", ["1.png", "2.png", "3.png"]))
    assert open_data(flat, limit=2, by_class=True).id(1) == "2.png"


def test_a_recipes_limit_takes_every_class_and_a_memory_the_first(tmp_path: Path) -> None:
    names = [f"{name}/{i}.png" for name in "ab" for i in range(6)]
    folder = write_folder(tmp_path / "photos", names, random_pixels(12, 8, 8))
    settings = ["data.limit=4", "data.validation=0"]
    with session() as place:
        for recipe in ("digits-pc-classifier", "digits"):
            made = resolve_recipe(recipe, data=str(folder), settings=settings)
            images = set_up(place, made).images
            assert [images.id(i)[0] for i in range(4)] == list("abab")
        made = resolve_recipe(
            "digits", data=str(folder), settings=[*settings, "learning.memory=true"]
        )
        images = set_up(place, made).images
        assert [images.id(i) for i in range(4)] == names[:4]


def test_a_wrapping_folder_is_no_class(tmp_path: Path) -> None:
    wrapped = write_zip(tmp_path / "pets.zip", [f"pets/{name}" for name in NESTED])
    assert open_data(str(wrapped)).classes == ["a", "b"]
    one = write_zip(tmp_path / "cats.zip", ["cats/1.png", "cats/2.png"])
    assert open_data(str(one)).classes == ["cats"]


def test_pictures_outside_class_folders_have_no_labels(tmp_path: Path) -> None:
    images = open_data(str(write_folder(tmp_path / "photos", ["1.png", "a/2.png"])))
    assert images.labels is None
    assert images.classes is None


def test_splits_are_folders_that_can_be_asked_for(tmp_path: Path) -> None:
    names = ["data/train/a/1.png", "data/train/b/2.png", "data/test/b/3.png", "data/test/b/4.png"]
    path = str(write_zip(tmp_path / "data.zip", names))
    assert len(open_data(path)) == 4
    test = open_data(f"{path}:test")
    assert [test.id(i) for i in range(len(test))] == names[2:]
    assert test.classes == ["a", "b"]
    assert test.labels is not None
    assert test.labels.tolist() == [1, 1]
    refusal(lambda: open_data(f"{path}:val"), "val", "test, train")


def test_the_tiny_imagenet_layout_is_read(tmp_path: Path) -> None:
    names = [
        "tiny/train/n01/images/n01_0.png",
        "tiny/train/n02/images/n02_0.png",
        "tiny/val/images/val_0.png",
        "tiny/val/images/val_1.png",
    ]
    root = write_folder(tmp_path, names)
    (tmp_path / "tiny/val/val_annotations.txt").write_text("val_0.png\tn02\t0\nval_1.png\tn01\t0\n")
    for data in (root, root / "tiny"):
        images = open_data(str(data))
        assert images.classes == ["n01", "n02"]
        assert images.labels is not None
        assert images.labels.tolist() == [0, 1, 1, 0]
        val = open_data(f"{data}:val")
        assert val.labels is not None
        assert val.labels.tolist() == [1, 0]


def test_what_systems_leave_behind_is_no_picture(tmp_path: Path) -> None:
    junk = ["._1.png", "__MACOSX/._1.png", ".thumbs/1.png", "Thumbs.db", "notes.txt"]
    path = write_zip(tmp_path / "x.zip", ["1.png", *junk])
    assert len(open_data(str(path))) == 1


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_empty_source_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("empty.zip" if kind == "zip" else "empty")
    if kind == "zip":
        write_zip(path, [])
    else:
        path.mkdir()
        (path / "notes.txt").write_text("none")
    assert ".png" in refusal(lambda: open_data(str(path)), "no pictures").hint


def test_damaged_pictures_are_rows_with_a_reason(tmp_path: Path) -> None:
    write_folder(tmp_path, ["1.png", "2.png", "6.png"])
    (tmp_path / "3.png").write_text("not a picture")
    (tmp_path / "4.png").write_bytes((tmp_path / "1.png").read_bytes()[:50])
    (tmp_path / "5.png").write_bytes(b"")
    images = open_data(str(tmp_path))
    for _ in range(2):
        rows = images.rows(range(6))
        assert rows.status == ["ok", "ok", "unreadable", "unreadable", "unreadable", "ok"]
        assert ["not a picture" in rows.reason[2], "empty" in rows.reason[4]] == [True, True]
        assert not rows.pixels_BD[2:5].any()
    refusal(lambda: require_readable(images.rows([1, 3, 2]), images), "2 of 3", "4.png")


def test_a_single_damaged_picture_is_a_row_for_a_model_and_refused_without(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("not a picture")
    refusal(lambda: open_data(str(tmp_path / "x.png")), "x.png", "not a picture")
    images = open_data(str(tmp_path / "x.png"), like=(1, 4, 4))
    assert images.rows([0]).status == ["unreadable"]


def test_sizes_that_differ_need_a_size(tmp_path: Path) -> None:
    write_folder(tmp_path, ["1.png"])
    write_png(tmp_path / "2.png", random_pixels(9, 9, 3))
    assert "data.size" in refusal(lambda: open_data(str(tmp_path)), "6x5, 9x9").hint
    images = open_data(str(tmp_path), size=(4, 4))
    assert images.shape == (3, 4, 4)
    assert images.preprocessing["from"] is None
    assert images.rows([0, 1]).status == ["ok", "ok"]


def test_a_picture_unlike_those_looked_at_is_a_row_with_status_shape(tmp_path: Path) -> None:
    write_folder(tmp_path, [f"{i:03}.png" for i in range(130)], random_pixels(130, 4, 4))
    write_png(tmp_path / "001.png", random_pixels(9, 9))
    write_png(tmp_path / "003.png", random_pixels(4, 4, 3))
    images = open_data(str(tmp_path))
    rows = images.rows(range(5))
    assert rows.status == ["ok", "shape", "ok", "shape", "ok"]
    assert "9x9" in rows.reason[1]
    assert "coloured" in rows.reason[3]
    fitted = open_data(str(tmp_path), like=(1, 4, 4))
    assert fitted.rows(range(5)).status == ["ok"] * 5


def test_where_one_size_alone_is_allowed_others_are_rows_with_a_status_and_arrays_are_refused(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path / "x", [f"{i}.png" for i in range(4)], random_pixels(4, 6, 6))
    write_png(tmp_path / "x/1.png", random_pixels(1, 1))
    write_png(tmp_path / "x/2.png", random_pixels(6, 6, 3))
    rules = {"like": (1, 4, 4), "native_size": (6, 6)}
    images = open_data(str(tmp_path / "x"), **rules)
    rows = images.rows(range(4))
    assert rows.status == ["ok", "shape", "ok", "ok"]
    assert rows.reason[1] == "is 1x1, must be 6x6"
    assert images.preprocessing["from"] == [1, 6, 6]
    np.save(tmp_path / "x.npy", random_pixels(3, 5, 5))
    refusal(lambda: open_data(str(tmp_path / "x.npy"), **rules), "x.npy", "is 5x5, must be 6x6")


def test_a_grey_picture_has_the_same_pixels_from_grey_and_coloured_files(tmp_path: Path) -> None:
    grey = random_pixels(6, 6)
    for name, pixels in (("grey.png", grey), ("rgb.png", np.stack([grey] * 3, -1))):
        write_png(tmp_path / name, pixels)
    for channels in (1, 3):
        images = open_data(str(tmp_path), like=(channels, 4, 4), native_size=(6, 6))
        first, second = images.rows([0, 1]).pixels_BD
        assert torch.equal(first, second)


def test_a_thread_of_a_picture_is_not_blown_up(tmp_path: Path) -> None:
    write_png(tmp_path / "thin.png", np.zeros((1, 60_000), np.uint8))
    rows = open_data(str(tmp_path), like=(1, 64, 64)).rows([0])
    assert rows.status == ["shape"]


def test_rows_are_the_same_whatever_is_kept_in_memory(tmp_path: Path) -> None:
    names = [f"{i:02}.png" for i in range(12)]
    path = str(write_zip(tmp_path / "x.zip", names))
    asked = [3, 11, 0, 3, 7, 5]
    wanted = open_data(path).rows(asked).pixels_BD
    for memory in (0, 30 * 4, 30 * 11, 2**20):
        images = open_data(path, memory=memory)
        for _ in range(3):
            assert torch.equal(images.rows(asked).pixels_BD, wanted)


def test_kept_rows_are_not_read_again(tmp_path: Path) -> None:
    write_folder(tmp_path, ["1.png", "2.png"])
    images = open_data(str(tmp_path))
    first = images.rows([0, 1]).pixels_BD
    for name in ("1.png", "2.png"):
        (tmp_path / name).unlink()
    assert torch.equal(images.rows([0, 1]).pixels_BD, first)


def test_large_pictures_are_decoded_in_threads_in_the_order_asked_for(tmp_path: Path) -> None:
    pixels = random_pixels(12, 130, 130)
    write_folder(tmp_path, [f"{i:02}.png" for i in range(12)], pixels)
    images = open_data(str(tmp_path), size=(13, 13))
    one_by_one = torch.cat(
        [open_data(str(tmp_path), size=(13, 13)).rows([i]).pixels_BD for i in (9, 0, 4)]
    )
    assert torch.equal(images.rows([9, 0, 4]).pixels_BD, one_by_one)


def test_a_file_that_vanishes_is_a_row_with_a_reason(tmp_path: Path) -> None:
    write_folder(tmp_path, ["1.png", "2.png"])
    images = open_data(str(tmp_path))
    (tmp_path / "2.png").unlink()
    rows = images.rows([0, 1])
    assert rows.status == ["ok", "unreadable"]
    assert rows.reason[1] == "no such file or directory"


@pytest.mark.parametrize(
    "name", ["../1.png", "/etc/1.png", "a/../../1.png", "..\\1.png", "C:/1.png"]
)
def test_a_zip_that_points_outside_itself_is_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "x.zip", ["1.png", name])
    refusal(lambda: open_data(str(path)), "outside the zip")


def test_a_member_that_announces_too_much_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", png(PIXELS[0]))
        archive.writestr("2.png", bytes(40 * 2**20))
    rows = open_data(str(path)).rows([0, 1])
    assert rows.status == ["ok", "unreadable"]
    assert "packed size" in rows.reason[1]
    # The same, but the list of members says 300 MB.
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", 300 * 2**20)
    path.write_bytes(data)
    rows = open_data(str(path)).rows([0, 1])
    assert rows.status == ["ok", "unreadable"]
    assert "bytes" in rows.reason[1]


def test_a_member_with_a_wrong_check_sum_or_encrypted_is_a_row_with_a_reason(
    tmp_path: Path,
) -> None:
    path = write_zip(tmp_path / "x.zip", ["1.png", "2.png"])
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[damaged.index(b"IDAT") + 8] ^= 255
    path.write_bytes(damaged)
    rows = open_data(str(path), like=(1, 6, 5)).rows([0, 1])
    assert rows.status == ["unreadable", "ok"]
    assert "damaged" in rows.reason[0]
    locked = bytearray(whole)
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    assert open_data(str(path), like=(1, 6, 5)).rows([0]).reason == ["encrypted"]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip"])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    refusal(lambda: open_data(str(path)), "not a zip")
    whole = write_zip(tmp_path / "y.zip", NESTED).read_bytes()
    path.write_bytes(whole[:-30])
    refusal(lambda: open_data(str(path)), "not a zip")


@pytest.mark.parametrize("name", ["a\nb.png", "a b.png", "\u00e9\u00e8.png", "[red]x.png", "-.png"])
def test_odd_names_are_read_and_named(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, [name])
    images = open_data(str(tmp_path))
    assert images.id(0) == name
    assert images.rows([0]).status == ["ok"]
    assert open_data(str(tmp_path / name)).rows([0]).status == ["ok"]


def test_a_name_that_is_no_unicode_can_be_printed(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(png(PIXELS[0]))
    except OSError:
        return  # a file system that takes no such name
    images = open_data(str(tmp_path))
    assert images.id(0).encode()
    assert images.rows([0]).status == ["ok"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a/1.png"])
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(open_data(str(tmp_path))) == 1


def test_standard_input_names_one_picture_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, ["1.png", "2.png"])
    lines = f"{tmp_path}/2.png\n\n{tmp_path}/none.png\n{tmp_path}/1.png"

    def give(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    give(lines)
    images = open_data("-")
    assert [Path(images.id(i)).name for i in range(3)] == ["2.png", "none.png", "1.png"]
    assert images.rows(range(3)).status == ["ok", "unreadable", "ok"]
    give(lines)
    assert len(open_data("-", limit=1)) == 1
    give("\n")
    refusal(lambda: open_data("-"), "named no files")


def test_a_fingerprint_changes_with_a_pictures_bytes_and_not_with_its_place(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "one", NESTED)
    first = open_data(str(folder)).fingerprint()
    assert open_data(str(folder.rename(tmp_path / "two"))).fingerprint() == first
    write_png(tmp_path / "two" / "a/9.png", 255 - PIXELS[2])
    assert open_data(str(tmp_path / "two")).fingerprint() != first
    packed = write_zip(tmp_path / "x.zip", NESTED)
    before = open_data(str(packed)).fingerprint()
    assert open_data(str(write_zip(packed, NESTED, 255 - PIXELS))).fingerprint() != before


def test_a_split_of_a_folder_reads_the_right_files(tmp_path: Path) -> None:
    names = [f"{i:02}.png" for i in range(12)]
    images = open_data(str(write_folder(tmp_path, names)))
    _, held_out = split(images, 3, 0)
    for i in range(3):
        number = int(held_out.id(i).removesuffix(".png"))
        wanted = torch.from_numpy(PIXELS[number]).reshape(-1).float() / 255
        assert torch.equal(held_out.rows([i]).pixels_BD[0], wanted)
