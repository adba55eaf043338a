"""The memory table: look-ups and principal components by their definitions, and recall."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcgen.benchmarks.memory.benchmark import memory_rows, published
from pcgen.benchmarks.memory.equal_bytes import eight_bits
from pcgen.benchmarks.memory.lookups import Hopfield, Similarity, principal_memory
from pcgen.benchmarks.memory.published import SETTINGS, Settings
from pcgen.commands import bench_memory as benchmarks
from pcgen.data.sources import open_data
from pcgen.errors import DataError
from pcgen.memory.corruptions import Cues, corruption_of
from pcgen.pages import memory_page
from tests.memory.test_training import recipe

SHAPE = (1, 8, 8)


def pixels(count: int = 30) -> Tensor:
    return open_data("digits", limit=count).rows(range(count)).pixels_BD


def cues(word: str, data_BD: Tensor) -> Cues:
    return corruption_of([word], SHAPE).cues(data_BD, range(len(data_BD)), SHAPE, 0)


@pytest.mark.parametrize("similarity", ["l1", "l2"])
@pytest.mark.parametrize("word", ["none", "noise:0.1", "mask:bottom"])
def test_distances_look_up_the_stored_image(similarity: Similarity, word: str) -> None:
    stored_ND = pixels()
    memory = Hopfield(stored_ND, similarity)
    assert torch.equal(memory(cues(word, stored_ND)), stored_ND)
    assert memory.bytes == 30 * 64 * 4


def test_similarities_are_those_of_the_definitions_over_the_visible_pixels() -> None:
    stored_ND = pixels()
    query = cues("occlude:2", pixels(33)[30:])
    seen = query.visible_BD.float()
    difference = (stored_ND - query.pixels_BD[:, None]) * seen[:, None]
    expected = {
        "l1": -difference.abs().sum(2),
        "l2": -difference.square().sum(2),
        "dot": (stored_ND * query.pixels_BD[:, None] * seen[:, None]).sum(2),
    }
    for similarity, likeness_BN in expected.items():
        hard = Hopfield(stored_ND, similarity)(query)  # type: ignore[arg-type]
        assert torch.equal(hard, stored_ND[likeness_BN.argmax(1)])
    soft = Hopfield(stored_ND, "dot", 0.7)(query)
    assert torch.allclose(soft, (0.7 * expected["dot"]).softmax(1) @ stored_ND, atol=1e-5)


def test_principal_components_expect_what_a_gaussian_of_all_pixels_expects() -> None:
    data_ND = pixels(60)
    memory = principal_memory(data_ND, 10)
    query = cues("mask:left", data_ND[:3])
    covariance = (memory.loadings_DK @ memory.loadings_DK.T).double()
    covariance.diagonal().add_(0.05**2)
    seen = query.visible_BD[0]
    mean = memory.mean_D.double()
    weights = torch.linalg.solve(covariance[seen][:, seen], covariance[seen][:, ~seen])
    expected = mean[~seen] + (query.pixels_BD[:, seen].double() - mean[seen]) @ weights
    assert torch.allclose(memory(query, 0.05)[:, ~seen].double(), expected, atol=1e-4)


def test_as_many_components_as_images_hold_them_exactly() -> None:
    data_ND = pixels(20)
    memory = principal_memory(data_ND, 50)
    assert memory.loadings_DK.shape == (64, 19)
    recalled = memory(cues("none", data_ND), least_noise=1e-4)
    assert torch.allclose(recalled, data_ND, atol=1e-3)


def test_published_values_stand_in_their_cells_alone() -> None:
    assert published(250, 512, "mask:bottom") == pytest.approx(39.1e-4)
    assert published(50, 2048, "noise:0.2") == pytest.approx(5.95e-4)
    assert published(50, 2048, "noise:0.1") is None
    assert published(50, 64, "noise:0.2") is None
    assert published(500, 512, "noise:0.2") is None


def test_a_memory_restores_what_it_stored_and_knows_it_from_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, ("noise:0.2", 10), {32: Settings(0.05, 5e-3, 5, 100)})
    monkeypatch.setattr("pcgen.benchmarks.memory.published._EPOCHS", 20)
    with torch.no_grad():
        rows = list(
            memory_rows(
                recipe(),
                open_data("digits", limit=300),
                [10],
                [32],
                ["noise:0.2", "mask:bottom"],
                seeds=2,
                published_steps=5,
            )
        )
    theirs = [row for row in rows if "published" in row["method"]]
    assert [row["steps"] for row in theirs] == [5, 5]
    assert all(0 < row["value"] < 0.2 for row in theirs)
    ours = [row for row in rows if "lookup" in row["method"]]
    assert {row["corrupt"] for row in ours} == {"noise:0.2", "mask:bottom"}
    for row in ours:
        assert row["exact"] == 1.0
        assert row["auroc"] >= 0.95
        assert row["known"] == 1.0
        assert row["known_others"] < 0.2
        assert row["most_steps"] <= 50
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
    page = memory_page.write(rows, tmp_path / "out").read_text()
    assert "universal Hopfield, L2, max" in page
    assert json.loads((tmp_path / "out" / "memory.json").read_text()) == rows


def test_memories_of_equal_bytes_keep_no_more_and_are_measured_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pcgen.benchmarks.memory.equal_bytes._UPDATES", 50)
    with torch.no_grad():
        rows = list(
            memory_rows(
                recipe(), open_data("digits", limit=300), [60], [32], ["mask:bottom"], share=0.5
            )
        )
    kinds = ("patches", "mean of the 10", "groups", "gaussian", "pca", "JPEG", "Hopfield")
    kinds += ("autoencoder",)
    assert all(any(kind in row["method"] for row in rows) for kind in kinds)
    plain = 60 * 64
    for row in rows:
        # A JPEG file of an 8x8 image is larger than the image.
        assert row["bytes"] <= 0.5 * plain or "JPEG" in row["method"]
        assert row["bytes"] > 0.2 * plain
        assert 0 <= row["item"] <= 1
        assert 0 < row["unseen"] < 0.5
    items = {row["method"]: row["item"] for row in rows}
    assert max(item for name, item in items.items() if name.startswith("pca")) > 0.5


def test_eight_bits_err_by_half_a_step_of_the_column_s_largest_at_most() -> None:
    matrix = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1, 9, 0]
    )
    error = (eight_bits(matrix) - matrix).abs().amax(0)
    assert (error <= matrix.abs().amax(0) / 254 * 1.001).all()


@pytest.mark.data
def test_more_images_than_there_are_cannot_be_stored(real_data: Path) -> None:
    with pytest.raises(DataError, match="5000 images, 5001 are to be stored"):
        benchmarks.bench_memory([5001], data_dir=real_data)


@pytest.mark.data
@pytest.mark.slow
def test_fifty_tiny_images_are_better_than_published(real_data: Path) -> None:
    rows = benchmarks.bench_memory(
        [50], [512], ["noise:0.2", "mask:bottom"], seeds=1, data_dir=real_data
    )
    ours = [row for row in rows if "lookup" in row["method"]]
    assert ours[0]["value"] < 0.2e-4
    assert ours[1]["value"] < 1e-7
    assert all(row["auroc"] >= 0.95 for row in ours)
