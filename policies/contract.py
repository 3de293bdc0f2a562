"""What a policy is given and what it must answer: the one vocabulary of gateway, simulator and designer.

A policy is a synchronous object made by its module's ``create(rng, **params)``. It fills every slot
(routing, scheduling, autoscaling, batch, observer) whose Protocol it implements. The objects it is
handed are live: valid during the call only, never to be kept and never to be changed. The same seed
and the same events must give the same decisions, so a policy has no clock (``pool.now`` is the time),
no I/O, no ``id()``, and no dependence on hash order.

Times are seconds on the runner's monotonic clock unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

CONTRACT_VERSION = 1
"""Raised when a field changes its meaning; a policy may state the one it was written for."""

Slot = Literal["routing", "scheduling", "autoscaling", "batch", "observer"]
SLOTS: tuple[Slot, ...] = ("routing", "scheduling", "autoscaling", "batch", "observer")

_T = TypeVar("_T")


class Rng(Protocol):
    """The part of ``random.Random`` a policy may use: seeded by the runner, so that decisions replay."""

    def random(self) -> float: ...
    def randrange(self, start: int, stop: int | None = ..., step: int = ...) -> int: ...
    def uniform(self, a: float, b: float) -> float: ...
    def choice(self, seq: Sequence[_T]) -> _T: ...
    def sample(self, population: Sequence[_T], k: int) -> list[_T]: ...


@dataclass(slots=True, eq=False)
class Request:
    """One request for tokens, as much of it as may be known before it has been answered."""

    request_id: str
    model: str
    tenant: str = "default"
    session_id: str | None = None
    arrival_time: float = 0.0
    """Seconds, when the whole request had been received."""
    num_prompt_tokens: int = 0
    """Exact where known, else estimated from the body's bytes by a ratio learned per model; at least 1."""
    max_tokens: int | None = None
    """The client's bound on its output. The true output length is not a field, anywhere."""
    expected_output_tokens: float = 0.0
    """Mean output of finished requests of this model and tenant, of the model while the tenant has none, or a
    configured prior; at most ``max_tokens``."""
    priority: int = 0
    """Higher is served first (vLLM's wire value is lower first: negated at the edge)."""
    ttft_slo: float | None = None
    """Seconds from arrival to first token that the client or its tenant was promised."""
    num_attempts: int = 0
    """Dispatches of this request that failed before any byte of an answer."""


@dataclass(slots=True, eq=False)
class Worker:
    """One vLLM server (each data-parallel rank is one), as the gateway sees it at this decision.

    The ``num_inflight_*`` fields are this gateway's own counts, exact and immediate. The
    ``num_requests_*`` and ``kv_cache_usage`` fields come from the worker's last scrape.
    """

    worker_id: str
    variant: str = "default"
    """Names hardware and engine flags: workers of one variant are interchangeable."""
    kv_capacity_tokens: int = 0
    """KV blocks x block size, from ``vllm:cache_config_info``; 0 when unknown."""
    block_size: int = 16
    """Tokens in a KV block."""
    max_num_seqs: int = 0
    """The most requests that run in one step; 0 when unknown."""
    num_inflight_requests: int = 0
    """Requests dispatched to this worker and not ended."""
    num_inflight_prefill_tokens: int = 0
    """Prompt tokens of in-flight requests whose first token has not been seen (or, unstreamed, is not due)."""
    num_inflight_prompt_tokens: int = 0
    """Prompt tokens of all in-flight requests."""
    num_inflight_tokens: int = 0
    """Prompt tokens in flight plus the output tokens seen so far: the KV this gateway knows is held or owed."""
    expected_remaining_tokens: float = 0.0
    """Output tokens in-flight requests are still expected to make, by the learned lengths; at least 0."""
    num_requests_running: int = 0
    num_requests_waiting: int = 0
    kv_cache_usage: float = 0.0
    """0 to 1, last scrape moved on by the in-flight tokens that came and went since."""
    metrics_age: float = float("inf")
    """Seconds since the last scrape was taken; infinite before the first."""
    ttft_ewma: float = 0.0
    """Seconds from dispatch to first token, exponentially weighted; 0.0 before the first."""
    tpot_ewma: float = 0.0
    """Seconds per output token after the first, exponentially weighted; 0.0 before the first."""


@dataclass(slots=True, eq=False)
class Candidate:
    """A worker that may take the request in hand."""

    worker: Worker
    num_cached_tokens: int = 0
    """Prompt tokens of this request believed to be in the worker's prefix cache."""


@dataclass(slots=True, eq=False)
class Variant:
    """The replicas of one variant of a pool, for autoscaling."""

    name: str
    num_ready: int = 0
    """Workers that take requests."""
    num_starting: int = 0
    """Replicas asked for that do not take requests yet."""
    num_draining: int = 0
    """Workers that only finish what they have."""
    min_replicas: int = 0
    max_replicas: int = 0
    """Bounds that the runner enforces whatever a policy answers."""


@dataclass(slots=True, eq=False)
class Pool:
    """The workers of one base model and the one queue before them."""

    name: str
    now: float = 0.0
    workers: Sequence[Worker] = ()
    """Every worker that takes requests, healthy, in a stable order (by joining)."""
    variants: Mapping[str, Variant] = field(default_factory=dict)
    num_queued_requests: int = 0
    """Requests admitted and held here, not yet dispatched."""
    num_queued_prompt_tokens: int = 0
    num_inflight_requests: int = 0
    """Sum over all workers of the pool, draining ones included."""
    num_starting_replicas: int = 0
    arrival_rate: float = 0.0
    """Requests per second, exponentially weighted over about a minute; 0.0 before the second arrival."""
    num_arrived_requests: int = 0
    """Requests that ever arrived here, held or not; never falls. Two readings give the rate between them at once,
    where ``arrival_rate`` follows within a minute."""
    num_arrived_prompt_tokens: int = 0
    """Their prompt tokens."""
    oldest_queued_arrival: float = 0.0
    """``arrival_time`` of the longest-held request; ``now`` when none is held."""
    mean_prompt_tokens: float = 0.0
    """Exponentially weighted mean of recent arrivals; 0.0 before the first."""
    mean_output_tokens: float = 0.0
    """Exponentially weighted mean of recently finished requests; the configured prior before the first."""


class RoutingPolicy(Protocol):
    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        """The candidate to send ``request`` to, one of ``candidates`` itself, or None to hold it.

        Args:
            request: the head of the held queue (or the arrival, when nothing is held).
            candidates: never empty; healthy workers that serve the model, in a stable order. A worker that
                already failed this request is left out while another remains.
            pool: the state at this decision.
        """
        ...


class HoldingPolicy(RoutingPolicy, Protocol):
    """A routing policy that can say cheaply that what it holds stays held; having ``may_go`` makes it one.

    It promises that a request it held goes nowhere for as long as the same workers take requests, but to one that has
    since given something back: a first token was seen from it, a dispatch to it ended, or its metrics were scraped.
    Time, other workers and the queue must not matter. ``route`` is then asked again only when ``may_go`` is True.
    """

    def may_go(self, request: Request, worker: Worker) -> bool:
        """Whether ``route`` might send the held ``request`` somewhere, judged by this worker that gave something back.

        True costs a call of ``route`` and no more; a wrong False holds a request that could go.
        """
        ...


class SchedulingPolicy(Protocol):
    def admit(self, request: Request, pool: Pool) -> bool:
        """False sheds the request with 429 and Retry-After. Asked once, on arrival."""
        ...

    def key(self, request: Request) -> tuple[Any, ...] | float:
        """Smallest first among the held; computed once, when the request is queued (ties: arrival order).

        Ageing needs no clock: ``request.num_prompt_tokens + rate * request.arrival_time`` orders by
        prompt tokens less ``rate`` for every second waited.
        """
        ...


class AutoscalingPolicy(Protocol):
    def desired_replicas(self, pool: Pool) -> Mapping[str, int]:
        """Replicas wanted for each variant; a variant left out stays as it is. Asked at the scaling interval."""
        ...


class BatchRequest(Protocol):
    """What a batch policy sees of a request inside the engine."""

    @property
    def request_id(self) -> str: ...
    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_computed_tokens(self) -> int: ...
    @property
    def num_output_tokens(self) -> int:
        """Made so far; never the final number."""
        ...

    @property
    def arrival_time(self) -> float: ...
    @property
    def priority(self) -> int: ...
    @property
    def num_preemptions(self) -> int: ...


class BatchEngine(Protocol):
    """What a batch policy sees of the engine."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def num_free_blocks(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def max_num_batched_tokens(self) -> int: ...


class BatchPolicy(Protocol):
    """Inside the engine: the simulator's, and vLLM's through ``--scheduler-cls``."""

    def waiting_key(self, request: BatchRequest) -> tuple[Any, ...] | float:
        """Smallest is admitted first."""
        ...

    def victim_key(self, request: BatchRequest) -> tuple[Any, ...] | float:
        """Largest is preempted first."""
        ...

    def prefill_budget(self, engine: BatchEngine) -> int:
        """Most prompt tokens in the next step; clamped to 0 … ``max_num_batched_tokens``."""
        ...


@dataclass(slots=True, frozen=True)
class Dispatched:
    time: float
    request_id: str
    worker_id: str
    tenant: str
    num_prompt_tokens: int
    num_cached_tokens: int
    """Believed at dispatch."""


@dataclass(slots=True, frozen=True)
class FirstToken:
    time: float
    request_id: str
    worker_id: str


@dataclass(slots=True, frozen=True)
class Finished:
    """The end of a dispatch, however it ended."""

    time: float
    request_id: str
    worker_id: str
    outcome: Literal["completed", "failed", "cancelled"]
    num_output_tokens: int
    """Seen by the gateway."""


class Observer(Protocol):
    """For policies that learn. A newly loaded set is first shown ``Dispatched`` for all that is in flight."""

    def observe(self, event: Dispatched | FirstToken | Finished) -> None: ...


@runtime_checkable
class _Routing(Protocol):
    route: Any


@runtime_checkable
class _Scheduling(Protocol):
    admit: Any
    key: Any


@runtime_checkable
class _Autoscaling(Protocol):
    desired_replicas: Any


@runtime_checkable
class _Batch(Protocol):
    waiting_key: Any
    victim_key: Any
    prefill_budget: Any


@runtime_checkable
class _Observer(Protocol):
    observe: Any


_SLOT_SHAPES: Mapping[Slot, type] = {
    "routing": _Routing,
    "scheduling": _Scheduling,
    "autoscaling": _Autoscaling,
    "batch": _Batch,
    "observer": _Observer,
}


def slots_of(policy: object) -> tuple[Slot, ...]:
    """The slots whose methods ``policy`` has, in the order of ``SLOTS``; empty when it is no policy."""
    return tuple(slot for slot in SLOTS if isinstance(policy, _SLOT_SHAPES[slot]))
