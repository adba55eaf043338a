"""Charts by matplotlib, as inline SVG; the page's stylesheet colours them, light and dark."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pcgen.pages.page import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 360, 235
# An axis is logarithmic if largest / smallest lies between these: below, a linear axis shows
# everything; above, the smallest value is practically zero.
_LOG_FROM, _LOG_TO = 30.0, 1e12
_AS_ZERO = 1e-200
# Letters in a line of a bar's name.
_NAME = 24
# A curve that varies by less than this share of its values is drawn flat.
_FLAT = 1e-3
# A histogram's linear axis reaches so many times the middle four fifths from the median.
_REACH = 3.0
# matplotlib draws with these colours; in the SVG, the stylesheet's variables take their places.
_COLOURS = {
    name: f"#0{i}0{i}0{i}"
    for i, name in enumerate(("ink", "soft", "faint", "rule", "s0", "s1", "s2", "s3"), 1)
}
_SERIES = [_COLOURS[f"s{i}"] for i in range(4)]
_DASHES = ("-", "--", ":")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pcgen",
    "font.size": 11,
    "text.color": _COLOURS["soft"],
    "text.parse_math": False,
    "axes.edgecolor": _COLOURS["faint"],
    "axes.labelcolor": _COLOURS["soft"],
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "axes.grid": True,
    "grid.color": _COLOURS["rule"],
    "xtick.color": _COLOURS["soft"],
    "ytick.color": _COLOURS["soft"],
    **{f"{axis}tick.{kind}.size": 0 for axis in "xy" for kind in ("major", "minor")},
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: points (x, y); those whose y is not finite are left out.

    `bands` are the ends of the intervals of all points, drawn where every point has one.
    """

    name: str
    points: Sequence[tuple[float, float]]
    bands: Sequence[tuple[float, float]] = ()

    def finite(self) -> list[tuple[float, float]]:
        """Return the points that can be drawn."""
        return [(x, y) for x, y in self.points if math.isfinite(x) and math.isfinite(y)]


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    shares: bool = False,
    x_log: bool = False,
    roc: bool = False,
) -> str:
    """Return the SVG of a line chart; empty if there is no point to draw.

    The y axis is logarithmic where all values are positive and span more than a factor of 30.

    Args:
        shares: all values are shares: the y axis goes from 0 to 1.
        x_log: the x axis is logarithmic.
        roc: both axes go from 0 to 1, with the diagonal of a guess.
    """
    from matplotlib.ticker import MaxNLocator

    lines = [(line.name, line.finite()) for line in series if line.finite()]
    if not lines:
        return ""
    bands = {line.name: line.bands for line in series if len(line.bands) == len(line.points)}
    with _drawing(x_label, y_label, height=320 if roc else _HEIGHT) as (axes, svg):
        for i, (name, points) in enumerate(lines):
            marker = "." if len(points) < 40 else ""
            style = _DASHES[i // len(_SERIES) % len(_DASHES)]
            colour = _SERIES[i % len(_SERIES)]
            axes.plot(*zip(*points, strict=True), style, color=colour, marker=marker, label=name)
            for (x, _), ends in zip(points, bands[name], strict=False) if name in bands else ():
                axes.plot((x, x), ends, color=colour, linewidth=1)
        ys = [y for _, points in lines for _, y in points]
        xs = [x for _, points in lines for x, _ in points]
        if roc:
            axes.plot((0, 1), (0, 1), "--", color=_COLOURS["faint"], linewidth=1, label="guess")
            axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
        elif shares:
            axes.set_ylim(-0.01, 1.01)
        elif min(ys) > _AS_ZERO and _LOG_FROM < max(ys) / min(ys) < _LOG_TO:
            _logarithmic(axes, "y")
        elif max(ys) - min(ys) < _FLAT * max(map(abs, ys)):
            reach = _FLAT * max(map(abs, ys))
            axes.set_ylim(min(ys) - reach, max(ys) + reach)
        if x_log:
            _logarithmic(axes, "x", sorted(set(xs)))
        elif not roc and all(float(x).is_integer() for x in xs) and max(xs) > 1:
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        _legend(axes, len(lines) + roc)
    return svg[0]


def histogram(
    groups: Mapping[str, Sequence[float] | np.ndarray],
    *,
    x_label: str,
    y_label: str,
    lines: Mapping[str, float] | None = None,
    shares: bool = False,
    bins: int = 40,
) -> str:
    """Return the SVG of the share of each group's values in each bin; empty without values.

    The outermost bins include all values beyond them. The axis is logarithmic as in `line_chart`.

    Args:
        lines: names and places of vertical lines, for instance a threshold.
        shares: values are shares: bins reach from 0 to 1, with a line where equal shares lie.
    """
    values = {name: np.asarray(group, dtype=np.float64) for name, group in groups.items()}
    values = {name: group[np.isfinite(group)] for name, group in values.items()}
    values = {name: group for name, group in values.items() if len(group)}
    if not values:
        return ""
    together = np.concatenate(list(values.values()))
    low, high = (0.0, 1.0) if shares else np.quantile(together, [0.001, 0.999])
    log = not shares and together.min() > _AS_ZERO and _LOG_FROM < high / low < _LOG_TO
    if not shares and not log:  # A few values far away would leave one bin for all others.
        tenth, middle, ninth = np.quantile(together, [0.1, 0.5, 0.9])
        reach = _REACH * (ninth - tenth)
        low, high = max(low, middle - reach), min(high, middle + reach)
    if lines:
        low, high = min(low, *lines.values()), max(high, *lines.values())
        log = log and low > 0
    edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    if not np.all(np.diff(edges) > 0):
        edges = np.linspace(low - 0.5, high + 0.5, bins + 1)
    with _drawing(x_label, y_label) as (axes, svg):
        for colour, (name, group) in zip(_SERIES, values.items(), strict=False):
            counts, _ = np.histogram(group.clip(edges[0], edges[-1]), edges)
            share = counts / len(group)
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.55, label=name)
        for style, (name, place) in zip(("--", ":"), (lines or {}).items(), strict=False):
            axes.axvline(place, color=_COLOURS["ink"], linestyle=style, linewidth=1.3, label=name)
        if shares:
            axes.axhline(1 / bins, color=_COLOURS["ink"], linestyle="--", linewidth=1, label="even")
        if log:
            _logarithmic(axes, "x")
        left, right = edges[0], edges[-1]
        if lines and left in lines.values():  # One bin more, or the frame would hide the line.
            left = left**2 / edges[1] if log else 2 * left - edges[1]
        if lines and right in lines.values():
            right = right**2 / edges[-2] if log else 2 * right - edges[-2]
        axes.set_xlim(left, right)
        _legend(axes, len(values) + len(lines or {}) + shares)
    return svg[0]


@dataclass(frozen=True, slots=True)
class Bar:
    """A named value with its range, for instance its quartiles."""

    name: str
    value: float
    low: float
    high: float
    ours: bool = False


def bar_chart(bars: Sequence[Bar], *, x_label: str, longest_first: bool = False) -> str:
    """Return the SVG of horizontal bars from 0, shortest first; empty if there are none."""
    from matplotlib.ticker import MaxNLocator

    finite = [bar for bar in bars if math.isfinite(bar.value)]
    drawn = sorted(finite, key=lambda bar: bar.value, reverse=not longest_first)
    if not drawn:
        return ""
    # A range that reaches far beyond the longest bar is cut: it would hide the others.
    most = max(bar.value for bar in drawn)
    longest = min(max(bar.high for bar in drawn), 1.3 * most) or 1.0
    names = [textwrap.fill(bar.name, _NAME) for bar in drawn]
    line = 26 + 11 * max(name.count("\n") for name in names)
    with _drawing(x_label, "", height=70 + line * len(drawn)) as (axes, svg):
        colours = [_COLOURS["s0" if bar.ours else "faint"] for bar in drawn]
        values = [bar.value for bar in drawn]
        axes.barh(range(len(drawn)), values, 0.6, color=colours)
        for i, bar in enumerate(drawn):
            end = min(max(bar.high, bar.value), longest)
            axes.plot((min(bar.low, end), end), (i, i), color=_COLOURS["ink"], lw=1.2)
            axes.text(end + 0.02 * longest, i, f"{bar.value:.3g}", va="center")
        axes.set_yticks(range(len(drawn)), names)
        if all(float(value).is_integer() for value in values):
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        axes.set_xlim(0, 1.15 * longest)
        axes.grid(False, axis="y")
    return svg[0]


@contextmanager
def _drawing(
    x_label: str, y_label: str, *, height: float = _HEIGHT
) -> Iterator[tuple[Axes, list[str]]]:
    """Yield axes, and a list that holds the drawing's SVG when the block has ended."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    svg: list[str] = []
    with rc_context(_STYLE):
        figure = Figure((_WIDTH / 72, height / 72), dpi=72, layout="constrained")
        axes = figure.subplots()
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(x=0.02)
        yield axes, svg
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg.append(_inline(file.getvalue(), y_label or x_label))


def _logarithmic(axes: Axes, name: str, ticks: Sequence[float] = ()) -> None:
    """Make the x or the y axis logarithmic, with numbers as 0.001, 1 and 1,000 at its ticks."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    if ticks:
        axis.set_ticks(ticks)
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_locator(NullLocator())


def _legend(axes: Axes, count: int) -> None:
    """Name the lines above the axes, where there is more than one."""
    if count > 1:
        figure: Any = axes.figure
        longest = max(map(len, axes.get_legend_handles_labels()[1]))
        columns = 3 if longest < 13 else 2 if longest < 21 else 1
        figure.legend(loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=1.4)


def _rounded(tag: re.Match[str]) -> str:
    """Return a tag with its numbers rounded to a tenth of a pixel."""
    short = re.sub(r"\d+\.\d+", lambda x: f"{float(x[0]):.1f}".removesuffix(".0"), tag[0])
    return re.sub(r"\s+", " ", short)


def _inline(svg: str, label: str) -> str:
    """Return an SVG file as a part of a page: short, without ids, in the page's colours."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    for pattern, new in (
        (r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", ""),
        (r'<g id="[^"]*"/>', ""),
        (r'<g id="[^"]*">', "<g>"),
        (r' transform="rotate\(-0 [^"]*"', ""),
        (r"font-family: [^;\"]*;? ?", ""),
        (r"<[^>]*>", _rounded),
        (r">\s+<", "><"),
    ):
        svg = re.sub(pattern, new, svg, flags=re.DOTALL)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    start = re.match(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', svg)
    assert start is not None
    head = f'<svg viewBox="{start[1]}" role="img" aria-label="{escape(label)}">'
    return head + svg[start.end() :]
