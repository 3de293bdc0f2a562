"""The gateway's own dispatcher over model engines, in virtual time.

A runner like the HTTP one: it feeds events to the dispatcher and carries out its commands. Its clock is integer
picoseconds; what happens at the same picosecond happens in the order in which it was scheduled. Nothing in a run
depends on anything but scenario, policies and seed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from designer.simulator.draws import Floats
from designer.simulator.fleet import plan_workers
from designer.simulator.invariants import (
    InvariantViolation,
    check_dispatcher,
    check_engines,
    check_queue,
    check_requests,
    require,
)
from designer.simulator.policies import PolicySource, make_policy_set
from designer.simulator.requests import arrival_events, engine_requests, request_ids, ttft_slos
from designer.simulator.results import OUTCOMES, RequestOutcome, SimulationResult
from designer.simulator.scenario import Scenario, ScenarioError
from designer.simulator.workload import RequestColumns, draw_workload
from gateway.core.commands import Cancel, Command, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import (
    ClientLeft,
    Event,
    FirstTokenSeen,
    MetricsScraped,
    RequestEnded,
    Ticked,
    WorkerJoined,
    WorkerMetrics,
)
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from gateway.mockworker.engine import PS_PER_SECOND, Engine, RequestStats, TokenRun

POOL = "default"
NEVER = -1
_LONGEST_DAYS = 7
"""A run that has not ended so long after its last arrival, and after what was held, never will."""
Sink = Callable[[Event, Sequence[Command]], None]
"""Is shown every event with the commands it led to, in order."""


def simulate(
    scenario: Scenario,
    policies: PolicySource,
    seed: int,
    *,
    workload: RequestColumns | None = None,
    sink: Sink | None = None,
) -> SimulationResult:
    """Run the scenario to the end of its last request.

    Args:
        workload: these requests in place of the scenario's own.

    Raises:
        ScenarioError, TraceError, PolicyLoadError, ProfileError: bad input.
        InvariantViolation: the run broke a rule that no policy may break; the dispatcher or the engine is wrong.
    """
    columns = draw_workload(scenario, seed) if workload is None else workload
    if not len(columns):
        raise ScenarioError(f"scenario {scenario.name}, seed {seed}: no request arrives; make it longer")
    world = World(scenario, columns, make_policy_set(policies, seed), sink)
    world.run()
    return world.result(seed)


class _TokensSeen(Mapping[str, int]):
    """Output tokens by worker, counted when asked."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getitem__(self, worker_id: str) -> int:
        return self._world.num_output_tokens(worker_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._world.worker_ids)

    def __len__(self) -> int:
        return len(self._world.worker_ids)


class World:
    """One simulation: run it once, then take its result."""

    def __init__(
        self, scenario: Scenario, columns: RequestColumns, policy_set: PolicySet, sink: Sink | None = None
    ) -> None:
        self._scenario = scenario
        self._columns = columns
        self._sink = sink
        self._set_delays(scenario)
        self.plans = plan_workers(scenario)
        self.worker_ids = tuple(plan.worker_id for plan in self.plans)
        self.engines: list[Engine] = [plan.engine(policy_set.batch) for plan in self.plans]
        self._worker_index = {worker_id: index for index, worker_id in enumerate(self.worker_ids)}
        self._clocks = [0] * len(self.engines)
        """How far each engine has been advanced."""
        self._wakes = [NEVER] * len(self.engines)
        """When each engine is next looked at."""
        self._now = 0
        self._queue: list[tuple[int, int, Callable[[int, Any], None], Any]] = []
        self._num_scheduled = 0
        self._ticking = False
        self._num_events = 0
        self._num_retired = 0
        self._set_up_requests(columns)
        self.dispatcher = Dispatcher([_pool_config(scenario, policy_set)], output_tokens=_TokensSeen(self))
        self._pool = self.dispatcher.pools[POOL]

    def _set_delays(self, scenario: Scenario) -> None:
        self._dispatch_ps = _ps(scenario.network.dispatch_seconds)
        self._answer_ps = _ps(scenario.network.answer_seconds)
        self._tick_ps = _ps(scenario.queue.tick_seconds)
        self._scrape_ps = _ps(scenario.scrape.interval_seconds)
        self._scrape_delay_ps = _ps(scenario.scrape.delay_seconds)
        timeout = scenario.clients.timeout_seconds
        self._timeout_ps = None if timeout is None else _ps(timeout)

    def _set_up_requests(self, columns: RequestColumns) -> None:
        count = len(columns)
        self._arrival_ps: list[int] = columns.arrival_ps.tolist()
        self._ids = request_ids(count)
        self._arrivals = arrival_events(columns, self._scenario.clients.deadline_seconds)
        self._requests = engine_requests(columns)
        self._index = {request_id: index for index, request_id in enumerate(self._ids)}
        self._dispatched = [NEVER] * count
        self._first_token = [NEVER] * count
        self._ended = [NEVER] * count
        self._worker = [NEVER] * count
        self._outcome: list[RequestOutcome | None] = [None] * count
        self._num_dispatches = [0] * count
        self._landed = [False] * count
        """The worker has the current dispatch."""
        self._stats: list[RequestStats | None] = [None] * count
        self._num_open = count
        waiting = self._scenario.queue.max_seconds + _LONGEST_DAYS * 86_400
        self._horizon_ps = self._arrival_ps[-1] + _ps(waiting)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """To the end of the last request.

        Raises:
            InvariantViolation: see ``simulate``.
        """
        self._join_workers()
        arrival, queue = self._arrival_ps, self._queue
        next_index, count = 0, len(arrival)
        while self._num_open:
            if next_index < count and (not queue or arrival[next_index] <= queue[0][0]):
                self._now = arrival[next_index]
                self._arrive(self._now, next_index)
                next_index += 1
            elif queue:
                time, _, handler, argument = heapq.heappop(queue)
                self._now = time
                handler(time, argument)
            else:
                raise InvariantViolation(f"{self._num_open} requests are open and nothing is left to happen")
        self._drain_engines()

    def _at(self, time: int, handler: Callable[[int, Any], None], argument: Any) -> None:
        self._num_scheduled += 1
        heapq.heappush(self._queue, (time, self._num_scheduled, handler, argument))

    def _hear(self, now: int, event: Event) -> None:
        self._num_events += 1
        commands = self.dispatcher.handle(event)
        if self._sink is not None:
            self._sink(event, commands)
        for command in commands:
            self._carry_out(now, command)
        if not self._ticking and self._pool.queue.num_requests:
            self._ticking = True
            self._at(now + self._tick_ps, self._tick, None)

    def _tick(self, now: int, _: None) -> None:
        self._ticking = False
        self._hear(now, Ticked(now / PS_PER_SECOND))

    # -- commands -------------------------------------------------------------------------------------------------

    def _carry_out(self, now: int, command: Command) -> None:
        match command:
            case Dispatch():
                self._dispatch(now, self._index[command.request_id], self._worker_index[command.worker_id])
            case Reject():
                self._end(now, self._index[command.request_id], command.reason)
            case Cancel():
                index = self._index[command.request_id]
                self._at(now + self._dispatch_ps, self._abort, (index, self._worker_index[command.worker_id]))
            case PolicySetRetired():
                self._num_retired += 1
            case SetReplicas():
                raise InvariantViolation(f"no variant of this scenario has bounds, and yet: {command}")

    def _dispatch(self, now: int, index: int, worker: int) -> None:
        if self._outcome[index] is not None or self._landed[index]:
            raise InvariantViolation(f"{self._ids[index]} was dispatched while it ran or after its end")
        self._dispatched[index] = now
        self._worker[index] = worker
        self._num_dispatches[index] += 1
        self._at(now + self._dispatch_ps, self._land, index)

    def _end(self, now: int, index: int, outcome: RequestOutcome) -> None:
        if self._outcome[index] is not None:
            raise InvariantViolation(f"{self._ids[index]} ended twice: {self._outcome[index]}, then {outcome}")
        self._outcome[index] = outcome
        self._ended[index] = now
        self._num_open -= 1

    # -- clients --------------------------------------------------------------------------------------------------

    def _arrive(self, now: int, index: int) -> None:
        if self._timeout_ps is not None:
            self._at(now + self._timeout_ps, self._leave, index)
        self._hear(now, self._arrivals[index])

    def _leave(self, now: int, index: int) -> None:
        if self._outcome[index] is None:
            self._end(now, index, "left")
            self._hear(now, ClientLeft(now / PS_PER_SECOND, self._ids[index]))

    # -- workers --------------------------------------------------------------------------------------------------

    def _join_workers(self) -> None:
        for index, plan in enumerate(self.plans):
            self._hear(0, WorkerJoined(0.0, plan.worker_id, POOL, plan.variant, metrics=plan.sizes()))
            self._at(self._scrape_ps * index // len(self.plans), self._scrape, index)

    def _land(self, now: int, index: int) -> None:
        if self._outcome[index] is not None:
            return  # the client left while the request was on its way
        worker = self._worker[index]
        engine, request = self.engines[worker], self._requests[index]
        if request.num_prompt_tokens + 1 > engine.config.max_request_tokens:
            self._at(now + self._answer_ps, self._refused, index)
            return
        self._landed[index] = True
        self._clocks[worker] = now
        engine.add(request, now)
        self._look_again(worker)

    def _refused(self, now: int, index: int) -> None:
        """The worker answered 400: its prompt is longer than what fits."""
        if self._outcome[index] is None:
            self._end(now, index, "refused")
            self._hear(now, RequestEnded(now / PS_PER_SECOND, self._ids[index], "completed"))

    def _abort(self, now: int, where: tuple[int, int]) -> None:
        index, worker = where
        if self._landed[index]:
            self._advance(now, worker)
            self._stats[index] = self.engines[worker].stats(self._ids[index]) or self._stats[index]
            self.engines[worker].cancel(self._ids[index], now)
            self._look_again(worker)

    def _look_again(self, worker: int) -> None:
        """Schedule the engine's next event, if it comes before what is scheduled for it."""
        time = self.engines[worker].next_event_time()
        wake = self._wakes[worker]
        if time is not None and (wake == NEVER or time < wake):
            self._wakes[worker] = time
            self._at(time, self._wake, worker)

    def _wake(self, now: int, worker: int) -> None:
        if self._wakes[worker] == now:
            self._wakes[worker] = NEVER
            self._advance(now, worker)
            self._look_again(worker)

    def _advance(self, now: int, worker: int) -> None:
        self._clocks[worker] = now
        for run in self.engines[worker].advance(now):
            if run.first or run.finished:
                self._answer(run)

    def _answer(self, run: TokenRun) -> None:
        heard = run.end + self._answer_ps
        for request_id in run.first:
            self._first_token[self._index[request_id]] = heard
            if self._arrivals[self._index[request_id]].stream:
                self._at(heard, self._first_token_heard, request_id)
        for stats in run.stats:
            self._stats[self._index[stats.request_id]] = stats
            self._at(heard, self._finish_heard, stats)

    def _first_token_heard(self, now: int, request_id: str) -> None:
        if self._outcome[self._index[request_id]] is None:
            self._hear(now, FirstTokenSeen(now / PS_PER_SECOND, request_id))

    def _finish_heard(self, now: int, stats: RequestStats) -> None:
        index = self._index[stats.request_id]
        if self._outcome[index] is not None:
            return
        self._end(now, index, "completed")
        event = RequestEnded(
            now / PS_PER_SECOND,
            self._ids[index],
            "completed",
            num_output_tokens=stats.num_output_tokens,
            num_prompt_tokens=stats.num_prompt_tokens,
            num_cached_tokens=stats.num_cached_tokens,
        )
        self._hear(now, event)

    def _scrape(self, now: int, worker: int) -> None:
        require(
            now <= self._horizon_ps, f"{self._num_open} requests are still open {_LONGEST_DAYS} days after the last"
        )
        self._advance(now, worker)
        engine = self.engines[worker]
        values = WorkerMetrics(
            num_requests_running=engine.num_running,
            num_requests_waiting=engine.num_waiting,
            kv_cache_usage=engine.kv_cache_usage,
        )
        self._at(now + self._scrape_delay_ps, self._scraped, (worker, values, now))
        self._at(now + self._scrape_ps, self._scrape, worker)
        self._look_again(worker)

    def _scraped(self, now: int, scrape: tuple[int, WorkerMetrics, int]) -> None:
        worker, values, taken = scrape
        self._hear(now, MetricsScraped(now / PS_PER_SECOND, self.worker_ids[worker], values, taken / PS_PER_SECOND))

    def num_output_tokens(self, worker_id: str) -> int:
        """Tokens that have reached the gateway, to within the one-way delay: never fewer."""
        worker = self._worker_index[worker_id]
        return self.engines[worker].num_output_tokens_at(max(self._now - self._answer_ps, self._clocks[worker]))

    def _drain_engines(self) -> None:
        """Steps that go on after the last answer, such as those of aborted requests."""
        for engine in self.engines:
            while (time := engine.next_event_time()) is not None:
                engine.advance(time)
                self._now = max(self._now, time)

    # -- the result -----------------------------------------------------------------------------------------------

    def result(self, seed: int) -> SimulationResult:
        """After ``run``.

        Raises:
            InvariantViolation: see ``simulate``.
        """
        columns, stats = self._columns, self._stats
        outcome = np.array([OUTCOMES.index(o) for o in self._outcome if o is not None], dtype=np.int8)
        slos = ttft_slos(columns)
        result = SimulationResult(
            seed=seed,
            objective=self._scenario.objective,
            workers=self.worker_ids,
            tenants=tuple(tenant.name for tenant in columns.tenants),
            arrival=_seconds(self._arrival_ps),
            dispatched=_seconds(self._dispatched),
            first_token=_seconds(self._first_token),
            finished=_seconds(self._ended),
            worker=np.array(self._worker, dtype=np.int64),
            tenant=columns.tenant,
            outcome=outcome,
            prompt=columns.num_prompt_tokens,
            output=columns.num_output_tokens,
            made=np.array([s.num_output_tokens if s else 0 for s in stats], dtype=np.int64),
            cached=np.array([s.num_cached_tokens if s else 0 for s in stats], dtype=np.int64),
            preemptions=np.array([s.num_preemptions if s else 0 for s in stats], dtype=np.int64),
            num_dispatches=np.array(self._num_dispatches, dtype=np.int64),
            ttft_slo=np.array([np.nan if slo is None else slo for slo in slos], dtype=np.float64),
            counters=self._counters(),
        )
        self._check(result)
        return result

    def _counters(self) -> dict[str, int]:
        failures = self._pool.guard.num_failures
        return {
            "num_events": self._num_events,
            "num_policy_failures": sum(failures.values()),
            "num_sets_retired": self._num_retired,
        }

    def _check(self, result: SimulationResult) -> None:
        most = np.array([plan.config.max_request_tokens for plan in self.plans], dtype=np.int64)
        limits = np.where(result.worker >= 0, most[result.worker], 0)
        queue = self._scenario.queue
        check_requests(result, limits)
        check_queue(result, queue.max_seconds, queue.tick_seconds)
        check_engines(self.engines, result.made, self._now)
        check_dispatcher(self._pool)


def _pool_config(scenario: Scenario, policy_set: PolicySet) -> PoolConfig:
    queue = scenario.queue
    return PoolConfig(
        name=POOL,
        policy_set=policy_set,
        max_queue_requests=queue.max_requests,
        max_queue_prompt_tokens=queue.max_prompt_tokens,
        max_queue_seconds=queue.max_seconds,
        max_attempts=queue.max_attempts,
    )


def _ps(seconds: float) -> int:
    return round(seconds * PS_PER_SECOND)


def _seconds(times: list[int]) -> Floats:
    ps = np.array(times, dtype=np.float64)
    return np.where(ps == NEVER, np.nan, ps / PS_PER_SECOND)
