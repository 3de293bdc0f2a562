"""What a run sends, and how: one value that the command line makes and the process that sends reads.

That process is another one because Locust patches the standard library when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from loadgen.convert import cut
from loadgen.synth import Lengths, Workload, synthesize
from loadgen.trace import TraceRequest, read_trace

Endpoint = Literal["chat", "completions"]
MaxTokens = Literal["trace", "none", "forced"]


class PlanError(ValueError):
    """An option out of its range: one line that names it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run against one server."""

    url: str
    trace: str | None = None
    """A file; None: ``workload``."""
    workload: Workload | None = None
    endpoint: Endpoint = "chat"
    model: str | None = None
    """Sent with every request; None: the trace's own, or none."""
    api_key: str | None = None
    stream: bool = True
    timeout: float = 600.0
    """Seconds for a whole request."""
    speed: float = 1.0
    """Trace seconds in a second."""
    limit_seconds: float | None = None
    """Of the trace's own time."""
    max_requests: int | None = None
    concurrency: int | None = None
    """Closed loop: so many requests at a time, each sent when another has ended; the trace's times are ignored."""
    max_inflight: int = 4096
    """Open loop: requests beyond it wait, and their lag shows."""
    max_tokens: MaxTokens = "trace"
    """``trace``: the trace's own, else drawn; ``none``: not sent; ``forced``: the output length, also as min_tokens."""
    output_header: bool = True
    """Send the output length as ``x-ranvier-output-tokens``."""
    salt: str = ""
    """Changes every prompt's text."""
    run_id: str = "run"
    """Begins the request ids of a trace that has none."""
    seed: int = 0
    records: str | None = None
    """A file for the raw records."""

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("speed", 0 < self.speed < float("inf"), "above 0"),
            ("timeout", 0 < self.timeout < float("inf"), "above 0"),
            ("limit-seconds", self.limit_seconds is None or self.limit_seconds > 0, "above 0"),
            ("max-requests", self.max_requests is None or self.max_requests > 0, "at least 1"),
            ("concurrency", self.concurrency is None or self.concurrency > 0, "at least 1"),
            ("max-inflight", self.max_inflight > 0, "at least 1"),
        ):
            if not good:
                raise PlanError(f"--{name}: must be {wanted}")

    def requests(self) -> list[TraceRequest]:
        """All that is to be sent, in order of time.

        Raises:
            TraceError: the trace cannot be used.
            SynthError: the workload cannot.
            PlanError: nothing is left to send.
        """
        source = read_trace(self.trace) if self.trace is not None else synthesize(self.workload or Workload(1.0, 1.0))
        chosen = list(cut(source, self.limit_seconds, self.max_requests))
        if not chosen:
            raise PlanError(
                f"{self.trace or 'workload'}: no request in the time asked for; raise the limit or the rate"
            )
        return chosen

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        plain = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        if plain.get("workload") is not None:
            workload = dict(plain["workload"])
            lengths = {name: Lengths(**workload[name]) for name in ("inputs", "outputs")}
            plain["workload"] = Workload(**{**workload, **lengths, "max_tokens": tuple(workload["max_tokens"])})
        return cls(**plain)


def bounds(requests: Sequence[TraceRequest]) -> tuple[int, ...]:
    """What ``max_tokens`` is drawn from for requests that have none: all at least the longest output of the trace, so
    that no bound tells anything of its own request's length and none cuts an answer short."""
    longest = max((request.output_length for request in requests), default=1)
    least = 1 << (longest - 1).bit_length()
    return (least, 2 * least, 4 * least)
