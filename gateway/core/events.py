"""What the dispatcher hears. Past tense, plain data, and complete: decisions follow from these alone.

``time`` is the runner's monotonic clock in seconds and never goes backwards from event to event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gateway.core.policy_set import PolicySet
    from gateway.core.pool import PoolConfig

Outcome = Literal["completed", "failed", "rejected"]
"""How a dispatch ended: ``completed``, a full answer or the client's own 4xx; ``failed``, the worker broke or
answered 5xx; ``rejected``, back-pressure (429 or 503): not the worker's fault and not a failure."""


@dataclass(slots=True)
class RequestArrived:
    time: float
    request_id: str
    """Unique among requests in flight; the runner sees to that."""
    model: str
    """As the client wrote it; empty when it left it out (the only or the default pool then serves it)."""
    tenant: str = "default"
    session_id: str | None = None
    num_prompt_bytes: int = 0
    """Bytes of prompt text; used to estimate tokens when ``num_prompt_tokens`` is None."""
    num_prompt_tokens: int | None = None
    """Exact, when the runner knows it (token ids in the body, a tokenizer)."""
    max_tokens: int | None = None
    priority: int = 0
    """Higher first."""
    ttft_slo: float | None = None
    deadline: float | None = None
    """Absolute time after which the client does not want an answer any more."""
    prefix_keys: tuple[tuple[int, int], ...] = ()
    """Chunks of the prompt from its start: (opaque 64-bit key that covers all before it, tokens up to and
    including this chunk). At most 64, cumulative tokens strictly growing."""
    stream: bool = True
    """False: the first token of the answer will not be seen."""


@dataclass(slots=True)
class FirstTokenSeen:
    time: float
    request_id: str


@dataclass(slots=True)
class RequestEnded:
    """The current dispatch of a request is over."""

    time: float
    request_id: str
    outcome: Outcome
    num_output_tokens: int = 0
    """Seen by the runner, corrected by the answer's ``usage`` where there is one."""
    num_prompt_tokens: int | None = None
    """From ``usage``; teaches the bytes-to-tokens ratio."""
    num_cached_tokens: int | None = None
    """From ``usage.prompt_tokens_details``, where the worker reports it."""
    retriable: bool = False
    """No byte of an answer has reached the client, so another worker may be tried."""


@dataclass(slots=True)
class ClientLeft:
    time: float
    request_id: str
    num_output_tokens: int = 0
    """Seen by the runner up to here, all of them counted in ``OutputTokens``; 0 when nothing was dispatched."""


@dataclass(slots=True)
class WorkerMetrics:
    """One scrape of a worker; None where the worker did not say."""

    num_requests_running: int | None = None
    num_requests_waiting: int | None = None
    kv_cache_usage: float | None = None
    kv_capacity_tokens: int | None = None
    block_size: int | None = None
    max_num_seqs: int | None = None
    num_starts: int | None = None
    """How often the runner has seen the engine begin anew, its caches empty."""


@dataclass(slots=True)
class MetricsScraped:
    time: float
    worker_id: str
    values: WorkerMetrics
    taken_at: float
    """When the worker answered; at most ``time``."""


@dataclass(slots=True)
class WorkerJoined:
    """It takes requests. Of a worker that is there already: what it serves and its sizes are others now."""

    time: float
    worker_id: str
    pool: str
    variant: str = "default"
    models: tuple[str, ...] = ()
    """Served names, adapters included; empty when unknown: it is then a candidate for every model of its pool."""
    metrics: WorkerMetrics | None = None
    """What is known of its size from the start (a profile, a configuration)."""
    replica: bool = False
    """Started by an autoscaling decision: one fewer is starting."""


@dataclass(slots=True)
class WorkerDraining:
    """It takes nothing new and finishes what it has."""

    time: float
    worker_id: str


@dataclass(slots=True)
class WorkerLeft:
    """It is gone. The runner reports the end of each of its requests by ``RequestEnded`` itself."""

    time: float
    worker_id: str


@dataclass(slots=True)
class WorkerHealthChanged:
    time: float
    worker_id: str
    healthy: bool


@dataclass(slots=True)
class PolicySetReplaced:
    time: float
    pool: str
    policy_set: PolicySet


@dataclass(slots=True)
class QueueRekeyed:
    """The scheduling policy is to be asked anew for the key of everything that the pool holds."""

    time: float
    pool: str


@dataclass(slots=True)
class PoolsReconfigured:
    """Other limits for pools that are there; their policies stay."""

    time: float
    pools: tuple[PoolConfig, ...]


@dataclass(slots=True)
class Ticked:
    """Time passed: releases what was held too long, and asks the autoscaling policy at its interval."""

    time: float


Event = (
    RequestArrived
    | FirstTokenSeen
    | RequestEnded
    | ClientLeft
    | MetricsScraped
    | WorkerJoined
    | WorkerDraining
    | WorkerLeft
    | WorkerHealthChanged
    | PolicySetReplaced
    | QueueRekeyed
    | PoolsReconfigured
    | Ticked
)

OutputTokens = Mapping[str, int]
"""By worker: output tokens the runner has seen from it, over all requests, since it joined. Read by the
dispatcher only when a decision is due and a policy uses a count that depends on it."""
