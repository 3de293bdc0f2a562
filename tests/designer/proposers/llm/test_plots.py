"""Plots: the same rows for a model to read and for people to see."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from designer.proposers.llm.plots import Kind, PlotError, draw
from designer.readonly_sql import Table


def table(*rows: tuple[Any, ...]) -> Table:
    return Table(tuple(f"c{n}" for n in range(len(rows[0]))), rows, False)


def test_a_histogram_counts_every_value() -> None:
    plot = draw(table(*[(float(n % 7),) for n in range(70)], (None,)), "histogram", "waits")
    assert plot.text.startswith("waits: c0, 70 values")
    assert sum(int(line.split()[-1]) for line in plot.text.splitlines()[1:]) == 70
    assert len(ElementTree.fromstring(plot.svg).findall("{http://www.w3.org/2000/svg}rect")) == 20


@pytest.mark.parametrize("kind", ["scatter", "line"])
def test_points_lie_in_their_ranges(kind: Kind) -> None:
    plot = draw(table((0, 10), (5, 20), (10, 0)), kind, "a <b>")
    assert "x 0 to 10, y 0 to 20, 3 points" in plot.text
    assert plot.text.count("*") == 3
    assert "a &lt;b&gt;" in plot.svg
    ElementTree.fromstring(plot.svg)


def test_one_point_and_equal_values_can_be_drawn() -> None:
    assert draw(table((3, 3)), "line", "one").text.count("*") == 1
    assert "5 values" in draw(table(*[(2.0,)] * 5), "histogram", "same").text


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([(1,)], "scatter", "2 columns are needed, the query gives 1"),
        ([("a", "b")], "line", "no row has numbers"),
        ([(None,)], "histogram", "no row has numbers"),
    ],
)
def test_what_cannot_be_drawn_is_said(rows: list[tuple[Any, ...]], kind: Kind, message: str) -> None:
    with pytest.raises(PlotError, match=message):
        draw(table(*rows), kind, "x")
