"""Events in, commands out: every decision of the gateway, and of the simulator, is made here.

No I/O, no clock, no randomness: the same events, counts read and watch verdicts give the same commands. What an
event changes is worked out when it is heard; then each pool that may have gained capacity offers the head of its
queue, until the routing policy holds it or nothing is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from gateway.core.commands import Cancel, Command, Dispatch, Reject, RejectReason
from gateway.core.decisions import Decisions
from gateway.core.events import (
    ClientLeft,
    Event,
    FirstTokenSeen,
    OutputTokens,
    PolicySetReplaced,
    PoolsReconfigured,
    QueueRekeyed,
    RequestArrived,
    RequestEnded,
    Ticked,
)
from gateway.core.fair_share import weighted_tokens
from gateway.core.guard import CallLog, FailureReason, Watch
from gateway.core.pool import PoolConfig, PoolState
from gateway.core.pools import by_model, check_known, check_same, default_pool, next_due
from gateway.core.request_state import RequestState
from gateway.core.worker_events import Handling, WorkerEvents
from gateway.core.worker_state import CandidateSet, WorkerState
from policies.contract import Finished, FirstToken

_NO_WORKER_RETRY_SECONDS = 5.0
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
        self._num_arrivals = 0
        self._out: list[Command] = []
        self._to_offer: list[PoolState] = []
        """Pools whose queue's head is to be offered before the event is over."""
        workers = WorkerEvents(self._pools, self._decisions, self._to_offer, self._ignore)
        self._handlers: dict[type, Handling] = {
            RequestArrived: (self._check_id, self._arrived),
            FirstTokenSeen: (None, self._first_token),
            RequestEnded: (None, self._ended),
            ClientLeft: (None, self._client_left),
            **workers.handlers,
            PolicySetReplaced: (self._check_pool, self._replaced),
            QueueRekeyed: (self._check_pool, lambda event, now: self._decisions.rekey(self._pools[event.pool])),
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
        return next_due(self._all_pools)

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
        check_same(self._pools, event.pools)

    def _check_pool(self, event: PolicySetReplaced | QueueRekeyed) -> None:
        check_known(self._pools, event.pool)

    # --- requests ---

    def _arrived(self, event: RequestArrived, now: float) -> None:
        model = event.model
        pool = self._pool_by_model.get(model, self._default_pool)
        candidates = None if pool is None else pool.candidates(model)
        if pool is None or candidates is None or not (candidates.states or pool.serves(model)):
            self._out.append(Reject(event.request_id, "unknown_model"))
            return
        self._num_arrivals += 1
        request = self._requests[event.request_id] = pool.new_request(event, self._num_arrivals, now)
        if event.deadline is not None and event.deadline <= now:
            self._refuse(request, "deadline", pool.retry_after(now))
        elif not candidates.states and not pool.may_serve_later(model):
            self._refuse(request, "no_worker", _NO_WORKER_RETRY_SECONDS)
        elif pool.schedules and not self._decisions.admitted(pool, request):
            self._refuse(request, "shed", pool.retry_after(now))
        else:
            self._place(pool, request, candidates, now)

    def _place(self, pool: PoolState, request: RequestState, candidates: CandidateSet, now: float) -> None:
        """Dispatch the arrival at once when nothing is before it, else hold it."""
        queue = pool.queue
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
        request.hold(now, left)
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
        pool.dispatch(request, state, now, self.num_dispatches)
        self._out.append(Dispatch(request.request_id, state.worker_id, request.cached_tokens))
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
            pool.rests.began(state)
        if state.room is not None:
            pool.rests.has_room(state)
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
            pool.rests.answered(state)
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
            pool.rests.failed(state, now)
        else:
            pool.rests.full(state, now)
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
        used = weighted_tokens(request.prompt_tokens, num_output_tokens) if ending != "failed" else 0.0
        pool.release(request, state, num_output_tokens, used, now)
        if pool.observes:
            self._decisions.observe(pool, Finished(now, request.request_id, state.worker_id, ending, num_output_tokens))

    def _retry(self, pool: PoolState, request: RequestState, now: float, *, failed: bool) -> None:
        if pool.tried_enough(request) or (failed and not pool.retry_budget.withdraw(now)):
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
                request.pool.rests.has_room(request.worker)
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
        if pool.rests.end(now):
            self._to_offer.append(pool)
        if pool.queue.num_requests:
            self._expire(pool, now)

    def _expire(self, pool: PoolState, now: float) -> None:
        while (first := pool.queue.next_limit()) is not None and first.limit <= now:
            retry_after = pool.retry_after(now)
            self._take(first, now)
            self._refuse(first, first.limit_reason, retry_after)
            self._to_offer.append(pool)

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
