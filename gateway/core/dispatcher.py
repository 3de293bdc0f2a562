"""Events in, commands out: every decision of the gateway, and of the simulator, is made here.

No I/O, no clock, no randomness: the same events, counts read and watch verdicts give the same commands. What an
event can change is worked out when it is heard; then each pool that may have gained capacity is asked for the
head of its queue, until the routing policy holds it or nothing is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from gateway.core.commands import Cancel, Command, Dispatch, PolicySetRetired, Reject, RejectReason, SetReplicas
from gateway.core.events import (
    ClientLeft,
    Event,
    FirstTokenSeen,
    MetricsScraped,
    OutputTokens,
    PolicySetReplaced,
    RequestArrived,
    RequestEnded,
    Ticked,
    WorkerDraining,
    WorkerHealthChanged,
    WorkerJoined,
    WorkerLeft,
)
from gateway.core.fair_share import weighted_tokens
from gateway.core.guard import CallLog, FailureReason, Watch
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig, PoolState, Replaced
from gateway.core.request_state import RequestState
from gateway.core.worker_state import CandidateSet, WorkerState, emptiest, fewest_in_flight
from policies.contract import Dispatched, Finished, FirstToken, Request

_NO_WORKER_RETRY_SECONDS = 5.0
Ending = Literal["completed", "failed", "cancelled"]
_Handler = Callable[[Any, float, list[Command]], None]


class Dispatcher:
    """Owns the queues, the accounting and the policies of all pools.

    Args:
        pools: no model may be named by two, and at most one may name none; ValueError otherwise.
        output_tokens: the runner's live counts; read only when a decision is due that depends on them.
        watch: times policy calls; None when they cannot overrun (the simulator).
    """

    def __init__(
        self,
        pools: Sequence[PoolConfig],
        *,
        output_tokens: OutputTokens = MappingProxyType({}),
        watch: Watch | None = None,
    ) -> None:
        self.now = float("-inf")
        """Time of the latest event."""
        self.num_ignored: dict[str, int] = {}
        """Events about what is not known (any more), by type."""
        self._calls = CallLog()
        self._pools = {config.name: PoolState(config, watch, self._calls) for config in pools}
        self._pool_by_model = _by_model(pools, self._pools)
        self._default_pool = _default(self._pools)
        self._output_tokens = output_tokens
        self._counts_read: dict[str, int] = {}
        self._requests: dict[str, RequestState] = {}
        self._worker_pools: dict[str, PoolState] = {}
        self._num_events = 0
        self._num_arrivals = 0
        self._num_dispatches = 0
        self._offered: list[PoolState] = []
        """Pools whose queue's head is to be offered before the event is over."""
        self._handlers: dict[type, _Handler] = {
            RequestArrived: self._arrived,
            FirstTokenSeen: self._first_token,
            RequestEnded: self._ended,
            ClientLeft: self._client_left,
            MetricsScraped: self._scraped,
            WorkerJoined: self._joined,
            WorkerDraining: self._draining,
            WorkerLeft: self._left,
            WorkerHealthChanged: self._health_changed,
            PolicySetReplaced: self._replaced,
            Ticked: self._ticked,
        }

    # --- for the runner ---

    @property
    def pools(self) -> Mapping[str, PoolState]:
        """By name; to be read, never changed."""
        return self._pools

    @property
    def num_requests(self) -> int:
        """Held or in flight."""
        return len(self._requests)

    @property
    def num_dispatches(self) -> int:
        return self._num_dispatches

    @property
    def counts_read(self) -> Mapping[str, int]:
        """Of ``output_tokens``, what the latest event read that had changed: an input, for the event log."""
        return self._counts_read

    @property
    def verdicts(self) -> Sequence[tuple[int, FailureReason]]:
        """What the watch found during the latest event: an input, for the event log."""
        return self._calls.verdicts

    def next_due(self) -> float | None:
        """When a Ticked is next needed: a limit of something held, or a scaling decision. None: no need known."""
        times = [pool.scaling.next_due for pool in self._pools.values()]
        times += [first.limit for pool in self._pools.values() if (first := pool.queue.next_limit())]
        return min((time for time in times if time is not None), default=None)

    def handle(self, event: Event) -> list[Command]:
        """Take in one event; the commands are to be carried out in their order."""
        now = event.time
        if now < self.now:
            now = self.now
        self.now = now
        self._num_events += 1
        if self._counts_read:
            self._counts_read = {}
        if self._calls.verdicts:
            self._calls.verdicts = []
        out: list[Command] = []
        self._expire(now, out)
        self._handlers[type(event)](event, now, out)
        while self._offered:
            self._offer(self._offered.pop(), now, out)
            if not self._offered:
                self._expire(now, out)
        return out

    # --- requests ---

    def _arrived(self, event: RequestArrived, now: float, out: list[Command]) -> None:
        if event.request_id in self._requests:
            raise ValueError(f"request_id {event.request_id!r} is in flight already; the runner must make it unique")
        pool = self._pool_by_model.get(event.model, self._default_pool)
        if pool is None or not pool.serves(event.model):
            out.append(Reject(event.request_id, "unknown_model"))
            return
        request = self._new_request(pool, event, now)
        candidates = pool.candidates(event.model)
        if request.deadline is not None and request.deadline <= now:
            self._refuse(request, "deadline", None, out)
        elif not candidates.states and not pool.may_serve_later(event.model):
            self._refuse(request, "no_worker", _NO_WORKER_RETRY_SECONDS, out)
        elif not self._admitted(pool, request, now, out):
            self._refuse(request, "shed", self._retry_after(pool, now), out)
        else:
            self._place(pool, request, now, out)

    def _new_request(self, pool: PoolState, event: RequestArrived, now: float) -> RequestState:
        estimates = pool.estimates
        num_prompt_tokens = event.num_prompt_tokens
        if num_prompt_tokens is None:
            num_prompt_tokens = estimates.num_prompt_tokens(event.model, event.num_prompt_bytes)
        view = Request(
            event.request_id,
            event.model,
            event.tenant,
            event.session_id,
            now,
            max(1, num_prompt_tokens),
            event.max_tokens,
            estimates.expected_output_tokens(event.model, event.tenant, event.max_tokens),
            event.priority,
            event.ttft_slo,
        )
        self._num_arrivals += 1
        request = RequestState(view, pool, pool.fair_share.tenant(event.tenant), self._num_arrivals)
        request.prompt_bytes = event.num_prompt_bytes
        request.prefix_keys = event.prefix_keys
        request.deadline = event.deadline
        request.stream = event.stream
        self._requests[event.request_id] = request
        estimates.arrivals.add(now)
        estimates.prompt_tokens.add(request.prompt_tokens)
        return request

    def _admitted(self, pool: PoolState, request: RequestState, now: float, out: list[Command]) -> bool:
        if pool.guard.policy_set.scheduling is None:
            return True
        self._refresh(pool, now)
        admitted = pool.guard.admit(request.request, pool.pool)
        self._retire_failing(pool, now, out)
        return admitted

    def _place(self, pool: PoolState, request: RequestState, now: float, out: list[Command]) -> None:
        """Dispatch the arrival at once when nothing is before it, else hold it."""
        queue = pool.queue
        candidates = pool.candidates(request.model)
        if candidates.states and not queue.num_ready:
            chosen = self._route(pool, request, candidates, now, out, in_hand=1)
            if chosen is not None:
                self._dispatch(pool, request, chosen, now, out)
                return
        config = pool.config
        full = queue.num_requests >= config.max_queue_requests
        limit = config.max_queue_prompt_tokens
        if full or (limit and queue.num_prompt_tokens + request.prompt_tokens > limit):
            self._refuse(request, "queue_full", self._retry_after(pool, now), out)
            return
        was_empty = not queue.num_ready
        self._hold(pool, request, now, out)
        if not was_empty and queue.head() is request:
            self._offered.append(pool)

    def _hold(self, pool: PoolState, request: RequestState, now: float, out: list[Command]) -> None:
        if not request.keyed:
            request.key, request.keyed = pool.guard.key(request.request), True
        left = max(0.0, pool.config.max_queue_seconds - request.held_seconds)
        request.held_since = now
        request.limit, request.limit_reason = now + left, "queue_timeout"
        if request.deadline is not None and request.deadline < request.limit:
            request.limit, request.limit_reason = request.deadline, "deadline"
        request.step("hold")
        pool.queue.push(request)
        self._retire_failing(pool, now, out)

    def _take(self, request: RequestState, now: float) -> None:
        """Out of the queue, for whatever comes next."""
        request.pool.queue.remove(request)
        request.held_seconds += now - request.held_since

    def _dispatch(
        self, pool: PoolState, request: RequestState, state: WorkerState, now: float, out: list[Command]
    ) -> None:
        self._num_dispatches += 1
        request.step("dispatch")
        cached = pool.num_cached(state, request)
        request.charged = weighted_tokens(request.prompt_tokens, request.expected_tokens)
        request.tenant.charge(request.charged)
        state.dispatched(request, now, self._num_dispatches)
        pool.in_flight[request.request_id] = (request, state)
        request.cached_tokens = cached
        if request.prefix_keys:
            pool.prefix_index.add(state.worker_id, request.prefix_keys, state.kv_capacity_tokens)
        if not request.stream:
            self._expect_first_token(pool, request, state, now)
        out.append(Dispatch(request.request_id, state.worker_id, cached))
        if pool.guard.policy_set.observers:
            pool.guard.observe(_shown(request, state.worker_id, cached, now))
            self._retire_failing(pool, now, out)

    def _expect_first_token(self, pool: PoolState, request: RequestState, state: WorkerState, now: float) -> None:
        learned = state.latency.ttft if state.latency.ttft.count else pool.estimates.latency.ttft
        if learned.count:
            state.pass_time(now)
            state.expect_first_token(request, now + learned.value)

    def _first_token(self, event: FirstTokenSeen, now: float, out: list[Command]) -> None:
        request = self._requests.get(event.request_id)
        if request is None or request.worker is None or not request.may("first_token"):
            self._ignore(event)
            return
        pool, state = request.pool, request.worker
        request.step("first_token")
        request.first_token_time = now
        state.first_token(request)
        for latency in (state.latency, pool.estimates.latency):
            latency.ttft.add(now - request.dispatch_time)
        if pool.guard.policy_set.observers:
            pool.guard.observe(FirstToken(now, request.request_id, state.worker_id))
            self._retire_failing(pool, now, out)
        self._offered.append(pool)

    def _ended(self, event: RequestEnded, now: float, out: list[Command]) -> None:
        request = self._requests.get(event.request_id)
        if request is None or request.worker is None:
            self._ignore(event)
            return
        pool, state = request.pool, request.worker
        if event.outcome == "completed":
            _learn(request, state, event, now)
        outcome: Ending = "completed" if event.outcome == "completed" else "failed"
        self._release(request, state, outcome, event.num_output_tokens, now, out)
        if event.retriable and event.outcome != "completed":
            self._retry(request, state.worker_id, now, out)
        else:
            self._finish(request)
        self._offered.append(pool)

    def _release(
        self,
        request: RequestState,
        state: WorkerState,
        outcome: Ending,
        num_output_tokens: int,
        now: float,
        out: list[Command],
    ) -> None:
        """Its dispatch is over: take it off the worker's account and put the tenant's charge right."""
        pool = request.pool
        del pool.in_flight[request.request_id]
        state.released(request, now, num_output_tokens)
        used = weighted_tokens(request.prompt_tokens, num_output_tokens) if outcome != "failed" else 0.0
        request.tenant.charge(used - request.charged)
        if pool.guard.policy_set.observers:
            pool.guard.observe(Finished(now, request.request_id, state.worker_id, outcome, num_output_tokens))
            self._retire_failing(pool, now, out)

    def _retry(self, request: RequestState, worker_id: str, now: float, out: list[Command]) -> None:
        request.num_attempts += 1
        request.request.num_attempts = request.num_attempts
        if worker_id not in request.tried:
            request.tried = (*request.tried, worker_id)
        if request.num_attempts >= request.pool.config.max_attempts:
            self._refuse(request, "attempts", None, out)
            return
        request.step("retry")
        request.tenant = request.pool.fair_share.tenant(request.tenant_name)
        self._hold(request.pool, request, now, out)

    def _client_left(self, event: ClientLeft, now: float, out: list[Command]) -> None:
        request = self._requests.get(event.request_id)
        if request is None:
            self._ignore(event)
            return
        if request.worker is None:
            self._take(request, now)
        else:
            out.append(Cancel(request.request_id, request.worker.worker_id))
            self._release(request, request.worker, "cancelled", event.num_output_tokens, now, out)
        self._finish(request)
        self._offered.append(request.pool)

    def _refuse(
        self, request: RequestState, reason: RejectReason, retry_after: float | None, out: list[Command]
    ) -> None:
        self._finish(request)
        out.append(Reject(request.request_id, reason, retry_after))

    def _finish(self, request: RequestState) -> None:
        request.step("end")
        del self._requests[request.request_id]

    def _expire(self, now: float, out: list[Command]) -> None:
        """Reject what has been held to its limit; its pool's head may be another now."""
        for pool in self._pools.values():
            if not pool.queue.num_requests:
                continue
            first = pool.queue.next_limit()
            if first is None or first.limit > now:
                continue
            self._offered.append(pool)
            while first is not None and first.limit <= now:
                self._take(first, now)
                self._refuse(first, first.limit_reason, self._retry_after(pool, now), out)
                first = pool.queue.next_limit()

    def _retry_after(self, pool: PoolState, now: float) -> float:
        """Seconds: as long as the oldest one held has waited, at least 1."""
        oldest = pool.queue.oldest_arrival()
        return 1.0 if oldest is None else min(max(1.0, now - oldest), pool.config.max_queue_seconds or 1.0)

    def _ignore(self, event: Event) -> None:
        name = type(event).__name__
        self.num_ignored[name] = self.num_ignored.get(name, 0) + 1

    # --- decisions ---

    def _offer(self, pool: PoolState, now: float, out: list[Command]) -> None:
        """Dispatch from the head of the queue until the policy holds it."""
        queue = pool.queue
        while (request := queue.head()) is not None:
            candidates = pool.candidates(request.model)
            if not candidates.states:
                queue.strand(request)
                continue
            chosen = self._route(pool, request, candidates, now, out)
            if chosen is None:
                return
            self._take(request, now)
            self._dispatch(pool, request, chosen, now, out)

    def _route(
        self,
        pool: PoolState,
        request: RequestState,
        candidates: CandidateSet,
        now: float,
        out: list[Command],
        in_hand: int = 0,
    ) -> WorkerState | None:
        if request.tried:
            candidates = candidates.without(request.tried)
        if pool.guard.policy_set.routing is None:
            return fewest_in_flight(candidates)
        self._refresh(pool, now)
        pool.count_held(now, in_hand, in_hand * request.prompt_tokens)
        pool.show_cached(candidates, request)
        chosen = pool.guard.route(request.request, candidates, pool.pool)
        self._retire_failing(pool, now, out)
        if chosen is None and _fits_nowhere(request, candidates):
            return emptiest(candidates)
        return chosen

    def _refresh(self, pool: PoolState, now: float) -> None:
        """Once an event: what happens within it is published as it happens."""
        if pool.refreshed_at != self._num_events:
            pool.refreshed_at = self._num_events
            pool.refresh(now, self._output_tokens, self._counts_read)

    # --- workers ---

    def _joined(self, event: WorkerJoined, now: float, out: list[Command]) -> None:
        pool = self._pool(event.pool)
        if event.worker_id in self._worker_pools:
            self._remove_worker(event.worker_id)
        self._worker_pools[event.worker_id] = pool
        pool.workers[event.worker_id] = WorkerState(event)
        pool.prefix_index.join(event.worker_id)
        if event.replica:
            pool.scaling.joined(event.variant)
        self._workers_changed(pool)

    def _draining(self, event: WorkerDraining, now: float, out: list[Command]) -> None:
        if found := self._worker(event.worker_id, event):
            pool, state = found
            state.draining = True
            self._workers_changed(pool)

    def _left(self, event: WorkerLeft, now: float, out: list[Command]) -> None:
        if found := self._worker(event.worker_id, event):
            self._remove_worker(event.worker_id)
            self._workers_changed(found[0])

    def _health_changed(self, event: WorkerHealthChanged, now: float, out: list[Command]) -> None:
        found = self._worker(event.worker_id, event)
        if found and found[1].healthy != event.healthy:
            pool, state = found
            state.healthy = event.healthy
            self._workers_changed(pool)

    def _scraped(self, event: MetricsScraped, now: float, out: list[Command]) -> None:
        if found := self._worker(event.worker_id, event):
            pool, state = found
            pool.read_output(state, self._output_tokens, self._counts_read)
            state.scraped(event.values, event.taken_at)
            self._offered.append(pool)

    def _remove_worker(self, worker_id: str) -> None:
        pool = self._worker_pools.pop(worker_id)
        del pool.workers[worker_id]
        pool.prefix_index.forget(worker_id)
        pool.workers_changed()

    def _workers_changed(self, pool: PoolState) -> None:
        pool.workers_changed()
        self._offered.append(pool)

    def _worker(self, worker_id: str, event: Event) -> tuple[PoolState, WorkerState] | None:
        pool = self._worker_pools.get(worker_id)
        if pool is None:
            self._ignore(event)
            return None
        return pool, pool.workers[worker_id]

    def _pool(self, name: str) -> PoolState:
        try:
            return self._pools[name]
        except KeyError:
            raise ValueError(f"pool {name!r} is not configured; known: {', '.join(self._pools)}") from None

    # --- policies ---

    def _replaced(self, event: PolicySetReplaced, now: float, out: list[Command]) -> None:
        pool = self._pool(event.pool)
        pool.remember(pool.policy_set)
        self._install(pool, event.policy_set, (), now)
        self._retire_failing(pool, now, out)
        self._offered.append(pool)

    def _retire_failing(self, pool: PoolState, now: float, out: list[Command]) -> None:
        """Put the last good set back while the one in place has tripped the guard."""
        while (reason := pool.guard.tripped) is not None:
            restored = pool.history.pop() if pool.history else Replaced(PolicySet.builtin(), ())
            generation = pool.policy_set.generation
            out.append(PolicySetRetired(pool.config.name, generation, restored.policy_set.generation, reason))
            self._install(pool, restored.policy_set, restored.in_flight, now)
            self._offered.append(pool)

    def _install(self, pool: PoolState, policy_set: PolicySet, told: tuple[tuple[str, str], ...], now: float) -> None:
        """``told``: what the set's observers believe in flight, from when it was in place before."""
        pool.replace(policy_set)
        if policy_set.observers:
            for request_id, worker_id in told:
                pool.guard.observe(Finished(now, request_id, worker_id, "cancelled", 0))
            for request, state in pool.in_flight.values():
                pool.guard.observe(_shown(request, state.worker_id, request.cached_tokens, now))
        pool.queue.rekey(lambda request: pool.guard.key(request.request))

    # --- time ---

    def _ticked(self, event: Ticked, now: float, out: list[Command]) -> None:
        for pool in self._pools.values():
            if pool.scaling.is_due(now):
                self._scale(pool, now, out)
            self._offered.append(pool)

    def _scale(self, pool: PoolState, now: float, out: list[Command]) -> None:
        self._refresh(pool, now)
        pool.count_variants()
        wishes = pool.guard.desired_replicas(pool.pool, tuple(pool.pool.variants))
        self._retire_failing(pool, now, out)
        for variant, target in pool.scaling.decide(now, pool.num_present(), wishes):
            out.append(SetReplicas(pool.config.name, variant, target))
        pool.count_variants()


def _learn(request: RequestState, state: WorkerState, event: RequestEnded, now: float) -> None:
    """From a full answer: lengths, tokens per byte, seconds per token."""
    estimates, num_tokens = request.pool.estimates, event.num_output_tokens
    if num_tokens > 0 or event.num_prompt_tokens is not None:  # a refused request says nothing of lengths
        estimates.completed(request.model, request.tenant_name, num_tokens)
    if event.num_prompt_tokens is not None and request.prompt_bytes > 0:
        estimates.prompt_counted(request.model, request.prompt_bytes, event.num_prompt_tokens)
    if request.phase == "decode" and num_tokens > 1:
        tpot = (now - request.first_token_time) / (num_tokens - 1)
        state.latency.tpot.add(tpot)
        estimates.latency.tpot.add(tpot)


def _shown(request: RequestState, worker_id: str, cached: int, now: float) -> Dispatched:
    return Dispatched(now, request.request_id, worker_id, request.tenant_name, request.prompt_tokens, cached)


def _fits_nowhere(request: RequestState, candidates: CandidateSet) -> bool:
    """True when every candidate's capacity is known and smaller than the prompt."""
    return all(0 < state.kv_capacity_tokens < request.prompt_tokens for state in candidates.states)


def _by_model(configs: Sequence[PoolConfig], pools: Mapping[str, PoolState]) -> dict[str, PoolState]:
    if len(pools) != len(configs):
        raise ValueError("two pools have the same name; give each its own")
    owners: dict[str, PoolState] = {}
    for config in configs:
        for model in config.models:
            if model in owners:
                raise ValueError(
                    f"model {model!r} is named by pools {owners[model].config.name!r} and {config.name!r}; keep one"
                )
            owners[model] = pools[config.name]
    return owners


def _default(pools: Mapping[str, PoolState]) -> PoolState | None:
    """The pool that takes any model no other names."""
    takers = [pool for pool in pools.values() if not pool.config.models]
    if len(takers) > 1:
        raise ValueError(f"pools {', '.join(pool.config.name for pool in takers)} name no models; at most one may")
    return takers[0] if takers else None
