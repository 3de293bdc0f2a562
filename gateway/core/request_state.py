"""The dispatcher's own record of one request: its phase, its bounds, and where it runs.

What a policy may see is ``request``; nothing here is read back from it, so that a policy which changes what
it was shown cannot change the accounting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from gateway.core.commands import RejectReason
from policies.contract import Request

if TYPE_CHECKING:
    from gateway.core.events import RequestArrived
    from gateway.core.fair_share import Tenant
    from gateway.core.pool import PoolState
    from gateway.core.worker_state import WorkerState

Phase = Literal["new", "held", "prefill", "decode", "over"]
Step = Literal["hold", "dispatch", "first_token", "end"]

NEXT: Mapping[Phase, Mapping[Step, Phase]] = {
    "new": {"hold": "held", "dispatch": "prefill", "end": "over"},
    "held": {"dispatch": "prefill", "end": "over"},
    "prefill": {"first_token": "decode", "hold": "held", "end": "over"},
    "decode": {"hold": "held", "end": "over"},
    "over": {},
}
"""The life of a request. It may be dispatched any number of times; a step that is not here is a mistake of the
caller (KeyError), or an event that comes too late and is ignored."""


class RequestState:
    __slots__ = (
        "arrival_time",
        "cached_tokens",
        "charged",
        "deadline",
        "dispatch_number",
        "dispatch_time",
        "expected_tokens",
        "first_token_time",
        "held_seconds",
        "held_since",
        "key",
        "keyed",
        "limit",
        "limit_reason",
        "model",
        "num_attempts",
        "num_turned_away",
        "phase",
        "pool",
        "prefill_pending",
        "prefix_keys",
        "priority",
        "prompt_bytes",
        "prompt_tokens",
        "request",
        "request_id",
        "seq",
        "stamp",
        "stream",
        "tenant",
        "tenant_name",
        "tried",
        "worker",
    )

    def __init__(self, request: Request, event: RequestArrived, pool: PoolState, tenant: Tenant, seq: int) -> None:
        self.request = request
        self.pool = pool
        self.tenant = tenant
        self.seq = seq
        """Order of arrival, over all pools."""
        self.request_id = event.request_id
        self.model = event.model
        self.tenant_name = event.tenant
        self.arrival_time = request.arrival_time
        self.prompt_tokens = request.num_prompt_tokens
        self.expected_tokens = request.expected_output_tokens
        self.priority = event.priority
        self.prompt_bytes = event.num_prompt_bytes
        self.prefix_keys = event.prefix_keys
        self.deadline = event.deadline
        self.stream = event.stream
        self.phase: Phase = "new"
        self.num_attempts = 0
        self.num_turned_away = 0
        """By workers that were full."""
        self.tried: tuple[str, ...] = ()
        """Workers that failed it, oldest first."""
        # While held. ``stamp`` is unique to one stay in the queue and 0 outside it: what is left of an earlier
        # stay in a heap is known by it.
        self.stamp = 0
        self.key: tuple[Any, ...] = ()
        self.keyed = False
        """True once the policy was asked for the key."""
        self.held_since = 0.0
        self.held_seconds = 0.0
        self.limit = 0.0
        self.limit_reason: RejectReason = "queue_timeout"
        # While dispatched.
        self.worker: WorkerState | None = None
        self.dispatch_number = 0
        self.dispatch_time = 0.0
        self.first_token_time = 0.0
        self.cached_tokens = 0
        self.prefill_pending = False
        self.charged = 0.0

    def failed_at(self, worker_id: str) -> None:
        """One attempt more, and one worker to leave out of the next."""
        self.num_attempts += 1
        self.request.num_attempts = self.num_attempts
        if worker_id not in self.tried:
            self.tried = (*self.tried, worker_id)

    def hold(self, now: float, left: float) -> None:
        """Held from here on, for ``left`` seconds at the most."""
        self.step("hold")
        self.held_since = now
        self.limit, self.limit_reason = now + left, "queue_timeout"
        if self.deadline is not None and self.deadline < self.limit:
            self.limit, self.limit_reason = self.deadline, "deadline"

    def is_late(self, now: float) -> bool:
        """Its client does not want an answer any more."""
        return self.deadline is not None and self.deadline <= now

    def step(self, step: Step) -> None:
        self.phase = NEXT[self.phase][step]

    def may(self, step: Step) -> bool:
        return step in NEXT[self.phase]
