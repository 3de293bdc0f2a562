"""The life of every request of one run, and the columns made of them at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from designer.simulator.breakdown import split_times
from designer.simulator.draws import Floats
from designer.simulator.requests import arrival_events, believed_scales, engine_requests, ttft_slos
from designer.simulator.results import OUTCOMES, RequestOutcome, SimulationResult
from designer.simulator.scenario import Objective
from designer.simulator.workload import Chunks, RequestColumns
from gateway.core.events import RequestArrived
from gateway.mockworker.engine import PS_PER_SECOND, EngineRequest, RequestStats

NEVER = -1


class RequestRecord:
    """One request: what the gateway hears, what the engine gets, and what became of it. Times in picoseconds."""

    __slots__ = (
        "arrival",
        "arrival_ps",
        "broken",
        "dispatched",
        "ended",
        "first_token",
        "in_flight",
        "landed",
        "made_at_leaving",
        "next_turn",
        "num_dispatches",
        "num_lost_tokens",
        "outcome",
        "prefix",
        "request_id",
        "stats",
        "stream",
        "think_ps",
        "truth",
        "worker",
    )

    def __init__(self, arrival_ps: int, arrival: RequestArrived, truth: EngineRequest) -> None:
        self.request_id = arrival.request_id
        self.arrival_ps = arrival_ps
        self.arrival = arrival
        self.truth = truth
        self.stream = arrival.stream
        self.prefix: tuple[Chunks, float] | None = None
        """Chunks of its prompt, and tokens that the gateway takes a token for."""
        self.dispatched = NEVER
        self.first_token = NEVER
        self.ended = NEVER
        self.worker = NEVER
        """Index of the worker of the last dispatch."""
        self.num_dispatches = 0
        self.in_flight = False
        """Dispatched; set back when the dispatch fails, not at the end."""
        self.landed = False
        """The worker has it, or had it when it broke."""
        self.broken = False
        """The worker of its current dispatch broke; the gateway may not know yet."""
        self.made_at_leaving = NEVER
        """Tokens that were made when its client left, while its worker makes more."""
        self.next_turn: RequestRecord | None = None
        """Of its session: sent ``think_ps`` of it after the answer of this one."""
        self.think_ps = NEVER
        """NEVER for what does not wait for an answer."""
        self.num_lost_tokens = 0
        """Made by dispatches that failed and were tried again."""
        self.outcome: RequestOutcome | None = None
        """None while it is open."""
        self.stats: RequestStats | None = None
        """The engine's, once it is through with it."""

    @property
    def num_seen(self) -> int:
        """Tokens that the gateway saw of a dispatch whose worker broke."""
        return self.stats.num_output_tokens if self.stream and self.stats else 0

    def sent(self, now: int, deadline_seconds: float | None) -> None:
        """A later turn: only here is it known when it is sent."""
        self.arrival_ps = now
        self.arrival.time = now / PS_PER_SECOND
        self.arrival.deadline = None if deadline_seconds is None else self.arrival.time + deadline_seconds

    def failed(self) -> None:
        """Its dispatch came to nothing; what follows is another one."""
        self.num_lost_tokens += self.stats.num_output_tokens if self.stats else 0
        self.landed = self.broken = self.in_flight = False
        self.first_token = NEVER
        self.stats = None


def make_records(columns: RequestColumns, deadline_seconds: float | None) -> list[RequestRecord]:
    """In order of arrival; later turns are linked to those before them."""
    rows = zip(
        columns.arrival_ps.tolist(), arrival_events(columns, deadline_seconds), engine_requests(columns), strict=True
    )
    records = [RequestRecord(*row) for row in rows]
    if columns.prefix_chunks:
        for record, prefix in zip(
            records, zip(columns.prefix_chunks, believed_scales(columns), strict=True), strict=True
        ):
            record.prefix = prefix
    if columns.turn_after is not None and columns.think_ps is not None:
        for record, before, think_ps in zip(
            records, columns.turn_after.tolist(), columns.think_ps.tolist(), strict=True
        ):
            if before >= 0:
                records[before].next_turn = record
                record.think_ps = think_ps
    return records


def make_result(
    records: Sequence[RequestRecord],
    columns: RequestColumns,
    *,
    seed: int,
    objective: Objective,
    workers: tuple[str, ...],
    counters: Mapping[str, int | float | str],
) -> SimulationResult:
    """Of a run in which every request has ended."""
    stats = [record.stats for record in records]
    outcomes = [OUTCOMES.index(record.outcome) for record in records if record.outcome is not None]
    slos = [np.nan if slo is None else slo for slo in ttft_slos(columns)]
    return SimulationResult(
        seed=seed,
        objective=objective,
        workers=workers,
        tenants=tuple(tenant.name for tenant in columns.tenants),
        arrival=_seconds([record.arrival_ps for record in records]),
        dispatched=_seconds([record.dispatched for record in records]),
        first_token=_seconds([record.first_token for record in records]),
        finished=_seconds([record.ended for record in records]),
        worker=np.array([record.worker for record in records], dtype=np.int64),
        tenant=columns.tenant,
        outcome=np.array(outcomes, dtype=np.int8),
        prompt=columns.num_prompt_tokens,
        output=columns.num_output_tokens,
        made=np.array([s.num_output_tokens if s else 0 for s in stats], dtype=np.int64),
        cached=np.array([s.num_cached_tokens if s else 0 for s in stats], dtype=np.int64),
        preemptions=np.array([s.num_preemptions if s else 0 for s in stats], dtype=np.int64),
        num_dispatches=np.array([record.num_dispatches for record in records], dtype=np.int64),
        ttft_slo=np.array(slos, dtype=np.float64),
        counters=counters,
        parts_ps=split_times(records),
        recomputed=np.array([s.num_recomputed_tokens if s else 0 for s in stats], dtype=np.int64),
    )


def _seconds(times: list[int]) -> Floats:
    ps = np.array(times, dtype=np.float64)
    return np.where(ps == NEVER, np.nan, ps / PS_PER_SECOND)
