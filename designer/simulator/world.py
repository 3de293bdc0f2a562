"""The gateway's own dispatcher over model engines, in virtual time.

A runner like the HTTP one: it feeds events to the dispatcher and carries out its commands. Its clock is integer
picoseconds; what happens at the same picosecond happens in the order in which it was scheduled. Nothing in a run
depends on anything but scenario, policies and seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from designer.simulator.actuator import Actuator
from designer.simulator.clients import Clients
from designer.simulator.ending import make_checked_result
from designer.simulator.failures import Breakdown, draw_failures
from designer.simulator.fleet import WorkerPlan, plan_workers
from designer.simulator.garbage import rare_collections
from designer.simulator.invariants import broken, require
from designer.simulator.outages import Outages
from designer.simulator.policies import PolicySource, make_policy_set
from designer.simulator.pools import evaluated_pools, make_policy_sets, pool_configs
from designer.simulator.records import NEVER, RequestRecord, make_records
from designer.simulator.results import RequestOutcome, SimulationResult
from designer.simulator.scenario import DEFAULT_POOL, Scenario, ScenarioError
from designer.simulator.tokens_seen import TokensSeen
from designer.simulator.worker import SimulatedWorker
from designer.simulator.workload import RequestColumns, draw_workload
from gateway.core.commands import Cancel, Command, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import (
    Event,
    FirstTokenSeen,
    MetricsScraped,
    PolicySetReplaced,
    RequestEnded,
    Ticked,
    WorkerJoined,
    WorkerMetrics,
)
from gateway.core.policy_set import PolicySet
from gateway.mockworker.engine import PS_PER_SECOND, RequestStats, TokenRun

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
    with rare_collections():
        failures = draw_failures(scenario, seed, int(columns.arrival_ps.max()))
        world = World(scenario, columns, make_policy_sets(scenario, policies, seed), sink, plans, failures, seed)
        for generation, (seconds, later) in enumerate(swaps, start=1):
            for pool in evaluated_pools(scenario):
                world.swap_at(seconds, make_policy_set(later, seed, generation), pool)
        world.run()
        result = world.result(seed)
        world.forget()
    return result


class World:
    """One simulation: run it once, then take its result.

    Args:
        policy_sets: by pool; or the one set of a scenario with one pool.
    """

    def __init__(
        self,
        scenario: Scenario,
        columns: RequestColumns,
        policy_sets: PolicySet | Mapping[str, PolicySet],
        sink: Sink | None = None,
        plans: Sequence[WorkerPlan] | None = None,
        failures: Sequence[Breakdown] = (),
        seed: int = 0,
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._columns = columns
        self.sink = sink
        self._failures = failures
        self.now = 0
        self._queue: list[tuple[int, int, _Handler, Any]] = []
        self._next_number = itertools.count().__next__
        self._ticking = False
        self.num_retired = 0
        """Policy sets that the guard took out."""
        if isinstance(policy_sets, PolicySet):
            policy_sets = dict.fromkeys(scenario.pool_names, policy_sets)
        self._set_delays(scenario)
        self._set_workers(scenario, plan_workers(scenario) if plans is None else plans, policy_sets)
        self._set_requests(scenario, columns)
        self.dispatcher = Dispatcher(
            pool_configs(scenario, policy_sets), output_tokens=TokensSeen(self, self._answer_ps)
        )
        self._held = tuple(pool.queue for pool in self.dispatcher.pools.values())
        self._handle = self.dispatcher.handle
        # Bound once: each is scheduled for every request.
        self._landing, self._waking = self._land, self._wake
        self._first_token_hearing, self._finish_hearing = self._first_token_heard, self._finish_heard

    def _set_workers(
        self, scenario: Scenario, plans: Sequence[WorkerPlan], policy_sets: Mapping[str, PolicySet]
    ) -> None:
        self._batch_policies = {name: policy_set.batch for name, policy_set in policy_sets.items()}
        self.workers: list[SimulatedWorker] = []
        """All that ever joined, in that order."""
        self.worker_by_id: dict[str, SimulatedWorker] = {}
        for plan in plans:
            self.add_worker(plan)
        self.outages = Outages(self, self._answer_ps)
        self.actuator = Actuator(self, scenario, plans)
        self._is_scaled, self._draining = self.actuator.is_used, self.actuator.draining

    def _set_requests(self, scenario: Scenario, columns: RequestColumns) -> None:
        self._clients = Clients(self, scenario.clients)
        self.records = make_records(columns, scenario.clients.deadline_seconds)
        self._record_by_id = {record.request_id: record for record in self.records}
        self._num_open = len(self.records)
        self._num_aborting = 0
        """Aborts on their way to a worker."""
        waiting = scenario.queue.max_seconds + _LONGEST_DAYS * 86_400
        self._horizon_ps = self.records[-1].arrival_ps + _ps(waiting)
        self._next_arrival = self.records[0].arrival_ps

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """Of all that ever joined, in that order."""
        return tuple(self.worker_by_id)

    def _set_delays(self, scenario: Scenario) -> None:
        self._dispatch_ps = _ps(scenario.network.dispatch_seconds)
        self._answer_ps = _ps(scenario.network.answer_seconds)
        self._tick_ps = _ps(scenario.queue.tick_seconds)
        self._scrape_ps = _ps(scenario.scrape.interval_seconds)
        self._scrape_delay_ps = _ps(scenario.scrape.delay_seconds)

    def add_worker(self, plan: WorkerPlan) -> SimulatedWorker:
        worker = SimulatedWorker(len(self.workers), plan, self._batch_policies[plan.pool], self._seed)
        self.workers.append(worker)
        self.worker_by_id[plan.worker_id] = worker
        return worker

    def swap_at(self, seconds: float, policy_set: PolicySet, pool: str = DEFAULT_POOL) -> None:
        """Have the policies replaced then, as an operator would; before ``run``."""
        self.at(_ps(seconds), self._swap, (pool, policy_set))

    def _swap(self, now: int, what: tuple[str, PolicySet]) -> None:
        self.hear(now, PolicySetReplaced(now / PS_PER_SECOND, *what))

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """To the end of the last request.

        Raises:
            InvariantViolation: see ``simulate``.
        """
        self._join_workers()
        self.at(self._horizon_ps, self._give_up, None)
        self.outages.schedule(self._failures)
        queue, pop = self._queue, heappop
        records = (record for record in self.records if record.think_ps == NEVER)
        coming = next(records, None)
        while self._num_open or self._num_aborting:
            if self._next_arrival <= queue[0][0] and coming is not None:
                self.now = now = self._next_arrival
                self._clients.send(now, coming)
                coming = next(records, None)
                self._next_arrival = _NOT_COMING if coming is None else coming.arrival_ps
                continue
            now, _, handler, argument = pop(queue)
            self.now = now
            handler(now, argument)
        self._drain_engines()

    def _give_up(self, now: int, _: None) -> None:
        require(False, f"{self._num_open} requests open {_LONGEST_DAYS} days after the last came")

    def at(self, time: int, handler: _Handler, argument: Any) -> None:
        heappush(self._queue, (time, self._next_number(), handler, argument))

    def hear(self, now: int, event: Event) -> None:
        commands = self._handle(event)
        if self.sink is not None:
            self.sink(event, commands)
        for command in commands:
            if type(command) is Dispatch:
                self._dispatch(now, self._record_by_id[command.request_id], self.worker_by_id[command.worker_id])
            else:
                self._carry_out(now, command)
        for queue in self._held:
            if (queue.num_requests or self._is_scaled) and not self._ticking:
                self._ticking = True
                self.at(now + self._tick_ps, self._tick, None)
        if self._draining:
            self.actuator.remove_drained(now)

    def _tick(self, now: int, _: None) -> None:
        self._ticking = False
        self.hear(now, Ticked(now / PS_PER_SECOND))

    # -- commands -------------------------------------------------------------------------------------------------

    def _carry_out(self, now: int, command: Command) -> None:
        match command:
            case Reject():
                self.end(now, self._record_by_id[command.request_id], command.reason)
            case Cancel():
                record, worker = self._record_by_id[command.request_id], self.worker_by_id[command.worker_id]
                if record.landed and not record.broken:
                    self._num_aborting += 1
                    self.at(now + self._dispatch_ps, self._abort, (record, worker))
            case PolicySetRetired():
                self.num_retired += 1
            case SetReplicas():
                self.actuator.set_replicas(now, command)

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

    def end(self, now: int, record: RequestRecord, outcome: RequestOutcome) -> None:
        if record.outcome is not None:
            broken(f"{record.request_id} ended twice: {record.outcome}, then {outcome}")
        record.outcome = outcome
        record.ended = now
        self._num_open -= 1
        if record.next_turn is not None:
            self._clients.go_on(now, record, record.next_turn)

    # -- workers --------------------------------------------------------------------------------------------------

    def _join_workers(self) -> None:
        for worker in self.workers:
            plan = worker.plan
            self.hear(0, WorkerJoined(0.0, plan.worker_id, plan.pool, plan.variant, metrics=plan.sizes()))
            self.at(self._scrape_ps * worker.index // len(self.workers), self.scrape, worker)

    def _land(self, now: int, record: RequestRecord) -> None:
        if record.outcome is not None:
            return  # the client left while the request was on its way
        worker = self.workers[record.worker]
        if now < worker.up_at:
            self.outages.landed_while_down(now, record, worker)
        elif worker.accepts(record):
            worker.add(record, now)
            self.look_again(worker)
        else:
            self.at(now + self._answer_ps, self._refused, record)

    def _refused(self, now: int, record: RequestRecord) -> None:
        if record.outcome is None:
            self.end(now, record, "refused")
            self.hear(now, RequestEnded(now / PS_PER_SECOND, record.request_id, "completed"))

    def _abort(self, now: int, what: tuple[RequestRecord, SimulatedWorker]) -> None:
        record, worker = what
        self._num_aborting -= 1
        if record.broken:
            return
        self.advance(now, worker)
        worker.abort(record, now)
        self.look_again(worker)

    def look_again(self, worker: SimulatedWorker) -> None:
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
            self.advance(now, worker)
            time = engine.next_event_time()
            if time is None:
                worker.wake = NEVER
                return
            if time >= self._next_arrival or time >= queue[0][0]:
                worker.wake = time
                heappush(queue, (time, self._next_number(), self._waking, worker))
                return
            self.now = now = time

    def advance(self, now: int, worker: SimulatedWorker) -> None:
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
            self.hear(now, FirstTokenSeen(now / PS_PER_SECOND, record.request_id))

    def _finish_heard(self, now: int, stats: RequestStats) -> None:
        record = self._record_by_id[stats.request_id]
        if record.outcome is not None:
            return
        self.end(now, record, "completed")
        if not record.stream:
            self.workers[record.worker].answered(record)
        made, prompt, cached = stats.num_output_tokens, stats.num_prompt_tokens, stats.num_cached_tokens
        self.hear(now, RequestEnded(now / PS_PER_SECOND, stats.request_id, "completed", made, prompt, cached))

    def scrape(self, now: int, worker: SimulatedWorker) -> None:
        if worker.gone:
            return
        if now < worker.up_at:
            self.at(now + self._scrape_ps, self.scrape, worker)
            return
        self.advance(now, worker)
        self.at(now + self._scrape_delay_ps, self._scraped, (worker, worker.metrics(), now))
        self.at(now + self._scrape_delay_ps + worker.until_next_scrape(self._scrape_ps), self.scrape, worker)
        self.look_again(worker)

    def _scraped(self, now: int, scrape: tuple[SimulatedWorker, WorkerMetrics, int]) -> None:
        worker, values, taken = scrape
        self.hear(now, MetricsScraped(now / PS_PER_SECOND, worker.plan.worker_id, values, taken / PS_PER_SECOND))

    # -- the end ---------------------------------------------------------------------------------------

    def _drain_engines(self) -> None:
        """Steps that go on after the last answer, such as those of aborted requests."""
        for worker in self.workers:
            while (time := worker.engine.next_event_time()) is not None:
                worker.engine.advance(time)
                self.now = max(self.now, time)

    def result(self, seed: int) -> SimulationResult:
        """After ``run``.

        Raises:
            InvariantViolation: see ``simulate``.
        """
        return make_checked_result(self, self._scenario, self._columns, seed)

    def forget(self) -> None:
        """Let go of every request at once: what is left of a run is then little to look through for cycles."""
        self.records.clear()
        self._record_by_id.clear()


def _ps(seconds: float) -> int:
    return round(seconds * PS_PER_SECOND)
