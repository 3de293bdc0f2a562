"""Plots are well-formed, hold what they were given, and escape it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from designer.svg import Interval, Series, diagonal_chart, heat_map, interval_chart, line_chart, stacked_bars, ticks

LINE = Series("<search>", [(0, 1.0), (10, 0.8), (20, 0.75)], "#123456", steps=True)
CHARTS = {
    "line": line_chart([LINE], "spent", "ratio", 1.0),
    "diagonal": diagonal_chart([Series("a & b", [(0.9, 1.0)], "#123456", joined=False)], "predicted", "observed"),
    "intervals": interval_chart([Interval("a 'quoted' name", 0.8, 0.9, 1.1)], "ratio"),
    "heat map": heat_map(["first"], ["here", "there"], [[0.5], [None]]),
    "bars": stacked_bars([("one", [("held", 1.0), ("decode", 2.0)])], ("#111111", "#222222"), "seconds"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_well_formed_and_runs_nothing(name: str) -> None:
    root = ElementTree.fromstring(CHARTS[name])
    assert root.tag == "svg"
    assert root.get("aria-label")
    assert not list(root.iter("script"))


def test_values_are_where_they_belong() -> None:
    """A lower value is drawn lower, and a step goes across before it goes down."""
    circles = [float(c.get("cy", "nan")) for c in ElementTree.fromstring(CHARTS["line"]).iter("circle")]
    assert circles == sorted(circles)
    assert "H" in CHARTS["line"]
    fills = [rect.get("fill", "") for rect in ElementTree.fromstring(CHARTS["heat map"]).iter("rect")]
    assert fills == ["rgb(150,175,250)", "#eee"]


def test_nothing_to_draw_is_nothing() -> None:
    assert line_chart([Series("empty", [], "#111111")], "x", "y") == ""
    assert interval_chart([], "x") == diagonal_chart([], "x", "y") == stacked_bars([], (), "x") == ""


@pytest.mark.parametrize(("low", "high"), [(0.0, 100.0), (0.71, 1.02), (-3.0, 1e6), (5.0, 5.1)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-6 <= tick <= high + 1e-6 for tick in found)
