"""One short text for the whole state of a dispatcher: two runs agree as long as their digests do."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.core.dispatcher import Dispatcher
    from gateway.core.pool import PoolState
    from gateway.core.request_state import RequestState
    from gateway.core.worker_state import WorkerState


def state_digest(dispatcher: Dispatcher) -> str:
    """32 hexadecimal digits over counts, queues, accounts and all that was learned.

    The policies' own state is not in it: it shows in what they answer.
    """
    state = (
        dispatcher.now,
        dispatcher.num_events,
        dispatcher.num_dispatches,
        dispatcher.num_policy_calls,
        sorted(dispatcher.num_ignored.items()),
        [_pool(pool) for pool in dispatcher.pools.values()],
    )
    return hashlib.blake2b(repr(state).encode(), digest_size=16).hexdigest()


def _pool(pool: PoolState) -> object:
    return (
        pool.config.name,
        pool.policy_set.generation,
        [entry.policy_set.generation for entry in pool.history],
        pool.guard.tripped,
        sorted(pool.guard.num_failures.items()),
        [_held(request) for request in pool.queue],
        [_in_flight(request) for request in pool.in_flight.values()],
        [_worker(state) for state in pool.workers.values()],
        pool.fair_share.counters(),
        pool.estimates.figures(),
        pool.prefix_index.sizes(),
        pool.scaling.figures(),
        pool.retry_budget.balance,
    )


def _held(request: RequestState) -> object:
    return (
        request.request_id,
        request.key,
        request.limit,
        request.tried,
        request.num_attempts,
        request.num_turned_away,
    )


def _in_flight(request: RequestState) -> object:
    worker_id = request.worker.worker_id if request.worker else None
    return (request.request_id, worker_id, request.dispatch_number, request.phase, request.prefill_pending)


def _worker(state: WorkerState) -> object:
    return (
        (
            state.worker_id,
            state.healthy,
            state.draining,
            state.resting,
            state.rest_until,
            state.room,
            state.on_trial,
            state.num_failures_in_row,
        ),
        (state.num_inflight_requests, state.prompt_tokens, state.prefill_tokens, state.expected_tokens),
        (state.output_seen, state.output_base, state.last_dispatch),
        (state.scraped_at, state.scraped_kv_usage, state.scraped_inflight_tokens, len(state.changes)),
        (state.latency.ttft.value, state.latency.tpot.value, len(state.unstreamed)),
    )
