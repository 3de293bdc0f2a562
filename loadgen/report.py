"""What a run showed: latencies of the answered, failures by kind, and whether the client kept its times.

Latencies are counted from the intended send time. Failures are in the counts and not in the percentiles: a fast error
is no fast answer. A run whose client fell behind is called invalid, as its latencies are partly the client's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadgen.describe import Distribution
from loadgen.records import Record

MAX_LAG_SECONDS = 0.010
MAX_LAG_OF_TTFT = 0.05
"""A run is valid while the 99th percentile of the send lag is at most the larger of 10 ms and 5 % of the median TTFT
(of the median end-to-end time, where nothing was streamed)."""


@dataclass(frozen=True, slots=True)
class Report:
    """Times in seconds."""

    num_requests: int
    num_completed: int
    num_failed: int
    duration: float
    """From the first intended send to the last end."""
    request_rate: float
    """Completed requests a second."""
    output_token_rate: float
    """Output tokens of completed requests a second."""
    num_prompt_tokens: int
    """Of completed requests: by their usage, else what the prompt was made for."""
    num_output_tokens: int
    ttft: Distribution | None
    """Intended send to first token; None: nothing was streamed."""
    tpot: Distribution | None
    """Seconds a token after the first."""
    e2e: Distribution | None
    """Intended send to last byte; None: nothing was completed."""
    max_gap: Distribution | None
    """Of each answer, its longest pause."""
    lag: Distribution | None
    """Intended send to the client's beginning, of all requests."""
    lag_bound: float
    valid: bool
    verdict: str
    errors: dict[str, int]
    """Failures by kind, most frequent first."""
    workers: dict[str, int]
    """Completed requests by worker, where the server says which."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarize(records: Iterable[Record]) -> Report:
    """The report of a run; of no records, an invalid one."""
    everything = list(records)
    good = [record for record in everything if record.error is None]
    ttft = Distribution.of(r.first_token - r.intended for r in good if r.first_token is not None)
    e2e = Distribution.of(record.end - record.intended for record in good)
    lag = Distribution.of(record.sent - record.intended for record in everything)
    duration = _duration(everything)
    bound = max([MAX_LAG_SECONDS, *(MAX_LAG_OF_TTFT * latency.p50 for latency in (ttft or e2e,) if latency)])
    num_output_tokens = sum(record.num_output_tokens for record in good)
    verdict = _verdict(len(good), lag, bound)
    return Report(
        num_requests=len(everything),
        num_completed=len(good),
        num_failed=len(everything) - len(good),
        duration=duration,
        request_rate=len(good) / duration if duration else 0.0,
        output_token_rate=num_output_tokens / duration if duration else 0.0,
        num_prompt_tokens=sum(r.input_length if r.num_prompt_tokens is None else r.num_prompt_tokens for r in good),
        num_output_tokens=num_output_tokens,
        ttft=ttft,
        tpot=Distribution.of(filter(None, map(_tpot, good))),
        e2e=e2e,
        max_gap=Distribution.of(record.max_gap for record in good if record.first_token is not None),
        lag=lag,
        lag_bound=bound,
        valid=verdict == "valid",
        verdict=verdict,
        errors=_by_count(record.error for record in everything if record.error is not None),
        workers=dict(sorted(_by_count(record.worker for record in good if record.worker is not None).items())),
    )


def _tpot(record: Record) -> float | None:
    if record.first_token is None or record.num_output_tokens < 2:
        return None
    return (record.end - record.first_token) / (record.num_output_tokens - 1)


def _duration(records: Sequence[Record]) -> float:
    if not records:
        return 0.0
    return max(record.end for record in records) - min(record.intended for record in records)


def _verdict(num_completed: int, lag: Distribution | None, bound: float) -> str:
    if lag is None:
        return "invalid: no request was sent"
    if num_completed == 0:
        return "invalid: no request was completed"
    if lag.p99 > bound:
        return (
            f"invalid: 1 % of the requests were sent more than {lag.p99 * 1000:.1f} ms late (bound: "
            f"{bound * 1000:.1f} ms); use a slower --speed, or give the client a core of its own"
        )
    return "valid"


def _by_count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
