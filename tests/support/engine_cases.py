"""Random workloads for engines: small numbers, so that every limit is hit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

from gateway.mockworker.engine import PS_PER_SECOND, BatchPolicy, EngineConfig, EngineRequest, TokenRun
from gateway.mockworker.profile import WorkerProfile, load_profile

FOREVER = 10**18


@dataclass(frozen=True)
class KeyedPolicy:
    """A batch policy that is a function of what it sees."""

    order: int
    budget: int

    def waiting_key(self, request: Any) -> Any:
        return (0, request.num_prompt_tokens, request.num_preemptions, -request.num_output_tokens)[self.order]

    def victim_key(self, request: Any) -> Any:
        return (0, request.num_computed_tokens, -request.num_output_tokens, request.priority)[self.order]

    def prefill_budget(self, engine: Any) -> int:
        return self.budget + int(engine.num_waiting - engine.num_running + engine.num_free_blocks // 4)


@dataclass(frozen=True)
class Case:
    config: EngineConfig
    profile: WorkerProfile
    requests: tuple[tuple[int, EngineRequest], ...]
    """(arrival, request), in order of arrival."""
    cancels: tuple[tuple[int, str], ...]
    """(time, id), in order of time."""
    batch_policy: KeyedPolicy | None

    def policy(self) -> BatchPolicy | None:
        return self.batch_policy

    @property
    def cancelled(self) -> set[str]:
        return {request_id for _, request_id in self.cancels}


class AnyEngine(Protocol):
    def add(self, request: EngineRequest, now: int) -> None: ...
    def cancel(self, request_id: str, now: int) -> bool: ...
    def advance(self, to: int) -> list[TokenRun]: ...


E = TypeVar("E", bound=AnyEngine)


def drive(
    make: Callable[[EngineConfig, WorkerProfile, BatchPolicy | None], E], case: Case, every: int = 0
) -> tuple[E, list[TokenRun]]:
    """Run a case to its end; with ``every``, also advance that often on the way."""
    engine = make(case.config, case.profile, case.policy())
    inputs: list[tuple[int, int, EngineRequest | str]] = [
        *((now, 0, request) for now, request in case.requests),
        *((now, 1, request_id) for now, request_id in case.cancels),
    ]
    runs: list[TokenRun] = []
    clock = 0
    for now, _, what in sorted(inputs, key=lambda entry: entry[:2]):
        for time in range(clock + every, now, every) if every else ():
            runs += engine.advance(time)
            clock = time
        if isinstance(what, str):
            engine.cancel(what, now)
        else:
            engine.add(what, now)
    return engine, runs + engine.advance(FOREVER)


def configs() -> st.SearchStrategy[EngineConfig]:
    return st.builds(
        EngineConfig,
        num_gpu_blocks=st.sampled_from([5, 6, 7, 9, 12, 20, 60]),
        block_size=st.sampled_from([1, 2, 4, 4]),
        max_num_batched_tokens=st.sampled_from([1, 2, 3, 5, 8, 16, 40]),
        max_num_seqs=st.sampled_from([1, 2, 3, 5, 8]),
        long_prefill_token_threshold=st.sampled_from([0, 0, 0, 1, 2, 5]),
        enable_prefix_caching=st.booleans(),
        watermark=st.sampled_from([0.0, 0.0, 0.01, 0.2]),
        scheduling_policy=st.sampled_from(["fcfs", "fcfs", "priority"]),
        reserve_full_isl=st.booleans(),
        async_scheduling=st.booleans(),
        max_model_len=st.sampled_from([0, 0, 0, 13, 30]),
        restore_preempted=st.sampled_from([False, False, False, True]),
    )


PROFILES = (
    WorkerProfile("flat", "", EngineConfig(1), weights_ps=100),
    WorkerProfile(
        "full", "", EngineConfig(1), 100, 70, 9, 11, 3, 5, host_step_ps=7, host_sequence_ps=2, host_request_ps=130
    ),
    WorkerProfile("context", "", EngineConfig(1), 10, 1, 1, 0, 17, 1, host_request_ps=0),
)


def _chunks(tree: tuple[int, ...], size: int, prompt: int) -> tuple[tuple[int, int], ...]:
    """The prefix of a path through a tree of chunks that fits in ``prompt`` tokens."""
    ends = [(depth + 1) * size for depth in range(len(tree))]
    return tuple((hash_path(tree[: depth + 1]), end) for depth, end in enumerate(ends) if end <= prompt)


def hash_path(path: tuple[int, ...]) -> int:
    key = 1
    for step in path:
        key = key * 7 + step
    return key


@st.composite
def cases(draw: st.DrawFn) -> Case:
    config = draw(configs())
    most = min(config.max_request_tokens - 1, 40)
    chunk = draw(st.sampled_from([2, 3, 4, 8]))
    spread = draw(st.sampled_from([0, 30, 300, 2000]))
    requests = []
    now = 0
    for index in range(draw(st.integers(1, 12))):
        now += draw(st.integers(0, spread))
        prompt = draw(st.integers(1, most))
        path = tuple(draw(st.lists(st.integers(0, 1), max_size=6)))
        request = EngineRequest(
            f"r{index}", prompt, draw(st.integers(1, 30)), draw(st.integers(0, 2)), _chunks(path, chunk, prompt)
        )
        requests.append((now, request))
    cancels = [
        (arrival + draw(st.integers(0, 3000)), request.request_id)
        for arrival, request in requests
        if draw(st.integers(0, 7)) == 0
    ]
    policy = draw(st.none() | st.builds(KeyedPolicy, st.integers(0, 3), st.integers(-3, 20)))
    return Case(config, draw(st.sampled_from(PROFILES)), tuple(requests), tuple(sorted(cancels)), policy)


def quick_cases() -> st.SearchStrategy[Case]:
    """What a simulation is almost always: first come first served, whole prompts, no async scheduling, no batch policy,
    nobody cancelled; the KV cache is sometimes too small."""
    blocks = st.sampled_from([7, 12, 30, 60, 60])
    return st.builds(_quick, cases(), blocks, st.sampled_from([3, 8, 16, 40]), st.sampled_from([2, 3, 5, 8]))


def _quick(case: Case, blocks: int, tokens: int, seqs: int) -> Case:
    config = replace(
        case.config,
        num_gpu_blocks=max(blocks, case.config.num_gpu_blocks),
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
        long_prefill_token_threshold=0,
        scheduling_policy="fcfs",
        async_scheduling=False,
    )
    return replace(case, config=config, cancels=(), batch_policy=None)


TURN = 10**7
"""Longer than any case of twelve small requests takes: the turn before is over."""


@st.composite
def session_cases(draw: st.DrawFn) -> Case:
    """Sessions of several turns: each prompt begins with the prompt before and its answer, and its own answer is
    named too. All first turns come together, then all second ones."""
    case = draw(cases())
    size = draw(st.sampled_from([2, 3, 5]))
    most = case.config.max_request_tokens - 1
    requests = list(case.requests)
    for session in range(draw(st.integers(1, 5))):
        prompt = 0
        for turn in range(3):
            prompt += draw(st.integers(1, 9))
            output = draw(st.integers(1, 9))
            if prompt > most:
                break
            ends = range(size, prompt + output + 1, size)
            chunks = tuple((10**6 * (session + 1) + end, end) for end in ends)
            arrival = turn * TURN + draw(st.integers(0, 400))
            requests.append((arrival, EngineRequest(f"s{session}.{turn}", prompt, output, 0, chunks)))
            prompt += output
    requests.sort(key=lambda entry: entry[0])
    return replace(case, requests=tuple(requests))


def busy_case(seed: int) -> Case:
    """Six hundred requests at realistic sizes on a KV cache that is too small: preemptions, shared prefixes,
    evictions, a waiting line that comes and goes."""
    rng = random.Random(f"busy/{seed}")
    config = EngineConfig(
        num_gpu_blocks=rng.choice([500, 700]),
        max_num_batched_tokens=rng.choice([256, 512]),
        max_num_seqs=64,
        watermark=0.01,
        reserve_full_isl=seed % 2 == 0,
        enable_prefix_caching=seed % 3 != 2,
    )
    profile = load_profile("a100-llama3-8b")
    requests = []
    now = 0.0
    for index in range(600):
        now += rng.expovariate(12.0)
        prompt = min(4000, int(rng.lognormvariate(5.5, 1.0)) + 1)
        path = tuple(rng.randrange(2) for _ in range(rng.randrange(8)))
        output = min(900, int(rng.lognormvariate(4.8, 0.9)) + 1)
        requests.append(
            (int(now * PS_PER_SECOND), EngineRequest(f"r{index}", prompt, output, 0, _chunks(path, 100, prompt)))
        )
    return Case(config, profile, tuple(requests), (), None)
