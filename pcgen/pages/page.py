"""One self-contained HTML page: key figures, curves, pictures, tables. It loads nothing."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from pcgen.errors import RunError
from pcgen.storage.files import write_whole

# A picture with more pixels in a row than this has a row of the page for itself.
_WIDE = 420


@dataclass(frozen=True, slots=True)
class Card:
    """A key figure, shown large at the top of the page."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of `pcgen.pages.charts`; left out where it is empty."""

    title: str
    svg: str
    caption: str = ""
    kind: str = "chart"


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG, stored in the page itself."""

    png: bytes
    caption: str = ""

    @property
    def width(self) -> int:
        """Return the number of pixels in a row."""
        return int.from_bytes(self.png[16:20])

    @property
    def kind(self) -> str:
        """Return whether the picture has a row of the page for itself, or shares it with others."""
        return "picture" if self.width > _WIDE else "tile"

    @property
    def uri(self) -> str:
        """Return the PNG as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; columns of numbers are aligned to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    kind: str = "table"

    @property
    def align(self) -> list[str]:
        """Return the attribute of each column's cells."""
        columns = zip_longest(*self.rows) if self.rows else [()] * len(self.header)
        numbers = [all(x is None or is_figure(x) for x in column) for column in columns]
        return [" class=figure" if each else "" for each in numbers]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, one pair per line."""

    pairs: Mapping[str, Any]
    kind: str = "facts"


@dataclass(frozen=True, slots=True)
class Code:
    """Preformatted text, such as a recipe; folded away under `summary` if that is given."""

    text: str
    summary: str = ""
    kind: str = "code"


Block = Chart | Picture | Table | Facts | Code


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a paragraph and blocks; charts and small pictures are placed side by side."""

    heading: str
    blocks: Sequence[Block] = ()
    text: str = ""

    @property
    def groups(self) -> list[tuple[str, list[Block]]]:
        """Return the blocks, those of a kind that follow each other together."""
        drawn = [block for block in self.blocks if not isinstance(block, Chart) or block.svg]
        return [(kind, list(blocks)) for kind, blocks in groupby(drawn, lambda each: each.kind)]


@dataclass(frozen=True, slots=True)
class Page:
    """The content of a page, from its title down."""

    title: str
    lead: str = ""
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = field(default_factory=tuple)


def render(page: Page) -> str:
    """Return the HTML text of a page. All text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from pcgen import __version__

    environment = Environment(
        loader=PackageLoader("pcgen.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template("page.html.j2").render(page=page, version=__version__)


def write(page: Page, path: Path) -> Path:
    """Write a page and return its path.

    Raises:
        RunError: the file cannot be written.
    """
    write_whole(path, render(page).encode("utf-8", "backslashreplace"))
    return path


@contextmanager
def made_of(path: Path) -> Iterator[None]:
    """Raise RunError if the files of a run or of scores hold something else than pcgen wrote."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise RunError(f"{path}: cannot be shown: damaged, or not written by pcgen") from None


def write_table(page: Page, rows: Sequence[Mapping[str, Any]], folder: Path, name: str) -> Path:
    """Write a benchmark's page `index.html` and its rows `NAME.json`; return the page's path.

    Raises:
        RunError: the folder cannot be written.
    """
    path = write(page, folder / "index.html")
    write_rows(rows, folder, name)
    return path


def write_rows(rows: Sequence[Mapping[str, Any]], folder: Path, name: str) -> None:
    """Write rows as `NAME.json`.

    Raises:
        RunError: the folder cannot be written.
    """
    write_whole(folder / f"{name}.json", (json.dumps(list(rows), indent=1) + "\n").encode())


def shown(value: Any) -> str:
    """Return a value as text: numbers as `number` does, a missing value as a dash."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)


def between(row: Mapping[str, Any], low: str, high: str) -> str | None:
    """Return the two ends of an interval in a row as one text; None where it has none."""
    if row.get(low) is None or row.get(high) is None:
        return None
    return f"{shown(row[low])} to {shown(row[high])}"


def number(value: float) -> str:
    """Return a number with four digits: 12,345, 17.25, 0.05 or 1.2e-5."""
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    text = f"{value:.3e}" if value and abs(value) < 1e-3 else f"{value:.4g}"
    return re.sub(r"\.?0*e\+?(-?)0*", r"e\1", text)


def is_figure(value: Any) -> bool:
    """Return whether a value is a number, which tables align to the right."""
    return isinstance(value, int | float) and not isinstance(value, bool)
