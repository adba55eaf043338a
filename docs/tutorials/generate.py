"""Run the tutorials and write a page of each: its text, its code, what it prints and draws.

    python docs/tutorials/generate.py [NAME ...]

A tutorial is a script in jupytext's percent format, so that `jupytext --to ipynb` makes a notebook
of it. A test compares the code of the pages with the scripts and runs the scripts.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMAGES = HERE.parent / "img" / "tutorials"
NAMES = ("twenty_lines", "own_pictures", "own_parts", "samples", "paper_table")
_CAPTION = re.compile(r"^# caption: (.*)\n?", re.MULTILINE)


def cells(name: str) -> list[tuple[bool, str]]:
    """Return the cells of a tutorial: whether each is text, and its content."""
    parts = re.split(r"^# %%(.*)\n", (HERE / f"{name}.py").read_text(), flags=re.MULTILINE)[1:]
    return [
        (True, re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip())
        if "markdown" in kind
        else (False, body.strip())
        for kind, body in zip(parts[::2], parts[1::2], strict=True)
    ]


def shown(code: str) -> str:
    """Return the code of a cell as the page shows it."""
    return f"```python\n{_CAPTION.sub('', code).strip()}\n```"


def page(name: str) -> str:
    """Run a tutorial and return its page; its figures are written beside."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names: dict[str, Any] = {"__name__": name}
    parts: list[str] = []
    figures = 0
    for is_text, body in cells(name):
        if is_text:
            parts.append(body)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(body.replace("plt.show()", ""), name, "exec"), names)
        parts.append(shown(body))
        if printed.getvalue():
            text = printed.getvalue().rstrip()
            parts.append(text if text.startswith("|") else f"```text\n{text}\n```")
        for caption in _CAPTION.findall(body):
            figures += 1
            IMAGES.mkdir(parents=True, exist_ok=True)
            file = f"{name}-{figures}.png"
            plt.savefig(IMAGES / file, dpi=110, bbox_inches="tight", facecolor="white")
            parts.append(f"![{caption}](../img/tutorials/{file})\n\n*{caption}*")
        plt.close("all")
    note = f"<!-- Written by docs/tutorials/generate.py from {name}.py. -->"
    source = f"*The script of this page: [{name}.py]({name}.py)*"
    return "\n\n".join([parts[0], note, *parts[1:], source]) + "\n"


if __name__ == "__main__":
    for each in sys.argv[1:] or NAMES:
        (HERE / f"{each}.md").write_text(page(each), encoding="utf-8")
