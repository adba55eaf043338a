"""Tables and classes from end to end: columns and classes by name, and what is said about both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pcgen
from pcgen.cli.main import cli
from pcgen.data.sources import open_data

CLASSIFIER = ["classifier.kind=mlp", "classifier.hidden=[12]", "learning.batch_size=20"]
TABLE = ["model.output=linear", "model.layers=[2,8]", "learning.epochs=2", "data.validation=0.3"]
TABLE += ["learning.batch_size=20", "data.calibration=0"]


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def document(*words: str | Path) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def table(path: Path, order: str, names: dict[str, str] | None = None, count: int = 60) -> Path:
    """Write a table of three columns and two classes, its columns in this order."""
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 2, count)
    columns: dict[str, Any] = {
        letter: rng.normal(size=count).round(3) + 3 * kinds * (i - 1)
        for i, letter in enumerate("abc")
    }
    columns["target"] = np.array(["-1", "1"])[kinds]
    lines = [",".join((names or {}).get(name, name) for name in order.split(","))]
    lines += [",".join(str(columns[name][i]) for name in order.split(",")) for i in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table, a classifier of it, and a network with a detector of it."""
    folder: Path = tmp_path_factory.mktemp("tables")
    data = table(folder / "t.csv", "a,b,c,target")
    words = [*CLASSIFIER, "learning.epochs=30", "learning.rate=0.03"]
    pcgen.train("digits-classifier", folder / "classifier", data=data, settings=words)
    pcgen.train("digits", folder / "network", data=data, settings=TABLE)
    return folder


def test_labels_of_minus_one_and_one_are_two_classes(folder: Path) -> None:
    header = pcgen.info(folder / "classifier")
    assert header["data"]["classes"] == ["-1", "1"]
    assert header["sizes"] == [3, 12, 2]
    result = pcgen.classify(folder / "classifier", folder / "t.csv")
    assert result.accuracy is not None
    assert result.accuracy > 0.9
    assert result.rows()[0]["class"] in ("-1", "1")
    assert "labels: column 'target'" in result.document()["notes"][0]


@pytest.mark.parametrize("order", ["c,target,a,b", "b,a,c", "target,c,b,a"])
def test_columns_are_taken_by_name_in_every_command(
    folder: Path, tmp_path: Path, order: str
) -> None:
    other = table(tmp_path / "other.csv", order)
    commands: list[Any] = [
        lambda data: pcgen.classify(folder / "classifier", data).rows()[3]["energy"],
        lambda data: pcgen.reconstruct(folder / "network", data).metrics["mse"],
    ]
    for command in commands:
        assert command(other) == pytest.approx(command(folder / "t.csv"))
    wrong = table(tmp_path / "wrong.csv", order, {"b": "bee"})
    for command in commands:
        with pytest.raises(pcgen.DataError, match="no column 'b'; the model does not know 'bee'"):
            command(wrong)


def test_a_training_refuses_a_missing_number_whatever_the_seed(
    folder: Path, tmp_path: Path
) -> None:
    lines = (folder / "t.csv").read_text().splitlines()
    lines[9] = ",0.5,0.5,1"
    data = tmp_path / "hole.csv"
    data.write_text("\n".join(lines))
    for seed in range(8):
        with pytest.raises(pcgen.DataError, match="line 10: 1 of 3 values"):
            pcgen.check("digits", data=data, settings=TABLE, seed=seed)
    with pytest.raises(pcgen.DataError, match="line 10: 1 of 3 values"):
        pcgen.ood_calibrate(folder / "network", data, tmp_path / "d.safetensors")


def test_a_calibration_of_few_rows_says_which_rates_they_allow(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "d.safetensors"
    data = table(tmp_path / "new.csv", "a,b,c", count=45)
    result = run("ood-calibrate", folder / "network", data, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "27 rows calibrate table-energy, 59 are needed" in result.stderr
    use = next(line for line in result.stderr.splitlines() if line.startswith("Use it"))
    options = use.split("scores.csv")[1].split()
    assert options[0] == "--fpr"
    words: tuple[str | Path, ...] = ("ood-score", out, data, "--out", tmp_path / "s.csv")
    assert run(*words, *options).exit_code == 0
    assert run(*words, "--guarantee", "marginal", "--fpr", "0.0667").exit_code == 0
    assert run(*words).exit_code == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("fpr", 2), ("fpr", float("nan")), ("fdr", -0.1), ("guarantee", "pacc")],
)
def test_an_argument_of_ood_score_that_is_none_is_named(name: str, value: Any) -> None:
    with pytest.raises(pcgen.RecipeError, match=f"^{name} "):
        pcgen.ood_score("digits-ood", "digits:test", **{name: value})
    assert run("ood-score", "digits-ood", "digits:test", f"--{name}", str(value)).exit_code == 2


def test_a_label_column_is_named_by_a_setting(tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv", "a,b,c,target", {"target": "y"})
    words = [f"--set={word}" for word in (*CLASSIFIER, "learning.epochs=1")]
    refused = run("train", "digits-classifier", "--data", data, "--out", tmp_path / "no", *words)
    assert refused.exit_code == 1
    assert "data.labels=NAME" in refused.stderr
    words.append("--set=data.labels=y")
    found = document(
        "train", "digits-classifier", "--data", data, "--out", tmp_path / "run", *words
    )
    assert found["notes"] == [f"{data}: labels: column 'y'"]
    assert document("classify", tmp_path / "run", data)["accuracy"] is not None


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of digits in folders of classes, and a classifier of it."""
    root: Path = tmp_path_factory.mktemp("pictures")
    images = open_data("digits", limit=200)
    assert images.labels is not None
    pixels = (images.rows(range(200)).pixels_BD * 255).byte().numpy().reshape(-1, 8, 8)
    for i, label in enumerate(images.labels.tolist()):
        path = root / "known" / ("zero", "one", "two", "three")[label % 4] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(path)
    words = [*CLASSIFIER, "learning.epochs=10"]
    pcgen.train("digits-classifier", root / "run", data=root / "known", settings=words)
    return root


def test_classes_are_compared_by_name(pictures: Path) -> None:
    known = pictures / "known"
    accuracy = pcgen.classify(pictures / "run", known).accuracy
    assert accuracy is not None

    def renamed(*names: tuple[str, str]) -> pcgen.commands.classify.ClassifyResult:  # type: ignore[name-defined]
        other = pictures / "_".join(new for _, new in names)
        for old, new in names:
            (other / new).mkdir(parents=True)
            for path in (known / old).iterdir():
                (other / new / path.name).write_bytes(path.read_bytes())
        return pcgen.classify(pictures / "run", other)

    words = ("zero", "one", "two", "three")
    other_case = renamed(*((word, word.title()) for word in words))
    assert other_case.accuracy == accuracy
    subset = renamed(("two", "two"), ("one", "one"))
    by_name = [row["class"] == row["id"].split("/")[0] for row in subset.rows()]
    assert subset.accuracy == sum(by_name) / len(by_name)
    unknown = renamed(("zero", "0"), ("one", "one"))
    assert unknown.accuracy is None
    assert "the model knows no class '0'" in unknown.document()["notes"][0]
