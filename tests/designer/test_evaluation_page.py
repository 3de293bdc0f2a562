"""The page of a scorecard: everything in one file, and its data are the runs' own."""

from __future__ import annotations

import numpy as np
import pytest

from designer.evaluate import evaluate
from designer.evaluation_page import Observed, _over_time, _peaks, _where_time_went, observe, to_html
from tests.support.contended_scenario import contended_scenario


@pytest.fixture(scope="module")
def page_parts() -> tuple[str, tuple[Observed, ...]]:
    scenario = contended_scenario()
    card = evaluate(["head_room@routing+fcfs"], scenario, [4], reference=True)
    observed = observe(card, scenario, 4)
    assert [run.spec for run in observed] == ["head_room@routing+fcfs", "least_loaded", "clairvoyant"]
    for run, score in zip(observed, card.scores, strict=False):
        assert run.result.mean_response_time == score.values[0]
    return to_html(card, observed), observed


def test_one_file_with_every_part(page_parts: tuple[str, tuple[Observed, ...]]) -> None:
    page, _ = page_parts
    assert page.count("Plotly.newPlot(") == 5  # bars, distributions, three time lines
    assert page.count("<h4>") == 3
    assert "<td>lower bound</td>" in page
    assert "One run: seed 4" in page
    assert 'src="http' not in page
    assert page.endswith("</html>")


def test_bars_add_up_to_the_mean_time(page_parts: tuple[str, tuple[Observed, ...]]) -> None:
    _, observed = page_parts
    figure = _where_time_went(observed)
    totals = np.sum([trace.x for trace in figure.data], axis=0)
    assert totals == pytest.approx([run.result.mean_response_time for run in observed])


def test_time_lines_have_every_worker(page_parts: tuple[str, tuple[Observed, ...]]) -> None:
    _, observed = page_parts
    figure = _over_time(observed[0])
    assert len(figure.data) == 1 + 2 * 4
    assert {trace.name for trace in figure.data} == {"gateway", "a10-llama3-8b-0", "a10-llama3-8b-1"}


def test_every_chart_has_its_unit_and_time_lines_reach_the_end(page_parts: tuple[str, tuple[Observed, ...]]) -> None:
    _, observed = page_parts
    charts = _over_time(observed[0]).to_dict()["layout"]
    units = [charts[f"yaxis{number}"]["title"]["text"] for number in ("", 2, 3, 4, 5)]
    assert units == ["requests", "requests", "requests", "share", "requests"]
    held = _over_time(observed[0]).data[0]
    assert held.x[-1] == pytest.approx(np.nanmax(observed[0].result.finished), rel=1e-4)


def test_a_long_line_is_thinned_without_losing_its_peak() -> None:
    values = [0.0] * 5000
    values[1234] = 7.0
    times, kept = _peaks([float(n) for n in range(5000)], values)
    assert len(times) == 500
    assert (times[-1], max(kept)) == (4999.0, 7.0)
    assert times[kept.index(7.0)] == 1234.0
    assert _peaks([1.0, 2.0], [3.0, 4.0]) == ([1.0, 2.0], [3.0, 4.0])
