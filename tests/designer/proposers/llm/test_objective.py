"""The objective in words: every metric of the scenarios is defined, with its punishment and its promise."""

from __future__ import annotations

from typing import get_args

import pytest

from designer.proposers.llm.objective import in_words, name_of, unit_of
from designer.simulator.scenario import Metric, Objective


@pytest.mark.parametrize("metric", [name for name in get_args(Metric) if isinstance(name, str) and name != "weighted"])
def test_every_metric_is_defined(metric: Metric) -> None:
    objective = Objective(metric=metric)
    assert in_words(objective).startswith(f"{name_of(objective)}: ")
    assert unit_of(objective) == " s"


def test_times_say_what_a_request_without_an_answer_costs() -> None:
    assert "as 100 s, or as long as it had waited" in in_words(Objective(metric="mean_ttft", penalty_seconds=100.0))
    assert "full answer counts" not in in_words(Objective(metric="worker_seconds"))


def test_a_cost_under_a_promise_says_the_promise_and_how_many_may_miss_it() -> None:
    text = in_words(
        Objective(metric="worker_seconds", slo_share=0.99, ttft_slo_seconds=2.0, tpot_slo_seconds=0.05),
    )
    assert "more than 1 % of the requests miss" in text
    assert "the first token within its own, else 2 s, then at most 0.05 s a token" in text


def test_a_sum_has_its_weights_and_no_unit() -> None:
    objective = Objective(metric="weighted", weights={"p99_ttft": 1.0, "worker_seconds": 0.01})
    text = in_words(objective)
    assert text.startswith("weighted: 1 x p99 ttft + 0.01 x worker seconds.")
    assert "p99 ttft: the 99th percentile" in text
    assert "worker seconds: the seconds of all servers" in text
    assert unit_of(objective) == ""
