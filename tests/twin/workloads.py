"""The cases of the twin test, drawn from seeds. ``tests.twin.record`` runs them on vLLM."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.twin.cases import STEP_TICKS, TwinCase, TwinConfig, TwinRequest


@dataclass(frozen=True)
class Workload:
    """Ranges from which a case is drawn."""

    num_requests: tuple[int, int] = (15, 40)
    prompt: tuple[int, int] = (8, 200)
    output: tuple[int, int] = (5, 90)
    steps_between: float = 4.0
    """Mean; 0: all arrive in the first step."""
    num_priorities: int = 1
    chunk_tokens: tuple[int, ...] = ()
    """Lengths of shared chunks; none: nothing is shared."""
    depth: int = 3
    """Most shared chunks of a prompt."""
    cancelled: float = 0.0
    """Share of the requests."""


TIGHT = {"num_blocks": (24, 46)}
PRESSURE = Workload(output=(20, 120), steps_between=3.0)
SHARED = Workload(chunk_tokens=(16, 32, 48, 64), prompt=(40, 260), output=(5, 70))
PARTIAL = Workload(chunk_tokens=(5, 11, 23, 37, 50, 90), prompt=(30, 260), output=(5, 70))

FAMILIES: dict[str, tuple[dict[str, Any], Workload]] = {
    "ample": ({}, Workload()),
    "tight": (TIGHT, PRESSURE),
    "burst": ({"num_blocks": (30, 70)}, Workload(num_requests=(30, 60), steps_between=0.0, output=(10, 60))),
    "shared": ({"num_blocks": (60, 200)}, SHARED),
    "shared_tight": ({"num_blocks": (26, 50)}, SHARED),
    "partial": ({"num_blocks": (60, 200)}, PARTIAL),
    "partial_tight": ({"num_blocks": (26, 50)}, PARTIAL),
    "small_blocks": ({"num_blocks": (80, 180), "block_size": [4, 8]}, PARTIAL),
    "priority": ({**TIGHT, "policy": ["priority"]}, replace(PRESSURE, num_priorities=4)),
    "priority_shared": (
        {"num_blocks": (28, 60), "policy": ["priority"]},
        replace(PARTIAL, num_priorities=3),
    ),
    "chunked": (
        {"num_blocks": (70, 160), "max_num_batched_tokens": (24, 64)},
        Workload(num_requests=(8, 20), prompt=(50, 900), output=(3, 60), steps_between=12.0),
    ),
    "almost_all_kv": (
        {"num_blocks": (24, 40), "max_num_batched_tokens": (64, 160)},
        Workload(num_requests=(6, 14), prompt=(200, 640), output=(1, 90), steps_between=15.0),
    ),
    "few_seats": ({"num_blocks": (26, 90), "max_num_seqs": (1, 4)}, Workload(num_requests=(8, 20), output=(3, 60))),
    "long_prefill_threshold": (
        {"num_blocks": (60, 120), "long_prefill_token_threshold": (16, 100)},
        Workload(num_requests=(8, 24), prompt=(20, 700), output=(3, 80), steps_between=6.0),
    ),
    "aborts": ({"num_blocks": (26, 60)}, replace(PARTIAL, cancelled=0.35)),
    "no_reserve": (
        {"num_blocks": (30, 60), "reserve_full_isl": [False], "max_num_batched_tokens": (48, 128)},
        Workload(prompt=(20, 360), output=(10, 90), steps_between=6.0, chunk_tokens=(21, 48, 64)),
    ),
    "tokens_short": (
        {"num_blocks": (30, 120), "max_num_batched_tokens": (8, 20), "max_num_seqs": [8]},
        Workload(prompt=(4, 120), output=(5, 60), steps_between=6.0, chunk_tokens=(16, 24)),
    ),
    "watermark": ({"num_blocks": (30, 60), "watermark": (0.01, 0.2)}, PRESSURE),
    "watermark_null_block": ({"num_blocks": [30, 40], "watermark": [0.1]}, PRESSURE),
    "no_caching": ({**TIGHT, "enable_prefix_caching": [False]}, PRESSURE),
    "model_len": ({"num_blocks": (40, 80), "max_model_len": (120, 300)}, Workload(output=(20, 300))),
    "everything": (
        {
            "num_blocks": (30, 70),
            "block_size": [8, 16],
            "max_num_batched_tokens": (32, 200),
            "max_num_seqs": (3, 16),
            "long_prefill_token_threshold": (0, 60),
            "watermark": (0.0, 0.1),
            "policy": ["fcfs", "priority"],
            "reserve_full_isl": [False, True],
        },
        Workload(
            prompt=(4, 300), output=(1, 100), num_priorities=3, chunk_tokens=(9, 16, 33, 64), depth=4, cancelled=0.15
        ),
    ),
}
"""For each family what differs from ``TwinConfig`` (a range as a tuple, or a list to choose from)."""

EXTRA_CASES = (("aborts", 224), ("aborts", 333))
"""Where an abort and an end fall into one step and decide what a later prompt finds; where a request is aborted in the
step in which it arrived."""

BATCH_POLICIES = ("no_opinion", "shortest_prompt", "thrifty_prefill")
POLICY_FAMILIES = (
    "ample",
    "tight",
    "burst",
    "shared_tight",
    "partial_tight",
    "priority",
    "chunked",
    "few_seats",
    "aborts",
    "no_reserve",
    "tokens_short",
    "watermark",
)


def generate() -> Iterator[TwinCase]:
    """The cases to record."""
    for family in FAMILIES:
        for seed in range(4):
            yield draw(family, seed, is_async=False)
    for family, seed in EXTRA_CASES:
        yield draw(family, seed, is_async=False)
    for family in FAMILIES:
        for seed in range(2):
            yield draw(family, seed, is_async=True)


def generate_with_policies() -> Iterator[TwinCase]:
    """The cases to record of vLLM's scheduler with a batch policy in it."""
    for policy in BATCH_POLICIES:
        for family in POLICY_FAMILIES:
            yield from (draw(family, seed, is_async=False, batch_policy=policy) for seed in range(2))
            yield draw(family, 0, is_async=True, batch_policy=policy)


def draw(family: str, seed: int, is_async: bool, batch_policy: str = "") -> TwinCase:
    name = f"{family}/{'async' if is_async else 'sync'}/{seed}{batch_policy and '/' + batch_policy}"
    rng = random.Random(name)
    ranges, workload = FAMILIES[family]
    flags = {flag: _value(rng, values) for flag, values in ranges.items()}
    config = TwinConfig(**flags, async_scheduling=is_async, batch_policy=batch_policy)
    requests = _requests(rng, config, workload)
    cancels = [] if is_async else _cancels(rng, requests, workload.cancelled)
    # Distinct within a step, and rising, so that the requests stay in order of arrival.
    offsets = rng.sample(range(1, STEP_TICKS), len(requests) + len(cancels))
    of_requests, of_cancels = sorted(offsets[: len(requests)]), offsets[len(requests) :]
    return TwinCase(
        name,
        config,
        tuple(replace(r, arrival=r.arrival + offset) for r, offset in zip(requests, of_requests, strict=True)),
        tuple((time + offset, index) for (time, index), offset in zip(cancels, of_cancels, strict=True)),
    )


def _value(rng: random.Random, values: Any) -> Any:
    if isinstance(values, list):
        return rng.choice(values)
    low, high = values
    return round(rng.uniform(low, high), 3) if isinstance(low, float) else rng.randint(low, high)


def _requests(rng: random.Random, config: TwinConfig, workload: Workload) -> list[TwinRequest]:
    tree: dict[tuple[int, ...], tuple[int, int]] = {}
    requests, clock = [], 0.0
    for _ in range(rng.randint(*workload.num_requests)):
        clock += rng.expovariate(1 / workload.steps_between) if workload.steps_between else 0.0
        prompt = min(rng.randint(*workload.prompt), config.max_request_tokens - rng.randint(1, 9))
        requests.append(
            TwinRequest(
                int(clock) * STEP_TICKS,
                prompt,
                rng.randint(*workload.output),
                rng.randrange(workload.num_priorities),
                _path(rng, tree, workload, prompt),
            )
        )
    return requests


def _path(
    rng: random.Random, tree: dict[tuple[int, ...], tuple[int, int]], workload: Workload, prompt: int
) -> tuple[tuple[int, int], ...]:
    """A walk down a tree of chunks that two prompts share as far as they walk together."""
    chunks: list[tuple[int, int]] = []
    path: tuple[int, ...] = ()
    end = 0
    for _ in range(rng.randint(0, workload.depth) if workload.chunk_tokens else 0):
        path = (*path, rng.randrange(2))
        if path not in tree:
            tree[path] = (len(tree) + 1, rng.choice(workload.chunk_tokens))
        key, length = tree[path]
        end += length
        if end > prompt:
            break
        chunks.append((key, end))
    return tuple(chunks)


def _cancels(rng: random.Random, requests: list[TwinRequest], share: float) -> list[tuple[int, int]]:
    """Whole steps; at least two apart."""
    drawn = sorted(
        (request.arrival + rng.randint(1, 60) * STEP_TICKS, index)
        for index, request in enumerate(requests)
        if rng.random() < share
    )
    cancels: list[tuple[int, int]] = []
    for time, index in drawn:
        if not cancels or time >= cancels[-1][0] + 2 * STEP_TICKS:
            cancels.append((time, index))
    return cancels
