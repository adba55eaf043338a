"""The real data sets, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcgen.data.catalogue import listing
from pcgen.data.sources import open_data

IDX = [
    ("mnist", 60_000, [5, 0, 4, 1, 9]),
    ("mnist:test", 10_000, [7, 2, 1, 0, 4]),
    ("fashion-mnist", 60_000, [9, 0, 0, 3, 0]),
    ("fashion-mnist:test", 10_000, [9, 2, 1, 1, 6]),
    ("kannada-mnist", 10_000, [0, 1, 2, 3, 4]),
    ("dig-mnist", 10_000, [0, 1, 2, 3, 4]),
    ("usps", 2_007, [9, 6, 3, 6, 6]),
    ("omniglot", 2_720, [0, 0, 0, 0, 0]),
]
FILES = [
    ("cifar10", 20_000, (3, 32, 32), 10),
    ("cifar10:test", 10_000, (3, 32, 32), 10),
    ("tiny-imagenet", 5_000, (3, 64, 64), 200),
    ("tiny-imagenet:val", 1_000, (3, 64, 64), 200),
]

pytestmark = pytest.mark.data


@pytest.mark.parametrize(("name", "count", "labels"), IDX)
def test_idx_sets_are_whole(real_data: Path, name: str, count: int, labels: list[int]) -> None:
    images = open_data(name, data_dir=real_data)
    assert (len(images), images.shape) == (count, (1, 28, 28))
    assert images.labels is not None
    assert images.labels[:5].tolist() == labels
    rows = images.rows(range(count - 50, count))
    assert rows.status == ["ok"] * 50
    assert 0.02 < rows.pixels_BD.mean() < 0.5
    assert images.preprocessing == {}


@pytest.mark.parametrize(("name", "count", "shape", "classes"), FILES)
def test_zips_are_whole_and_their_classes_balanced(
    real_data: Path, name: str, count: int, shape: tuple[int, int, int], classes: int
) -> None:
    images = open_data(name, data_dir=real_data)
    assert (len(images), images.shape) == (count, shape)
    assert images.labels is not None
    assert images.labels.bincount().tolist() == [count // classes] * classes
    assert images.rows(range(0, count, count // 100)).ok.all()


@pytest.mark.parametrize("name", ["kannada-mnist", "dig-mnist", "usps", "omniglot"])
def test_test_sets_have_no_training_split(real_data: Path, name: str) -> None:
    with pytest.raises(Exception, match=f"only {name}:test is here"):
        open_data(f"{name}:train", data_dir=real_data)


def test_grey_pictures_of_tiny_imagenet_become_rgb(real_data: Path) -> None:
    images = open_data("tiny-imagenet", data_dir=real_data)
    rows = images.rows(range(len(images)))
    assert rows.ok.all()
    pixels = rows.pixels_BD.reshape(-1, 3, 64 * 64)
    assert (pixels[:, 0] == pixels[:, 1]).all(1).sum() > 50


def test_every_set_is_brought_to_a_models_shape(real_data: Path) -> None:
    for name in ("cifar10", "tiny-imagenet:val", "digits", "usps"):
        images = open_data(name, data_dir=real_data, like=(1, 28, 28), limit=20)
        assert images.shape == (1, 28, 28)
        rows = images.rows(range(20))
        assert rows.ok.all()
        assert 0 <= rows.pixels_BD.min() <= rows.pixels_BD.max() <= 1
        assert bool(images.preprocessing) == (name != "usps")


def test_a_limit_of_mnist_is_its_beginning(real_data: Path) -> None:
    whole = open_data("mnist", data_dir=real_data)
    few = open_data("mnist", data_dir=real_data, limit=100)
    assert few.rows(range(100)).pixels_BD.equal(whole.rows(range(100)).pixels_BD)


def test_a_limit_by_class_of_cifar10_has_as_many_of_each(real_data: Path) -> None:
    images = open_data("cifar10:train", data_dir=real_data, limit=30, by_class=True)
    assert images.labels is not None
    assert images.labels.bincount().tolist() == [3] * 10
    assert images.labels[-10:].tolist() == list(range(10))


def test_the_listing_finds_the_real_sets(real_data: Path) -> None:
    found = {row["name"]: row["where"] for row in listing(data_dir=real_data)}
    for name in ("mnist", "fashion-mnist", "usps", "omniglot", "cifar10", "tiny-imagenet"):
        assert str(real_data) in found[name]
