"""Emitted batch policies: what they answer, as the program means it."""

import random
from typing import Any

from designer.proposers.batching import ENGINE_FCFS, ENGINE_PRIORITY, BatchProgram, Order, Term, random_batch
from designer.proposers.emit_batch import batch_section, why_batch
from designer.proposers.grammar import Const
from designer.proposers.interpret_batch import Batcher
from designer.proposers.sections import compose
from policies.loader import PolicySpec, load_source
from policies.situations import EngineRequest, EngineView, engine_views


def batcher(program: BatchProgram) -> Any:
    source = compose([batch_section(program)])
    return load_source(source.encode(), PolicySpec("b.py"), random.Random(0), path="b.py", name="b").policy


def request(prompt: int = 100, computed: int = 0, made: int = 0, arrival: float = 5.0, priority: int = 0) -> Any:
    return EngineRequest("r", prompt, computed, made, arrival, priority, 0)


def test_vllms_own_order() -> None:
    policy = batcher(ENGINE_FCFS)
    assert policy.waiting_key(request(arrival=1.0)) < policy.waiting_key(request(arrival=2.0))
    assert policy.victim_key(request(arrival=2.0)) > policy.victim_key(request(arrival=1.0))
    assert policy.prefill_budget(EngineView(3, 4, 5, 6, 2048)) == 2048


def test_the_higher_priority_is_admitted_first_and_preempted_last() -> None:
    policy = batcher(ENGINE_PRIORITY)
    high, low = request(arrival=9.0, priority=2), request(arrival=1.0, priority=1)
    assert policy.waiting_key(high) < policy.waiting_key(low)
    assert policy.victim_key(high) < policy.victim_key(low)


def test_a_weighted_sum_and_a_share_of_a_step() -> None:
    order = Order((Term("num_prompt_tokens"), Term("arrival_time", Const("tokens_per_second", 10.0))))
    limits = (Const("prefill_share", 0.25), Const("scarce_share", 0.1))
    policy = batcher(BatchProgram(order, budget="share_when_scarce", limits=limits))
    assert policy.waiting_key(request(prompt=100, arrival=5.0)) == (150.0, 5.0)
    assert policy.prefill_budget(EngineView(1, 1, 9, 100, 2048)) == 512
    assert policy.prefill_budget(EngineView(1, 1, 10, 100, 2048)) == 2048


def test_a_module_answers_as_its_program_means() -> None:
    rng = random.Random(5)
    for _ in range(80):
        program = random_batch(rng)
        emitted, meant = batcher(program), Batcher(program)
        for engine, seen in engine_views(rng.randrange(1000), 12):
            assert emitted.waiting_key(seen) == meant.waiting_key(seen), program
            assert emitted.victim_key(seen) == meant.victim_key(seen), program
            assert emitted.prefill_budget(engine) == meant.prefill_budget(engine), program


def test_the_reason_names_what_the_program_has() -> None:
    short = Order((Term("num_prompt_tokens"),))
    assert "short prompts" in why_batch(BatchProgram(short))
    assert "less prefill" in why_batch(BatchProgram(budget="share", limits=(Const("prefill_share", 0.25),)))
    assert why_batch(ENGINE_FCFS) == "What came first is served first, and what came last gives way."


def test_what_is_subtracted_reads_as_a_person_would_say_it() -> None:
    made = Term("num_output_tokens", Const("output_weight", 3.0), less=True)
    alone = " ".join(batch_section(BatchProgram(victim=Order((made,)))).rules)
    assert "preempted first the one with the least of 3 times the tokens it has made" in alone
    beside = " ".join(batch_section(BatchProgram(victim=Order((Term("num_prompt_tokens"), made)))).rules)
    assert "the most of its prompt tokens minus 3 times the tokens it has made" in beside
