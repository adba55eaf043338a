"""Classes and hidden pixels by a network with predictions both ways."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pcgen
from pcgen.cli.main import cli
from pcgen.config import to_toml
from tests.learning.test_upward import recipe


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, words)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("both-ways")
    (folder / "recipe.toml").write_text(to_toml(recipe()))
    pcgen.train(folder / "recipe.toml", folder / "run", data="digits")
    return folder / "run"


def test_a_half_of_the_pixels_is_enough_for_most_labels(model: Path) -> None:
    whole = pcgen.classify(model, "digits:test")
    half = pcgen.classify(model, "digits:test", mask="50%")
    assert whole.accuracy is not None
    assert half.accuracy is not None
    assert whole.accuracy > 0.9
    assert 0.7 < half.accuracy < whole.accuracy
    assert whole.document()["mask"] is None
    assert half.document()["mask"] == "50%"


def test_the_picture_shows_what_is_visible_and_what_is_filled_in(
    model: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "labels.csv", tmp_path / "filled.png"
    words = ("classify", model, "digits:test", "--mask", "top", "--out", out)
    result = run(*words, "--picture", picture, "--limit", "4", "--json", "-q")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["picture"] == str(picture)
    with Image.open(picture) as image:
        assert image.width > 4 * 64


def test_filled_in_pixels_are_nearer_to_the_hidden_ones_than_the_mean(model: Path) -> None:
    import torch

    from pcgen.classification.both_ways import BothWays
    from pcgen.commands.session import open_model
    from pcgen.data.sources import open_data

    loaded = open_model(model)
    data_BD = open_data("digits:test").rows(range(200)).pixels_BD
    hidden_BD = torch.rand(data_BD.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    reader = BothWays(loaded.network, loaded.recipe.inference)
    with torch.no_grad():
        completed_BD = reader.completed(torch.where(hidden_BD, torch.nan, data_BD))
    assert torch.equal(completed_BD[~hidden_BD], data_BD[~hidden_BD])
    error = (completed_BD - data_BD)[hidden_BD].square().mean()
    assert loaded.network.upward is not None
    of_mean = (loaded.network.upward.expected_D - data_BD)[hidden_BD].square().mean()
    assert error < 0.6 * of_mean


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("MODEL", "digits:test", "--mask", "middle"), "or a share of the pixels, such as 80%"),
        (("MODEL", "digits:test", "--mask", "100%"), "or a share of the pixels, such as 80%"),
        (("MODEL", "digits:test", "--picture", "x.png"), "a .png file that shows what --mask"),
        (
            ("MODEL", "digits:test", "--mask", "top", "--picture", "x.jpg"),
            "a .png file that shows what --mask",
        ),
        (("digits-classifier", "digits:test", "--mask", "top"), "which needs all pixels"),
    ],
)
def test_what_cannot_be_hidden_is_said(words: tuple[str, ...], says: str, model: Path) -> None:
    result = run("classify", *(model if word == "MODEL" else word for word in words), "-q")
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_images_without_labels_cannot_train_upward_predictions(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((30, 8, 8), np.uint8))
    words = ("train", "digits", "--data", tmp_path / "images.npy", "--out", tmp_path / "run")
    settings = ("model.upward=[8]", "model.start=zero", "model.precision.latent=1")
    result = run(*words, *(word for setting in settings for word in ("--set", setting)))
    assert result.exit_code == 2
    assert "model.upward: predicts labels, and the data have none" in result.stderr


def test_its_energy_is_a_score_of_unusual_images(model: Path, tmp_path: Path) -> None:
    detector = tmp_path / "detector.safetensors"
    pcgen.ood_calibrate(model, "digits:test", out=detector)
    noise = np.random.default_rng(0).random((20, 8, 8)).astype(np.float32)
    rows = pcgen.ood_score(detector, noise, scores=["free-energy"]).rows()
    assert sum(row["is_ood"] for row in rows) > 15


def test_samples_are_drawn_of_hidden_shares(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "completed.npz"
    words = ("-n", "2", "--given", "digits:test", "--mask", "50%", "--limit", "3")
    result = run("sample", model, *words, "--burn-in", "5", "--thin", "2", "--out", out, "-q")
    assert result.exit_code == 0, result.output
    assert np.load(out)["samples"].shape == (6, 1, 8, 8)
