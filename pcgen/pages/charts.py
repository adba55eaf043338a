"""Charts as inline SVG; the page's stylesheet colours them, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 14, 40
# The axis is logarithmic if largest / smallest lies between these: below, a linear axis shows
# everything; above, the smallest value is practically zero.
_LOG_FROM, _LOG_TO = 30.0, 1e12
_AS_ZERO = 1e-200


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: points (x, y); those whose y is not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]

    def finite(self) -> list[tuple[float, float]]:
        """Return the points that can be drawn."""
        return [(x, y) for x, y in self.points if math.isfinite(x) and math.isfinite(y)]


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """Return the SVG of a line chart; empty if there is no point to draw.

    The y axis is logarithmic where all values are positive and span more than a factor of 30.
    """
    lines = [(line.name, line.finite()) for line in series]
    lines = [(name, points) for name, points in lines if points]
    if not lines:
        return ""
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    log = min(ys) > _AS_ZERO and _LOG_FROM < max(ys) / min(ys) < _LOG_TO
    ticks = _log_ticks(min(ys), max(ys)) if log else _ticks(min(ys), max(ys))
    low, high = min(*ys, *ticks), max(*ys, *ticks)
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def across(x: float) -> float:
        return _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    floor = _HEIGHT - _BOTTOM
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for tick in ticks:
        y = down(tick)
        parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}">{_number(tick)}</text>')
    for tick in _whole_ticks(left, right):
        x = across(tick)
        parts.append(
            f'<text class="tick below" x="{x:.1f}" y="{floor + 17}">{_number(tick)}</text>'
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {floor}H{_WIDTH - _RIGHT}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="name" x="{middle}" y="{_HEIGHT - 5}">{escape(x_label)}</text>')
    for i, (name, points) in enumerate(lines):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line s{i % 4}" points="{path}"/>')
        if len(points) <= 60:
            for x, y in points:
                says = f"{escape(name)}: {y:.5g} at {_number(x)}"
                parts.append(
                    f'<circle class="dot s{i % 4}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3">'
                    f"<title>{says}</title></circle>"
                )
    parts.append("</svg>")
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Bar:
    """A named value with its range, for instance its quartiles."""

    name: str
    value: float
    low: float
    high: float
    ours: bool = False


_NAMES, _BAR, _VALUES = 165, 26, 72


def bar_chart(bars: Sequence[Bar], *, label: str) -> str:
    """Return the SVG of horizontal bars from 0, shortest first; empty if there are none."""
    drawn = sorted((bar for bar in bars if math.isfinite(bar.value)), key=lambda bar: bar.value)
    if not drawn:
        return ""
    # A range that reaches far beyond the longest bar is cut: it would hide the others.
    longest = min(max(bar.high for bar in drawn), 1.3 * drawn[-1].value) or 1.0
    scale = (_WIDTH - _NAMES - _VALUES) / longest
    height = _BAR * len(drawn) + 6
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">']
    for i, bar in enumerate(drawn):
        middle = _BAR * i + _BAR / 2 + 3
        low, high = (_NAMES + scale * min(x, longest) for x in (bar.low, bar.high))
        name = escape(bar.name)
        parts.append(f'<text class="tick" x="{_NAMES - 8}" y="{middle + 4:.1f}">{name}</text>')
        parts.append(
            f'<rect class="bar s{0 if bar.ours else 1}" x="{_NAMES}" y="{middle - 8:.1f}" '
            f'width="{max(1.0, scale * bar.value):.1f}" height="16" rx="2">'
            f"<title>{name}: {bar.value:.4g}, {bar.low:.4g} to {bar.high:.4g}</title></rect>"
        )
        parts.append(f'<path class="range" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>')
        end = max(high, _NAMES + scale * bar.value) + 7
        parts.append(
            f'<text class="value" x="{end:.1f}" y="{middle + 4:.1f}">{bar.value:.3g}</text>'
        )
    parts.append("</svg>")
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that reach from low to high or a little beyond."""
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest or largest < _AS_ZERO:
        high = low + (largest if largest >= _AS_ZERO else 1.0)
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**i for i in range(first, max(last, first + 1) + 1)]


def _whole_ticks(low: float, high: float) -> list[float]:
    """Return at most about eight whole numbers from low to high."""
    step = max(1.0, _round_step((high - low) / 7))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [i * step for i in range(first, last + 1)]


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * f for f in (1, 2, 2.5, 5, 10) if step <= size * f * (1 + 1e-9))


def _number(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"
