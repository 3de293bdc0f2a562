"""Plots of a query's rows, small: characters for a model to read, SVG for people."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from designer.readonly_sql import Table

Kind = Literal["histogram", "scatter", "line"]
_WIDE, _HIGH = 60, 14
_BINS = 20
_W, _H, _PAD = 480, 240, 36
Point = tuple[float, float]


class PlotError(Exception):
    """Rows that cannot be drawn; one line."""


@dataclass(frozen=True, slots=True)
class Plot:
    text: str
    svg: str


def draw(table: Table, kind: Kind, title: str) -> Plot:
    """A histogram of the first column, or the second column over the first.

    Raises:
        PlotError: the columns are not numbers.
    """
    if kind == "histogram":
        return _histogram(_numbers(table, 1), title, table.columns[0])
    points = [(x, y) for x, y in _numbers(table, 2)]
    if kind == "line":
        points.sort()
    axes = f"{table.columns[1]} over {table.columns[0]}"
    return Plot(f"{title}: {axes}\n{_grid(points)}", _svg(title, axes, _marks(points, kind)))


def _numbers(table: Table, count: int) -> list[Any]:
    """The rows whose first columns are numbers, as tuples of them."""
    if len(table.columns) < count:
        raise PlotError(f"{count} columns are needed, the query gives {len(table.columns)}")
    rows = [row[:count] for row in table.rows if all(isinstance(value, int | float) for value in row[:count])]
    if not rows:
        raise PlotError("no row has numbers to draw")
    return rows


def _histogram(rows: Sequence[tuple[float]], title: str, column: str) -> Plot:
    values = [float(row[0]) for row in rows]
    low, high = min(values), max(values)
    width = (high - low) / _BINS or 1.0
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int((value - low) / width))] += 1
    most = max(counts)
    lines = [f"{title}: {column}, {len(values)} values"]
    lines += [f"{low + n * width:>12.4g} {'#' * round(40 * c / most)} {c}" for n, c in enumerate(counts)]
    marks = "".join(_bar(n, c / most) for n, c in enumerate(counts))
    return Plot("\n".join(lines), _svg(title, f"{column} from {low:.4g} to {high:.4g}, at most {most}", marks))


def _bar(number: int, share: float) -> str:
    wide = (_W - 2 * _PAD) / _BINS
    left, top = _PAD + number * wide, _y(share)
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide - 1:.1f}" height="{_y(0) - top:.1f}"/>'


def _scaled(points: Sequence[Point]) -> tuple[list[Point], str]:
    """To 0 … 1 both ways, and the ranges in words."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    scaled = [((x - left) / (right - left or 1.0), (y - low) / (high - low or 1.0)) for x, y in points]
    return scaled, f"x {left:.4g} to {right:.4g}, y {low:.4g} to {high:.4g}, {len(points)} points"


def _grid(points: Sequence[Point]) -> str:
    scaled, ranges = _scaled(points)
    cells = [[" "] * _WIDE for _ in range(_HIGH)]
    for x, y in scaled:
        cells[_HIGH - 1 - round(y * (_HIGH - 1))][round(x * (_WIDE - 1))] = "*"
    return "\n".join([*("|" + "".join(row).rstrip() for row in cells), "+" + "-" * _WIDE, ranges])


def _marks(points: Sequence[Point], kind: Kind) -> str:
    scaled, _ = _scaled(points)
    at = [f"{_PAD + x * (_W - 2 * _PAD):.1f},{_y(y):.1f}" for x, y in scaled]
    if kind == "line":
        return f'<polyline fill="none" stroke="currentColor" points="{" ".join(at)}"/>'
    return "".join('<circle cx="{}" cy="{}" r="2"/>'.format(*pair.split(",")) for pair in at)


def _y(share: float) -> float:
    return _H - _PAD - share * (_H - 2 * _PAD)


def _svg(title: str, axes: str, marks: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" font-family="sans-serif" font-size="12">'
        f'<text x="{_PAD}" y="20">{html.escape(title)}</text>{marks}'
        f'<text x="{_PAD}" y="{_H - 12}">{html.escape(axes)}</text></svg>'
    )
