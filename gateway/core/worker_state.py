"""The dispatcher's own account of one worker, and the views of it that policies are shown.

The counts here are the truth; ``worker`` and ``candidate`` are reused objects they are published to, and nothing
is ever read back from them.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import fields
from operator import attrgetter
from typing import Literal

from gateway.core.estimates import Latency
from gateway.core.events import WorkerJoined, WorkerMetrics
from gateway.core.request_state import RequestState
from policies.contract import Candidate, Worker

_MAX_CHANGES = 512
"""Dispatches and ends that are remembered to be set against a scrape taken before them."""
_METRIC_NAMES = tuple(field.name for field in fields(WorkerMetrics))
_METRICS = attrgetter(*_METRIC_NAMES)


Rest = Literal["back_pressure", "failures"]
"""Why a worker is left alone for a while: it said that it is full, or it failed several times in a row."""


class WorkerState:
    __slots__ = (
        "candidate",
        "changes",
        "draining",
        "expected_tokens",
        "healthy",
        "kv_capacity_tokens",
        "last_dispatch",
        "latency",
        "metrics",
        "models",
        "num_failures_in_row",
        "num_inflight_requests",
        "on_trial",
        "output_base",
        "output_seen",
        "prefill_tokens",
        "prompt_tokens",
        "rest_until",
        "resting",
        "room",
        "scraped_at",
        "scraped_inflight_tokens",
        "scraped_kv_usage",
        "shows_estimates",
        "shows_tokens",
        "unstreamed",
        "variant",
        "worker",
        "worker_id",
    )

    def __init__(self, joined: WorkerJoined) -> None:
        self.worker_id = joined.worker_id
        self.variant = joined.variant
        self.models = joined.models
        self.healthy = True
        self.draining = False
        self.resting: Rest | None = None
        self.rest_until = 0.0
        self.num_failures_in_row = 0
        self.on_trial = False
        """Back from a rest for failures: it is given one request, and no more until it has begun to answer."""
        self.room: int | None = None
        """So many more it may be given before it rests again; None, without limit, until it says that it is full."""
        self.num_inflight_requests = 0
        self.prompt_tokens = 0
        """Of all in-flight requests."""
        self.prefill_tokens = 0
        """Of those whose first token is neither seen nor due."""
        self.expected_tokens = 0.0
        """Whole expected outputs of the in-flight requests."""
        self.output_seen = 0
        """The runner's cumulative count when it was last read."""
        self.output_base = 0
        """The part of it that belongs to dispatches that are over."""
        self.shows_tokens = True
        """The policies read a count that output tokens change: it is published with every change of another ..."""
        self.shows_estimates = True
        """... and one that is estimated from those: the remaining tokens, the use of the KV cache."""
        self.kv_capacity_tokens = 0
        self.metrics = WorkerMetrics()
        """The newest value of each, over all scrapes."""
        self.scraped_at: float | None = None
        self.scraped_kv_usage = 0.0
        self.scraped_inflight_tokens = 0
        self.changes: deque[tuple[float, int]] = deque(maxlen=_MAX_CHANGES)
        """(time, in-flight tokens that came or went)."""
        self.latency = Latency()
        self.last_dispatch = 0
        """Number of the latest dispatch to it, over the whole dispatcher."""
        self.unstreamed: list[tuple[float, int, RequestState]] = []
        """A heap by the time the unseen first token is due."""
        self.learn(joined.metrics or WorkerMetrics())
        self.new_views()

    @property
    def takes_requests(self) -> bool:
        """Healthy, not draining, not resting."""
        return self.healthy and not self.draining and self.resting is None

    @property
    def is_usable(self) -> bool:
        """As ``takes_requests``, or resting for its failures: better than none."""
        return self.healthy and not self.draining and self.resting != "back_pressure"

    @property
    def num_inflight_tokens(self) -> int:
        """Prompts in flight and the output seen of them when the runner's count was last read."""
        output = self.output_seen - self.output_base
        return self.prompt_tokens + output if output > 0 else self.prompt_tokens

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """What does not change while a worker runs, but may be learned late."""
        return (self.kv_capacity_tokens, self.metrics.block_size, self.metrics.max_num_seqs)

    def serves(self, model: str) -> bool:
        return not model or not self.models or model in self.models

    def new_views(self) -> None:
        """Fresh objects, whatever an older policy set did to its own."""
        self.worker = Worker(self.worker_id, self.variant)
        self.candidate = Candidate(self.worker)
        self._publish_metrics()
        self.publish()

    # --- what happens to it ---

    def joined_again(self, joined: WorkerJoined) -> None:
        """It serves other models than it did, say: what is in flight there is still in flight."""
        self.variant, self.models = joined.variant, joined.models
        self.healthy, self.draining = True, False
        if joined.metrics is not None:
            self.learn(joined.metrics)
        self.new_views()

    def dispatched(self, request: RequestState, now: float, number: int) -> None:
        num_tokens = request.prompt_tokens
        request.worker = self
        request.dispatch_time = now
        request.dispatch_number = self.last_dispatch = number
        request.prefill_pending = True
        self.num_inflight_requests += 1
        self.prompt_tokens += num_tokens
        self.prefill_tokens += num_tokens
        self.expected_tokens += request.expected_tokens
        self.changes.append((now, num_tokens))
        self._publish_requests()

    def expect_first_token(self, request: RequestState, due: float) -> None:
        """It will not be seen: take it as made at ``due``."""
        heapq.heappush(self.unstreamed, (due, request.dispatch_number, request))

    def first_token(self, request: RequestState) -> None:
        """Its prefill is over. Told twice is told once."""
        if request.prefill_pending:
            request.prefill_pending = False
            self.prefill_tokens -= request.prompt_tokens
            self.worker.num_inflight_prefill_tokens = self.prefill_tokens

    def released(self, request: RequestState, now: float, num_output_tokens: int) -> None:
        """Its dispatch here is over, having made ``num_output_tokens``."""
        if request.prefill_pending:
            self.first_token(request)
        request.worker = None
        self.num_inflight_requests -= 1
        self.prompt_tokens -= request.prompt_tokens
        self.output_base += num_output_tokens
        self.expected_tokens -= request.expected_tokens
        if not self.num_inflight_requests:
            self.expected_tokens = 0.0  # what rounding left
        self.changes.append((now, -request.prompt_tokens - num_output_tokens))
        self._publish_requests()

    def count_output(self, cumulative: int) -> None:
        """The runner's count was read. Its drift from the counts of the ended requests ends with the last of them."""
        self.output_seen = cumulative
        if not self.num_inflight_requests or cumulative < self.output_base:
            self.output_base = cumulative

    def pass_time(self, now: float) -> None:
        """First tokens that cannot be seen and are due by now."""
        while self.unstreamed and self.unstreamed[0][0] <= now:
            _, number, request = heapq.heappop(self.unstreamed)
            if request.worker is self and request.dispatch_number == number:
                self.first_token(request)

    def scraped(self, values: WorkerMetrics, taken_at: float) -> None:
        """``values`` are as of ``taken_at``: what came and went since is added to them, not lost."""
        if self.scraped_at is not None and taken_at < self.scraped_at:
            return
        self.learn(values)
        self.scraped_at = taken_at
        while self.changes and self.changes[0][0] <= taken_at:
            self.changes.popleft()
        if values.kv_cache_usage is not None:
            self.scraped_kv_usage = values.kv_cache_usage
            since = sum(tokens for _, tokens in self.changes)
            self.scraped_inflight_tokens = self.num_inflight_tokens - since
        self._publish_metrics()
        self.publish()

    def began_anew(self, values: WorkerMetrics) -> bool:
        """Whether the engine is another one than when it was last looked at."""
        before = self.metrics.num_starts
        return before is not None and values.num_starts is not None and values.num_starts != before

    def learn(self, values: WorkerMetrics) -> None:
        """Keep what is said; what is left out stays as it was."""
        known = self.metrics
        for name, value in zip(_METRIC_NAMES, _METRICS(values), strict=True):
            if value is not None:
                setattr(known, name, value)
        self.kv_capacity_tokens = known.kv_capacity_tokens or 0

    # --- what policies are shown ---

    def publish(self) -> None:
        """Bring the counts of the view up to date."""
        self._publish_requests()
        self.publish_tokens()

    def _publish_requests(self) -> None:
        """The counts that only dispatches, first tokens and ends change; the others where they are read."""
        view = self.worker
        view.num_inflight_requests = self.num_inflight_requests
        view.num_inflight_prefill_tokens = self.prefill_tokens
        view.num_inflight_prompt_tokens = self.prompt_tokens
        if self.shows_tokens:
            self.publish_tokens()

    def publish_tokens(self) -> None:
        """The counts that every output token changes."""
        output = self.output_seen - self.output_base
        if output < 0:
            output = 0
        self.worker.num_inflight_tokens = tokens = self.prompt_tokens + output
        if self.shows_estimates:
            self._publish_estimates(output, tokens)

    def _publish_estimates(self, output: int, tokens: int) -> None:
        view = self.worker
        remaining = self.expected_tokens - output
        view.expected_remaining_tokens = remaining if remaining > 0.0 else 0.0
        if self.kv_capacity_tokens:
            usage = self.scraped_kv_usage + (tokens - self.scraped_inflight_tokens) / self.kv_capacity_tokens
            view.kv_cache_usage = 0.0 if usage < 0.0 else 1.0 if usage > 1.0 else usage

    def publish_latency(self) -> None:
        self.worker.ttft_ewma = self.latency.ttft.value
        self.worker.tpot_ewma = self.latency.tpot.value

    def publish_age(self, now: float) -> None:
        if self.scraped_at is not None:
            self.worker.metrics_age = max(0.0, now - self.scraped_at)

    def _publish_metrics(self) -> None:
        view, known = self.worker, self.metrics
        view.num_requests_running = known.num_requests_running or 0
        view.num_requests_waiting = known.num_requests_waiting or 0
        view.kv_cache_usage = self.scraped_kv_usage
        view.kv_capacity_tokens = self.kv_capacity_tokens
        view.block_size = known.block_size or view.block_size
        view.max_num_seqs = known.max_num_seqs or 0
        self.publish_latency()


class CandidateSet:
    """Workers that may take a request, and the objects that stand for them, in the same stable order."""

    __slots__ = ("_by_view", "states", "views")

    def __init__(self, states: tuple[WorkerState, ...]) -> None:
        self.states = states
        self.views = tuple(state.candidate for state in states)
        self._by_view = {id(state.candidate): state for state in states}

    def shown_as(self, view: object) -> WorkerState | None:
        """The worker that this very object stands for; None for any other."""
        return self._by_view.get(id(view))

    def without(self, worker_ids: tuple[str, ...]) -> CandidateSet:
        """Those not named, or all when none would remain."""
        rest = tuple(state for state in self.states if state.worker_id not in worker_ids)
        return CandidateSet(rest) if rest and len(rest) < len(self.states) else self

    def all_smaller_than(self, num_tokens: int) -> bool:
        """True when every capacity is known and below it."""
        return all(0 < state.kv_capacity_tokens < num_tokens for state in self.states)


def fewest_in_flight(candidates: CandidateSet) -> WorkerState:
    """The built-in routing: fewest requests in flight, ties to the one that has waited longest for a dispatch."""
    return min(candidates.states, key=lambda state: (state.num_inflight_requests, state.last_dispatch))


def emptiest(candidates: CandidateSet) -> WorkerState:
    """Fewest tokens in flight, for a request that fits nowhere."""
    return min(candidates.states, key=lambda state: (state.num_inflight_tokens, state.num_inflight_requests))
