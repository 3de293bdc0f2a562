"""Where the time of a request went, in parts that add up to its response time to the last picosecond.

``held`` in the gateway before its last dispatch, failed attempts included; ``network`` both ways, of the last dispatch;
``queued`` in the engine before the first step that computed a token of it, the engine's own host time included;
``prefill`` from there to its first token; ``decode`` from there to its last; ``recompute`` from each preemption to the
next token: waiting again, and prefilling again what had been computed; ``lost``: what a request without a full answer
spent after its last dispatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol, get_args

import numpy as np

from designer.simulator.draws import Ints
from gateway.mockworker.engine import RequestStats

Part = Literal["held", "network", "queued", "prefill", "decode", "recompute", "lost"]
PARTS: tuple[Part, ...] = get_args(Part)


class Ended(Protocol):
    """What it takes to know of a request that has ended. Times in picoseconds; negative for "never"."""

    @property
    def arrival_ps(self) -> int: ...
    @property
    def dispatched(self) -> int: ...
    @property
    def ended(self) -> int: ...
    @property
    def outcome(self) -> str | None: ...
    @property
    def stats(self) -> RequestStats | None: ...


def split_times(requests: Iterable[Ended]) -> Mapping[Part, Ints]:
    """By part, a column of picoseconds; together they are ``ended - arrival`` of each request."""
    rows = [split(request) for request in requests]
    columns = np.array(rows, dtype=np.int64).reshape(len(rows), len(PARTS)).T
    return dict(zip(PARTS, columns, strict=True))


def split(request: Ended) -> tuple[int, ...]:
    """Picoseconds of one request, in the order of ``PARTS``."""
    if request.dispatched < 0:
        return (request.ended - request.arrival_ps, 0, 0, 0, 0, 0, 0)
    held = request.dispatched - request.arrival_ps
    stats = request.stats
    if request.outcome != "completed" or stats is None or stats.finish < 0:
        return (held, 0, 0, 0, 0, 0, request.ended - request.dispatched)
    network = stats.arrival - request.dispatched + request.ended - stats.finish
    queued = stats.first_scheduled - stats.arrival
    prefill, decode = stats.first_token - stats.first_scheduled, stats.finish - stats.first_token
    in_prefill, recompute = stats.prefill_preempted_ps, stats.preempted_ps
    return (held, network, queued, prefill - in_prefill, decode - (recompute - in_prefill), recompute, 0)
