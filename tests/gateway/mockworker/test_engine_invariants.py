"""What holds of every run of the engine, over random workloads and all its options."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mockworker.engine import Engine, TokenRun
from tests.support.engine_cases import Case, cases, drive

FOREVER = 10**12


def events(runs: list[TokenRun]) -> tuple[Counter[str], dict[str, int], dict[str, int]]:
    made: Counter[str] = Counter()
    first: dict[str, int] = {}
    finish: dict[str, int] = {}
    for run in runs:
        made.update(dict.fromkeys(run.request_ids, run.num_steps))
        first.update(dict.fromkeys(run.first, run.end))
        finish.update(dict.fromkeys(run.finished, run.end))
    return made, first, finish


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_request_ends_once_with_all_its_tokens(case: Case) -> None:
    engine, runs = drive(Engine, case)
    made, first, finish = events(runs)
    limit = case.config.max_request_tokens
    for now, request in case.requests:
        if request.request_id in case.cancelled:
            continue
        assert made[request.request_id] == min(request.num_output_tokens, limit - request.num_prompt_tokens)
        assert now < first[request.request_id] <= finish[request.request_id]
    assert sum(len(run.finished) for run in runs) == len(finish) >= len(case.requests) - len(case.cancelled)
    assert engine.num_output_tokens_at(FOREVER) == sum(made.values())
    assert (engine.num_running, engine.num_waiting, engine.num_free_blocks) == (0, 0, case.config.num_gpu_blocks)
    assert engine.kv_cache_usage == 0
    assert engine.next_event_time() is None


@settings(max_examples=100, deadline=None)
@given(cases())
def test_time_moves_on_and_no_step_is_under_the_profile_s_floor(case: Case) -> None:
    _, runs = drive(Engine, case)
    floor = case.profile.weights_ps + case.profile.host_step_ps
    end = 0
    for run in runs:
        assert run.start >= end
        assert run.end - run.start >= run.num_steps * floor
        assert set(run.first) | set(run.finished) <= set(run.request_ids)
        assert len(set(run.request_ids)) == len(run.request_ids) <= case.config.max_num_seqs
        assert run.num_steps == 1 or not run.first
        end = run.end


@settings(max_examples=100, deadline=None)
@given(cases())
def test_statistics_agree_with_the_runs(case: Case) -> None:
    engine, runs = drive(Engine, case)
    _, first, finish = events(runs)
    arrivals = {request.request_id: now for now, request in case.requests}
    stats = [s for run in runs for s in run.stats]
    assert [s.request_id for s in stats] == [request_id for run in runs for request_id in run.finished]
    for s in stats:
        assert s.arrival == arrivals[s.request_id] <= s.first_scheduled < s.first_token == first[s.request_id]
        assert s.finish == finish[s.request_id]
        assert 0 <= s.num_cached_tokens < s.num_prompt_tokens
        assert (s.preempted_ps > 0) == (s.num_preemptions > 0)
        assert s.num_recomputed_tokens == 0 or s.num_preemptions
    if not case.cancelled:
        of_ended = engine.num_preemptions - sum(s.num_preemptions for s in stats)
        assert of_ended == 0 or (case.config.async_scheduling and of_ended > 0)
        assert engine.num_prefix_hits <= engine.num_prefix_queries


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 700))
def test_the_run_does_not_depend_on_how_often_the_clock_is_read(case: Case, every: int) -> None:
    def summary(engine: Engine, runs: list[TokenRun]) -> tuple[object, ...]:
        return (*events(runs), engine.num_preemptions, engine.num_prefix_hits, engine.num_computed_prompt_tokens)

    assert summary(*drive(Engine, case)) == summary(*drive(Engine, case, every))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_next_event_time_is_never_late(case: Case) -> None:
    def loaded() -> Engine:
        engine = Engine(case.config, case.profile, case.policy())
        for _, request in case.requests:
            engine.add(request, 0)
        return engine

    engine = loaded()
    seen: list[TokenRun] = []
    while (event := engine.next_event_time()) is not None:
        before = engine.advance(event - 1) if event else []
        assert not any(run.first or run.finished for run in before)
        seen += before + engine.advance(event)
    assert events(loaded().advance(FOREVER)) == events(seen)
