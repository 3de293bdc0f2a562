"""What a gateway's dispatcher heard, beside what the simulated one hears of the same requests.

A gateway's event log has every event of its dispatcher. Its arrivals, at the times at which they were heard, make a
workload; simulated under the same policies, they give events of the same kinds, and these are compared field by field:
not how long things took, which is what is being measured, but what the dispatcher is told and so what policies see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from designer.simulator.draws import Ints
from designer.simulator.fleet import plan_workers
from designer.simulator.policies import PolicySource
from designer.simulator.requests import request_ids
from designer.simulator.results import SimulationResult
from designer.simulator.scenario import Scenario
from designer.simulator.workload import PS_PER_SECOND, RequestColumns
from designer.simulator.world import simulate
from gateway.core.commands import Command, Dispatch
from gateway.core.event_log import decode
from gateway.core.events import (
    Event,
    MetricsScraped,
    PolicySetReplaced,
    RequestArrived,
    RequestEnded,
    WorkerJoined,
    WorkerMetrics,
)
from gateway.core.policy_set import PolicySet

_ARRIVED = (
    "num_prompt_bytes",
    "num_prompt_tokens",
    "max_tokens",
    "tenant",
    "session_id",
    "priority",
    "ttft_slo",
    "stream",
)
_ENDED = ("outcome", "num_output_tokens", "num_prompt_tokens", "retriable")
_JOINED = ("variant", "replica")


class HeardError(Exception):
    """An event log that cannot be used; one line."""


@dataclass(slots=True)
class Heard:
    """Events of one dispatcher that do not depend on how long things take, and the decisions."""

    workers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id, what it was known to be: from its joining and all scrapes."""
    arrivals: dict[str, RequestArrived] = field(default_factory=dict)
    """By request; in the order in which they came."""
    ends: dict[str, RequestEnded] = field(default_factory=dict)
    dispatches: dict[str, str] = field(default_factory=dict)
    """The worker of each request's last dispatch."""
    swaps: list[float] = field(default_factory=list)
    """When policy sets were replaced after the first worker had joined."""
    started: float | None = None
    """When the first worker joined."""
    _names: dict[str, str] = field(default_factory=dict)
    """An id that comes again, after its end, is another request: ``id/2`` and so on."""
    _times: Counter[str] = field(default_factory=Counter)

    def hear(self, event: Event, dispatches: Iterable[tuple[str, str]]) -> None:
        """One more. ``dispatches``: (request, worker)."""
        if isinstance(event, RequestArrived):
            self._times[event.request_id] += 1
            number = self._times[event.request_id]
            self._names[event.request_id] = event.request_id if number == 1 else f"{event.request_id}/{number}"
        match event:
            case WorkerJoined():
                self.started = event.time if self.started is None else self.started
                self.workers[event.worker_id] = {name: getattr(event, name) for name in _JOINED}
                self._learn(event.worker_id, event.metrics)
            case MetricsScraped():
                self._learn(event.worker_id, event.values)
            case RequestArrived():
                self.arrivals[self._names[event.request_id]] = event
            case RequestEnded():
                self.ends[self._names[event.request_id]] = event
            case PolicySetReplaced() if self.started is not None:
                self.swaps.append(event.time)
        self.dispatches.update((self._names[request_id], worker_id) for request_id, worker_id in dispatches)

    def _learn(self, worker_id: str, metrics: WorkerMetrics | None) -> None:
        """Of its sizes alone."""
        for name in ("kv_capacity_tokens", "block_size", "max_num_seqs"):
            if (value := getattr(metrics, name, None)) is not None:
                self.workers[worker_id][name] = value


def heard_by_gateway(folder: Path) -> Heard:
    """From the event log that a gateway has written there.

    Raises:
        HeardError: there is none, or it has a gap.
    """
    heard = Heard()
    for path in sorted(folder.glob("events-*.jsonl")):
        for line in path.read_bytes().splitlines()[1:]:
            record = orjson.loads(line)
            if record[1] == "gap":
                raise HeardError(f"{path}: {record[2]} records were not kept; a larger event_log.max_buffered_records")
            if record[1] != "checkpoint":
                entry = decode(record, _any_set)
                heard.hear(entry.event, ((c[1], c[2]) for c in entry.commands if c[0] == Dispatch.__name__))
    if not heard.arrivals:
        raise HeardError(f"{folder}: no event log with a request in it")
    return heard


def _any_set(pool: str, generation: int, sources: Sequence[object]) -> PolicySet:
    """Stands for any that was in place: only the time of a swap matters here."""
    return PolicySet.builtin(generation)


def as_heard(heard: Heard, columns: RequestColumns, row_of: Callable[[str], int]) -> RequestColumns:
    """``columns`` with its requests as a gateway heard them: in that order, and at those times after its start.

    Args:
        row_of: the row of ``columns`` that a request of the log is.
    """
    events = list(heard.arrivals.values())
    rows = np.array([row_of(event.request_id) for event in events], dtype=np.int64)
    since = heard.started or 0.0
    times = np.array([event.time - since for event in events])
    return replace(_rows(columns, rows), arrival_ps=np.rint(times * PS_PER_SECOND).astype(np.int64))


def _rows(columns: RequestColumns, rows: Ints) -> RequestColumns:
    """Some of its requests, or one several times; turns of sessions are sent at their times."""
    picked: dict[str, Any] = {}
    for column in fields(columns):
        values = getattr(columns, column.name)
        if isinstance(values, np.ndarray):
            picked[column.name] = values[rows]
        elif isinstance(values, tuple) and values and column.name != "tenants":
            picked[column.name] = tuple(values[row] for row in rows.tolist())
    return replace(columns, **picked | {"turn_after": None, "think_ps": None})


def heard_by_simulator(
    scenario: Scenario,
    policies: PolicySource,
    seed: int,
    columns: RequestColumns,
    names: Sequence[str],
    swaps: Sequence[tuple[float, PolicySource]] = (),
    joined: Sequence[str] = (),
) -> tuple[Heard, SimulationResult]:
    """Of ``columns``, its requests named so.

    Args:
        joined: worker ids in the order in which they joined, which is that of a policy's candidates; the others follow.
    """
    heard, name_of = Heard(), dict(zip(request_ids(len(columns)), names, strict=True))

    def sink(event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, RequestArrived | RequestEnded):
            event = replace(event, request_id=name_of[event.request_id])
        heard.hear(event, ((name_of[c.request_id], c.worker_id) for c in commands if isinstance(c, Dispatch)))

    place = {worker_id: index for index, worker_id in enumerate(joined)}
    plans = sorted(plan_workers(scenario), key=lambda plan: place.get(plan.worker_id, len(place)))
    return heard, simulate(scenario, policies, seed, workload=columns, plans=plans, sink=sink, swaps=swaps)


@dataclass(frozen=True, slots=True)
class Differences:
    """Between a gateway and the simulator on the requests that the gateway heard, at the times it heard them."""

    num_requests: int
    fields: Mapping[str, int]
    """Fields of events that are told otherwise, as ``RequestArrived.max_tokens``, with how many; empty: none."""
    same_worker: float
    """Share of requests that went to the same worker."""
    response_time: float
    """Mean seconds by which a request took longer at the gateway, over all that went to the same worker."""

    def __str__(self) -> str:
        told = ", ".join(f"{name} ({count})" for name, count in self.fields.items()) or "nothing"
        return f"told otherwise: {told}; same worker: {self.same_worker:.1%}; {self.response_time * 1000:+.1f} ms"


def differences(gateway: Heard, simulator: Heard) -> Differences:
    """Over the requests that both have."""
    told: Counter[str] = Counter()
    _count(told, "WorkerJoined", gateway.workers, simulator.workers)
    _count(told, "RequestArrived", _plain(gateway.arrivals, _ARRIVED), _plain(simulator.arrivals, _ARRIVED))
    _count(told, "RequestEnded", _plain(gateway.ends, _ENDED), _plain(simulator.ends, _ENDED))
    both = [name for name in gateway.dispatches if name in simulator.dispatches]
    same = [name for name in both if gateway.dispatches[name] == simulator.dispatches[name]]
    longer = [_seconds(gateway, name) - _seconds(simulator, name) for name in same if name in gateway.ends]
    return Differences(
        num_requests=len(gateway.arrivals),
        fields=dict(sorted(told.items())),
        same_worker=len(same) / max(1, len(both)),
        response_time=float(np.mean(longer)) if longer else 0.0,
    )


def _plain(events: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {key: {name: getattr(event, name) for name in names} for key, event in events.items()}


def _count(told: Counter[str], kind: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Fields that differ; what only one of them has counts as one of ``kind``."""
    told.update([kind] * len(ours.keys() ^ theirs.keys()))
    for key in ours.keys() & theirs.keys():
        names = ours[key].keys() | theirs[key].keys()
        told.update(f"{kind}.{name}" for name in names if ours[key].get(name) != theirs[key].get(name))


def _seconds(heard: Heard, request_id: str) -> float:
    return heard.ends[request_id].time - heard.arrivals[request_id].time
