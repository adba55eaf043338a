"""The recipe `sampler`: settings that follow from the data, and samples judged by held-out rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pcgen
from pcgen import config
from pcgen.benchmarks.sampling.held_out import nearest_rows
from pcgen.commands.from_data import rules
from pcgen.commands.recipes import resolve_recipe
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import DataError
from pcgen.storage import checkpoint, runs


def table(folder: Path, count: int = 40) -> Path:
    """Return a table with two clusters and a constant column."""
    source = np.random.default_rng(0)
    side = source.integers(0, 2, count) * 4 - 2
    rows = np.c_[side + 0.3 * source.normal(size=count), np.full(count, 5.0)]
    path = folder / "rows.csv"
    path.write_text("\n".join(["a,same", *(f"{a:.4f},{b}" for a, b in rows)]) + "\n")
    return path


def pictures(count: int, side: int, channels: int = 1) -> Images:
    return open_data(torch.rand(count, channels, side, side))


def ruled(images: Images, *settings: str) -> dict[str, Any]:
    return rules(resolve_recipe("sampler", settings=settings), images)


def test_a_table_has_a_gaussian_likelihood_and_pictures_a_bernoulli_one(tmp_path: Path) -> None:
    of_table = ruled(open_data(str(table(tmp_path))))
    assert of_table["model.likelihood"] == "gaussian"
    assert of_table["data.columns"] == ["a"]  # the other one is constant
    assert of_table["model.layers"] == [1, 64, 64]
    assert ruled(pictures(30, 8))["model.likelihood"] == "bernoulli"


def test_large_pictures_become_32_pixels_wide_and_small_ones_keep_their_size() -> None:
    assert ruled(pictures(20, 40, 3))["data.size"] == [32, 32]
    assert "data.size" not in ruled(pictures(20, 28))


@pytest.mark.parametrize(
    ("count", "share", "causes", "epochs"),
    [(40, 0.5, 1, 1000), (1000, 0.1, 36, 750), (60_000, 0.1, 100, 14)],
)
def test_held_out_rows_causes_and_epochs_follow_from_the_number_of_rows(
    count: int, share: float, causes: int, epochs: int
) -> None:
    values = ruled(open_data(torch.zeros(count, 1, 1, 2)))
    assert values["data.validation"] == share
    assert values["model.causes"] == causes
    assert values["learning.epochs"] == epochs


def test_a_setting_of_the_user_goes_before_its_rule() -> None:
    recipe = resolve_recipe("sampler", settings=["model.causes=7", "learning.epochs=16"])
    assert not {"model.causes", "learning.epochs"} & {*recipe.from_data}
    assert recipe.model.causes == 7
    assert rules(recipe, pictures(100, 8))["learning.causes_warmup"] == 2


def test_too_few_rows_are_said_with_the_least_number() -> None:
    with pytest.raises(DataError, match="has 19 rows, too few"):
        ruled(pictures(19, 4))


def test_a_table_of_constant_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "same.csv"
    path.write_text("a,b\n" + "1,2\n" * 30)
    with pytest.raises(DataError, match="every column is constant"):
        ruled(open_data(str(path)))


def test_a_sampler_of_a_table_is_judged_beside_a_gaussian_and_real_rows(tmp_path: Path) -> None:
    settings = ["learning.epochs=2", "model.layers=[1,8]", "model.causes=2"]
    result = pcgen.train("sampler", tmp_path / "run", data=table(tmp_path), settings=settings)
    assert result.samples is not None
    rows = {row["method"]: row for row in result.samples["methods"]}
    assert [*rows] == ["model", "Gaussian", "mixture of 2 Gaussians", "training rows"]
    assert result.samples["count"] == 20
    assert all(np.isfinite(row["frechet"]) for row in rows.values())
    assert checkpoint.read_header(result.checkpoint)["samples"] == result.samples
    assert not (tmp_path / "run" / "samples.png").exists()
    # The run's recipe has the values, so it says by itself how the run was made.
    kept = runs.RunFolder.existing(tmp_path / "run")[1]
    assert kept.from_data == []
    assert kept.data.validation == 0.5
    assert config.from_toml(config.to_toml(kept)) == kept
    assert json.loads(json.dumps(result.document()))["samples"]["count"] == 20


def test_a_sampler_of_pictures_shows_samples_above_their_nearest_training_images(
    tmp_path: Path,
) -> None:
    settings = ["learning.epochs=1", "model.layers=[2,8]", "data.limit=100", "model.causes=1"]
    result = pcgen.train("sampler", tmp_path / "run", data="digits", settings=settings)
    assert result.samples is not None
    assert "5 principal components" in result.samples["features"]
    assert (tmp_path / "run" / "samples.png").stat().st_size > 1000
    page = pcgen.report(tmp_path / "run").read_text()
    assert "Frechet distance" in page
    assert "nearest to it" in page


def test_the_nearest_row_of_all_is_found() -> None:
    images = open_data(torch.rand(1500, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    samples = images.rows([3, 1200]).pixels_BD
    torch.testing.assert_close(nearest_rows(samples + 1e-4, images), samples)
