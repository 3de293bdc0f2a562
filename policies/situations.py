"""Situations a policy may meet: independent ones, edges first, and a small world whose events fit together.

Seeded and made of plain numbers, so the same seed gives the same situations on every machine. No engine is modelled
here; the numbers are only such as a gateway could show.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from policies.contract import Candidate, Dispatched, Finished, FirstToken, Pool, Request, Variant, Worker

_HUGE = 10_000_000


@dataclass(slots=True)
class Situation:
    """What one call of ``route`` is given. ``admit``, ``key`` and ``desired_replicas`` are given parts of it."""

    request: Request
    candidates: list[Candidate]
    pool: Pool


@dataclass(slots=True)
class EngineRequest:
    """A request as a batch policy sees it."""

    request_id: str
    num_prompt_tokens: int
    num_computed_tokens: int
    num_output_tokens: int
    arrival_time: float
    priority: int
    num_preemptions: int


@dataclass(slots=True)
class EngineView:
    """An engine as a batch policy sees it."""

    num_running: int
    num_waiting: int
    num_free_blocks: int
    num_blocks: int
    max_num_batched_tokens: int


def situations(seed: int, count: int) -> Iterator[Situation]:
    """``count`` situations that have nothing to do with each other: every edge once, then random ones."""
    rng = random.Random(f"situations/{seed}")
    for number in range(count):
        workers = _EDGES[number]() if number < len(_EDGES) else _random_workers(rng)
        yield _situation(rng, number, workers)


def empty_pools() -> Iterator[Pool]:
    """Pools an autoscaler must live with: no variant, no worker, no traffic, none ready, everything at zero."""
    yield Pool(name="pool")
    yield Pool(name="pool", variants={"a": Variant("a")})
    yield Pool(name="pool", now=5.0, variants={"a": Variant("a", max_replicas=4)}, num_queued_requests=100)
    yield Pool(
        name="pool",
        now=9.0,
        variants={"a": Variant("a", num_starting=2, max_replicas=2), "b": Variant("b", num_draining=1, max_replicas=9)},
        num_queued_requests=_HUGE,
    )


def engine_views(seed: int, count: int) -> Iterator[tuple[EngineView, EngineRequest]]:
    """What a batch policy is given, an empty engine first."""
    rng = random.Random(f"engines/{seed}")
    for number in range(count):
        most = 0 if number == 0 else 300
        prompt, output = rng.randint(1, 20_000), rng.randint(0, most)
        request = EngineRequest(
            request_id=f"request-{number}",
            num_prompt_tokens=prompt,
            num_computed_tokens=rng.choice([0, rng.randint(0, prompt), prompt + output]),
            num_output_tokens=output,
            arrival_time=number * rng.random(),
            priority=rng.randint(-2, 2),
            num_preemptions=rng.choice([0, 0, 0, 1, 5]),
        )
        blocks = rng.randint(1, 30_000)
        yield EngineView(rng.randint(0, most), rng.randint(0, most), rng.randint(0, blocks), blocks, 2048), request


@dataclass(slots=True)
class _Flight:
    request: Request
    worker: Worker
    num_output_tokens: int = 0


@dataclass(slots=True)
class World:
    """A few workers, requests that come, run and end, and the counts that follow from them.

    ``arrive`` and ``dispatch`` are the caller's; ``move_on`` lets some time pass and says what happened in it.
    """

    seed: int
    now: float = 0.0
    workers: list[Worker] = field(default_factory=list)
    _flights: dict[str, _Flight] = field(default_factory=dict)
    _scraped: dict[str, float] = field(default_factory=dict)
    _rng: random.Random = field(default_factory=random.Random)
    _arrived: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(f"world/{self.seed}")
        self.workers = [_world_worker(self._rng, number) for number in range(self._rng.randint(2, 6))]

    def arrive(self) -> Request:
        self._arrived += 1
        return _request(self._rng, self._arrived, self.now)

    def situation(self, request: Request) -> Situation:
        """As it is at this moment; the workers are the world's own, as the gateway's are."""
        some = self._rng.random() < 0.1 and len(self.workers) > 1
        offered = self.workers[1:] if some else self.workers
        for worker in self.workers:
            worker.metrics_age = self.now - self._scraped.get(worker.worker_id, -math.inf)
        candidates = [Candidate(worker, self._hit(request)) for worker in offered]
        return Situation(request, candidates, _pool(self._rng, self.now, self.workers))

    def dispatch(self, request: Request, worker_id: str) -> Dispatched:
        worker = next(worker for worker in self.workers if worker.worker_id == worker_id)
        self._flights[request.request_id] = _Flight(request, worker)
        worker.num_inflight_requests += 1
        worker.num_inflight_prefill_tokens += request.num_prompt_tokens
        worker.num_inflight_prompt_tokens += request.num_prompt_tokens
        worker.num_inflight_tokens += request.num_prompt_tokens
        worker.expected_remaining_tokens += request.expected_output_tokens
        return Dispatched(
            self.now, request.request_id, worker_id, request.tenant, request.num_prompt_tokens, self._hit(request)
        )

    def move_on(self) -> list[FirstToken | Finished]:
        self.now += self._rng.expovariate(5.0)
        happened: list[FirstToken | Finished] = []
        for flight in list(self._flights.values()):
            if self._rng.random() < 0.3:
                happened.extend(self._advance(flight))
        if self._rng.random() < 0.2:
            self._scrape(self._rng.choice(self.workers))
        return happened

    def _advance(self, flight: _Flight) -> Iterator[FirstToken | Finished]:
        request, worker = flight.request, flight.worker
        if flight.num_output_tokens == 0:
            worker.num_inflight_prefill_tokens -= request.num_prompt_tokens
            yield FirstToken(self.now, request.request_id, worker.worker_id)
        made = self._rng.randint(1, 200)
        flight.num_output_tokens += made
        worker.num_inflight_tokens += made
        if self._rng.random() < 0.3:
            yield self._finish(flight)

    def _finish(self, flight: _Flight) -> Finished:
        request, worker = flight.request, flight.worker
        del self._flights[request.request_id]
        worker.num_inflight_requests -= 1
        worker.num_inflight_prompt_tokens -= request.num_prompt_tokens
        worker.num_inflight_tokens -= request.num_prompt_tokens + flight.num_output_tokens
        worker.expected_remaining_tokens = max(0.0, worker.expected_remaining_tokens - request.expected_output_tokens)
        outcome = self._rng.choices(("completed", "failed", "cancelled"), (8, 1, 1))[0]
        return Finished(
            self.now,
            request.request_id,
            worker.worker_id,
            "failed" if outcome == "failed" else "cancelled" if outcome == "cancelled" else "completed",
            flight.num_output_tokens,
        )

    def _scrape(self, worker: Worker) -> None:
        self._scraped[worker.worker_id] = self.now
        worker.num_requests_running = min(worker.num_inflight_requests, 8)
        worker.num_requests_waiting = worker.num_inflight_requests - worker.num_requests_running
        capacity = worker.kv_capacity_tokens or _HUGE
        worker.kv_cache_usage = min(1.0, worker.num_inflight_tokens / capacity)
        worker.tpot_ewma = self._rng.uniform(0.005, 0.1)
        worker.ttft_ewma = self._rng.uniform(0.05, 5.0)

    def _hit(self, request: Request) -> int:
        return self._rng.choice([0, 0, request.num_prompt_tokens // 2, request.num_prompt_tokens])


def _nothing_known() -> list[Worker]:
    return [Worker("w0", kv_capacity_tokens=0, max_num_seqs=0)]


def _all_equal() -> list[Worker]:
    return [Worker(f"w{n}", kv_capacity_tokens=35_840, max_num_seqs=128) for n in range(5)]


def _one_full() -> list[Worker]:
    return [Worker("w0", kv_capacity_tokens=35_840, num_inflight_requests=900, num_inflight_tokens=_HUGE)]


def _unknown_beside_full() -> list[Worker]:
    return [*_one_full(), Worker("w1", kv_capacity_tokens=0, metrics_age=math.inf)]


def _tiny_capacity() -> list[Worker]:
    return [Worker(f"w{n}", kv_capacity_tokens=16, block_size=16, kv_cache_usage=1.0) for n in range(2)]


def _token_blocks() -> list[Worker]:
    return [Worker("w0", kv_capacity_tokens=1000, block_size=1), Worker("w1", kv_capacity_tokens=1024, block_size=128)]


def _many() -> list[Worker]:
    return [Worker(f"w{n:03}", kv_capacity_tokens=35_840, num_inflight_requests=n % 7) for n in range(200)]


_EDGES = (_nothing_known, _all_equal, _one_full, _unknown_beside_full, _tiny_capacity, _token_blocks, _many) * 3
"""Three of each: with an ordinary, a one-token and a huge prompt."""


def _situation(rng: random.Random, number: int, workers: list[Worker]) -> Situation:
    now = rng.choice([0.0, rng.uniform(0, 1e6)])
    request = _request(rng, number, max(0.0, now - rng.choice([0.0, rng.expovariate(0.1)])))
    if number < len(_EDGES):
        request.num_prompt_tokens = (200, 1, _HUGE)[number * 3 // len(_EDGES)]
    candidates = [
        Candidate(worker, rng.choice([0, rng.randint(0, request.num_prompt_tokens)]))
        for worker in workers
        if rng.random() < 0.9
    ]
    return Situation(request, candidates or [Candidate(workers[0])], _pool(rng, now, workers))


def _request(rng: random.Random, number: int, arrival_time: float) -> Request:
    return Request(
        request_id=f"request-{number}",
        model="model",
        tenant=rng.choice(["default", "anna", "ben"]),
        session_id=rng.choice([None, "s1", "s2"]),
        arrival_time=arrival_time,
        num_prompt_tokens=max(1, min(_HUGE, round(rng.lognormvariate(5.0, 2.0)))),
        max_tokens=rng.choice([None, 1, 256, 100_000]),
        expected_output_tokens=rng.choice([0.0, 256.0, rng.uniform(1, 5000)]),
        priority=rng.choice([0, 0, 0, -3, 7]),
        ttft_slo=rng.choice([None, None, 0.5, 10.0]),
        num_attempts=rng.choice([0, 0, 0, 1, 2]),
    )


def _random_workers(rng: random.Random) -> list[Worker]:
    return [_random_worker(rng, number) for number in range(rng.choice([1, 2, 3, 4, 8, 16]))]


def _random_worker(rng: random.Random, number: int) -> Worker:
    inflight = rng.choice([0, 1, rng.randint(0, 200)])
    prompts = inflight * rng.randint(1, 2000)
    waiting = rng.randint(0, inflight)
    return Worker(
        worker_id=f"worker-{number}",
        variant=rng.choice(["a", "b"]),
        kv_capacity_tokens=rng.choice([0, 35_840, 411_200]),
        block_size=rng.choice([1, 16, 32, 128]),
        max_num_seqs=rng.choice([0, 128, 256]),
        num_inflight_requests=inflight,
        num_inflight_prefill_tokens=rng.randint(0, prompts),
        num_inflight_prompt_tokens=prompts,
        num_inflight_tokens=prompts + inflight * rng.randint(0, 500),
        expected_remaining_tokens=inflight * rng.uniform(0, 500),
        num_requests_running=inflight - waiting,
        num_requests_waiting=waiting,
        kv_cache_usage=rng.choice([0.0, 1.0, rng.random()]),
        metrics_age=rng.choice([math.inf, 0.0, rng.expovariate(1.0)]),
        ttft_ewma=rng.choice([0.0, rng.expovariate(1.0)]),
        tpot_ewma=rng.choice([0.0, rng.uniform(0.001, 0.2)]),
    )


def _world_worker(rng: random.Random, number: int) -> Worker:
    capacity = rng.choice([0, 4096, 35_840])
    return Worker(worker_id=f"worker-{number}", kv_capacity_tokens=capacity, variant=rng.choice(["a", "b"]))


def _pool(rng: random.Random, now: float, workers: list[Worker]) -> Pool:
    queued = rng.choice([0, 0, rng.randint(1, 500)])
    variants = {
        name: Variant(
            name,
            num_ready=sum(worker.variant == name for worker in workers),
            num_starting=rng.choice([0, 0, 1]),
            num_draining=rng.choice([0, 0, 1]),
            min_replicas=rng.choice([0, 1]),
            max_replicas=rng.choice([1, 8, 64]),
        )
        for name in ("a", "b")
    }
    return Pool(
        name="pool",
        now=now,
        workers=tuple(workers),
        variants=variants,
        num_queued_requests=queued,
        num_queued_prompt_tokens=queued * 300,
        num_inflight_requests=sum(worker.num_inflight_requests for worker in workers),
        num_starting_replicas=sum(variant.num_starting for variant in variants.values()),
        arrival_rate=rng.choice([0.0, rng.uniform(0, 100)]),
        num_arrived_requests=int(20 * now),
        num_arrived_prompt_tokens=int(6000 * now),
        oldest_queued_arrival=now - (rng.expovariate(0.1) if queued else 0.0),
        mean_prompt_tokens=rng.choice([0.0, rng.uniform(1, 5000)]),
        mean_output_tokens=rng.choice([0.0, rng.uniform(1, 1000)]),
    )
