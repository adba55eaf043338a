"""Settings that follow from the data: for samplers, judged by held-out rows, and for detectors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import pcgen
from pcgen import config
from pcgen.benchmarks.sampling.held_out import nearest_rows
from pcgen.commands.from_data import rules
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import session
from pcgen.data.images import Images, parts
from pcgen.data.sources import open_data
from pcgen.errors import DataError
from pcgen.ood.conformal import smallest
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


@pytest.mark.parametrize(
    ("count", "values"),
    [
        (200, {"data.validation": 0.2, "learning.epochs": 150}),
        (5000, {"learning.epochs": 8}),
        (60_000, {}),
    ],
)
def test_a_recipe_made_for_its_data_holds_out_a_fifth_at_most_and_makes_300_updates_at_least(
    count: int, values: dict[str, Any]
) -> None:
    data = torch.zeros(count, 1, 1, 2)
    recipe = resolve_recipe("mnist", data=data)
    assert (recipe.data.validation, recipe.learning.epochs) == (1000, 2)
    assert rules(recipe, open_data(data)) == values
    assert resolve_recipe("mnist").from_data == []
    own = ["data.validation=50", "learning.epochs=2"]
    assert resolve_recipe("mnist", data=data, settings=own[:1]).from_data == []
    assert resolve_recipe("mnist", data=data, settings=own[1:]).from_data == ["data.validation"]


def test_a_recipe_of_large_data_trains_on_few_pictures_that_are_opened_once() -> None:
    data = torch.rand(60, 1, 8, 8)
    checked = pcgen.check("mnist", data=data, settings=["model.layers=[2,4]"])
    assert (checked.images, checked.validation_images) == (48, 12)
    assert "(60 rows): data.validation=0.2, learning.epochs=300" in checked.notes[0]
    with session("cpu") as place:
        opened = place.open_recipe_data(checked.recipe.data, data)
        changed = msgspec.structs.replace(checked.recipe.data, validation=0.4)
        assert place.open_recipe_data(changed, data) is opened
        assert place.open_recipe_data(msgspec.structs.replace(changed, limit=9), data) is not opened


@pytest.mark.parametrize(
    ("count", "calibrating", "latents"),
    [(100, 40, 12), (150, 60, 18), (400, 120, 62), (1000, 300, 64), (20_000, 4000, 64)],
)
def test_rows_that_calibrate_a_detector_suffice_for_the_rate_that_so_many_pictures_can_have(
    count: int, calibrating: int, latents: int
) -> None:
    images = open_data(torch.zeros(count, 3, 2, 2))
    recipe = resolve_recipe("pictures-ood")
    values = rules(recipe, images)
    kept, chose, aside = parts(images, values["data.validation"], values["data.calibration"], 0)
    assert len(aside) == calibrating
    for rate, pictures_needed in ((0.05, 150), (0.01, 1000)):
        assert (len(aside) >= smallest(rate, "pac")) == (count >= pictures_needed)
    assert values["model.layers"][0] == latents
    updates = values["learning.epochs"] * math.ceil(len(kept) / values["learning.batch_size"])
    assert updates >= 750 or values["learning.epochs"] == 100
    assert updates >= 200
    assert len(chose) >= 10


@pytest.mark.parametrize(
    ("count", "calibrating"), [(20, 8), (150, 60), (500, 150), (1000, 300), (20_000, 4000)]
)
def test_rows_that_calibrate_a_table_s_detector_suffice_for_the_rate_that_it_can_have(
    count: int, calibrating: int, tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b,same\n" + "".join(f"{i % 7},{i % 5},1\n" for i in range(count)))
    images = open_data(path)
    values = rules(resolve_recipe("table"), images)
    _, _, aside = parts(images, values["data.validation"], values["data.calibration"], 0)
    assert len(aside) == calibrating
    for rate, rows_needed in ((0.05, 150), (0.01, 1000)):
        assert (len(aside) >= smallest(rate, "pac")) == (count >= rows_needed)
    assert values["model.layers"] == [2, 64, 64]
    assert values["data.columns"] == ["a", "b"]


def test_too_few_rows_of_a_table_for_a_detector_are_said_with_the_least_number(
    tmp_path: Path,
) -> None:
    (tmp_path / "few.csv").write_text("a,b\n" + "1.5,2.5\n" * 19)
    with pytest.raises(DataError, match="19 rows, 20 are needed") as caught:
        rules(resolve_recipe("table"), open_data(tmp_path / "few.csv"))
    assert "150 allow" in caught.value.hint


def test_too_few_pictures_for_a_detector_are_said_with_the_least_number() -> None:
    with pytest.raises(DataError, match="20 pictures, 100 are needed") as caught:
        rules(resolve_recipe("pictures-ood"), pictures(20, 8))
    assert "150 allow" in caught.value.hint


def test_own_pictures_in_colour_become_a_detector_though_a_class_has_one_picture(
    tmp_path: Path,
) -> None:
    source = np.random.default_rng(0)
    for i in range(120):
        path = tmp_path / "known" / ("one" if i == 0 else f"class{i % 3}") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = source.integers(0, 99, (10, 12, 3)) + 50 * (i % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    known, out = tmp_path / "known", tmp_path / "d.safetensors"
    pcgen.train("pictures-ood", tmp_path / "run", data=known, settings=["learning.epochs=2"])
    document = pcgen.ood_calibrate(tmp_path / "run", known, out).document()
    assert (document["part_a"], document["part_b"]) == (14, 48)
    assert [row["pac"] for row in document["needed"]] == [False, False, False]
    assert document["needed"][1] == {
        "fpr": 0.01,
        "rows_pac": 299,
        "pac": False,
        "rows_marginal": 99,
        "marginal": False,
    }
    assert len(document["self_test"]["changes"]) == 6
    assert pcgen.ood_score(out, known, fpr=0.1).document()["count"] == 120


def test_the_nearest_row_of_all_is_found() -> None:
    images = open_data(torch.rand(1500, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    samples = images.rows([3, 1200]).pixels_BD
    torch.testing.assert_close(nearest_rows(samples + 1e-4, images), samples)
