"""What the dispatcher hears of a request and what the engine gets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from designer.simulator.requests import arrival_events, believed_scales, engine_requests, priorities, ttft_slos
from designer.simulator.workload import RequestColumns, draw_workload
from tests.support.contended_scenario import contended_scenario

TENANTS = [{"name": "a", "priority": 3, "ttft_slo_seconds": 1.0}, {"name": "b"}]


def columns(**workload: Any) -> RequestColumns:
    return draw_workload(contended_scenario(workload=workload), 1)


def test_priorities_turn_round_between_gateway_and_engine() -> None:
    drawn = columns(tenants=TENANTS)
    heard, truths = arrival_events(drawn, None), engine_requests(drawn)
    assert {event.priority for event in heard} == {0, 3}
    assert [truth.priority for truth in truths] == [-event.priority for event in heard]


def test_a_requests_own_promise_comes_before_its_tenants() -> None:
    drawn = columns(tenants=TENANTS)
    own = np.full(len(drawn), np.nan)
    own[0] = 9.0
    changed = dataclasses.replace(drawn, ttft_slos=own, priorities=np.arange(len(drawn)))
    assert ttft_slos(changed)[0] == 9.0
    assert ttft_slos(changed)[1:] == ttft_slos(drawn)[1:]
    assert priorities(changed) == list(range(len(drawn)))


def test_deadlines_are_absolute_and_optional_fields_reach_the_event() -> None:
    drawn = columns(max_tokens={"values": [64]})
    named = dataclasses.replace(drawn, session_ids=("s",) * len(drawn), models=("m",) * len(drawn))
    event = arrival_events(named, 5.0)[3]
    assert event.deadline == event.time + 5.0
    assert (event.max_tokens, event.session_id, event.model) == (64, "s", "m")
    assert arrival_events(columns(), None)[3].max_tokens is None


def test_prefix_tokens_are_believed_as_the_bytes_suggest_and_given_as_they_are() -> None:
    drawn = columns(prefixes={"groups": 1, "tokens": {"median": 1024.0}}, bytes={"per_token": 8.0})
    assert [tokens for _, tokens in engine_requests(drawn)[0].prefix_chunks] == [256, 512, 768, 1024]
    assert believed_scales(drawn)[0] == 2.0
    assert arrival_events(drawn, None)[0].prefix_keys == ()
