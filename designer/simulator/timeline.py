"""How a run went over time, seen as a gateway sees it: its queue at every change, its workers at every scrape.

A ``Timeline`` is the ``sink`` of one simulation; it changes nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from designer.simulator.draws import Floats
from designer.simulator.results import SimulationResult
from gateway.core.commands import Command, Dispatch, Reject
from gateway.core.events import ClientLeft, Event, MetricsScraped, RequestArrived, RequestEnded


@dataclass(slots=True)
class WorkerLine:
    """One worker at its scrapes."""

    times: list[float] = field(default_factory=list)
    """Seconds, when it answered."""
    running: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    """In the engine's own queue."""
    kv_usage: list[float] = field(default_factory=list)
    """0 to 1."""


class Timeline:
    """Requests held by the gateway over time, and each worker at its scrapes."""

    __slots__ = ("_held", "held", "held_times", "workers")

    def __init__(self) -> None:
        self._held: set[str] = set()
        self.held_times: list[float] = [0.0]
        """Seconds at which ``held`` changed."""
        self.held: list[int] = [0]
        self.workers: dict[str, WorkerLine] = {}

    def __call__(self, event: Event, commands: Sequence[Command]) -> None:
        match event:
            case MetricsScraped():
                self._scraped(event)
            case RequestArrived():
                self._held.add(event.request_id)
            case ClientLeft():
                self._held.discard(event.request_id)
            case RequestEnded() if event.retriable and event.outcome != "completed":
                self._held.add(event.request_id)
        for command in commands:
            if isinstance(command, (Dispatch, Reject)):
                self._held.discard(command.request_id)
        if len(self._held) != self.held[-1]:
            self.held_times.append(event.time)
            self.held.append(len(self._held))

    def _scraped(self, event: MetricsScraped) -> None:
        line, values = self.workers.setdefault(event.worker_id, WorkerLine()), event.values
        line.times.append(event.taken_at)
        line.running.append(values.num_requests_running or 0)
        line.waiting.append(values.num_requests_waiting or 0)
        line.kv_usage.append(values.kv_cache_usage or 0.0)

    def summary(self) -> dict[str, Any]:
        """KV use over all scrapes of all workers, and the longest queue; None without a scrape."""
        usage = np.array([value for line in self.workers.values() for value in line.kv_usage])
        return {
            "mean_kv_usage": float(usage.mean()) if len(usage) else None,
            "p99_kv_usage": float(np.percentile(usage, 99)) if len(usage) else None,
            "max_held": max(self.held),
        }


def preemptions_over_time(result: SimulationResult, worker: str) -> tuple[Floats, Floats]:
    """(seconds, preemptions by then) of a worker, each counted when the request that suffered it ended.

    A simulation keeps how often a request was preempted, not when.
    """
    index = result.workers.index(worker)
    mine = (result.worker == index) & (result.preemptions > 0)
    order = np.argsort(result.finished[mine], kind="stable")
    return result.finished[mine][order], np.cumsum(result.preemptions[mine][order]).astype(np.float64)
