"""The gateway's own dispatcher over model engines, in virtual time.

A runner like the HTTP one: it feeds events to the dispatcher and carries out its commands. Its clock is integer
picoseconds; what happens at the same picosecond happens in the order in which it was scheduled. Nothing in a run
depends on anything but scenario, policies and seed.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any

import numpy as np

from designer.simulator.failures import Breakdown, draw_failures
from designer.simulator.fleet import WorkerPlan, plan_workers
from designer.simulator.invariants import (
    broken,
    check_dispatcher,
    check_engines,
    check_queue,
    check_requests,
    check_steps,
    require,
)
from designer.simulator.policies import PolicySource, make_policy_set
from designer.simulator.records import NEVER, RequestRecord, make_records, make_result
from designer.simulator.replicas import Replicas, Start, replica_bounds
from designer.simulator.results import RequestOutcome, SimulationResult
from designer.simulator.scenario import Scenario, ScenarioError
from designer.simulator.worker import SimulatedWorker
from designer.simulator.workload import RequestColumns, draw_workload
from gateway.core.commands import Cancel, Command, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import (
    ClientLeft,
    Event,
    FirstTokenSeen,
    MetricsScraped,
    PolicySetReplaced,
    RequestEnded,
    Ticked,
    WorkerDraining,
    WorkerHealthChanged,
    WorkerJoined,
    WorkerLeft,
    WorkerMetrics,
)
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from gateway.mockworker.engine import PS_PER_SECOND, RequestStats, TokenRun

POOL = "default"
_NOT_COMING = 1 << 100
"""Later than anything."""
_LONGEST_DAYS = 7
"""A run that has not ended so long after its last arrival, and after what was held, never will."""
Sink = Callable[[Event, Sequence[Command]], None]
"""Is shown every event with the commands it led to, in order."""
_Handler = Callable[[int, Any], None]


def simulate(
    scenario: Scenario,
    policies: PolicySource,
    seed: int,
    *,
    workload: RequestColumns | None = None,
    plans: Sequence[WorkerPlan] | None = None,
    sink: Sink | None = None,
    swaps: Sequence[tuple[float, PolicySource]] = (),
) -> SimulationResult:
    """Run the scenario to the end of its last request.

    Args:
        workload: these requests in place of the scenario's own.
        swaps: at these seconds, the policies that take the place of those before: what the dispatcher has learned
            and what is in flight stays. Batch policies are the engines', and stay too.
        plans: what ``plan_workers`` gives for the scenario, so that no file is read from here on.

    Raises:
        ScenarioError, TraceError, PolicyLoadError, ProfileError: bad input.
        InvariantViolation: the run broke a rule that no policy may break; the dispatcher or the engine is wrong.
    """
    columns = draw_workload(scenario, seed) if workload is None else workload
    if not len(columns):
        raise ScenarioError(f"scenario {scenario.name}, seed {seed}: no request arrives; make it longer")
    with _rare_collections():
        failures = draw_failures(scenario, seed, int(columns.arrival_ps.max()))
        world = World(scenario, columns, make_policy_set(policies, seed), sink, plans, failures, seed)
        for generation, (seconds, later) in enumerate(swaps, start=1):
            world.swap_at(seconds, make_policy_set(later, seed, generation))
        world.run()
    return world.result(seed)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A run makes many objects and no cycles: looking for those often is a tenth of its time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _TokensSeen(Mapping[str, int]):
    """Output tokens by worker, counted when asked."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getitem__(self, worker_id: str) -> int:
        return self._world.num_tokens_seen(worker_id)

    def get(self, worker_id: str, default: Any = None) -> Any:
        """Without the detour of ``Mapping``: asked of every worker at every decision."""
        return self._world.num_tokens_seen(worker_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._world.worker_ids)

    def __len__(self) -> int:
        return len(self._world.worker_ids)


class World:
    """One simulation: run it once, then take its result."""

    def __init__(
        self,
        scenario: Scenario,
        columns: RequestColumns,
        policy_set: PolicySet,
        sink: Sink | None = None,
        plans: Sequence[WorkerPlan] | None = None,
        failures: Sequence[Breakdown] = (),
        seed: int = 0,
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._columns = columns
        self.sink = sink
        self._set_delays(scenario)
        plans = plan_workers(scenario) if plans is None else plans
        self._batch_policy = policy_set.batch
        self._workers = [SimulatedWorker(index, plan, policy_set.batch, seed) for index, plan in enumerate(plans)]
        self._worker_by_id = {worker.plan.worker_id: worker for worker in self._workers}
        self._failures = failures
        self._replicas = Replicas(scenario, plans)
        self._is_scaled = bool(self._replicas.cold_start_ps)
        self._draining: list[SimulatedWorker] = []
        self._records = make_records(columns, scenario.clients.deadline_seconds)
        self._record_by_id = {record.request_id: record for record in self._records}
        self._num_open = len(self._records)
        self._num_aborting = 0
        """Aborts on their way to a worker."""
        waiting = scenario.queue.max_seconds + _LONGEST_DAYS * 86_400
        self._horizon_ps = self._records[-1].arrival_ps + _ps(waiting)
        self._next_arrival = self._records[0].arrival_ps
        self._now = 0
        self._queue: list[tuple[int, int, _Handler, Any]] = []
        self._next_number = itertools.count().__next__
        self._ticking = False
        self._num_retired = 0
        self._num_failed_dispatches = 0
        self.dispatcher = Dispatcher([pool_config(scenario, policy_set)], output_tokens=_TokensSeen(self))
        self._pool = self.dispatcher.pools[POOL]
        self._held = self._pool.queue
        self._handle = self.dispatcher.handle
        # Bound once: each is scheduled for every request.
        self._landing, self._waking = self._land, self._wake
        self._first_token_hearing, self._finish_hearing = self._first_token_heard, self._finish_heard

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """Of all that ever joined, in that order."""
        return tuple(self._worker_by_id)

    def _set_delays(self, scenario: Scenario) -> None:
        self._dispatch_ps = _ps(scenario.network.dispatch_seconds)
        self._answer_ps = _ps(scenario.network.answer_seconds)
        self._tick_ps = _ps(scenario.queue.tick_seconds)
        self._scrape_ps = _ps(scenario.scrape.interval_seconds)
        self._scrape_delay_ps = _ps(scenario.scrape.delay_seconds)
        timeout = scenario.clients.timeout_seconds
        self._timeout_ps = None if timeout is None else _ps(timeout)

    def swap_at(self, seconds: float, policy_set: PolicySet) -> None:
        """Have the policies replaced then, as an operator would; before ``run``."""
        self._at(_ps(seconds), self._swap, policy_set)

    def _swap(self, now: int, policy_set: PolicySet) -> None:
        self._hear(now, PolicySetReplaced(now / PS_PER_SECOND, POOL, policy_set))

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """To the end of the last request.

        Raises:
            InvariantViolation: see ``simulate``.
        """
        self._join_workers()
        self._at(self._horizon_ps, self._give_up, None)
        for breakdown in self._failures:
            self._at(breakdown.time, self._break, breakdown)
        queue, pop = self._queue, heappop
        records = (record for record in self._records if record.think_ps == NEVER)
        coming = next(records, None)
        while self._num_open or self._num_aborting:
            if self._next_arrival <= queue[0][0] and coming is not None:
                self._now = now = self._next_arrival
                self._arrive(now, coming)
                coming = next(records, None)
                self._next_arrival = _NOT_COMING if coming is None else coming.arrival_ps
                continue
            now, _, handler, argument = pop(queue)
            self._now = now
            handler(now, argument)
        self._drain_engines()

    def _give_up(self, now: int, _: None) -> None:
        require(False, f"{self._num_open} requests open {_LONGEST_DAYS} days after the last came")

    def _at(self, time: int, handler: _Handler, argument: Any) -> None:
        heappush(self._queue, (time, self._next_number(), handler, argument))

    def _hear(self, now: int, event: Event) -> None:
        commands = self._handle(event)
        if self.sink is not None:
            self.sink(event, commands)
        for command in commands:
            if type(command) is Dispatch:
                self._dispatch(now, self._record_by_id[command.request_id], self._worker_by_id[command.worker_id])
            else:
                self._carry_out(now, command)
        if not self._ticking and (self._is_scaled or self._held.num_requests):
            self._ticking = True
            self._at(now + self._tick_ps, self._tick, None)
        if self._draining:
            self._remove_drained(now)

    def _tick(self, now: int, _: None) -> None:
        self._ticking = False
        self._hear(now, Ticked(now / PS_PER_SECOND))

    # -- commands -------------------------------------------------------------------------------------------------

    def _carry_out(self, now: int, command: Command) -> None:
        match command:
            case Reject():
                self._end(now, self._record_by_id[command.request_id], command.reason)
            case Cancel():
                record, worker = self._record_by_id[command.request_id], self._worker_by_id[command.worker_id]
                if record.landed and not record.broken:
                    self._num_aborting += 1
                    self._at(now + self._dispatch_ps, self._abort, (record, worker))
            case PolicySetRetired():
                self._num_retired += 1
            case SetReplicas():
                require(self._is_scaled, f"no variant of this scenario has bounds, and yet: {command}")
                self._set_replicas(now, command)

    def _dispatch(self, now: int, record: RequestRecord, worker: SimulatedWorker) -> None:
        if record.outcome is not None or record.in_flight:
            broken(f"{record.request_id} was dispatched twice, or after its end, though no worker failed it")
        if worker.gone:
            broken(f"{record.request_id} was dispatched to {worker.plan.worker_id}, which is gone")
        record.in_flight = True
        record.dispatched = now
        record.worker = worker.index
        record.num_dispatches += 1
        heappush(self._queue, (now + self._dispatch_ps, self._next_number(), self._landing, record))

    def _end(self, now: int, record: RequestRecord, outcome: RequestOutcome) -> None:
        if record.outcome is not None:
            broken(f"{record.request_id} ended twice: {record.outcome}, then {outcome}")
        record.outcome = outcome
        record.ended = now
        self._num_open -= 1
        if record.next_turn is not None:
            self._go_on(now, record, record.next_turn)

    # -- clients --------------------------------------------------------------------------------------------------

    def _arrive(self, now: int, record: RequestRecord) -> None:
        if self._timeout_ps is not None:
            self._at(now + self._timeout_ps, self._leave, record)
        self._hear(now, record.arrival)

    def _go_on(self, now: int, record: RequestRecord, turn: RequestRecord) -> None:
        """A session ends with the first turn that gets no full answer."""
        if record.outcome == "completed":
            self._at(now + turn.think_ps, self._send_turn, turn)
        else:
            turn.sent(now, None)
            self._end(now, turn, "abandoned")

    def _send_turn(self, now: int, turn: RequestRecord) -> None:
        turn.sent(now, self._scenario.clients.deadline_seconds)
        self._arrive(now, turn)

    def _leave(self, now: int, record: RequestRecord) -> None:
        if record.outcome is not None:
            return
        self._end(now, record, "left")
        seen = 0
        if record.broken:
            seen = record.num_seen
        elif record.landed:
            worker = self._workers[record.worker]
            self._advance(now, worker)
            seen = worker.client_left(record)
        self._hear(now, ClientLeft(now / PS_PER_SECOND, record.request_id, seen))

    # -- workers --------------------------------------------------------------------------------------------------

    def _join_workers(self) -> None:
        for worker in self._workers:
            plan = worker.plan
            self._hear(0, WorkerJoined(0.0, plan.worker_id, POOL, plan.variant, metrics=plan.sizes()))
            self._at(self._scrape_ps * worker.index // len(self._workers), self._scrape, worker)

    def _land(self, now: int, record: RequestRecord) -> None:
        if record.outcome is not None:
            return  # the client left while the request was on its way
        worker = self._workers[record.worker]
        if now < worker.up_at:
            record.broken = True
            self._at((worker.up_at if worker.hangs else now) + self._answer_ps, self._failure_heard, record)
        elif worker.accepts(record):
            worker.add(record, now)
            self._look_again(worker)
        else:
            self._at(now + self._answer_ps, self._refused, record)

    def _refused(self, now: int, record: RequestRecord) -> None:
        if record.outcome is None:
            self._end(now, record, "refused")
            self._hear(now, RequestEnded(now / PS_PER_SECOND, record.request_id, "completed"))

    def _abort(self, now: int, what: tuple[RequestRecord, SimulatedWorker]) -> None:
        record, worker = what
        self._num_aborting -= 1
        if record.broken:
            return
        self._advance(now, worker)
        worker.abort(record, now)
        self._look_again(worker)

    def _look_again(self, worker: SimulatedWorker) -> None:
        """Schedule the engine's next event, if it comes before what is scheduled for it."""
        time = worker.engine.next_event_time()
        if time is not None and (worker.wake == NEVER or time < worker.wake):
            worker.wake = time
            heappush(self._queue, (time, self._next_number(), self._waking, worker))

    def _wake(self, now: int, worker: SimulatedWorker) -> None:
        """Advance the engine, and go straight on to its next event for as long as nothing else comes before it."""
        if worker.wake != now:
            return
        queue, engine = self._queue, worker.engine
        while True:
            self._advance(now, worker)
            time = engine.next_event_time()
            if time is None:
                worker.wake = NEVER
                return
            if time >= self._next_arrival or time >= queue[0][0]:
                worker.wake = time
                heappush(queue, (time, self._next_number(), self._waking, worker))
                return
            self._now = now = time

    def _advance(self, now: int, worker: SimulatedWorker) -> None:
        worker.clock = now
        for run in worker.engine.advance(now):
            if run.first or run.finished:
                self._answer(run)

    def _answer(self, run: TokenRun) -> None:
        heard, queue, records = run.end + self._answer_ps, self._queue, self._record_by_id
        for request_id in run.first:
            record = records[request_id]
            record.first_token = heard
            if record.stream:
                heappush(queue, (heard, self._next_number(), self._first_token_hearing, record))
        for stats in run.stats:
            records[stats.request_id].stats = stats
            heappush(queue, (heard, self._next_number(), self._finish_hearing, stats))

    def _first_token_heard(self, now: int, record: RequestRecord) -> None:
        if record.outcome is None:
            self._hear(now, FirstTokenSeen(now / PS_PER_SECOND, record.request_id))

    def _finish_heard(self, now: int, stats: RequestStats) -> None:
        record = self._record_by_id[stats.request_id]
        if record.outcome is not None:
            return
        self._end(now, record, "completed")
        if not record.stream:
            self._workers[record.worker].answered(record)
        made, prompt, cached = stats.num_output_tokens, stats.num_prompt_tokens, stats.num_cached_tokens
        self._hear(now, RequestEnded(now / PS_PER_SECOND, stats.request_id, "completed", made, prompt, cached))

    def _scrape(self, now: int, worker: SimulatedWorker) -> None:
        if worker.gone:
            return
        if now < worker.up_at:
            self._at(now + self._scrape_ps, self._scrape, worker)
            return
        self._advance(now, worker)
        self._at(now + self._scrape_delay_ps, self._scraped, (worker, worker.metrics(), now))
        self._at(now + self._scrape_delay_ps + worker.until_next_scrape(self._scrape_ps), self._scrape, worker)
        self._look_again(worker)

    def _scraped(self, now: int, scrape: tuple[SimulatedWorker, WorkerMetrics, int]) -> None:
        worker, values, taken = scrape
        self._hear(now, MetricsScraped(now / PS_PER_SECOND, worker.plan.worker_id, values, taken / PS_PER_SECOND))

    # -- failures -------------------------------------------------------------------------------------------------

    def _break(self, now: int, breakdown: Breakdown) -> None:
        """A worker stops working; nothing happens if it is gone, or down already."""
        failure, worker = breakdown.failure, self._victim(breakdown)
        if worker is None or now < worker.up_at:
            return
        self._advance(now, worker)
        hit = [r for r in self._records if r.worker == worker.index and r.landed and r.stats is None and not r.broken]
        hangs = failure.kind == "hang"
        worker.break_down(hit, now + _ps(failure.down_seconds), hangs=hangs)
        heard = (worker.up_at if hangs else now) + self._answer_ps
        for record in hit:
            self._at(heard, self._failure_heard, record)
        detection = _ps(failure.detection_seconds)
        self._at(now + detection, self._health_seen, (worker, False))
        self._at(worker.up_at + detection, self._health_seen, (worker, True))

    def _victim(self, breakdown: Breakdown) -> SimulatedWorker | None:
        if (place := breakdown.failure.worker) is not None:
            return None if self._workers[place].gone else self._workers[place]
        present = [worker for worker in self._workers if not worker.gone]
        return present[int(breakdown.share * len(present))]

    def _failure_heard(self, now: int, record: RequestRecord) -> None:
        """Its connection broke. Once a token has reached the client, no other worker can take over."""
        if record.outcome is not None:
            return
        self._num_failed_dispatches += 1
        retriable = record.first_token == NEVER or not record.stream
        seen = record.num_seen
        if retriable:
            record.failed()
        else:
            self._end(now, record, "failed")
        time = now / PS_PER_SECOND
        self._hear(now, RequestEnded(time, record.request_id, "failed", num_output_tokens=seen, retriable=retriable))

    def _health_seen(self, now: int, what: tuple[SimulatedWorker, bool]) -> None:
        worker, healthy = what
        if not worker.gone:
            self._hear(now, WorkerHealthChanged(now / PS_PER_SECOND, worker.plan.worker_id, healthy))

    # -- replicas -------------------------------------------------------------------------------------------------

    def _set_replicas(self, now: int, command: SetReplicas) -> None:
        change = self._replicas.change(now, command.variant, command.num_replicas, self._pool)
        for start in change.started:
            self._at(now + self._replicas.cold_start_ps[command.variant], self._join_replica, start)
        for worker_id in change.drained:
            self._at(now, self._drain, self._worker_by_id[worker_id])

    def _join_replica(self, now: int, start: Start) -> None:
        if start.cancelled:
            return
        self._replicas.joined(start)
        plan = start.plan
        worker = SimulatedWorker(len(self._workers), plan, self._batch_policy, self._seed)
        self._workers.append(worker)
        self._worker_by_id[plan.worker_id] = worker
        time = now / PS_PER_SECOND
        self._hear(now, WorkerJoined(time, plan.worker_id, POOL, plan.variant, metrics=plan.sizes(), replica=True))
        self._scrape(now, worker)

    def _drain(self, now: int, worker: SimulatedWorker) -> None:
        self._draining.append(worker)
        self._hear(now, WorkerDraining(now / PS_PER_SECOND, worker.plan.worker_id))

    def _remove_drained(self, now: int) -> None:
        for worker in tuple(self._draining):
            worker_id = worker.plan.worker_id
            if not worker.gone and not self._pool.workers[worker_id].num_inflight_requests:
                worker.gone = True
                self._draining.remove(worker)
                self._replicas.left(now, worker_id)
                self._hear(now, WorkerLeft(now / PS_PER_SECOND, worker_id))

    # -- counts and the end ---------------------------------------------------------------------------------------

    def num_tokens_seen(self, worker_id: str) -> int:
        """Tokens that have reached the gateway from a worker, to within the one-way delay: never fewer."""
        worker = self._worker_by_id[worker_id]
        if worker.unstreamed:
            self._advance(self._now, worker)
            self._look_again(worker)
        now = self._now - self._answer_ps
        return worker.num_tokens_seen(now if now > worker.clock else worker.clock)

    def _drain_engines(self) -> None:
        """Steps that go on after the last answer, such as those of aborted requests."""
        for worker in self._workers:
            while (time := worker.engine.next_event_time()) is not None:
                worker.engine.advance(time)
                self._now = max(self._now, time)

    # -- the result -----------------------------------------------------------------------------------------------

    def result(self, seed: int) -> SimulationResult:
        """After ``run``.

        Raises:
            InvariantViolation: see ``simulate``.
        """
        result = make_result(
            self._records,
            self._columns,
            seed=seed,
            objective=self._scenario.objective,
            workers=self.worker_ids,
            counters={
                "num_events": self.dispatcher.num_events,
                "num_policy_failures": sum(self._pool.guard.num_failures.values()),
                "policy_failure": self._pool.guard.last_failure,
                "num_sets_retired": self._num_retired,
                "num_failed_dispatches": self._num_failed_dispatches,
                "num_retries": sum(max(0, record.num_dispatches - 1) for record in self._records),
                "worker_seconds": self._replicas.worker_seconds(max(record.ended for record in self._records)),
            },
        )
        self._check(result)
        return result

    def _check(self, result: SimulationResult) -> None:
        most = np.array([worker.plan.config.max_request_tokens for worker in self._workers], dtype=np.int64)
        limits = np.where(result.worker >= 0, most[result.worker], 0)
        queue = self._scenario.queue
        check_requests(result, limits)
        floors = np.array([worker.plan.profile.floor_ps for worker in self._workers], dtype=np.int64)
        check_steps(result, np.where(result.worker >= 0, floors[result.worker], 0))
        check_queue(result, queue.max_seconds, queue.tick_seconds)
        made_before = sum(worker.num_made_before for worker in self._workers)
        lost = sum(record.num_lost_tokens for record in self._records)
        check_engines([worker.engine for worker in self._workers], result.made, self._now, made_before - lost)
        check_dispatcher(self._pool)


def pool_config(scenario: Scenario, policy_set: PolicySet) -> PoolConfig:
    """The one pool of a simulation."""
    queue = scenario.queue
    return PoolConfig(
        name=POOL,
        policy_set=policy_set,
        max_queue_requests=queue.max_requests,
        max_queue_prompt_tokens=queue.max_prompt_tokens,
        max_queue_seconds=queue.max_seconds,
        max_attempts=queue.max_attempts,
        replicas=replica_bounds(scenario),
        scaling_interval_seconds=scenario.autoscaling.interval_seconds,
        scale_up_delay_seconds=scenario.autoscaling.up_delay_seconds,
        scale_down_delay_seconds=scenario.autoscaling.down_delay_seconds,
        start_timeout_seconds=scenario.autoscaling.start_timeout_seconds,
    )


def _ps(seconds: float) -> int:
    return round(seconds * PS_PER_SECOND)
