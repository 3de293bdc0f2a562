"""Decisions in words, sampled: who could take a request, what the policy saw of each, its choice, how it ended.

For people who ask why. The event log is the complete record; this one never holds a prompt, and its cost is
bounded by the number of records a second.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.core.commands import Cancel, Command, Dispatch, Reject
from gateway.core.events import Event, FirstTokenSeen, RequestEnded
from gateway.core.pool import PoolState
from gateway.core.worker_state import WorkerState
from policies.contract import Request, Worker

_WORKER_FIELDS = tuple(f.name for f in fields(Worker) if f.name not in ("worker_id", "variant"))
_REQUEST_FIELDS = tuple(f.name for f in fields(Request) if f.name not in ("request_id", "arrival_time"))
_ALWAYS = ("num_inflight_requests",)
_MAX_CANDIDATES = 32
_DECISIONS = (Dispatch, Reject)
_STEPS = (FirstTokenSeen, RequestEnded)
_MAX_OPEN = 1_000


class Decisions:
    """An ``EventSink``.

    Args:
        pools: the dispatcher's.
        max_per_second: records begun a second, at most; 0 turns it off.
        keep: records that can be asked for.
        write: takes each record once its request is over.
    """

    def __init__(
        self,
        pools: Mapping[str, PoolState],
        max_per_second: float,
        keep: int,
        write: Callable[[bytes], None] | None = None,
    ) -> None:
        self._pools, self._rate, self._write = pools, max_per_second, write
        self._budget, self._refilled_at = 1.0, 0.0
        self._records: deque[dict[str, Any]] = deque(maxlen=keep)
        self._open: OrderedDict[str, tuple[dict[str, Any], float]] = OrderedDict()
        """By request: its record, and when it was dispatched."""

    def limit(self, max_per_second: float) -> None:
        """From the next decision on."""
        self._rate = max_per_second

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        return [self._records[-1 - i] for i in range(min(limit, len(self._records)))]

    def event_handled(self, event: Event, reads: Mapping[str, int], commands: Sequence[Command]) -> None:
        if self._open:
            self._note_outcome(event, commands)
        for command in commands:
            if isinstance(command, _DECISIONS) and self._may_record(event.time):
                self._record(event, command)

    def close(self) -> None:
        """Gives the records of requests that are not over to ``write``."""
        while self._open:
            self._finish(next(iter(self._open)))

    def _may_record(self, now: float) -> bool:
        elapsed, self._refilled_at = now - self._refilled_at, now
        self._budget = min(max(1.0, self._rate), self._budget + elapsed * self._rate)
        if self._rate == 0 or self._budget < 1.0:
            return False
        self._budget -= 1.0
        return True

    def _record(self, event: Event, command: Dispatch | Reject) -> None:
        record: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": command.request_id,
            "because_of": type(event).__name__,
        }
        if isinstance(command, Reject):
            record |= {"decision": "reject", "reason": command.reason, "retry_after": command.retry_after}
            self._keep(record)
            return
        pool = next((p for p in self._pools.values() if command.worker_id in p.workers), None)
        if pool is not None:
            record |= _decision(pool, command, event.time)
        self._keep(record)
        self._open[command.request_id] = (record, event.time)
        if len(self._open) > _MAX_OPEN:
            self._finish(next(iter(self._open)))

    def _keep(self, record: dict[str, Any]) -> None:
        self._records.append(record)
        if record.get("decision") == "reject" and self._write:
            self._write(orjson.dumps(record, default=str))

    def _note_outcome(self, event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, _STEPS) and event.request_id in self._open:
            record, dispatched_at = self._open[event.request_id]
            outcome = record.setdefault("outcome", {})
            seconds = round(event.time - dispatched_at, 6)
            if isinstance(event, FirstTokenSeen):
                outcome["seconds_to_first_token"] = seconds
                return
            outcome |= {"ended": event.outcome, "seconds": seconds, "num_output_tokens": event.num_output_tokens}
            self._finish(event.request_id)
        for command in commands:
            if isinstance(command, Cancel) and command.request_id in self._open:
                record, dispatched_at = self._open[command.request_id]
                record["outcome"] = {"ended": "cancelled", "seconds": round(event.time - dispatched_at, 6)}
                self._finish(command.request_id)

    def _finish(self, request_id: str) -> None:
        record, _ = self._open.pop(request_id)
        if self._write:
            self._write(orjson.dumps(record, default=str))


def _decision(pool: PoolState, command: Dispatch, now: float) -> dict[str, Any]:
    policy_set = pool.policy_set
    identity = policy_set.identities.get("routing")
    request = pool.in_flight[command.request_id]
    names = [n for n in _WORKER_FIELDS if n in policy_set.reads or n in _ALWAYS]
    states = [s for s in pool.workers.values() if s.takes_requests and s.serves(request.model)]
    values = {s.worker_id: _values(s, names, request.prompt_tokens, s.worker_id == command.worker_id) for s in states}
    return {
        "decision": "dispatch",
        "pool": pool.config.name,
        "generation": policy_set.generation,
        "policy": identity.name if identity else "built-in: fewest in flight",
        "policy_hash": identity.policy_hash if identity else None,
        "chosen": command.worker_id,
        "why": _why(values, command.worker_id, names),
        "num_cached_tokens": command.num_cached_tokens,
        "held_seconds": round(now - request.arrival_time, 6),
        "request": {name: getattr(request.request, name) for name in _REQUEST_FIELDS},
        "num_candidates": len(values),
        "candidates": dict(list(values.items())[:_MAX_CANDIDATES]),
    }


def _values(state: WorkerState, names: Sequence[str], prompt_tokens: int, chosen: bool) -> dict[str, float]:
    """What the policy saw: the chosen worker's counts without this request, which they hold by now."""
    values = {name: getattr(state.worker, name) for name in names}
    if chosen:
        own = {"num_inflight_requests": 1, "num_inflight_tokens": prompt_tokens}
        own |= {"num_inflight_prefill_tokens": prompt_tokens, "num_inflight_prompt_tokens": prompt_tokens}
        values = {name: value - own.get(name, 0) for name, value in values.items()}
    return values


def _why(values: Mapping[str, Mapping[str, float]], chosen: str, names: Sequence[str]) -> str:
    """Where the chosen worker stood among the candidates, in each value that set the candidates apart."""
    if len(values) < 2:
        return "the only candidate"
    phrases = []
    for name in names:
        column = sorted(v[name] for v in values.values())
        if chosen not in values or column[0] == column[-1]:
            continue
        rank = column.index(values[chosen][name])
        place = "lowest" if rank == 0 else "highest" if values[chosen][name] == column[-1] else f"number {rank + 1}"
        phrases.append(f"{place} {name} of {len(column)}")
    return "; ".join(phrases) or "candidates equal in every value the policy names"
