"""The words of policy programs: what may be read and which constants may be chosen, each with its unit.

Adding a contract field to the search is one line here; nothing else names fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from policies.contract import Candidate, Pool, Request

Unit = Literal[
    "tokens", "seconds", "requests", "fraction", "tokens_per_second", "tokens_per_request", "seconds_per_token"
]
Scope = Literal["request", "worker", "pool"]
Number = int | float

PRODUCTS: Mapping[tuple[Unit, Unit], Unit] = {
    ("fraction", "tokens"): "tokens",
    ("fraction", "seconds"): "seconds",
    ("fraction", "requests"): "requests",
    ("fraction", "fraction"): "fraction",
    ("tokens_per_second", "seconds"): "tokens",
    ("tokens_per_request", "requests"): "tokens",
    ("seconds_per_token", "tokens"): "seconds",
}
"""The products that mean something; any other is a type error."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number a policy may read."""

    name: str
    unit: Unit
    scope: Scope
    """``request``: known when it is queued, so an ordering may use it; ``worker``: differs between candidates."""
    words: str
    code: str
    read: Callable[[Request, Candidate, Pool], Number]
    needs_capacity: bool = False
    """0 means that the worker has not told yet."""
    is_load: bool = False
    """Grows with what the worker has to do: something to be limited."""
    lingers: bool = False
    """Stays as it is while the worker has no work. No limit may read it: a worker that was slow once would be given one
    request at a time from then on, and never show that it has recovered."""


@dataclass(frozen=True, slots=True)
class ConstantKind:
    """A constant that can be chosen."""

    name: str
    unit: Unit
    low: float
    high: float
    logarithmic: bool
    """Steps and draws are relative; otherwise they are shares of the range."""
    words: str

    def position_of(self, value: float) -> float:
        """Where in the range a value lies: 0 to 1, evenly by ratios if logarithmic."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value_at(self, position: float) -> float:
        """The inverse; a position outside 0 to 1 is brought inside."""
        position = min(1.0, max(0.0, position))
        if self.logarithmic:
            return self.low * math.exp(position * math.log(self.high / self.low))
        return self.low + position * (self.high - self.low)


_QUANTITIES = (
    Quantity(
        "request.num_prompt_tokens",
        "tokens",
        "request",
        "the request's prompt tokens",
        "request.num_prompt_tokens",
        lambda request, candidate, pool: request.num_prompt_tokens,
    ),
    Quantity(
        "request.expected_output_tokens",
        "tokens",
        "request",
        "its expected output tokens",
        "request.expected_output_tokens",
        lambda request, candidate, pool: request.expected_output_tokens,
    ),
    Quantity(
        "request.arrival_time",
        "seconds",
        "request",
        "its arrival time",
        "request.arrival_time",
        lambda request, candidate, pool: request.arrival_time,
    ),
    Quantity(
        "worker.num_inflight_requests",
        "requests",
        "worker",
        "the worker's requests in flight",
        "worker.num_inflight_requests",
        lambda request, candidate, pool: candidate.worker.num_inflight_requests,
        is_load=True,
    ),
    Quantity(
        "worker.num_requests_waiting",
        "requests",
        "worker",
        "the requests waiting in the engine at the last scrape",
        "worker.num_requests_waiting",
        lambda request, candidate, pool: candidate.worker.num_requests_waiting,
        is_load=True,
    ),
    Quantity(
        "worker.num_requests_running",
        "requests",
        "worker",
        "the requests running in the engine at the last scrape",
        "worker.num_requests_running",
        lambda request, candidate, pool: candidate.worker.num_requests_running,
        is_load=True,
    ),
    Quantity(
        "worker.num_inflight_tokens",
        "tokens",
        "worker",
        "the prompt and output tokens in flight there",
        "worker.num_inflight_tokens",
        lambda request, candidate, pool: candidate.worker.num_inflight_tokens,
        is_load=True,
    ),
    Quantity(
        "worker.num_inflight_prompt_tokens",
        "tokens",
        "worker",
        "the prompt tokens in flight there",
        "worker.num_inflight_prompt_tokens",
        lambda request, candidate, pool: candidate.worker.num_inflight_prompt_tokens,
        is_load=True,
    ),
    Quantity(
        "worker.num_inflight_prefill_tokens",
        "tokens",
        "worker",
        "the prompt tokens there not yet prefilled",
        "worker.num_inflight_prefill_tokens",
        lambda request, candidate, pool: candidate.worker.num_inflight_prefill_tokens,
        is_load=True,
    ),
    Quantity(
        "worker.expected_remaining_tokens",
        "tokens",
        "worker",
        "the output tokens its requests are expected to make yet",
        "worker.expected_remaining_tokens",
        lambda request, candidate, pool: candidate.worker.expected_remaining_tokens,
        is_load=True,
    ),
    Quantity(
        "worker.kv_capacity_tokens",
        "tokens",
        "worker",
        "the worker's KV cache",
        "worker.kv_capacity_tokens",
        lambda request, candidate, pool: candidate.worker.kv_capacity_tokens,
        needs_capacity=True,
    ),
    Quantity(
        "worker.max_num_seqs",
        "requests",
        "worker",
        "the most requests the worker runs in one step",
        "worker.max_num_seqs",
        lambda request, candidate, pool: candidate.worker.max_num_seqs,
        needs_capacity=True,
    ),
    Quantity(
        "worker.kv_cache_usage",
        "fraction",
        "worker",
        "the share of its KV cache in use at the last scrape",
        "worker.kv_cache_usage",
        lambda request, candidate, pool: candidate.worker.kv_cache_usage,
        is_load=True,
    ),
    Quantity(
        "worker.ttft_ewma",
        "seconds",
        "worker",
        "its recent time to first token",
        "worker.ttft_ewma",
        lambda request, candidate, pool: candidate.worker.ttft_ewma,
        is_load=True,
        lingers=True,
    ),
    Quantity(
        "worker.tpot_ewma",
        "seconds_per_token",
        "worker",
        "its recent time per output token",
        "worker.tpot_ewma",
        lambda request, candidate, pool: candidate.worker.tpot_ewma,
    ),
    Quantity(
        "candidate.num_cached_tokens",
        "tokens",
        "worker",
        "the prompt tokens believed to be in its prefix cache",
        "candidate.num_cached_tokens",
        lambda request, candidate, pool: candidate.num_cached_tokens,
    ),
    Quantity(
        "pool.num_queued_requests",
        "requests",
        "pool",
        "the requests held in the pool",
        "pool.num_queued_requests",
        lambda request, candidate, pool: pool.num_queued_requests,
    ),
    Quantity(
        "pool.num_queued_prompt_tokens",
        "tokens",
        "pool",
        "the prompt tokens held in the pool",
        "pool.num_queued_prompt_tokens",
        lambda request, candidate, pool: pool.num_queued_prompt_tokens,
    ),
    Quantity(
        "pool.mean_output_tokens",
        "tokens_per_request",
        "pool",
        "the mean output of recent requests",
        "pool.mean_output_tokens",
        lambda request, candidate, pool: pool.mean_output_tokens,
    ),
    Quantity(
        "pool.mean_prompt_tokens",
        "tokens_per_request",
        "pool",
        "the mean prompt of recent requests",
        "pool.mean_prompt_tokens",
        lambda request, candidate, pool: pool.mean_prompt_tokens,
    ),
    Quantity(
        "pool.seconds_waited",
        "seconds",
        "pool",
        "the seconds the request has waited",
        "(pool.now - request.arrival_time)",
        lambda request, candidate, pool: pool.now - request.arrival_time,
    ),
)

_CONSTANTS = (
    ConstantKind("usable_share", "fraction", 0.6, 1.0, False, "share of the capacity that may be committed"),
    ConstantKind("reserve_ratio", "fraction", 0.1, 2.0, True, "tokens set aside for each token counted"),
    ConstantKind("weight", "fraction", 0.1, 10.0, True, "how much one part of a sum counts beside the others"),
    ConstantKind("most_used_share", "fraction", 0.3, 1.0, False, "share in use at which a worker is full"),
    ConstantKind("ageing", "tokens_per_second", 0.01, 100.0, True, "tokens that one second of waiting is worth"),
    ConstantKind("tokens_each", "tokens_per_request", 1.0, 1024.0, True, "tokens that one request is taken for"),
    ConstantKind("threshold_seconds", "seconds", 0.1, 60.0, True, "seconds that a time is compared with"),
    ConstantKind("most_requests", "requests", 4.0, 256.0, True, "requests a worker may have"),
    ConstantKind("most_tokens", "tokens", 1024.0, 131072.0, True, "tokens a worker may have"),
)

QUANTITIES: Mapping[str, Quantity] = {quantity.name: quantity for quantity in _QUANTITIES}
CONSTANTS: Mapping[str, ConstantKind] = {kind.name: kind for kind in _CONSTANTS}
