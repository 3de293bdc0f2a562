"""Plots as SVG text: no script, nothing from elsewhere, so that a page with them needs nothing and may run nothing."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 44
_ROW = 26
_LEGEND = 24
"""Height of the line of names above a frame."""
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Sequence[Point]
    colour: str
    steps: bool = False
    """A value holds until the next point."""
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Interval:
    name: str
    low: float
    value: float
    high: float
    colour: str = "#2a6db5"


class _Frame:
    """Axes around the data; y grows upwards."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str) -> None:
        self.x0, self.x1 = _padded(xs, 0.0)
        self.y0, self.y1 = _padded(ys, 0.06)
        self._labels = x_label, y_label

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - _TOP - _LEGEND - _BOTTOM)

    def axes(self) -> str:
        below = HEIGHT - _BOTTOM + 16
        lines = [_text(self.x(tick), below, _number(tick), "middle") for tick in ticks(self.x0, self.x1)]
        for tick in ticks(self.y0, self.y1):
            y = self.y(tick)
            lines.append(f"<line x1='{_LEFT}' x2='{WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}' class='grid'/>")
            lines.append(_text(_LEFT - 6, y + 4, _number(tick), "end"))
        lines.append(_text((WIDTH + _LEFT) / 2, HEIGHT - 8, self._labels[0], "middle"))
        middle = (HEIGHT - _BOTTOM) / 2
        turned = f"transform='rotate(-90 14 {middle:.0f})'"
        lines.append(
            f"<text x='14' y='{middle:.0f}' text-anchor='middle' {turned}>{html.escape(self._labels[1])}</text>"
        )
        return "".join(lines)


def line_chart(series: Sequence[Series], x_label: str, y_label: str, level: float | None = None) -> str:
    """Lines or points over common axes, with a legend; ``level`` is a dashed line across."""
    shown = [one for one in series if one.points]
    if not shown:
        return ""
    xs = [x for one in shown for x, _ in one.points]
    ys = [y for one in shown for _, y in one.points] + ([] if level is None else [level])
    frame = _Frame(xs, ys, x_label, y_label)
    parts = [frame.axes()]
    if level is not None:
        y = frame.y(level)
        parts.append(f"<line x1='{_LEFT}' x2='{WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}' class='level'/>")
    for n, one in enumerate(shown):
        parts += [_drawn(one, frame), _legend(n, one.name, one.colour)]
    return _svg(parts, HEIGHT, f"{y_label} over {x_label}")


def _drawn(one: Series, frame: _Frame) -> str:
    points = [(frame.x(x), frame.y(y)) for x, y in one.points]
    dots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5' fill='{one.colour}'/>" for x, y in points)
    if not one.joined or len(points) < 2:
        return dots
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for x, y in points[1:]:
        path += f"H{x:.1f}V{y:.1f}" if one.steps else f"L{x:.1f} {y:.1f}"
    return f"<path d='{path}' fill='none' stroke='{one.colour}' stroke-width='2'/>{dots if len(points) < 200 else ''}"


def diagonal_chart(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Points against the line on which both are the same."""
    every = [value for one in series for point in one.points for value in point]
    if not every:
        return ""
    frame = _Frame(every, every, x_label, y_label)
    ends = (frame.x(frame.x0), frame.y(frame.x0), frame.x(frame.x1), frame.y(frame.x1))
    parts = [frame.axes(), "<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' class='level'/>".format(*ends)]
    for n, one in enumerate(series):
        parts += [_drawn(one, frame), _legend(n, one.name, one.colour)]
    return _svg(parts, HEIGHT, f"{y_label} against {x_label}")


def interval_chart(rows: Sequence[Interval], label: str, level: float = 1.0) -> str:
    """One row each: a point in its interval, on a common axis; the dashed line is no difference."""
    if not rows:
        return ""
    low, high = _padded([*(row.low for row in rows), *(row.high for row in rows), level], 0.04)
    left, height = 300, _TOP + _ROW * len(rows) + 36

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - _RIGHT)

    parts = [f"<line x1='{x(level):.1f}' x2='{x(level):.1f}' y1='{_TOP}' y2='{height - 36}' class='level'/>"]
    parts += [_text(x(tick), height - 20, _number(tick), "middle") for tick in ticks(low, high)]
    for n, row in enumerate(rows):
        y = _TOP + _ROW * (n + 0.5)
        parts.append(_text(left - 10, y + 4, _clipped(row.name, 44), "end"))
        ends = f"x1='{x(row.low):.1f}' x2='{x(row.high):.1f}' y1='{y}' y2='{y}'"
        parts.append(f"<line {ends} stroke='{row.colour}' stroke-width='3'/>")
        parts.append(f"<circle cx='{x(row.value):.1f}' cy='{y}' r='4.5' fill='{row.colour}'/>")
    parts.append(_text((WIDTH + left) / 2, height - 4, label, "middle"))
    return _svg(parts, height, label)


def heat_map(
    columns: Sequence[str], rows: Sequence[str], cells: Sequence[Sequence[float | None]], level: float = 1.0
) -> str:
    """Ratios in a grid: blue below ``level``, red above, by how far in logarithm."""
    left, wide, high = 150, (WIDTH - 150 - _RIGHT) / max(1, len(columns)), 34
    parts = [_text(left + wide * (n + 0.5), 14, name, "middle") for n, name in enumerate(columns)]
    for r, name in enumerate(rows):
        y = 22 + high * r
        parts.append(_text(left - 8, y + high / 2 + 4, _clipped(name, 22), "end"))
        for c, value in enumerate(cells[r]):
            x, text = left + wide * c, "" if value is None else f"{value:.3f}"
            fill = "#eee" if value is None else _shade(value / level)
            parts.append(f"<rect x='{x:.1f}' y='{y}' width='{wide - 2:.1f}' height='{high - 2}' fill='{fill}'/>")
            parts.append(_text(x + wide / 2, y + high / 2 + 4, text, "middle", "cell"))
    return _svg(parts, 26 + high * len(rows), "ratios by regime")


def _shade(ratio: float) -> str:
    far = min(1.0, abs(math.log(ratio)) / math.log(2.0)) if ratio > 0 else 1.0
    pale = round(245 - 95 * far)
    return f"rgb({pale},{min(255, pale + 25)},250)" if ratio < 1.0 else f"rgb(250,{pale},{pale})"


def stacked_bars(bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], colours: Sequence[str], label: str) -> str:
    """One bar each, in parts that add up; the parts have the same names in each."""
    if not bars:
        return ""
    longest = max(sum(value for _, value in parts) for _, parts in bars) or 1.0
    left, legend = 200, 24
    height = legend + _ROW * len(bars) + 36
    apart = (WIDTH - 2 * _RIGHT) // len(bars[0][1])
    drawn = [_text(_RIGHT + apart * n + 14, 14, name, "start") for n, (name, _) in enumerate(bars[0][1])]
    drawn += [
        f"<rect x='{_RIGHT + apart * n}' y='5' width='10' height='10' fill='{colours[n % len(colours)]}'/>"
        for n in range(len(bars[0][1]))
    ]
    for n, (name, parts) in enumerate(bars):
        x, y = float(left), legend + _ROW * n
        drawn.append(_text(left - 8, y + 16, _clipped(name, 28), "end"))
        for k, (_, value) in enumerate(parts):
            wide, fill = value / longest * (WIDTH - left - 80), colours[k % len(colours)]
            drawn.append(f"<rect x='{x:.1f}' y='{y + 3}' width='{wide:.1f}' height='{_ROW - 6}' fill='{fill}'/>")
            x += wide
        drawn.append(_text(x + 6, y + 17, _number(sum(value for _, value in parts)), "start"))
    drawn.append(_text((WIDTH + left) / 2, height - 12, label, "middle"))
    return _svg(drawn, height, label)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most so many and one."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * m for m in (1, 2, 5, 10, 20) if (high - low) / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * share or (abs(high) * 0.05 or 1.0) * (high == low)
    return low - room, high + room


def _legend(n: int, name: str, colour: str) -> str:
    x, y = _LEFT + 170 * n, _TOP + 6
    return f"<rect x='{x}' y='{y - 8}' width='10' height='10' fill='{colour}'/>" + _text(x + 16, y + 1, name, "start")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f" class='{kind}'" if kind else ""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'{named}>{html.escape(text)}</text>"


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    opening = f"<svg viewBox='0 0 {WIDTH} {height:.0f}' role='img' aria-label='{html.escape(title, quote=True)}'>"
    return opening + "".join(parts) + "</svg>"
