"""One self-contained HTML page: key figures, curves, pictures, tables. It loads nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcgen.errors import RunError
from pcgen.pages.charts import Bar, Series, bar_chart, line_chart
from pcgen.storage.files import write_whole


@dataclass(frozen=True, slots=True)
class Card:
    """A key figure, shown large at the top of the page."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart with its legend."""

    title: str
    series: Sequence[Series]
    x_label: str = "epoch"
    y_label: str = ""
    kind: str = "chart"

    @property
    def svg(self) -> str:
        """Return the drawing; empty if there is no point."""
        return line_chart(self.series, x_label=self.x_label, y_label=self.y_label or self.title)

    @property
    def names(self) -> list[str]:
        """Return the names in the legend, in the order of the colours."""
        return [line.name for line in self.series if line.finite()]


@dataclass(frozen=True, slots=True)
class Bars:
    """A chart of horizontal bars, each with its name beside it."""

    title: str
    bars: Sequence[Bar]
    kind: str = "chart"
    names: Sequence[str] = ()

    @property
    def svg(self) -> str:
        """Return the drawing; empty if there is no bar."""
        return bar_chart(self.bars, label=self.title)


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG, stored in the page itself."""

    png: bytes
    caption: str = ""
    kind: str = "picture"

    @property
    def uri(self) -> str:
        """Return the PNG as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; numbers are aligned to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    kind: str = "table"


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


Block = Chart | Bars | Picture | Table | Facts | Code


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a paragraph and blocks; charts are placed side by side."""

    heading: str
    blocks: Sequence[Block] = ()
    text: str = ""

    @property
    def charts(self) -> list[Chart | Bars]:
        """Return the charts that are not empty."""
        return [block for block in self.blocks if isinstance(block, Chart | Bars) and block.svg]

    @property
    def others(self) -> list[Block]:
        """Return the blocks below the charts."""
        return [block for block in self.blocks if not isinstance(block, Chart | Bars)]


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
    environment.tests["figure"] = is_figure
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
    write_whole(folder / f"{name}.json", (json.dumps(list(rows), indent=1) + "\n").encode())
    return path


def shown(value: Any) -> str:
    """Return a value as text: floats with five digits, a missing value as a dash."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)


def is_figure(value: Any) -> bool:
    """Return whether a value is a number, which tables align to the right."""
    return isinstance(value, int | float) and not isinstance(value, bool)
