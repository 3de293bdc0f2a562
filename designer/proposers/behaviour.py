"""Behaviour of a program as a fingerprint: two programs that decide alike in fixed situations are one to the search."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from designer.proposers.grammar import Program
from designer.proposers.interpret import Router, order_key
from policies.contract import Candidate, Pool, Request, Worker

_CAPACITIES = (4096, 16384, 35840, 131072)


@dataclass(frozen=True, slots=True)
class Situation:
    request: Request
    candidates: tuple[Candidate, ...]
    pool: Pool


def situations(seed: int, count: int, *, workers: int = 4) -> list[Situation]:
    """Random but coherent states of a pool, the same for the same seed.

    Half are anything from idle to overloaded; in the other half all workers are nearly full and nearly alike, where
    limits differ by what they set aside.
    """
    rng = random.Random(f"situations/{seed}")
    return [_situation(rng, n, workers) for n in range(count)]


def requests(seed: int, count: int) -> list[Request]:
    """Requests as they might stand in a held queue, in order of arrival."""
    rng = random.Random(f"requests/{seed}")
    return [_request(rng, n, 100.0 + 1.7 * n) for n in range(count)]


def answers(program: Program) -> Iterator[object]:
    """What it decides in the fixed situations, then, if it ever holds a request, the order of a held queue.

    The order of a queue that is never held decides nothing, so it is left out then.
    """
    fixed, waiting = _fixed()
    router = Router(program, random.Random(0))
    holds = False
    yield program.ties
    for situation in fixed:
        chosen = router.route(situation.request, situation.candidates, situation.pool)
        holds = holds or chosen is None
        yield -1 if chosen is None else situation.candidates.index(chosen)
    if holds:
        key = order_key(program)
        yield sorted(range(len(waiting)), key=lambda n: key(waiting[n]))


def signature(program: Program) -> str:
    """Hex digest of its answers: equal for programs that decide alike."""
    return hashlib.sha256(repr(list(answers(program))).encode()).hexdigest()[:24]


def decide_alike(program: Program, known: Sequence[object]) -> bool:
    """Whether its answers are these; stops at the first that differs."""
    return all(mine == theirs for mine, theirs in zip_longest(answers(program), known))


@lru_cache(maxsize=1)
def _fixed() -> tuple[Sequence[Situation], Sequence[Request]]:
    return situations(0, 240), requests(0, 32)


def _situation(rng: random.Random, n: int, workers: int) -> Situation:
    capacity = rng.choice(_CAPACITIES)
    pressure, spread = (rng.uniform(0.0, 1.4), 0.4) if n % 2 else (rng.uniform(0.6, 1.1), 0.04)
    now = 200.0 + n
    spreads = [rng.uniform(1.0 - spread, 1.0 + spread / 2) for _ in range(workers)]
    candidates = tuple(_candidate(rng, f"w{i}", capacity, pressure * spreads[i]) for i in range(workers))
    held = rng.choice((0, 0, rng.randrange(1, 200)))
    pool = Pool(
        "pool",
        now=now,
        workers=tuple(c.worker for c in candidates),
        num_queued_requests=held,
        num_queued_prompt_tokens=held * rng.randrange(20, 400),
        num_inflight_requests=sum(c.worker.num_inflight_requests for c in candidates),
        arrival_rate=rng.uniform(0.1, 20.0),
        oldest_queued_arrival=now - (rng.uniform(0.0, 60.0) if held else 0.0),
        mean_prompt_tokens=rng.uniform(50.0, 800.0),
        mean_output_tokens=rng.uniform(50.0, 600.0),
    )
    request = _request(rng, n, now - rng.choice((0.0, rng.uniform(0.0, 60.0))))
    for candidate in candidates:
        candidate.num_cached_tokens = rng.choice((0, 0, rng.randrange(request.num_prompt_tokens)))
    return Situation(request, candidates, pool)


def _request(rng: random.Random, n: int, arrival: float) -> Request:
    return Request(
        f"r{n}",
        "model",
        tenant=rng.choice(("a", "b")),
        arrival_time=arrival,
        num_prompt_tokens=min(8192, max(1, round(rng.lognormvariate(4.6, 1.6)))),
        expected_output_tokens=rng.uniform(20.0, 600.0),
    )


def _candidate(rng: random.Random, worker_id: str, capacity: int, pressure: float) -> Candidate:
    """``pressure``: tokens in flight over capacity; what exceeds the capacity waits in the engine."""
    inflight = int(capacity * pressure)
    count = min(max(1, inflight // rng.randrange(150, 900)), 400) if inflight else 0
    prompt = int(inflight * rng.uniform(0.3, 0.9))
    running = min(count, 128, int(count / max(pressure, 1.0)))
    return Candidate(
        Worker(
            worker_id,
            kv_capacity_tokens=capacity,
            max_num_seqs=128,
            num_inflight_requests=count,
            num_inflight_prefill_tokens=int(prompt * rng.choice((0.0, rng.uniform(0.0, 0.5)))),
            num_inflight_prompt_tokens=prompt,
            num_inflight_tokens=inflight,
            expected_remaining_tokens=count * rng.uniform(20.0, 300.0),
            num_requests_running=running,
            num_requests_waiting=count - running,
            kv_cache_usage=min(1.0, pressure),
            metrics_age=rng.uniform(0.0, 1.0),
            ttft_ewma=rng.uniform(0.02, 5.0),
            tpot_ewma=rng.uniform(0.01, 0.1),
        )
    )
