"""A page in a browser: drawn, and within the width of a phone. Skipped without Chromium."""

from __future__ import annotations

import html
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcgen.pages import page
from pcgen.pages.charts import Series, line_chart
from pcgen.pages.pictures import Row, grid_png

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTH, HEIGHT = 400, 1600
# The frame is as wide as a phone; the window's background says whether the page is wider.
FRAME = """<body style="margin:0"><iframe style="border:0;width:{width}px;height:{height}px"
srcdoc="{page}" onload="document.body.style.background =
this.contentDocument.documentElement.scrollWidth > {width} ? '#f00' : '#0f0'"></iframe>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_page_fits_a_phone_and_is_not_blank(tmp_path: Path) -> None:
    assert CHROMIUM is not None
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
    text = page.render(page.Page(long, long, cards, [page.Section(long, blocks, long)]))
    file, picture = tmp_path / "frame.html", tmp_path / "page.png"
    file.write_text(FRAME.format(width=WIDTH, height=HEIGHT, page=html.escape(text)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    subprocess.run(
        [CHROMIUM, *flags, f"--window-size=600,{HEIGHT}", f"--screenshot={picture}", file.as_uri()],
        check=True,
        capture_output=True,
        timeout=300,
    )
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))
    assert pixels[10, 550].tolist() == [0, 255, 0], "the page is wider than a phone"
    shown = pixels[:, :WIDTH].reshape(-1, 3)
    assert len(np.unique(shown, axis=0)) > 50
