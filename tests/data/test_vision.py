"""torchvision: mended where it must be, its failures told in a line, its formats read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pcgen.data import vision
from pcgen.data.sources import open_data

from .pictures import random_pixels, refusal, write_idx


def stand_in(monkeypatch: pytest.MonkeyPatch, dataset: str, make: Any) -> None:
    module = SimpleNamespace(datasets=SimpleNamespace(**{dataset: make}))
    monkeypatch.setattr(vision, "torchvision", lambda: module)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("PCGEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pcgen"


def test_torchvision_is_imported_whatever_torch_is_beside_it() -> None:
    module = vision.torchvision()
    assert module is vision.torchvision()
    assert hasattr(module.datasets, "MNIST")
    assert vision.state().startswith(module.__version__.split("+")[0])


def test_cifar_and_svhn_are_read_by_torchvision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pixels = random_pixels(4, 32, 32, 3)

    def read(root: Path, **options: Any) -> SimpleNamespace:
        assert root == tmp_path
        assert not options["download"]
        if "split" in options:
            return SimpleNamespace(data=pixels.transpose(0, 3, 1, 2), labels=np.arange(4))
        return SimpleNamespace(data=pixels, targets=[0, 1, 2, 3])

    for name in ("cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / name).mkdir()
    (tmp_path / "test_32x32.mat").touch()
    stand_in(monkeypatch, "CIFAR10", read)
    cifar = open_data("cifar10:test", data_dir=tmp_path)
    stand_in(monkeypatch, "CIFAR100", read)
    assert len(open_data("cifar100:test", data_dir=tmp_path)) == 4
    stand_in(monkeypatch, "SVHN", read)
    svhn = open_data("svhn:test", data_dir=tmp_path)
    assert cifar.shape == svhn.shape == (3, 32, 32)
    assert cifar.rows(range(4)).pixels_BD.equal(svhn.rows(range(4)).pixels_BD)
    assert cifar.labels is not None
    assert cifar.labels.tolist() == [0, 1, 2, 3]


def test_a_damaged_download_of_torchvisions_is_fetched_again(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    (cache / "cifar-10-batches-py").mkdir(parents=True)
    state = {"whole": False}

    def read(root: Path, **options: Any) -> SimpleNamespace:
        if not state["whole"]:
            raise RuntimeError("Dataset not found or corrupted.")
        return SimpleNamespace(data=random_pixels(4, 32, 32, 3), targets=[0, 1, 2, 3])

    def ensure(name: str, *_: Any, fetch: bool) -> None:
        assert (name, fetch) == ("CIFAR10-train", True)
        state["whole"] = True

    stand_in(monkeypatch, "CIFAR10", read)
    monkeypatch.setattr(vision, "published", lambda *_: [])
    monkeypatch.setattr("pcgen.data.named.ensure", ensure)
    refusal(lambda: open_data("cifar10", download=False), "damaged")
    assert len(open_data("cifar10")) == 4


def test_damaged_files_of_torchvision_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    refusal(lambda: open_data("cifar10", data_dir=tmp_path), "damaged")


def test_emnist_letters_are_turned_upright(tmp_path: Path) -> None:
    lying = random_pixels(2, 28, 28)
    folder = tmp_path / "EMNIST" / "raw"
    write_idx(folder / "emnist-balanced-train-images-idx3-ubyte.gz", lying)
    rows = open_data("emnist", data_dir=tmp_path).rows([0]).pixels_BD
    assert np.array_equal(np.rint(rows.numpy() * 255).reshape(28, 28), lying[0].T)
