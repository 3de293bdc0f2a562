"""The engine of a simulation, which reports only first tokens and ends, agrees with the step-by-step one by ``==``."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.mockworker.engine import Engine, TokenRun
from tests.support.engine_cases import Case, busy_case, cases, drive, quick_cases, session_cases
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


def counters(engine: Engine | ReferenceEngine) -> dict[str, int]:
    return {name: getattr(engine, name) for name in COUNTERS}


def quiet(*arguments: Any) -> Engine:
    return Engine(*arguments, report_tokens=False)


def key_moments(runs: list[TokenRun]) -> list[tuple[Any, ...]]:
    return [(run.end, run.first, run.finished, run.stats) for run in runs if run.first or run.finished]


class Watched(Engine):
    """Counts how stretches end and begin: by the quick way, or left to the whole one."""

    def __init__(self, *arguments: Any) -> None:
        self.num_quick = self.num_other = self.num_begun_otherwise = 0
        super().__init__(*arguments, report_tokens=False)

    def _complete(self, num_steps: int, end: int) -> None:
        if self._cancelled or self._starved or not self._quick:
            self.num_other += 1
        else:
            self.num_quick += 1
        super()._complete(num_steps, end)

    def _begin(self, start: int) -> None:
        self.num_begun_otherwise += 1
        super()._begin(start)


@pytest.mark.skipif(not inspect.isfunction(Engine.advance), reason="a compiled engine cannot be watched from within")
def test_what_a_simulation_almost_always_is_takes_the_quick_way_and_is_never_late() -> None:
    """Most examples must reach it: a test of the quick way that does not go there shows nothing."""
    tried: list[Watched] = []

    @settings(max_examples=200, deadline=None)
    @given(quick_cases())
    def check(case: Case) -> None:
        reference, expected = drive(ReferenceEngine, case)
        engine, runs = drive(Watched, case)
        tried.append(engine)
        event("all of it quick" if not engine.num_other + engine.num_begun_otherwise else "some of it quick")
        assert key_moments(runs) == key_moments(expected)
        assert counters(engine) == counters(reference)
        _never_late(case)

    check()
    ends = sum(engine.num_quick for engine in tried), sum(engine.num_other for engine in tried)
    assert ends[0] > 0.9 * sum(ends)
    assert sum(engine.num_quick > engine.num_other for engine in tried) > 0.9 * len(tried)
    assert sum(engine.num_begun_otherwise < engine.num_quick for engine in tried) > 0.5 * len(tried)
    assert sum(engine.num_preemptions > 0 for engine in tried) > 5


def _never_late(case: Case) -> None:
    """By its own times alone, arrivals apart: nothing has happened a picosecond before, and nothing is left out."""
    engine, reference = Watched(case.config, case.profile, None), ReferenceEngine(case.config, case.profile, None)
    coming, now = list(case.requests), 0
    while True:
        due = engine.next_event_time()
        if coming and (due is None or coming[0][0] <= due):
            now, request = coming.pop(0)
            engine.add(request, now)
            reference.add(request, now)
            continue
        if due is None:
            return
        preempted = reference.num_preemptions
        assert due <= now or key_moments(reference.advance(due - 1)) == []
        assert reference.num_preemptions == preempted
        now = due
        assert key_moments(engine.advance(due)) == key_moments(reference.advance(due))


@settings(max_examples=250, deadline=None)
@given(cases())
def test_without_token_reports_the_same_is_said_of_first_tokens_and_ends(case: Case) -> None:
    reference, expected = drive(ReferenceEngine, case)
    engine, runs = drive(quiet, case)
    assert key_moments(runs) == key_moments(expected)
    assert all(set(run.request_ids) == {*run.first, *run.finished} for run in runs)
    assert counters(engine) == counters(reference)


@settings(max_examples=150, deadline=None)
@given(session_cases())
def test_the_next_turn_finds_prompt_and_answer_of_the_one_before(case: Case) -> None:
    reference, expected = drive(ReferenceEngine, case)
    for make in (quiet, Engine):
        engine, runs = drive(make, case)
        assert key_moments(runs) == key_moments(expected)
        assert counters(engine) == counters(reference)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 900))
def test_without_token_reports_the_state_is_the_same_at_any_time(case: Case, pause: int) -> None:
    reference = ReferenceEngine(case.config, case.profile, case.policy())
    engine = quiet(case.config, case.profile, case.policy())
    coming = list(case.requests)
    for now in range(0, 40 * pause, pause):
        while coming and coming[0][0] <= now:
            arrival, request = coming.pop(0)
            reference.add(request, arrival if arrival > now - pause else now)
            engine.add(request, arrival if arrival > now - pause else now)
        assert key_moments(engine.advance(now)) == key_moments(reference.advance(now))
        event = engine.next_event_time()
        if event is not None and now < event:
            assert engine.num_output_tokens_at(now) == reference.num_output_tokens_at(now)
        if now // pause % 3 == 0:
            assert counters(engine) == counters(reference)


@pytest.mark.parametrize("seed", range(3, 6))
def test_a_long_run_is_the_same(seed: int) -> None:
    case = busy_case(seed)
    reference, expected = drive(ReferenceEngine, case)
    engine, runs = drive(quiet, case)
    assert key_moments(runs) == key_moments(expected)
    assert counters(engine) == counters(reference)
    assert engine.num_preemptions > 20
