"""The page of a grid: one heat map a pair, all in one file."""

from __future__ import annotations

from designer.evaluate import PolicyScore, Scorecard
from designer.grid import Cell, Grid, Regime
from designer.grid_page import to_html


def test_a_map_for_each_pair_and_one_copy_of_the_library() -> None:
    scores = (
        PolicyScore("<mine>", (), ({"objective": 5.0},)),
        PolicyScore("slow", (), ({"objective": 10.0},)),
        PolicyScore("other", (), ({"objective": 20.0},)),
    )
    card = Scorecard("s", "0" * 64, "mean_ttft", (1,), "slow", scores)
    page = to_html(Grid("s", (1,), ("<mine>",), ("slow", "other"), (Cell(Regime(kv=4.0), card),)))
    assert page.count("Plotly.newPlot(") == 3
    assert page.count('"type":"heatmap"') >= 3
    assert "&lt;mine&gt; against slow" in page
    assert "<mine>" not in page.replace("\\u003cmine\\u003e", "")
    assert "Worst cell: KV x4, load x1, ratio 0.500." in page
    assert 'src="http' not in page
