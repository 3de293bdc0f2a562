"""The engine model: runs worked out by hand, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.mockworker.engine import Engine, EngineConfig, EngineRequest, TokenRun
from gateway.mockworker.profile import WorkerProfile

FLAT = WorkerProfile("flat", "", EngineConfig(100), weights_ps=100)
"""Every step takes 100 ps."""


def config(**flags: Any) -> EngineConfig:
    return EngineConfig(**{"num_gpu_blocks": 100, "block_size": 4, "max_num_batched_tokens": 8, **flags})


def steps(runs: list[TokenRun]) -> list[tuple[int, int, int, str, str, str]]:
    return [(r.start, r.end, r.num_steps, "".join(r.request_ids), "".join(r.first), "".join(r.finished)) for r in runs]


def tokens(runs: list[TokenRun]) -> dict[str, int]:
    made: dict[str, int] = {}
    for run in runs:
        for request_id in run.request_ids:
            made[request_id] = made.get(request_id, 0) + run.num_steps
    return made


def finish_times(runs: list[TokenRun]) -> dict[str, int]:
    return {request_id: run.end for run in runs for request_id in run.finished}


def first_times(runs: list[TokenRun]) -> dict[str, int]:
    return {request_id: run.end for run in runs for request_id in run.first}


def run_all(engine: Engine, *requests: tuple[int, EngineRequest]) -> list[TokenRun]:
    for now, request in requests:
        engine.add(request, now)
    return engine.advance(10**9)


def test_one_request_is_prefilled_in_chunks_and_then_decodes() -> None:
    engine = Engine(config(), FLAT)
    runs = run_all(engine, (50, EngineRequest("a", 20, 3)))
    assert first_times(runs) == {"a": 350}  # 20 tokens in chunks of 8, 8, 4
    assert finish_times(runs) == {"a": 550}
    assert tokens(runs) == {"a": 3}
    (stats,) = runs[-1].stats
    assert (stats.arrival, stats.first_scheduled, stats.first_token, stats.finish) == (50, 50, 350, 550)
    assert (stats.num_preemptions, stats.num_cached_tokens, stats.num_recomputed_tokens) == (0, 0, 0)
    assert engine.num_computed_prompt_tokens == 20
    assert (engine.num_running, engine.num_waiting, engine.num_free_blocks) == (0, 0, 100)


def test_the_step_time_is_the_profile_s_formula() -> None:
    profile = WorkerProfile(
        "x",
        "",
        EngineConfig(100),
        weights_ps=1000,
        fixed_ps=700,
        token_ps=100,
        decode_ps=11,
        decode_context_ps=3,
        prefill_context_ps=2,
        host_step_ps=50,
        host_sequence_ps=7,
        host_request_ps=13,
    )
    engine = Engine(config(), profile)
    runs = run_all(engine, (0, EngineRequest("a", 10, 3)))
    first_chunk = 700 + 8 * 100 + 2 * 8 * 8 // 2 + 50 + 7  # over the floor
    second_chunk = 1000 + 2 * 2 * (2 * 8 + 2) // 2 + 50 + 7  # 900 is under it
    decode = [1000 + 11 + 3 * context + 50 + 7 for context in (11, 12)]
    assert first_times(runs) == {"a": 13 + first_chunk + second_chunk}
    assert finish_times(runs) == {"a": 13 + first_chunk + second_chunk + sum(decode)}


def test_running_first_then_waiting_with_what_is_left_of_the_budget() -> None:
    engine = Engine(config(), FLAT)
    runs = run_all(engine, (0, EngineRequest("a", 2, 6)), (10, EngineRequest("b", 10, 2)))
    # [0,100) a alone; [100,200) a decodes, b takes 7; [200,300) a decodes, b takes its last 3.
    assert first_times(runs) == {"a": 100, "b": 300}
    assert finish_times(runs) == {"a": 600, "b": 400}


def test_an_arrival_joins_the_first_step_that_starts_after_it() -> None:
    engine = Engine(config(), FLAT)
    first = first_times(run_all(engine, (0, EngineRequest("a", 2, 9)), (99, EngineRequest("b", 1, 1))))
    assert first == {"a": 100, "b": 200}
    engine = Engine(config(), FLAT)
    first = first_times(run_all(engine, (0, EngineRequest("a", 2, 9)), (100, EngineRequest("b", 1, 1))))
    assert first == {"a": 100, "b": 300}


def test_async_scheduling_lets_arrivals_join_one_step_later() -> None:
    engine = Engine(config(async_scheduling=True), FLAT)
    first = first_times(run_all(engine, (0, EngineRequest("a", 2, 9)), (50, EngineRequest("b", 1, 1))))
    assert first == {"a": 100, "b": 300}


def test_async_scheduling_frees_a_seat_one_step_later() -> None:
    engine = Engine(config(async_scheduling=True, max_num_seqs=2), FLAT)
    runs = run_all(engine, (0, EngineRequest("a", 1, 9)), (1, EngineRequest("b", 1, 1)), (2, EngineRequest("c", 1, 1)))
    # a: [0,100); both others are seen at 100 and b joins at 200; it ends at 300, its seat is free at 400.
    assert finish_times(runs)["b"] == 300
    assert first_times(runs)["c"] == 500


def test_async_scheduling_with_nothing_left_does_not_wait() -> None:
    engine = Engine(config(async_scheduling=True), FLAT)
    assert first_times(run_all(engine, (0, EngineRequest("a", 1, 1)), (50, EngineRequest("b", 1, 1)))) == {
        "a": 100,
        "b": 200,
    }


def test_the_threshold_bounds_a_chunk_while_others_are_there() -> None:
    engine = Engine(config(long_prefill_token_threshold=3), FLAT)
    runs = run_all(engine, (0, EngineRequest("a", 12, 1)), (1, EngineRequest("b", 4, 1)))
    # [0,100) a alone: 8; then a 3, b 3; then a 1, b 1.
    assert first_times(runs) == {"a": 300, "b": 300}


def test_a_seat_must_be_free() -> None:
    engine = Engine(config(max_num_seqs=1), FLAT)
    runs = run_all(engine, (0, EngineRequest("a", 1, 3)), (1, EngineRequest("b", 1, 1)))
    assert first_times(runs) == {"a": 100, "b": 400}


def test_preemption_takes_the_last_running_and_its_output_is_prefilled_again() -> None:
    # Four blocks of 4. a and b hold one each from the start, a second from their 5th token on, a third from the 9th.
    engine = Engine(config(num_gpu_blocks=4), FLAT)
    engine.add(EngineRequest("a", 4, 8), 0)
    engine.add(EngineRequest("b", 4, 8), 1)
    # a: [0,100) prefill, computed 4. Step k (start 100 k): a computes its token 4+k, b (from step 1) 4+k-1.
    # a needs a third block in step 5 (token 9). b has computed 4+3=7, holds 2: none is free, so b is preempted.
    runs = engine.advance(500)
    assert engine.num_preemptions == 1
    assert (engine.num_running, engine.num_waiting) == (1, 1)
    assert engine.num_free_blocks == 1
    runs += engine.advance(10**9)
    # a ends at 800; b (4 prompt + 4 output) needs 2 blocks and 1 to 4 were in the cache: it prefills 5 to 8.
    assert finish_times(runs)["a"] == 800
    stats = {s.request_id: s for r in runs for s in r.stats}
    assert stats["b"].num_preemptions == 1
    assert stats["b"].num_recomputed_tokens == 3  # computed 7, of which 4 were found in the cache
    assert stats["b"].first_token == 200
    # b's 4 tokens came at 200..500; the victim of 500 is admitted again at 800 and makes its 5th at 900.
    assert stats["b"].preempted_ps == 400
    assert stats["b"].finish == 1200
    assert tokens(runs) == {"a": 8, "b": 8}


@pytest.mark.parametrize("caching", [True, False])
def test_what_a_preemption_took_can_come_back_at_no_cost_for_comparison(caching: bool) -> None:
    """As above, but b has its 7 tokens back at 800 and computes one: without that, and a cache, all 8 of them."""
    for restore, recomputed in ((False, 3 if caching else 7), (True, 0)):
        engine = Engine(config(num_gpu_blocks=4, enable_prefix_caching=caching, restore_preempted=restore), FLAT)
        engine.add(EngineRequest("a", 4, 8), 0)
        engine.add(EngineRequest("b", 4, 8), 1)
        stats = {s.request_id: s for r in engine.advance(10**9) for s in r.stats}
        assert (stats["b"].num_preemptions, stats["b"].num_recomputed_tokens) == (1, recomputed)


def test_a_step_that_preempted_admits_nobody_and_victims_resume_first() -> None:
    engine = Engine(config(num_gpu_blocks=4, enable_prefix_caching=False, reserve_full_isl=False), FLAT)
    engine.add(EngineRequest("a", 4, 8), 0)
    engine.add(EngineRequest("b", 4, 8), 1)
    engine.add(EngineRequest("c", 12, 1), 450)
    runs = engine.advance(10**9)
    assert first_times(runs)["c"] > finish_times(runs)["b"] - 100 * 8
    assert {s.request_id: s.num_preemptions for r in runs for s in r.stats}["b"] >= 1
    assert tokens(runs) == {"a": 8, "b": 8, "c": 1}


def test_priority_orders_waiting_and_chooses_the_victim() -> None:
    engine = Engine(config(num_gpu_blocks=4, scheduling_policy="priority", enable_prefix_caching=False), FLAT)
    engine.add(EngineRequest("a", 4, 8, priority=5), 0)
    engine.add(EngineRequest("b", 4, 8, priority=1), 1)
    runs = engine.advance(10**9)
    stats = {s.request_id: s for r in runs for s in r.stats}
    assert (stats["a"].num_preemptions, stats["b"].num_preemptions) == (1, 0)

    engine = Engine(config(max_num_seqs=1, scheduling_policy="priority"), FLAT)
    runs = run_all(
        engine,
        (0, EngineRequest("a", 1, 1)),
        (1, EngineRequest("b", 1, 1, priority=2)),
        (2, EngineRequest("c", 1, 1, priority=1)),
    )
    assert finish_times(runs) == {"a": 100, "c": 200, "b": 300}


def test_the_head_of_the_line_blocks_those_behind_it() -> None:
    engine = Engine(config(num_gpu_blocks=6), FLAT)
    runs = run_all(
        engine,
        (0, EngineRequest("a", 8, 5)),  # two blocks, a third from its 9th token
        (1, EngineRequest("b", 17, 1)),  # five blocks: not while a runs
        (2, EngineRequest("c", 1, 1)),
    )
    assert finish_times(runs)["a"] == 500
    assert first_times(runs)["b"] == 800
    assert first_times(runs)["c"] == 800


def test_without_reserving_the_whole_prompt_the_first_chunk_is_enough() -> None:
    engine = Engine(config(num_gpu_blocks=6, reserve_full_isl=False), FLAT)
    runs = run_all(engine, (0, EngineRequest("a", 8, 5)), (1, EngineRequest("b", 17, 1)))
    assert {s.request_id: s.first_scheduled for r in runs for s in r.stats} == {"a": 0, "b": 100}


def test_the_watermark_holds_only_while_something_runs() -> None:
    flags = config(num_gpu_blocks=10, watermark=0.5)
    engine = Engine(flags, FLAT)
    runs = run_all(engine, (0, EngineRequest("a", 32, 1)), (1, EngineRequest("b", 5, 1)))
    assert first_times(runs) == {"a": 400, "b": 500}  # 8 of 10 blocks alone are fine; 2 more + 5 are not


CHUNKS = ((101, 4), (102, 8), (103, 12))


def test_a_shared_prefix_is_computed_once_in_whole_blocks_and_never_whole() -> None:
    engine = Engine(config(), FLAT)
    runs = run_all(
        engine,
        (0, EngineRequest("a", 8, 1, prefix_chunks=CHUNKS[:2])),
        (1000, EngineRequest("b", 8, 1, prefix_chunks=CHUNKS[:2])),  # at most 7 may hit: one block
        (2000, EngineRequest("c", 12, 1, prefix_chunks=CHUNKS)),
        (3000, EngineRequest("d", 12, 1, prefix_chunks=((101, 4), (999, 12)))),
    )
    stats = {s.request_id: s.num_cached_tokens for r in runs for s in r.stats}
    assert stats == {"a": 0, "b": 4, "c": 8, "d": 4}
    assert (engine.num_prefix_queries, engine.num_prefix_hits) == (40, 16)
    assert engine.num_computed_prompt_tokens == 24


def test_eviction_takes_the_least_recently_used_tail_first() -> None:
    engine = Engine(config(num_gpu_blocks=4), FLAT)
    runs = run_all(
        engine,
        (0, EngineRequest("a", 12, 1, prefix_chunks=CHUNKS)),
        (1000, EngineRequest("b", 8, 1)),  # takes the unhashed block and evicts a's third
        (2000, EngineRequest("c", 13, 1, prefix_chunks=CHUNKS)),
    )
    assert {s.request_id: s.num_cached_tokens for r in runs for s in r.stats} == {"a": 0, "b": 0, "c": 8}


def test_without_prefix_caching_nothing_is_counted() -> None:
    engine = Engine(config(enable_prefix_caching=False), FLAT)
    run_all(
        engine,
        (0, EngineRequest("a", 8, 1, prefix_chunks=CHUNKS[:2])),
        (1000, EngineRequest("b", 8, 1, prefix_chunks=CHUNKS[:2])),
    )
    assert (engine.num_prefix_queries, engine.num_prefix_hits) == (0, 0)


def test_a_request_that_outgrows_the_kv_cache_ends_there() -> None:
    engine = Engine(config(num_gpu_blocks=3), FLAT)
    runs = run_all(engine, (0, EngineRequest("a", 4, 1000)), (1, EngineRequest("b", 11, 1000)))
    stats = {s.request_id: s.num_output_tokens for r in runs for s in r.stats}
    assert stats == {"a": 8, "b": 1}
    engine = Engine(config(max_model_len=6), FLAT)
    assert tokens(run_all(engine, (0, EngineRequest("a", 4, 1000)))) == {"a": 2}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (EngineRequest("a", 400, 1), "a prompt of 400 tokens and one more do not fit in 400"),
        (EngineRequest("a", 0, 1), "needs a prompt token"),
        (EngineRequest("a", 1, 0), "needs a prompt token and an output token"),
        (EngineRequest("live", 1, 1), "another of this id is live"),
        (EngineRequest("a", 4, 1, prefix_chunks=((1, 3), (2, 3))), "prefix_chunks must grow"),
        (EngineRequest("a", 4, 1, prefix_chunks=((1, 6),)), "end within prompt and output"),
    ],
)
def test_add_refuses_what_can_never_run(request_: EngineRequest, message: str) -> None:
    engine = Engine(config(), FLAT)
    engine.add(EngineRequest("live", 1, 10), 0)
    with pytest.raises(ValueError, match=message):
        engine.add(request_, 0)
    assert tokens(engine.advance(10**9)) == {"live": 10}


def test_time_does_not_go_backwards() -> None:
    engine = Engine(config(), FLAT)
    engine.advance(10)
    with pytest.raises(ValueError, match="time went backwards"):
        engine.add(EngineRequest("a", 1, 1), 9)


@pytest.mark.parametrize(
    "flags",
    [
        {"num_gpu_blocks": 0},
        {"block_size": 0},
        {"max_num_seqs": 0},
        {"max_num_batched_tokens": 0},
        {"max_model_len": -1},
        {"long_prefill_token_threshold": -1},
        {"watermark": 1.0},
        {"scheduling_policy": "sjf"},
    ],
)
def test_a_bad_flag_is_named(flags: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(flags))):
        config(**flags)


def test_a_cancelled_request_makes_no_further_token_and_its_blocks_are_free_after_the_step() -> None:
    engine = Engine(config(), FLAT)
    engine.add(EngineRequest("a", 4, 100), 0)
    engine.add(EngineRequest("b", 4, 100), 0)
    assert tokens(engine.advance(350)) == {"a": 3, "b": 2}
    assert engine.cancel("a", 350)
    assert not engine.cancel("a", 360)
    assert not engine.cancel("nobody", 360)
    assert engine.num_free_blocks == 96
    assert steps(engine.advance(400)) == [(300, 400, 1, "b", "", "")]
    assert engine.num_free_blocks == 98
    assert engine.num_running == 1
    engine.add(EngineRequest("a", 1, 1), 400)
    assert engine.advance(10**9)[-1].finished == ("b",)


def test_a_waiting_request_is_cancelled_at_once() -> None:
    engine = Engine(config(max_num_seqs=1), FLAT)
    engine.add(EngineRequest("a", 4, 4), 0)
    engine.add(EngineRequest("b", 4, 4), 1)
    engine.add(EngineRequest("c", 4, 4), 2)
    engine.advance(150)
    assert engine.num_waiting == 2
    assert engine.cancel("b", 150)
    assert engine.num_waiting == 1
    assert first_times(engine.advance(10**9))["c"] == 500


def test_the_clock_may_be_read_in_any_pattern() -> None:
    def drive(every: int) -> tuple[dict[str, int], dict[str, int]]:
        engine = Engine(config(num_gpu_blocks=6), FLAT)
        engine.add(EngineRequest("a", 9, 9), 5)
        engine.add(EngineRequest("b", 9, 9), 5)
        runs: list[TokenRun] = []
        for now in range(5, 5000, every):
            engine.next_event_time()
            engine.num_output_tokens_at(now)
            runs += engine.advance(now)
        return first_times(runs), finish_times(runs)

    assert drive(1) == drive(100) == drive(4994)


def test_num_output_tokens_at_looks_ahead_without_advancing() -> None:
    engine = Engine(config(), FLAT)
    engine.add(EngineRequest("a", 4, 50), 0)
    assert [engine.num_output_tokens_at(t) for t in (0, 99, 100, 450)] == [0, 0, 1, 4]
    engine.add(EngineRequest("b", 4, 50), 450)
    assert tokens(engine.advance(600)) == {"a": 6, "b": 1}


class ShortestFirst:
    """Shortest prompt first; the longest prompt is the victim; half of the budget for prompts."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def waiting_key(self, request: Any) -> Any:
        return request.num_prompt_tokens

    def victim_key(self, request: Any) -> Any:
        return request.num_prompt_tokens

    def prefill_budget(self, engine: Any) -> int:
        self.asked.append((engine.num_running, engine.num_waiting))
        return 4


def test_a_batch_policy_orders_waiting_and_bounds_the_prefill() -> None:
    policy = ShortestFirst()
    engine = Engine(config(max_num_seqs=2), FLAT, policy)
    runs = run_all(
        engine,
        (0, EngineRequest("a", 8, 9)),
        (1, EngineRequest("b", 8, 1)),
        (2, EngineRequest("c", 4, 1)),
    )
    # a: 4 + 4; then c (shorter) before b; b is prefilled 4 + 4 from 300 on.
    assert first_times(runs) == {"a": 200, "c": 300, "b": 500}
    assert policy.asked[0] == (0, 1)
    assert len(policy.asked) < 8


def test_a_batch_policy_chooses_the_victim_but_never_the_longest_running() -> None:
    engine = Engine(config(num_gpu_blocks=8, enable_prefix_caching=False), FLAT, ShortestFirst())
    runs = run_all(
        engine,
        (0, EngineRequest("a", 9, 8)),
        (1, EngineRequest("b", 6, 8)),
        (250, EngineRequest("c", 4, 8)),
    )
    stats = {s.request_id: s.num_preemptions for r in runs for s in r.stats}
    assert stats == {"a": 0, "b": 1, "c": 0}


class NoPrefill(ShortestFirst):
    def prefill_budget(self, engine: Any) -> int:
        return -5


def test_a_prefill_budget_of_nothing_does_not_stop_an_engine() -> None:
    engine = Engine(config(), FLAT, NoPrefill())
    runs = run_all(engine, (0, EngineRequest("a", 3, 2)), (1, EngineRequest("b", 1, 1)))
    assert finish_times(runs) == {"a": 400, "b": 500}


def test_the_next_turn_finds_the_answer_of_the_turn_before() -> None:
    engine = Engine(config(max_num_batched_tokens=100), FLAT)
    named = ((1, 8), (2, 20))  # a prompt of 8 tokens and 12 of its answer
    engine.add(EngineRequest("a", 8, 14, prefix_chunks=named), 0)
    engine.add(EngineRequest("b", 30, 1, prefix_chunks=named), 10_000)
    (run,) = [run for run in engine.advance(10**6) if "b" in run.finished]
    assert run.stats[0].num_cached_tokens == 20


def test_of_an_answer_that_was_cut_short_only_what_was_made_is_found() -> None:
    engine = Engine(config(max_num_batched_tokens=100), FLAT)
    named = ((1, 8), (2, 20))
    engine.add(EngineRequest("a", 8, 14, prefix_chunks=named), 0)
    engine.advance(550)  # it has 8 + 5 tokens, the last of which is not computed
    engine.cancel("a", 550)
    engine.add(EngineRequest("b", 30, 1, prefix_chunks=named), 10_000)
    (run,) = [run for run in engine.advance(10**6) if "b" in run.finished]
    assert run.stats[0].num_cached_tokens == 12


def test_chunks_reach_no_further_than_the_answer() -> None:
    engine = Engine(config(), FLAT)
    with pytest.raises(ValueError, match="prefix_chunks must grow and end within prompt and output"):
        engine.add(EngineRequest("a", 8, 4, prefix_chunks=((1, 8), (2, 13))), 0)
    with pytest.raises(ValueError, match="prefix_chunks has a key twice"):
        engine.add(EngineRequest("a", 8, 4, prefix_chunks=((1, 4), (1, 8))), 0)
    engine.add(EngineRequest("a", 8, 4, prefix_chunks=((1, 8), (2, 12))), 0)
    assert len(engine.advance(10**6)) > 0
