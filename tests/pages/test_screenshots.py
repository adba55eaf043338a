"""Every page in a browser: drawn, no wider than a phone or a screen. Skipped without Chromium."""

from __future__ import annotations

import html
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pcgen
from pcgen import shipped
from pcgen.pages import page
from pcgen.pages.charts import Series, line_chart
from pcgen.pages.pictures import Row, grid_png

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS, HEIGHT, MARK = (400, 1200), 2400, 20
COLOURS = {"dark": 0, "light": 1}  # Chromium's numbers of what a reader prefers.
# A page as wide as a phone beside one as wide as a screen; the mark above it is red if the page
# is wider.
FRAME = """<div style="position:absolute;top:0;left:{left}px;width:{width}px">
<div id="mark{width}" style="height:{mark}px"></div>
<iframe style="border:0;width:{width}px;height:{height}px" srcdoc="{page}"
onload="document.getElementById('mark{width}').style.background =
this.contentDocument.documentElement.scrollWidth > {width} ? '#f00' : '#0f0'"></iframe></div>"""


def _long_words(folder: Path) -> Path:
    long = "a_word_of_many_letters_without_any_break_such_as_the_name_of_a_file_in_a_folder"
    line = Series(long, [(1, 1), (2, 2)])
    blocks = [
        page.Chart(long, line_chart([line, line], x_label="epoch", y_label="energy"), long),
        page.Picture(grid_png([Row("digits", np.random.rand(12, 1, 8, 8))]), long),
        page.Table([long] * 6, [[long, 1.5, 2, None, long, True]] * 3, long),
        page.Facts({long: long}),
        page.Code(long * 3),
    ]
    cards = [page.Card(long, "12,345,678,901", long)] * 3
    whole = page.Page(long, long, cards, [page.Section(long, blocks, long)])
    return page.write(whole, folder / "index.html")


def _run(folder: Path) -> Path:
    pcgen.train("digits", folder / "run", settings=["learning.epochs=2"])
    return pcgen.report(folder / "run")


def _detector(folder: Path) -> Path:
    folder.mkdir()
    return pcgen.report(shipped.find_detector("digits-ood"), folder / "detector.html")


def _scores(folder: Path) -> Path:
    folder.mkdir()
    inputs = np.random.default_rng(0).random((12, 1, 8, 8), dtype=np.float32)
    pcgen.ood_score("digits-ood", inputs, out=folder / "scores.csv")
    return pcgen.report(folder / "scores.csv")


def _demo(folder: Path) -> Path:
    return pcgen.demo(folder, settings=["learning.epochs=2"]).page


def _memory(folder: Path) -> Path:
    pcgen.bench_memory([10, 20], [32], ["mask:bottom"], seeds=1, data="digits", out=folder)
    return folder / "index.html"


def _unusual(folder: Path) -> Path:
    pcgen.bench_ood(["digits"], seeds=1, methods=["trivial"], limit=50, out=folder)
    return folder / "index.html"


def _speed(folder: Path) -> Path:
    pcgen.bench_speed(["tiny"], samples=3, threads=[1], out=folder)
    return folder / "index.html"


def _depth(folder: Path) -> Path:
    pcgen.study_depth([4], [8], solvers=["newton"], steps=20, images=2, out=folder)
    return folder / "index.html"


PAGES = (*(_long_words, _run, _detector, _scores, _demo, _memory, _unusual, _speed, _depth),)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("made", PAGES, ids=lambda made: made.__name__.strip("_"))
def test_a_page_fits_a_phone_and_a_screen_and_is_not_blank(
    made: Callable[[Path], Path], tmp_path: Path
) -> None:
    text = made(tmp_path / "page").read_text()
    for colour, number in COLOURS.items():
        pixels = screenshot(text, tmp_path / f"{colour}.png", number)
        left = 0
        for width in WIDTHS:
            mark = pixels[MARK // 2, left + width // 2].tolist()
            assert mark == [0, 255, 0], f"{colour}: the page is wider than {width} pixels"
            shown = pixels[MARK:, left : left + width]
            assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 50, f"{colour}, {width}: blank"
            assert (shown[2, 2].mean() < 128) == (colour == "dark")
            left += width


def screenshot(text: str, picture: Path, colour: int) -> np.ndarray:
    """Return the pixels of a page in frames of both widths."""
    assert CHROMIUM is not None
    frames = [
        FRAME.format(left=left, width=width, height=HEIGHT, mark=MARK, page=html.escape(text))
        for left, width in zip((0, WIDTHS[0]), WIDTHS, strict=True)
    ]
    file = picture.with_suffix(".html")
    file.write_text('<body style="margin:0">' + "".join(frames))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--user-data-dir={picture.parent / 'user'}", f"--screenshot={picture}"]
    flags += [f"--window-size={sum(WIDTHS)},{HEIGHT + MARK}"]
    flags += [f"--blink-settings=preferredColorScheme={colour}", file.as_uri()]
    subprocess.run([CHROMIUM, *flags], check=True, capture_output=True, timeout=300)
    return np.asarray(Image.open(picture).convert("RGB"))
