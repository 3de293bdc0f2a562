"""Events in, commands out: every decision of the gateway, and of the simulator, is made here.

No I/O, no clock, no randomness: the same events, counts read and watch verdicts give the same commands. What an
event changes is worked out when it is heard; then each pool that may have gained capacity offers the head of its
queue, until the routing policy holds it or nothing is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from gateway.core.commands import Cancel, Command, Dispatch, Reject, RejectReason
from gateway.core.decisions import Decisions
from gateway.core.events import (
    ClientLeft,
    Event,
    FirstTokenSeen,
    MetricsScraped,
    OutputTokens,
    PolicySetReplaced,
    PoolsReconfigured,
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
from gateway.core.pool import PoolConfig, PoolState, by_model, default_pool
from gateway.core.request_state import RequestState
from gateway.core.worker_state import WorkerState
from policies.contract import Finished, FirstToken, Request

_NO_WORKER_RETRY_SECONDS = 5.0
_Check = Callable[[Any], None]
_Handler = Callable[[Any, float], None]
_Ending = Literal["completed", "failed", "cancelled"]


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
        self.num_events = 0
        self.num_dispatches = 0
        self.num_ignored: dict[str, int] = {}
        """Events about what is not known (any more), by type."""
        calls = CallLog()
        self._decisions = Decisions(output_tokens, calls, self._changed)
        self._pools = {config.name: PoolState(config, watch, calls) for config in pools}
        self._all_pools = tuple(self._pools.values())
        if len(self._pools) < len(pools):
            raise ValueError("two pools have the same name; give each its own")
        self._pool_by_model = by_model(self._pools)
        self._default_pool = default_pool(self._pools)
        self._requests: dict[str, RequestState] = {}
        self._worker_pools: dict[str, PoolState] = {}
        self._num_arrivals = 0
        self._out: list[Command] = []
        self._to_offer: list[PoolState] = []
        """Pools whose queue's head is to be offered before the event is over."""
        self._handlers: dict[type, tuple[_Check | None, _Handler]] = {
            RequestArrived: (self._check_id, self._arrived),
            FirstTokenSeen: (None, self._first_token),
            RequestEnded: (None, self._ended),
            ClientLeft: (None, self._client_left),
            MetricsScraped: (None, self._scraped),
            WorkerJoined: (self._check_pool, self._joined),
            WorkerDraining: (None, self._draining),
            WorkerLeft: (None, self._left),
            WorkerHealthChanged: (None, self._health_changed),
            PolicySetReplaced: (self._check_pool, self._replaced),
            PoolsReconfigured: (self._check_pools, self._reconfigured),
            Ticked: (None, self._ticked),
        }

    # --- for the runner ---

    @property
    def pools(self) -> Mapping[str, PoolState]:
        """By name; to be read, never changed."""
        return self._pools

    def pool_for(self, model: str) -> PoolState | None:
        """The pool that takes requests for the model; whether one of its workers serves it is another question."""
        return self._pool_by_model.get(model, self._default_pool)

    @property
    def num_requests(self) -> int:
        """Held or in flight."""
        return len(self._requests)

    @property
    def num_policy_calls(self) -> int:
        return self._decisions.calls.num_calls

    @property
    def counts_read(self) -> Mapping[str, int]:
        """Of ``output_tokens``, what the latest event read and had changed: an input, for the event log."""
        return self._decisions.counts_read

    @property
    def verdicts(self) -> Sequence[tuple[int, FailureReason]]:
        """(number of the policy call, what the watch found), during the latest event: an input, for the event log."""
        return self._decisions.calls.verdicts

    def next_due(self) -> float | None:
        """When a Ticked is needed at the latest; None when nothing known waits for time to pass.

        A policy that holds by the time may want one earlier.
        """
        pools = self._pools.values()
        times = [time for pool in pools for time in (pool.scaling.next_due, pool.rest_until)]
        times += [first.limit for pool in pools if (first := pool.queue.next_limit())]
        return min((time for time in times if time is not None), default=None)

    def handle(self, event: Event) -> list[Command]:
        """Take in one event; the commands are to be carried out in their order.

        Raises:
            ValueError: a request's id is in flight already, or the pool is not configured. Nothing has changed then.
        """
        check, handler = self._handlers[type(event)]
        if check is not None:
            check(event)
        now = event.time
        if now < self.now:
            now = self.now
        self.now = now
        self.num_events += 1
        out: list[Command] = []
        self._out = out
        decisions = self._decisions
        decisions.num_events = self.num_events
        decisions.now = now
        decisions.out = out
        if decisions.counts_read:
            decisions.counts_read = {}
        if decisions.calls.verdicts:
            decisions.calls.verdicts = []
        for pool in self._all_pools:
            if pool.queue.num_requests or pool.rest_until is not None:
                self._pass_time(pool, now)
        handler(event, now)
        if self._to_offer:
            self._settle(now)
        return out

    def _check_id(self, event: RequestArrived) -> None:
        if event.request_id in self._requests:
            raise ValueError(f"request_id {event.request_id!r} is in flight already; the runner must make it unique")

    def _check_pools(self, event: PoolsReconfigured) -> None:
        Dispatcher(event.pools)  # whether they go together
        if unknown := {config.name for config in event.pools} ^ self._pools.keys():
            raise ValueError(f"pools {', '.join(sorted(unknown))}: a pool comes and goes with the dispatcher only")

    def _check_pool(self, event: WorkerJoined | PolicySetReplaced) -> None:
        if event.pool not in self._pools:
            raise ValueError(f"pool {event.pool!r} is not configured; known: {', '.join(self._pools)}")

    # --- requests ---

    def _arrived(self, event: RequestArrived, now: float) -> None:
        model = event.model
        pool = self._pool_by_model.get(model, self._default_pool)
        if pool is None or not (pool.candidates(model).states or pool.serves(model)):
            self._out.append(Reject(event.request_id, "unknown_model"))
            return
        request = self._new_request(pool, event, now)
        if event.deadline is not None and event.deadline <= now:
            self._refuse(request, "deadline", pool.retry_after(now))
        elif not pool.candidates(model).states and not pool.may_serve_later(model):
            self._refuse(request, "no_worker", _NO_WORKER_RETRY_SECONDS)
        elif pool.schedules and not self._decisions.admitted(pool, request):
            self._refuse(request, "shed", pool.retry_after(now))
        else:
            self._place(pool, request, now)

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
        request = RequestState(view, event, pool, pool.fair_share.tenant(event.tenant), self._num_arrivals)
        self._requests[request.request_id] = request
        pool.retry_budget.request_arrived()
        estimates.arrivals.add(now)
        estimates.prompt_tokens.add(request.prompt_tokens)
        return request

    def _place(self, pool: PoolState, request: RequestState, now: float) -> None:
        """Dispatch the arrival at once when nothing is before it, else hold it."""
        queue = pool.queue
        candidates = pool.candidates(request.model)
        is_first = not queue.num_requests or not queue.num_ready
        if is_first and candidates.states:
            chosen = self._decisions.route(pool, request, candidates, in_hand=1)
            if chosen is not None:
                self._dispatch(pool, request, chosen, now)
                return
        config = pool.config
        num_tokens = queue.num_prompt_tokens + request.prompt_tokens
        if queue.num_requests >= config.max_queue_requests or 0 < config.max_queue_prompt_tokens < num_tokens:
            self._refuse(request, "queue_full", pool.retry_after(now))
            return
        if 0 < config.max_queue_requests_per_tenant <= request.tenant.num_held:
            self._refuse(request, "queue_full", pool.retry_after(now))
            return
        self._hold(pool, request, now)
        if not (is_first and candidates.states) and queue.head() is request:
            self._to_offer.append(pool)

    def _hold(self, pool: PoolState, request: RequestState, now: float) -> None:
        self._decisions.set_key(pool, request)
        left = max(0.0, pool.config.max_queue_seconds - request.held_seconds)
        request.held_since = now
        request.limit, request.limit_reason = now + left, "queue_timeout"
        if request.deadline is not None and request.deadline < request.limit:
            request.limit, request.limit_reason = request.deadline, "deadline"
        request.step("hold")
        pool.queue.push(request)
        if not left:
            self._to_offer.append(pool)

    def _take(self, request: RequestState, now: float) -> None:
        """Out of the queue, for whatever comes next."""
        request.pool.queue.remove(request)
        request.held_seconds += now - request.held_since

    def _dispatch(self, pool: PoolState, request: RequestState, state: WorkerState, now: float) -> None:
        self.num_dispatches += 1
        request.step("dispatch")
        request.charged = weighted_tokens(request.prompt_tokens, request.expected_tokens)
        request.tenant.charge(request.charged)
        cached = 0
        if keys := request.prefix_keys:
            cached = pool.num_cached(state, request)
            pool.prefix_index.add(state.worker_id, keys, state.kv_capacity_tokens)
        request.cached_tokens = cached
        state.dispatched(request, now, self.num_dispatches)
        if state.on_trial or state.room:
            pool.worker_took(state, now)
        pool.in_flight[request.request_id] = request
        if not request.stream:
            pool.expect_first_token(request, state, now)
        self._out.append(Dispatch(request.request_id, state.worker_id, cached))
        if pool.observes:
            self._decisions.dispatched(pool, request, state)

    def _first_token(self, event: FirstTokenSeen, now: float) -> None:
        request = self._requests.get(event.request_id)
        if request is None or request.worker is None or not request.may("first_token"):
            self._ignore(event)
            return
        pool, state = request.pool, request.worker
        request.step("first_token")
        request.first_token_time = now
        state.first_token(request)
        if pool.holding is not None:
            pool.freed[state.worker_id] = state
        if state.on_trial:
            pool.worker_began(state)
        if state.room is not None:
            pool.worker_has_room(state)
        ttft = now - request.dispatch_time
        state.latency.ttft.add(ttft)
        pool.estimates.latency.ttft.add(ttft)
        if pool.observes:
            self._decisions.observe(pool, FirstToken(now, request.request_id, state.worker_id))
        if pool.queue.num_requests or pool.rest_until is not None:
            self._to_offer.append(pool)

    def _ended(self, event: RequestEnded, now: float) -> None:
        request = self._requests.get(event.request_id)
        if request is None or request.worker is None:
            self._ignore(event)
            return
        pool, state = request.pool, request.worker
        if event.outcome == "completed":
            pool.learn(request, state, event, now)
            pool.worker_answered(state)
            self._release(request, state, "completed", event.num_output_tokens, now)
            self._finish(request)
        else:
            self._failed(event, request, state, now)
        if pool.queue.num_requests or pool.rest_until is not None:
            self._to_offer.append(pool)

    def _failed(self, event: RequestEnded, request: RequestState, state: WorkerState, now: float) -> None:
        """Tried again, when no byte of it has reached the client."""
        pool, broke = request.pool, event.outcome == "failed"
        if broke:
            pool.worker_failed(state, now)
        else:
            pool.worker_full(state, now)
        self._release(request, state, "failed", event.num_output_tokens, now)
        if not event.retriable:
            self._finish(request)
            return
        if broke:
            request.failed_at(state.worker_id)
        else:
            request.num_turned_away += 1
        self._retry(pool, request, now, failed=broke)

    def _release(
        self, request: RequestState, state: WorkerState, ending: _Ending, num_output_tokens: int, now: float
    ) -> None:
        """Its dispatch is over: take it off the worker's account and put the tenant's charge right."""
        pool = request.pool
        del pool.in_flight[request.request_id]
        state.released(request, now, num_output_tokens)
        if pool.holding is not None:
            pool.freed[state.worker_id] = state
        used = weighted_tokens(request.prompt_tokens, num_output_tokens) if ending != "failed" else 0.0
        request.tenant.charge(used - request.charged)
        if pool.observes:
            self._decisions.observe(pool, Finished(now, request.request_id, state.worker_id, ending, num_output_tokens))

    def _retry(self, pool: PoolState, request: RequestState, now: float, *, failed: bool) -> None:
        config = pool.config
        tried_enough = request.num_attempts >= config.max_attempts or request.num_turned_away >= config.max_turned_away
        if tried_enough or (failed and not pool.retry_budget.withdraw(now)):
            self._refuse(request, "attempts", pool.retry_after(now))
            return
        if request.is_late(now):
            self._refuse(request, "deadline", pool.retry_after(now))
            return
        request.tenant = pool.fair_share.tenant(request.tenant_name)
        self._hold(pool, request, now)

    def _client_left(self, event: ClientLeft, now: float) -> None:
        request = self._requests.get(event.request_id)
        if request is None:
            self._ignore(event)
            return
        if request.worker is None:
            self._take(request, now)
        else:
            self._out.append(Cancel(request.request_id, request.worker.worker_id))
            if request.worker.room is not None:
                request.pool.worker_has_room(request.worker)
            self._release(request, request.worker, "cancelled", event.num_output_tokens, now)
        self._finish(request)
        self._to_offer.append(request.pool)

    def _refuse(self, request: RequestState, reason: RejectReason, retry_after: float | None = None) -> None:
        self._finish(request)
        self._out.append(Reject(request.request_id, reason, retry_after))

    def _finish(self, request: RequestState) -> None:
        request.step("end")
        del self._requests[request.request_id]

    def _ignore(self, event: Event) -> None:
        name = type(event).__name__
        self.num_ignored[name] = self.num_ignored.get(name, 0) + 1

    # --- the queue ---

    def _offer(self, pool: PoolState, now: float) -> None:
        """Dispatch from the head of the queue until the policy holds it."""
        queue = pool.queue
        while (request := queue.head()) is not None:
            candidates = pool.candidates(request.model)
            if not candidates.states:
                queue.strand(request)
                continue
            if pool.held is request and not self._decisions.may_go(pool, request, candidates):
                return
            chosen = self._decisions.route(pool, request, candidates)
            if chosen is None:
                return
            self._take(request, now)
            self._dispatch(pool, request, chosen, now)

    def _changed(self, pool: PoolState) -> None:
        """Its policies are others now."""
        self._to_offer.append(pool)

    def _settle(self, now: float) -> None:
        """Offer what may go, until nothing more follows from this event."""
        while self._to_offer:
            pool = self._to_offer.pop()
            if pool.queue.num_requests:
                self._offer(pool, now)
            if not self._to_offer:
                for each in self._all_pools:
                    if each.queue.num_requests or each.rest_until is not None:
                        self._pass_time(each, now)

    def _pass_time(self, pool: PoolState, now: float) -> None:
        """Reject what has been held to its limit, before anything else can happen to it."""
        if pool.end_rests(now):
            self._to_offer.append(pool)
        if pool.queue.num_requests:
            self._expire(pool, now)

    def _expire(self, pool: PoolState, now: float) -> None:
        first = pool.queue.next_limit()
        while first is not None and first.limit <= now:
            retry_after = pool.retry_after(now)
            self._take(first, now)
            self._refuse(first, first.limit_reason, retry_after)
            self._to_offer.append(pool)
            first = pool.queue.next_limit()

    # --- workers ---

    def _joined(self, event: WorkerJoined, now: float) -> None:
        """A worker that is there already keeps its account: it only says anew what it serves and how large it is."""
        pool, worker_id = self._pools[event.pool], event.worker_id
        before = self._worker_pools.get(worker_id)
        if before is pool:
            pool.workers[worker_id].joined_again(event)
        else:
            if before is not None:
                self._remove(worker_id)
            self._worker_pools[worker_id] = pool
            pool.workers[worker_id] = state = WorkerState(event)
            pool.show(state)
            pool.prefix_index.join(worker_id)
        if event.replica:
            pool.scaling.joined(event.variant)
        self._workers_changed(pool)

    def _draining(self, event: WorkerDraining, now: float) -> None:
        if found := self._worker(event.worker_id, event):
            pool, state = found
            state.draining = True
            self._workers_changed(pool)

    def _left(self, event: WorkerLeft, now: float) -> None:
        if self._worker(event.worker_id, event):
            self._remove(event.worker_id)

    def _health_changed(self, event: WorkerHealthChanged, now: float) -> None:
        found = self._worker(event.worker_id, event)
        if found and found[1].healthy != event.healthy:
            pool, state = found
            state.healthy = event.healthy
            self._workers_changed(pool)

    def _scraped(self, event: MetricsScraped, now: float) -> None:
        if found := self._worker(event.worker_id, event):
            pool, state = found
            self._decisions.read_output(pool, state)
            if state.began_anew(event.values):
                pool.prefix_index.empty(state.worker_id)
            sizes = state.sizes
            state.scraped(event.values, event.taken_at)
            if pool.holding is not None and (pool.needs.scraped or state.sizes != sizes):
                pool.freed[state.worker_id] = state
            self._to_offer.append(pool)

    def _remove(self, worker_id: str) -> None:
        pool = self._worker_pools.pop(worker_id)
        del pool.workers[worker_id]
        pool.prefix_index.forget(worker_id)
        self._workers_changed(pool)

    def _workers_changed(self, pool: PoolState) -> None:
        pool.workers_changed()
        self._to_offer.append(pool)

    def _worker(self, worker_id: str, event: Event) -> tuple[PoolState, WorkerState] | None:
        pool = self._worker_pools.get(worker_id)
        if pool is None:
            self._ignore(event)
            return None
        return pool, pool.workers[worker_id]

    # --- policies and time ---

    def _replaced(self, event: PolicySetReplaced, now: float) -> None:
        pool = self._pools[event.pool]
        self._decisions.replace(pool, event.policy_set)
        self._to_offer.append(pool)

    def _reconfigured(self, event: PoolsReconfigured, now: float) -> None:
        for config in event.pools:
            pool = self._pools[config.name]
            pool.reconfigure(config)
            self._to_offer.append(pool)
        self._pool_by_model, self._default_pool = by_model(self._pools), default_pool(self._pools)

    def _ticked(self, event: Ticked, now: float) -> None:
        for pool in self._pools.values():
            if pool.scaling.is_due(now):
                self._decisions.scale(pool)
            self._to_offer.append(pool)
