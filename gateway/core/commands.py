"""What the dispatcher answers. Imperative, plain data; a runner may carry one out later than the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RejectReason = Literal[
    "shed",  # the policy's admit said no: 429
    "queue_full",  # number or tokens of the queue, or the tenant's number: 429
    "queue_timeout",  # held for max_queue_seconds: 503
    "deadline",  # the client's own deadline passed while held: 503
    "no_worker",  # no healthy worker serves the model: 503
    "unknown_model",  # no pool serves it: 404
    "attempts",  # every attempt failed before its first byte: 502
]


@dataclass(slots=True)
class Dispatch:
    request_id: str
    worker_id: str
    num_cached_tokens: int = 0
    """The prefix hit believed at the decision, for the decision record."""


@dataclass(slots=True)
class Reject:
    request_id: str
    reason: RejectReason
    retry_after: float | None = None
    """Seconds, where trying again makes sense."""


@dataclass(slots=True)
class Cancel:
    """Abort the request on the worker: its client left. The request is over for the dispatcher at once."""

    request_id: str
    worker_id: str


@dataclass(slots=True)
class SetReplicas:
    """Bring the variant to this many replicas, starting ones included."""

    pool: str
    variant: str
    num_replicas: int


@dataclass(slots=True)
class PolicySetRetired:
    """The guard took a failing set out and put ``restored`` (a generation) back."""

    pool: str
    generation: int
    restored: int
    reason: str


Command = Dispatch | Reject | Cancel | SetReplicas | PolicySetRetired
