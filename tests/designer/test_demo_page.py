"""The demo's page stands alone and says what was measured and what was simulated."""

from __future__ import annotations

from pathlib import Path

from designer.demo_page import distribution, write_page

BEFORE, AFTER = [3.0, 1.0, 2.0], [1.0, 0.5, 0.7]


def test_the_page_holds_the_figures_and_the_policy(tmp_path: Path) -> None:
    winner = tmp_path / "winner.py"
    winner.write_text('"""Holds <what> does not fit."""\n')
    page = tmp_path / "demo.html"
    write_page(page, (BEFORE, AFTER), (BEFORE, AFTER), winner, [("measured, mean", 2.0, 0.8)])
    text = page.read_text()
    assert "<td>2.00</td><td>0.80</td><td>2.50</td>" in text
    assert "Holds &lt;what&gt; does not fit." in text
    assert '<script src="http' not in text


def test_distributions_rise_from_the_least_to_all() -> None:
    lines = distribution((BEFORE, AFTER), (BEFORE, AFTER)).data
    assert [line.name for line in lines] == [
        "before, measured",
        "before, simulated",
        "after, measured",
        "after, simulated",
    ]
    assert list(lines[0].x) == [1.0, 2.0, 3.0]
    assert lines[0].y[-1] == 1.0
