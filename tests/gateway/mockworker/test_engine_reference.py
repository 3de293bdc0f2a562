"""The event-skipping engine and the step-by-step one agree by ``==``, over random workloads and all the options."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mockworker.engine import Engine, TokenRun
from tests.support.engine_cases import Case, busy_case, cases, drive
from tests.support.reference_engine import ReferenceEngine

COUNTERS = (
    "num_preemptions",
    "num_prefix_queries",
    "num_prefix_hits",
    "num_computed_prompt_tokens",
    "num_running",
    "num_waiting",
    "num_free_blocks",
)


def normalised(runs: list[TokenRun]) -> list[tuple[Any, ...]]:
    """Runs that mean the same become the same: neighbours merged, request_ids in no order."""
    result: list[tuple[Any, ...]] = []
    for run in runs:
        ids = frozenset(run.request_ids)
        if result and not run.first:
            start, end, num_steps, before, first, finished, _ = result[-1]
            if (end, before, first, finished) == (run.start, ids, (), ()):
                run = run._replace(start=start, num_steps=num_steps + run.num_steps)
                result.pop()
        result.append((run.start, run.end, run.num_steps, ids, run.first, run.finished, run.stats))
    return result


def counters(engine: Engine | ReferenceEngine) -> dict[str, int]:
    return {name: getattr(engine, name) for name in COUNTERS}


@settings(max_examples=400, deadline=None)
@given(cases())
def test_the_whole_run_is_the_same(case: Case) -> None:
    reference, expected = drive(ReferenceEngine, case)
    engine, runs = drive(Engine, case)
    assert normalised(runs) == normalised(expected)
    assert counters(engine) == counters(reference)


@settings(max_examples=150, deadline=None)
@given(cases(), st.lists(st.integers(1, 900), min_size=1, max_size=30))
def test_the_state_is_the_same_at_any_time(case: Case, pauses: list[int]) -> None:
    reference = ReferenceEngine(case.config, case.profile, case.policy())
    engine = Engine(case.config, case.profile, case.policy())
    for _, request in case.requests:
        reference.add(request, 0)
        engine.add(request, 0)
    now = 0
    expected: list[TokenRun] = []
    runs: list[TokenRun] = []
    for pause in pauses:
        now += pause
        ahead = now + pause // 2
        assert engine.num_output_tokens_at(now) == reference.num_output_tokens_at(now)
        expected += reference.advance(now)
        runs += engine.advance(now)
        assert counters(engine) == counters(reference)
        assert [engine.stats(r.request_id) for _, r in case.requests] == [
            reference.stats(r.request_id) for _, r in case.requests
        ]
        event = engine.next_event_time()
        if event is not None and ahead < event:
            assert engine.num_output_tokens_at(ahead) == reference.num_output_tokens_at(ahead)
        assert engine.next_step_time() == reference.next_step_time()
    assert normalised(runs) == normalised(expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_run_is_the_same(seed: int) -> None:
    """Large numbers: hundreds of requests, hundreds of preemptions, shared prefixes, evictions."""
    case = busy_case(seed)
    reference, expected = drive(ReferenceEngine, case)
    engine, runs = drive(Engine, case)
    assert normalised(runs) == normalised(expected)
    assert counters(engine) == counters(reference)
    assert engine.num_preemptions > 20
