"""Names: where they are looked up, which splits they have, and what a mistyped one is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pcgen
from pcgen.data import vision
from pcgen.data.catalogue import BUILT_IN, listing
from pcgen.data.sources import open_data, open_inputs
from pcgen.errors import DataError
from pcgen.registry import DATA_SETS

from .pictures import random_pixels, refusal, write_idx, write_png


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep this machine's data and network out."""
    monkeypatch.delenv("PCGEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(dataset: str, split: str) -> None:
        raise DataError(f"{dataset}: cannot be downloaded: no network")

    monkeypatch.setattr(vision, "published", refuse)


def write_mnist(root: Path, split: str, value: int, folder: str = "MNIST") -> Path:
    write_idx(
        root / folder / "raw" / f"{split}-images-idx3-ubyte.gz",
        np.full((3, 28, 28), value, np.uint8),
    )
    write_idx(root / folder / "raw" / f"{split}-labels-idx1-ubyte.gz", np.arange(3, dtype=np.uint8))
    return root


def first_value(data: str, data_dir: Path | None = None) -> int:
    return round(255 * open_data(data, data_dir=data_dir).rows([0]).pixels_BD[0, 0].item())


def test_names_are_looked_up_in_data_dir_then_the_environment_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "cache/pcgen/MNIST/raw/train-images-idx3-ubyte"
    write_idx(plain, np.full((3, 28, 28), 1, np.uint8))
    assert first_value("mnist") == 1
    monkeypatch.setenv("PCGEN_DATA", str(write_mnist(tmp_path / "environment", "train", 2)))
    assert first_value("mnist") == 2
    flag = write_mnist(tmp_path / "flag", "train", 3)
    assert first_value("mnist", flag) == 3
    assert first_value("mnist", write_mnist(tmp_path / "empty", "t10k", 4)) == 2


def test_a_bare_name_is_the_training_split(tmp_path: Path) -> None:
    write_mnist(write_mnist(tmp_path, "train", 1), "t10k", 2)
    assert [first_value(name, tmp_path) for name in ("mnist", "mnist:train", "mnist:test")] == [
        1,
        1,
        2,
    ]


def test_a_set_with_test_images_alone_needs_no_split(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 7, "USPS")
    assert first_value("usps", tmp_path) == 7
    error = refusal(lambda: open_data("usps:train", data_dir=tmp_path), "only usps:test is here")
    assert "usps:test" in error.hint


def test_a_missing_training_split_is_not_replaced_by_the_test_split(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 7)
    refusal(lambda: open_data("mnist", data_dir=tmp_path), "downloaded")
    refusal(lambda: open_data("mnist", data_dir=tmp_path, download=False), "only mnist:test")


def test_a_name_that_is_nowhere_says_where_was_looked_and_how_to_get_it(tmp_path: Path) -> None:
    error = refusal(lambda: open_data("mnist", download=False), "PCGEN_DATA", str(tmp_path))
    assert "--data-dir" in error.hint
    assert "http" in refusal(lambda: open_data("tiny-imagenet")).hint


@pytest.mark.parametrize("split", ["mnist:val", "digits:val", "tiny-imagenet:test", "iris:x"])
def test_a_split_that_does_not_exist_is_refused(split: str) -> None:
    refusal(lambda: open_data(split), split)


@pytest.mark.parametrize(
    ("data", "near"),
    [
        ("mnits", "mnist"),
        ("MNIST", "mnist"),
        ("fashionmnist", "fashion-mnist"),
        ("cifar", "cifar10"),
    ],
)
def test_a_mistyped_name_gets_the_nearest(data: str, near: str) -> None:
    assert f"Did you mean {near}?" in refusal(lambda: open_data(data), data).hint


@pytest.mark.parametrize(
    "data", ["no/such/file", "x.png", "a" * 5000, "nul\0byte", "photos.zip:test"]
)
def test_a_path_that_does_not_exist_is_refused(data: str) -> None:
    refusal(lambda: open_data(data), "no such file")


def test_data_that_must_be_given_are_asked_for() -> None:
    assert "--data" in refusal(lambda: open_data(""), "no data are named").hint


def test_a_file_of_another_kind_is_told_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert ".csv" in refusal(lambda: open_data(str(path)), "not a kind of file").hint
    refusal(lambda: open_data(f"{path}:test"), "no splits")


@pytest.mark.skipif(os.geteuid() == 0, reason="runs as root, who may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, random_pixels(2, 2, 2))
    path.chmod(0)
    refusal(lambda: open_data(str(path)), "permission denied")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    refusal(lambda: open_data("digits", limit=limit), "limit")


def test_a_data_dir_that_is_no_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal(lambda: open_data("mnist", data_dir=tmp_path / "none"), "--data-dir", "no such folder")
    monkeypatch.setenv("PCGEN_DATA", str(tmp_path / "none"))
    refusal(lambda: open_data("mnist"), "PCGEN_DATA", "no such folder")


def test_a_path_wins_over_no_name_and_a_name_over_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "digits" / "1.png", random_pixels(4, 4))
    assert len(open_data("digits")) > 1
    assert len(open_data("./digits")) == 1


def test_digits_are_sixteenths_in_sixty_four_pixels() -> None:
    digits, test = open_data("digits"), open_data("digits:test")
    assert len(digits) + len(test) == 1797
    assert digits.shape == test.shape == (1, 8, 8)
    rows = digits.rows(range(len(digits))).pixels_BD
    assert set((rows * 16).reshape(-1).tolist()) == set(range(17))
    assert digits.labels is not None
    assert digits.classes == list("0123456789")
    bigger = open_data("digits", like=(3, 16, 16)).rows([0])
    assert bigger.pixels_BD.shape == (1, 768)
    assert (bigger.pixels_BD * 16).frac().any()


def test_a_cifar_stand_in_says_so(tmp_path: Path) -> None:
    import zipfile

    write_png(tmp_path / "x.png", random_pixels(32, 32, 3))
    with zipfile.ZipFile(tmp_path / "cifar10-jpeg.zip", "w") as archive:
        for split in ("train", "test"):
            for name in ("cat", "dog"):
                archive.write(tmp_path / "x.png", f"{split}/{name}/0.png")
    images = open_data("cifar10:test", data_dir=tmp_path)
    assert [images.id(i) for i in range(2)] == ["test/cat/0.png", "test/dog/0.png"]
    assert "not the original pixels" in images.preprocessing["note"]
    where = next(row["where"] for row in listing(tmp_path) if row["name"] == "cifar10")
    assert "not the original pixels" in where


def test_the_listing_names_every_set_and_where_it_is(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 1)
    rows = {row["name"]: row for row in listing(data_dir=tmp_path)}
    assert rows.keys() == BUILT_IN.keys()
    keys = {"name", "for", "kind", "shape", "count", "where"}
    assert all(row.keys() == keys for row in rows.values())
    assert rows["mnist"]["where"] == f"{tmp_path}/MNIST/raw (test only)"
    assert rows["kmnist"]["where"] == "downloaded on first use"
    assert rows["iris"] == {
        "name": "iris",
        "kind": "table",
        "shape": "4 columns",
        "count": "150",
        "for": "first tries with a table",
        "where": "embedded (scikit-learn)",
    }


def test_listing_data_sets_imports_no_torch() -> None:
    code = (
        "import sys; from pcgen.data.catalogue import listing; listing(); "
        "sys.exit(bool({'torch', 'numpy', 'sklearn'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    open_data("digits").rows([0])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_an_array_in_memory_is_equal_to_its_file(tmp_path: Path, kind: str) -> None:
    pixels = random_pixels(6, 5, 4)
    np.save(tmp_path / "x.npy", pixels)
    images = open_data(torch.from_numpy(pixels) if kind == "torch" else pixels, size=(4, 4))
    file = open_data(tmp_path / "x.npy", size=(4, 4))
    assert torch.equal(images.rows(range(6)).pixels_BD, file.rows(range(6)).pixels_BD)
    assert images.fingerprint() == file.fingerprint()
    assert (images.name, images.source, images.id(2)) == ("array", "array", "array[2]")


@pytest.mark.parametrize(
    ("dims", "count"),
    [((6, 8, 8), 6), ((6, 8, 8, 3), 6), ((6, 3, 8, 8), 6), ((9, 9, 3), 1), ((3, 9, 9), 1)],
)
def test_arrays_of_every_layout_are_brought_to_a_colour_model(
    dims: tuple[int, ...], count: int
) -> None:
    values = torch.rand(dims, dtype=torch.float64, requires_grad=True)
    for array in (values, values.bfloat16(), values.detach().numpy()):
        images = open_data(array, like=(3, 8, 8))
        assert (len(images), images.shape) == (count, (3, 8, 8))


def test_an_array_of_a_tables_rows_is_standardised_by_the_model() -> None:
    scale = [[1.0, 0.0], [2.0, 10.0]]
    images = open_data(np.array([[1, 10], [2, 20]]), like=(1, 1, 2), like_scale=scale)
    assert images.is_table
    assert images.rows(range(2)).pixels_BD.tolist() == [[0, 1], [0.5, 2]]
    refusal(lambda: open_data(np.eye(3), like=(1, 1, 2), like_scale=scale), "array", "3 columns")
    words = np.array([["a", "b"]])
    refusal(lambda: open_data(words, like=(1, 1, 2), like_scale=scale), "not numbers")


def test_data_of_another_type_are_refused() -> None:
    refusal(lambda: open_data([1, 2]), "list", "array")  # type: ignore[arg-type]


def test_a_path_is_never_a_data_sets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refusal(lambda: open_data(Path("digits")), "no such file")
    write_png(tmp_path / "digits" / "1.png", random_pixels(4, 4))
    assert len(open_data(Path("digits"))) == 1


def test_pixels_above_the_threshold_become_1_after_the_resize(tmp_path: Path) -> None:
    pixels = random_pixels(6, 8, 8)
    np.save(tmp_path / "x.npy", pixels)
    for data in (pixels, str(tmp_path / "x.npy")):
        plain = open_data(data, size=(4, 4)).rows(range(6)).pixels_BD
        images = open_data(data, size=(4, 4), threshold=0.5)
        assert torch.equal(images.rows(range(6)).pixels_BD, (plain > 0.5).float())
        assert images.preprocessing["pixels"] == "1 above 0.5, else 0"


def test_inputs_of_all_kinds_are_opened_in_order_with_the_same_rules(tmp_path: Path) -> None:
    pixels = random_pixels(3, 8, 8)
    paths = [write_png(tmp_path / f"{i}.png", pixels[i]) for i in range(3)]
    inputs = [paths[0], str(paths[1]), pixels, torch.from_numpy(pixels), paths[2]]
    tables = open_inputs(inputs, like=(1, 4, 4), threshold=0.5)
    assert [table.source for table in tables] == ["pictures", "array", "array", str(paths[2])]
    rows = torch.cat([table.rows(range(len(table))).pixels_BD for table in tables])
    assert torch.equal(rows, rows[[0, 1, 0, 1, 4, 0, 1, 4, 4]])
    assert set(rows.flatten().tolist()) == {0.0, 1.0}
    for single in (pixels, str(tmp_path), tmp_path):
        assert [len(table) for table in open_inputs(single, like=(1, 4, 4))] == [3]


def faces(split: str) -> tuple[np.ndarray, list[str]]:
    """Return three images and their labels; the split `test` has the last alone."""
    images, labels = random_pixels(3, 8, 8), ["sad", "glad", "sad"]
    return (images[2:], labels[2:]) if split == "test" else (images, labels)


def test_a_users_data_set_is_opened_by_its_name_with_all_the_rules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(DATA_SETS, "_values", dict(DATA_SETS._values))
    pcgen.register_data_set("faces", faces)
    images = open_data("faces", size=(4, 4), threshold=0.5, limit=2)
    assert (len(images), images.shape, images.id(1)) == (2, (1, 4, 4), "faces[1]")
    assert images.classes == ["glad", "sad"]
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0]
    assert len(open_data("faces:test")) == 1
    assert "faces" in [row["name"] for row in listing()]
    assert "Did you mean faces?" in refusal(lambda: open_data("face"), "face").hint
    write_png(tmp_path / "photos" / "1.png", random_pixels(4, 4))
    pcgen.register_data_set("photos", lambda split: tmp_path / "photos")
    assert open_data("photos").id(0) == "1.png"
    pcgen.register_data_set("nothing", lambda split: None)
    refusal(lambda: open_data("nothing"), "nothing", "NoneType")
