"""Pages: self-contained, escaped, and complete; charts draw what they are given."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pcgen import config
from pcgen.cli.main import cli
from pcgen.pages import page, pictures, run_page
from pcgen.pages.charts import Series, histogram, line_chart
from pcgen.storage import checkpoint

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects addresses and text, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run folder as training leaves it, after three epochs."""
    folder = tmp_path / "a run"
    folder.mkdir()
    recipe = config.Recipe(name="tiny", description="A <b>tiny</b> one.")
    (folder / "recipe.toml").write_text(config.to_toml(recipe))
    (folder / "environment.json").write_text('{"torch": "2.13.0", "threads": 1}')
    held_out = {"count": 9, "energy": 2.5, "mse": 7e-3, "mse_last_hidden": 4e-3, "converged": 1.0}
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in (1, 2, 3):
            line = {"epoch": epoch, "energy": 9.0 / epoch, "mse_last_hidden": 0.01 / epoch}
            line |= {"images": 90, "seconds": 0.5, "validation": held_out}
            file.write(json.dumps(line) + "\n")
    header = {
        "kind": "model",
        "sizes": [64, 32],
        "parameters": 2112,
        "data": {"source": "digits", "shape": [1, 8, 8], "count": 90},
        "metrics": {"epoch": 3, **held_out},
    }
    checkpoint.save(folder / "model.safetensors", {"weight": torch.zeros(2)}, header)
    rows = pictures.reconstructions(torch.rand(4, 64), torch.rand(4, 64), (1, 8, 8))
    (folder / "reconstructions.png").write_bytes(pictures.grid_png(rows))
    return folder


def test_the_page_of_a_run_holds_its_figures_and_loads_nothing(run: Path) -> None:
    html = run_page.write(run, run / "report.html").read_text()
    reader = read(html)
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert len(reader.addresses) == 1
    assert not re.search(r"url\((?!#)|href=\"(?!#)", html)
    assert "<script" not in html
    for words in [
        "a run",
        "0.007",
        "nats per image",
        "MSE per pixel",
        "2,112",
        "batch_size = 200",
        "2.13.0",
        "A <b>tiny</b> one.",
    ]:
        assert words in reader.text


def test_the_page_says_which_epoch_is_kept(run: Path, tmp_path: Path) -> None:
    for solver, which in (("majorise", "best on the validation split"), ("kinetic", "last epoch")):
        recipe = config.from_dict({"inference": {"solver": solver}})
        (run / "recipe.toml").write_text(config.to_toml(recipe))
        text = read(run_page.write(run, tmp_path / "page.html").read_text()).text
        assert which in text


def test_the_page_of_a_run_without_an_epoch_says_so(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    for name in ("model.safetensors", "reconstructions.png", "environment.json"):
        (run / name).unlink()
    reader = read(run_page.write(run, run / "report.html").read_text())
    assert "No epoch has ended yet." in reader.text


def test_the_command_writes_the_page_beside_the_run(run: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(run)])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(run / "report.html")
    assert (run / "report.html").stat().st_size > 5000
    document = json.loads(CliRunner().invoke(cli, ["report", str(run), "--json"]).stdout)
    assert document["page"] == str(run / "report.html")


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr


def test_a_page_that_cannot_be_written_is_an_error(run: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(run), "--out", str(run / "recipe.toml" / "x")])
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_all_text_is_escaped() -> None:
    bad = "<script>alert(1)</script>"
    line = Series(bad, [(1, 1), (2, 2)])
    built = page.Page(
        bad,
        bad,
        [page.Card(bad, bad, bad)],
        [
            page.Section(
                bad,
                [
                    page.Chart(bad, line_chart([line, line], x_label=bad, y_label=bad), bad),
                    page.Picture(b"x", bad),
                    page.Table([bad], [[bad], [None]], bad),
                    page.Facts({bad: bad}),
                    page.Code(bad, bad),
                    page.Code(bad),
                ],
                bad,
            )
        ],
    )
    html = page.render(built)
    read(html)
    assert "<script" not in html


def test_a_chart_without_points_is_left_out() -> None:
    assert line_chart([], x_label="x", y_label="y") == ""
    assert line_chart([Series("a", [(1, math.nan)])], x_label="x", y_label="y") == ""


@pytest.mark.parametrize(
    "values",
    [[5.0], [1.0, 1.0, 1.0], [1e-300, 0.0, math.nan, -1e12, math.inf, 1e12], [1e-9, 1.0, 1e6]],
)
def test_every_point_lies_within_the_chart(values: list[float]) -> None:
    points = [(float(i + 1), value) for i, value in enumerate(values)]
    svg = line_chart([Series("a", points)], x_label="epoch", y_label="energy")
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
    markers = re.findall(r'<use [^>]*x="([-\d.]+)" y="([-\d.]+)"', svg)
    assert len(markers) == sum(map(math.isfinite, values))
    for x, y in markers:
        assert 0 < float(x) < width
        assert 0 < float(y) < height


def test_a_histogram_counts_values_beyond_its_ends_and_marks_the_threshold() -> None:
    svg = histogram(
        {"known": [1.0] * 9 + [math.nan], "unusual": [2.0, 90.0]},
        x_label="score",
        y_label="share",
        lines={"threshold": 3.0},
    )
    for words in ("known", "unusual", "threshold", "score", "share"):
        assert f">{words}</text>" in svg
    assert histogram({"none": []}, x_label="x", y_label="y") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.05, "0.05"), (12345.6, "12,346"), (1.2e-5, "1.2e-5"), (2e10, "2e10")],
)
def test_numbers_have_one_format(value: float, text: str) -> None:
    assert page.number(value) == text
