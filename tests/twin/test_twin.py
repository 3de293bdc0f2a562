"""The engine model decides as vLLM's own scheduler does: the same tokens to the same requests in every step.

``tests.twin.record`` drove vLLM's ``Scheduler`` over generated cases and wrote what it decided to ``golden``. Here the
step-by-step engine is held against every decision, and the event-skipping one against all of them that can be seen
from outside: who makes a token in which step, and the state after each decision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.mockworker.engine import BatchPolicy, Engine, EngineConfig, EngineRequest
from gateway.mockworker.profile import WorkerProfile
from policies.loader import load_policies, parse_specs
from tests.support.reference_engine import ReferenceEngine
from tests.twin.cases import (
    GOLDEN,
    GOLDEN_POLICY,
    POLICIES,
    STEP_TICKS,
    Step,
    TwinCase,
    TwinConfig,
    read_golden,
)
from tests.twin.workloads import (
    BATCH_POLICIES,
    EXTRA_CASES,
    FAMILIES,
    POLICY_FAMILIES,
    generate,
    generate_with_policies,
)

PROFILE = WorkerProfile("flat", "", EngineConfig(1), weights_ps=STEP_TICKS)
FOREVER = 10**12


GROUPS = (*FAMILIES, *BATCH_POLICIES)
"""Of cases: a family on vLLM's own scheduler, or a batch policy in it over several families."""


@cache
def golden(path: Path = GOLDEN) -> tuple[dict[str, Any], list[TwinCase]]:
    return read_golden(path)


def cases_of(group: str) -> list[TwinCase]:
    cases = golden()[1] if group in FAMILIES else golden(GOLDEN_POLICY)[1]
    return [_without_ghosts(case) for case in cases if group in (case.family, case.config.batch_policy)]


def batch_policy_of(case: TwinCase) -> BatchPolicy | None:
    name = case.config.batch_policy
    if not name:
        return None
    return cast(BatchPolicy, load_policies(parse_specs(str(POLICIES / f"{name}.py")), seed=0)[0].policy)


def _without_ghosts(case: TwinCase) -> TwinCase:
    """Async scheduling: vLLM may preempt a request whose last token is on its way, and counts it as waiting until
    that is there. To the model it has ended."""
    steps = list(case.steps)
    for index, (before, step) in enumerate(pairwise(case.steps), 1):
        ghosts = len(set(before.finished) & set(step.preempted))
        steps[index] = replace(step, num_waiting=step.num_waiting - ghosts)
    return replace(case, steps=tuple(steps))


def engine_config(config: TwinConfig) -> EngineConfig:
    return EngineConfig(
        num_gpu_blocks=config.num_blocks - 1,
        block_size=config.block_size,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs,
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        enable_prefix_caching=config.enable_prefix_caching,
        watermark=config.watermark,
        scheduling_policy="priority" if config.policy == "priority" else "fcfs",
        reserve_full_isl=config.reserve_full_isl,
        async_scheduling=config.async_scheduling,
        max_model_len=config.max_model_len,
    )


def inputs(case: TwinCase) -> list[tuple[int, EngineRequest | str]]:
    """What arrives and what is cancelled, in order of time."""
    requests = [
        (r.arrival, EngineRequest(str(i), r.num_prompt_tokens, r.num_output_tokens, r.priority, r.chunks))
        for i, r in enumerate(case.requests)
    ]
    cancels = [(time, str(index)) for time, index in case.cancels]
    return sorted([*requests, *cancels], key=lambda entry: entry[0])


def feed(engine: Engine | ReferenceEngine, time: int, what: EngineRequest | str) -> None:
    if isinstance(what, str):
        engine.cancel(what, time)
    else:
        engine.add(what, time)


class WatchedReference(ReferenceEngine):
    """Notes what each of its schedules decides, as the recorder does."""

    def __init__(self, config: EngineConfig, batch_policy: BatchPolicy | None) -> None:
        super().__init__(config, PROFILE, batch_policy)
        self.steps: list[Step] = []
        self._admitted: list[tuple[int, int]] = []
        self._preempted: list[int] = []

    def _admit(self, request: Any, hit: Any, start: int) -> None:
        self._admitted.append((int(request.spec.request_id), request.computed))
        super()._admit(request, hit, start)

    def _preempt(self, victim: Any, now: int) -> None:
        self._preempted.append(int(victim.spec.request_id))
        super()._preempt(victim, now)

    def _schedule(self, start: int) -> Any:
        self._admitted, self._preempted = [], []
        step = super()._schedule(start)
        scheduled = [(int(r.spec.request_id), count) for r, count in step.scheduled.items()]
        if scheduled or self._preempted:
            state = self.num_free_blocks, self.num_running, self.num_waiting
            self.steps.append(Step(start, scheduled, self._admitted, self._preempted, *state))
        return step

    def _report(self, step: Any, made: Any, first: Any, finished: Any) -> None:
        computed = next(s for s in reversed(self.steps) if s.scheduled)
        computed.finished.extend(int(r.spec.request_id) for r in finished)
        super()._report(step, made, first, finished)


def test_the_golden_cases_are_those_of_the_generator_and_hard_enough() -> None:
    header, cases = golden()
    assert [replace(c, steps=(), num_evictions=0) for c in cases] == list(generate())
    assert header["cases"] == len(cases) == 6 * len(FAMILIES) + len(EXTRA_CASES) >= 100
    assert sum(bool(case.num_preemptions or case.num_evictions) for case in cases) >= len(cases) / 2
    assert sum(case.num_preemptions > 0 for case in cases) >= len(cases) / 2
    assert sum(any(hit for step in case.steps for _, hit in step.admitted) for case in cases) >= len(cases) / 2


def test_the_golden_cases_with_a_batch_policy_are_those_of_the_generator_and_hard_enough() -> None:
    header, cases = golden(GOLDEN_POLICY)
    assert [replace(c, steps=(), num_evictions=0) for c in cases] == list(generate_with_policies())
    assert header["cases"] == len(cases) == 3 * len(POLICY_FAMILIES) * len(BATCH_POLICIES)
    assert sum(case.num_preemptions > 0 for case in cases) >= len(cases) / 2


@pytest.mark.parametrize("group", GROUPS)
def test_every_decision_of_the_step_by_step_engine_is_vllm_s(group: str) -> None:
    for case in cases_of(group):
        engine = WatchedReference(engine_config(case.config), batch_policy_of(case))
        for time, what in inputs(case):
            feed(engine, time, what)
        engine.advance(FOREVER)
        for number, (ours, expected) in enumerate(zip(engine.steps, case.steps, strict=False)):
            assert ours == expected, f"{case.name}, step {number}"
        assert len(engine.steps) == len(case.steps), case.name


class Ledger:
    """What vLLM's decisions add up to."""

    def __init__(self, case: TwinCase) -> None:
        self._case = case
        self._num_tokens = [request.num_prompt_tokens for request in case.requests]
        self._computed = [0] * len(case.requests)
        self._target = [0] * len(case.requests)
        self._cancelled = {index: time for time, index in case.cancels}

    def book(self, step: Step) -> tuple[frozenset[str], int]:
        """Who makes a token in the step, and the tokens that it prefills."""
        for index, hit in step.admitted:
            self._computed[index], self._target[index] = hit, self._num_tokens[index]
        made, num_prefilled = set(), 0
        for index, count in step.scheduled:
            num_prefilled += count if self._computed[index] < self._target[index] else 0
            self._computed[index] += count
            if self._computed[index] == self._num_tokens[index]:
                self._num_tokens[index] += 1
                if self._cancelled.get(index, FOREVER) > step.start + STEP_TICKS:
                    made.add(str(index))
        return frozenset(made), num_prefilled


def expected_tokens(case: TwinCase) -> Iterator[tuple[int, frozenset[str], frozenset[str]]]:
    """(end, who made a token, who ended) of every step that made one."""
    ledger = Ledger(case)
    for step in case.steps:
        made, _ = ledger.book(step)
        if made:
            yield step.start + STEP_TICKS, made, frozenset(map(str, step.finished))


@pytest.mark.parametrize("group", GROUPS)
def test_the_event_skipping_engine_makes_every_token_in_vllm_s_step(group: str) -> None:
    for case in cases_of(group):
        engine = Engine(engine_config(case.config), PROFILE, batch_policy_of(case))
        for time, what in inputs(case):
            feed(engine, time, what)
        tokens: list[tuple[int, frozenset[str], frozenset[str]]] = []
        preempted: Counter[str] = Counter()
        for run in engine.advance(FOREVER):
            ids = frozenset(run.request_ids)
            tokens += [(run.start + n * STEP_TICKS, ids, frozenset()) for n in range(1, run.num_steps)]
            tokens.append((run.end, ids, frozenset(run.finished)))
            preempted.update({stats.request_id: stats.num_preemptions for stats in run.stats})
        assert tokens == list(expected_tokens(case)), case.name
        assert engine.num_preemptions == case.num_preemptions, case.name
        assert +preempted == +preemptions_of_finished(case), case.name


def preemptions_of_finished(case: TwinCase) -> Counter[str]:
    """By request, up to its last token."""
    finished: set[int] = set()
    counts: Counter[str] = Counter()
    for step in case.steps:
        counts.update(str(index) for index in step.preempted if index not in finished)
        finished.update(step.finished)
    return Counter({request: counts[request] for request in map(str, finished)})


@pytest.mark.parametrize("group", GROUPS)
def test_the_event_skipping_engine_is_in_vllm_s_state_after_every_decision(group: str) -> None:
    for case in cases_of(group):
        engine = Engine(engine_config(case.config), PROFILE, batch_policy_of(case))
        coming = inputs(case)
        ledger = Ledger(case)
        num_preempted = num_hits = num_prefilled = 0
        for number, step in enumerate(case.steps):
            num_preempted += len(step.preempted)
            num_hits += sum(hit for _, hit in step.admitted)
            if not step.scheduled:
                continue
            while coming and coming[0][0] <= step.start:
                feed(engine, *coming.pop(0))
            engine.advance(step.start)
            state = engine.num_free_blocks, engine.num_running, engine.num_waiting
            sums = engine.num_preemptions, engine.num_prefix_hits, engine.num_computed_prompt_tokens
            where = f"{case.name}, step {number}"
            assert state == (step.free_blocks, step.num_running, step.num_waiting), where
            assert sums == (num_preempted, num_hits, num_prefilled), where
            num_prefilled += ledger.book(step)[1]
