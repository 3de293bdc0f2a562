"""What a trace holds: how many, how fast, how long, and how much of the prompts could come from a prefix cache."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadgen.trace import BLOCK_TOKENS, TraceRequest


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of a sample: nearest-rank percentiles, so each is a value that occurred."""

    mean: float
    p50: float
    p90: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, sample: Iterable[float]) -> Distribution | None:
        """None for an empty sample."""
        values = sorted(sample)
        if not values:
            return None
        p50, p90, p99 = (percentile(values, percent) for percent in (50, 90, 99))
        return cls(math.fsum(values) / len(values), p50, p90, p99, values[-1])


@dataclass(frozen=True, slots=True)
class Description:
    num_requests: int
    duration: float
    """Seconds from the first request to the last."""
    rate: float
    """Requests a second over that time; 0.0 for a single moment."""
    gap_cv: float
    """Coefficient of variation of the gaps: 1 for Poisson, above for bursts."""
    input_length: Distribution
    output_length: Distribution
    prefix_reuse: float | None
    """Fraction of all prompt tokens in leading blocks that an earlier request had, as if nothing were ever evicted;
    None without hash ids."""
    num_with_max_tokens: int
    num_models: int
    num_tenants: int
    num_sessions: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe(requests: Iterable[TraceRequest]) -> Description:
    """Reads the whole trace.

    Raises:
        ValueError: it has no request.
    """
    trace = list(requests)
    inputs = Distribution.of(request.input_length for request in trace)
    outputs = Distribution.of(request.output_length for request in trace)
    if inputs is None or outputs is None:
        raise ValueError("no request in the trace")
    seconds = [request.timestamp / 1000.0 for request in trace]
    duration = seconds[-1] - seconds[0]
    return Description(
        num_requests=len(trace),
        duration=duration,
        rate=(len(trace) - 1) / duration if duration else 0.0,
        gap_cv=_variation([after - before for before, after in itertools.pairwise(seconds)]),
        input_length=inputs,
        output_length=outputs,
        prefix_reuse=_prefix_reuse(trace),
        num_with_max_tokens=sum(request.max_tokens is not None for request in trace),
        num_models=len({request.model for request in trace} - {None}),
        num_tenants=len({request.tenant for request in trace} - {None}),
        num_sessions=len({request.session_id for request in trace} - {None}),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value with at least ``percent`` of the sample at or below it."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100.0) - 1)]


def _variation(gaps: Sequence[float]) -> float:
    mean = math.fsum(gaps) / len(gaps) if gaps else 0.0
    if mean == 0.0:
        return 0.0
    return math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean


def _prefix_reuse(trace: Sequence[TraceRequest]) -> float | None:
    if all(request.hash_ids is None for request in trace):
        return None
    seen: set[tuple[int, int]] = set()
    """(block number, hash id): ids at the start of a prompt are equal only where all before them is."""
    reused = 0
    for request in trace:
        leading = True
        for place, hash_id in enumerate(request.hash_ids or ()):
            leading = leading and (place, hash_id) in seen
            tokens = min(BLOCK_TOKENS, request.input_length - place * BLOCK_TOKENS)
            reused += max(0, tokens) if leading else 0
            seen.add((place, hash_id))
    return reused / sum(request.input_length for request in trace)
