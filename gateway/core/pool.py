"""A pool: its configuration, its workers, its queue, and the views of them that policies are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gateway.core.estimates import Estimates
from gateway.core.events import OutputTokens, RequestArrived, RequestEnded
from gateway.core.fair_share import FairShare, weighted_tokens
from gateway.core.guard import CallLog, Guard, Watch
from gateway.core.needs import Needs
from gateway.core.policy_set import PolicySet, Replaced
from gateway.core.prefix_index import PrefixIndex
from gateway.core.queue import HeldQueue
from gateway.core.request_state import RequestState
from gateway.core.rests import Rests
from gateway.core.retry_budget import RetryBudget
from gateway.core.scaling import Scaling, ScalingConfig
from gateway.core.worker_state import CandidateSet, WorkerState
from policies.contract import HoldingPolicy, Pool, Request, Variant

_MAX_CANDIDATE_SETS = 256
_MAX_HISTORY = 8


@dataclass(slots=True, frozen=True)
class PoolConfig:
    """One pool. Durations in seconds."""

    name: str
    models: tuple[str, ...] = ()
    """Exact names it serves; empty: any that no other pool names."""
    policy_set: PolicySet | None = None
    """None: the built-in."""
    max_queue_requests: int = 10_000
    """Held at once; 0 holds none."""
    max_queue_prompt_tokens: int = 0
    """Held at once; 0: no bound."""
    max_queue_requests_per_tenant: int = 0
    """Held at once of one tenant; 0: no bound but the pool's."""
    max_queue_seconds: float = 60.0
    """The longest a request is held, all its stays together."""
    max_attempts: int = 3
    """Failed dispatches of one request; at least 1."""
    max_turned_away: int = 30
    """Dispatches of one request that ended in back-pressure: one that is always turned away is not worth more."""
    prior_output_tokens: float = 256.0
    prior_tokens_per_byte: float = 0.25
    replicas: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By variant, fewest and most; a variant that is not here is not scaled."""
    scaling_interval_seconds: float = 15.0
    scale_up_delay_seconds: float = 30.0
    """A wish for more counts when it was held so long."""
    scale_down_delay_seconds: float = 300.0
    start_timeout_seconds: float = 900.0
    """A replica asked for so long ago is given up."""
    prefix_index_chunks: int = 200_000
    """Chunks the prefix index remembers, over all workers; 0 turns it off."""
    back_pressure_seconds: float = 1.0
    """So long a worker is left alone that turned a request away as full (429 or 503), but for a sign of room."""
    rest_after_failures: int = 3
    """Failed dispatches in a row after which a worker is left alone while another serves the model ..."""
    max_rest_seconds: float = 30.0
    """... for a second, doubled with each further failure up to this."""
    max_resting_share: float = 0.7
    """Of the pool's workers, rounded up, so many rest for failures at once: what fails everywhere is not theirs."""
    retry_share: float = 0.2
    """Requests that may be tried again after a failure, of all requests ..."""
    retry_floor: int = 100
    """... and so many in any case, every ten seconds."""
    guard_failures: int = 5
    """A policy set is retired at so many failed calls ..."""
    guard_window: int = 100
    """... among so many calls."""

    @property
    def scaling(self) -> ScalingConfig:
        return ScalingConfig(
            self.scaling_interval_seconds,
            self.scale_up_delay_seconds,
            self.scale_down_delay_seconds,
            self.start_timeout_seconds,
        )


class PoolState:
    """Read by anyone, changed by the dispatcher alone."""

    def __init__(self, config: PoolConfig, watch: Watch | None, calls: CallLog) -> None:
        initial = config.policy_set or PolicySet.builtin()
        self.config = config
        self.guard = Guard(initial, watch, calls, config.guard_failures, config.guard_window)
        self._use(initial)
        bottom = PolicySet.builtin(min(0, initial.generation - 1))
        self.history: list[Replaced] = [Replaced(bottom, ())] if config.policy_set else []
        """Sets to go back to, the latest good one last; the built-in is under them all."""
        self.fair_share = FairShare()
        self.queue = HeldQueue(self.fair_share)
        self.estimates = Estimates(config.prior_output_tokens, config.prior_tokens_per_byte)
        self.prefix_index = PrefixIndex(config.prefix_index_chunks)
        self.scaling = Scaling(config.replicas, config.scaling)
        self.retry_budget = RetryBudget(config.retry_share, config.retry_floor)
        self.rests = Rests(self)
        self.workers: dict[str, WorkerState] = {}
        """All that joined and did not leave, by joining."""
        self.in_flight: dict[str, RequestState] = {}
        self.pool = Pool(config.name)
        self._candidates: dict[str, CandidateSet] = {}
        self._cached_shown = False
        self.expects_first_tokens = False
        """Some answer was not streamed: prefills end by the clock, too."""
        self.rest_until: float | None = None
        """When the next rest of a worker is over; None when none rests."""
        self.refreshed_at = -1
        """The event, by number, at which the views were last refreshed."""
        self.workers_changed()

    @property
    def policy_set(self) -> PolicySet:
        return self.guard.policy_set

    def _use(self, policy_set: PolicySet) -> None:
        """What is asked at every event of the set in place."""
        self.needs = Needs(policy_set)
        self.routes = policy_set.routing is not None
        self.schedules = policy_set.scheduling is not None
        self.observes = bool(policy_set.observers)
        routing: Any = policy_set.routing
        self.holding: HoldingPolicy | None = routing if hasattr(type(routing), "may_go") else None
        """The routing policy, when it can say that what it holds stays held."""
        self.held: RequestState | None = None
        """The request that it held last ..."""
        self.held_among: CandidateSet | None = None
        """... these being its candidates ..."""
        self.freed: dict[str, WorkerState] = {}
        """... and the workers that have given something back since."""

    def reconfigure(self, config: PoolConfig) -> None:
        """Other limits from here on. What is held was taken in and stays; priors are used up and change nothing."""
        self.config = config
        self.guard.reconfigure(config.guard_failures, config.guard_window)
        self.prefix_index.resize(config.prefix_index_chunks)
        self.scaling.reconfigure(config.replicas, config.scaling)
        self.retry_budget.reconfigure(config.retry_share, config.retry_floor)
        self.workers_changed()

    # --- workers ---

    def workers_changed(self) -> None:
        """One joined, left, or changed its health: who may take what is worked out anew."""
        self._candidates = {}
        self._usable = tuple(state for state in self.workers.values() if state.is_usable)
        ready = tuple(state for state in self._usable if state.takes_requests)
        self.pool.workers = tuple(state.worker for state in ready or self._usable)
        self.rest_until = min((s.rest_until for s in self.workers.values() if s.resting is not None), default=None)
        self.show_variants()
        self.queue.restore()

    def candidates(self, model: str) -> CandidateSet:
        """Workers that take requests for the model, or those that rest for their failures; may be empty."""
        found = self._candidates.get(model)
        if found is None:
            if len(self._candidates) >= _MAX_CANDIDATE_SETS:
                self._candidates.clear()
            usable = tuple(state for state in self._usable if state.serves(model))
            ready = tuple(state for state in usable if state.takes_requests)
            found = self._candidates[model] = CandidateSet(ready or usable)
        return found

    def may_serve_later(self, model: str) -> bool:
        """No worker takes it, but one that does is there, not healthy, or is starting."""
        return self.scaling.num_starting > 0 or any(
            state.serves(model) and not state.draining for state in self.workers.values()
        )

    def serves(self, model: str) -> bool:
        """False when the pool takes any model but all of its workers say which they serve, and this is none."""
        return bool(self.config.models) or not self.workers or any(s.serves(model) for s in self.workers.values())

    # --- requests ---

    def new_request(self, event: RequestArrived, seq: int, now: float) -> RequestState:
        """Take in what arrived as number ``seq``."""
        estimates = self.estimates
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
        request = RequestState(view, event, self, self.fair_share.tenant(event.tenant), seq)
        self.retry_budget.request_arrived()
        estimates.arrived(now, request.prompt_tokens)
        return request

    def dispatch(self, request: RequestState, state: WorkerState, now: float, number: int) -> None:
        """It goes to the worker, as dispatch ``number``."""
        if self.held is request:
            self.held = self.held_among = None  # should it come back, what was given back before it went is not known
        request.charged = weighted_tokens(request.prompt_tokens, request.expected_tokens)
        request.tenant.charge(request.charged)
        cached = 0
        if keys := request.prefix_keys:
            cached = self.num_cached(state, request)
            self.prefix_index.add(state.worker_id, keys, state.kv_capacity_tokens)
        request.cached_tokens = cached
        state.dispatched(request, now, number)
        if state.on_trial or state.room:
            self.rests.took(state, now)
        self.in_flight[request.request_id] = request
        if not request.stream:
            self.expect_first_token(request, state, now)

    def release(
        self, request: RequestState, state: WorkerState, num_output_tokens: int, used: float, now: float
    ) -> None:
        """Its dispatch is over: take it off the worker's account, and put the tenant's charge right by ``used``."""
        del self.in_flight[request.request_id]
        state.released(request, now, num_output_tokens)
        if self.holding is not None:
            self.freed[state.worker_id] = state
        request.tenant.charge(used - request.charged)

    # --- what the policy holds ---

    def hold_head(self, request: RequestState, candidates: CandidateSet) -> None:
        """The policy holds it: as long as nothing is given back, it need not be asked again."""
        self.held, self.held_among = request, candidates
        self.freed.clear()

    def freed_since(self, now: float) -> list[WorkerState]:
        """Of the candidates of the request held last, those that have given something back, as they are now."""
        among, states = self.held_among, list[WorkerState]()
        if among is not None and self.needs.prefill and self.expects_first_tokens:
            for state in among.states:
                if state.unstreamed and state.unstreamed[0][0] <= now:
                    state.pass_time(now)
                    self.freed[state.worker_id] = state
        if among is not None and self.freed:
            states = [state for state in self.freed.values() if among.shown_as(state.candidate) is state]
            self.freed.clear()
        return states

    # --- what is learned of requests ---

    def expect_first_token(self, request: RequestState, state: WorkerState, now: float) -> None:
        """It will not be seen: take it as made after the usual time, once that is known."""
        self.expects_first_tokens = True
        learned = state.latency.ttft if state.latency.ttft.count else self.estimates.latency.ttft
        if learned.count:
            state.pass_time(now)
            state.expect_first_token(request, now + learned.value)

    def learn(self, request: RequestState, state: WorkerState, event: RequestEnded, now: float) -> None:
        """From a full answer: lengths, tokens per byte, seconds per token."""
        estimates, num_tokens = self.estimates, event.num_output_tokens
        if num_tokens > 0 or event.num_prompt_tokens is not None:  # a refused request says nothing of lengths
            estimates.completed(request.model, request.tenant_name, num_tokens)
        if event.num_prompt_tokens is not None and request.prompt_bytes > 0:
            estimates.prompt_counted(request.model, request.prompt_bytes, event.num_prompt_tokens)
        if request.phase == "decode" and num_tokens > 1:
            tpot = (now - request.first_token_time) / (num_tokens - 1)
            state.latency.tpot.add(tpot)
            estimates.latency.tpot.add(tpot)

    def tried_enough(self, request: RequestState) -> bool:
        config = self.config
        return request.num_attempts >= config.max_attempts or request.num_turned_away >= config.max_turned_away

    def retry_after(self, now: float) -> float:
        """Seconds: as long as the oldest one held has waited, at least 1."""
        oldest = self.queue.oldest_arrival()
        return 1.0 if oldest is None else max(1.0, min(now - oldest, self.config.max_queue_seconds))

    # --- what policies are shown ---

    def show(self, state: WorkerState) -> None:
        """Tell a worker which of its counts the policies in place read."""
        state.shows_tokens, state.shows_estimates = self.needs.output, self.needs.estimates

    def remember(self, policy_set: PolicySet) -> None:
        """It is being replaced while good: go back to it when what follows fails."""
        told = tuple(
            (request_id, state.worker_id) for request_id, request in self.in_flight.items() if (state := request.worker)
        )
        self.history.append(Replaced(policy_set, told if policy_set.observers else ()))
        if len(self.history) > _MAX_HISTORY:
            del self.history[1]

    def replace(self, policy_set: PolicySet) -> None:
        """From here on, these policies, on fresh views: whatever an older set did to its own is gone."""
        self.guard.replace(policy_set)
        self._use(policy_set)
        self.refreshed_at = -1
        self.pool = Pool(self.config.name)
        for state in self.workers.values():
            self.show(state)
            state.new_views()
        self.workers_changed()

    def refresh(self, now: float, output_tokens: OutputTokens, read: dict[str, int]) -> None:
        """Bring the views up to date as far as the policy set reads them; ``read`` takes down what was read."""
        needs, view = self.needs, self.pool
        if needs.output:
            self._refresh_output(output_tokens, read)
        if needs.prefill or needs.age or needs.latency:
            for state in self._usable:
                if state.unstreamed and needs.prefill:
                    state.pass_time(now)
                if needs.age:
                    state.publish_age(now)
                if needs.latency:
                    state.publish_latency()
        if needs.rate:
            view.arrival_rate = self.estimates.arrivals.value(now)
            view.mean_prompt_tokens = self.estimates.prompt_tokens.value
            view.mean_output_tokens = self.estimates.mean_output_tokens
            view.num_arrived_requests = self.estimates.num_arrived_requests
            view.num_arrived_prompt_tokens = self.estimates.num_arrived_prompt_tokens

    def _refresh_output(self, output_tokens: OutputTokens, read: dict[str, int]) -> None:
        """Of the workers whose counts have moved since they were last published."""
        get = output_tokens.get
        for state in self._usable:
            cumulative = get(state.worker_id, 0)
            if cumulative != state.output_seen:
                read[state.worker_id] = state.output_seen = cumulative
            elif state.num_inflight_requests and cumulative >= state.output_base:
                continue
            if not state.num_inflight_requests or cumulative < state.output_base:
                state.output_base = cumulative
            state.publish_tokens()

    def read_output(self, state: WorkerState, output_tokens: OutputTokens, read: dict[str, int]) -> None:
        cumulative = output_tokens.get(state.worker_id, 0)
        if cumulative != state.output_seen:
            read[state.worker_id] = cumulative
        state.count_output(cumulative)

    def show_queue(self, now: float, in_hand: int = 0, in_hand_tokens: int = 0) -> None:
        """``in_hand``: the arrival that is being decided on, in no queue yet."""
        view, queue = self.pool, self.queue
        view.num_inflight_requests = len(self.in_flight)
        if self.needs.queue:
            view.num_queued_requests = queue.num_requests + in_hand
            view.num_queued_prompt_tokens = queue.num_prompt_tokens + in_hand_tokens
        if self.needs.oldest:
            oldest = queue.oldest_arrival()
            view.oldest_queued_arrival = now if oldest is None else oldest

    def show_cached(self, candidates: CandidateSet, request: RequestState) -> None:
        """Fill in the believed prefix hits of this request."""
        keys = request.prefix_keys
        if not self.needs.cached or not (keys or self._cached_shown):
            return
        self._cached_shown = bool(keys)
        for state in candidates.states:
            state.candidate.num_cached_tokens = self.num_cached(state, request) if keys else 0

    def num_cached(self, state: WorkerState, request: RequestState) -> int:
        """At least the last token of a prompt is always computed."""
        if not request.prefix_keys:
            return 0
        return min(self.prefix_index.num_cached_tokens(state.worker_id, request.prefix_keys), request.prompt_tokens - 1)

    def show_variants(self) -> None:
        variants = {
            name: Variant(name, 0, scaling.num_starting, 0, scaling.minimum, scaling.maximum)
            for name, scaling in self.scaling.variants.items()
        }
        for state in self.workers.values():
            variant = variants.setdefault(state.variant, Variant(state.variant))
            if state.draining:
                variant.num_draining += 1
            elif state.healthy:
                variant.num_ready += 1
        self.pool.variants = MappingProxyType(variants)
        self.pool.num_starting_replicas = self.scaling.num_starting

    def num_present(self) -> dict[str, int]:
        """By variant, the workers that are there and not draining, healthy or not."""
        present = dict.fromkeys(self.scaling.variants, 0)
        for state in self.workers.values():
            if not state.draining:
                present[state.variant] = present.get(state.variant, 0) + 1
        return present
