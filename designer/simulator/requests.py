"""The two faces of a drawn request: what the dispatcher hears of it, and the truth that the engine gets."""

from __future__ import annotations

import math

from designer.simulator.workload import PRIOR_BYTES_PER_TOKEN, RequestColumns
from gateway.core.events import RequestArrived
from gateway.mockworker.engine import PS_PER_SECOND, EngineRequest


def request_ids(count: int) -> list[str]:
    return [f"r{index}" for index in range(count)]


def arrival_events(columns: RequestColumns, deadline_seconds: float | None) -> list[RequestArrived]:
    """What the gateway is told: bytes, and tokens only where the workload says so; never the output's length.

    The keys of prefixes are not in them: they are made at the moment of arrival, for policies that read them.
    """
    names = [tenant.name for tenant in columns.tenants]
    sessions = columns.session_ids or (None,) * len(columns)
    models = columns.models or ("",) * len(columns)
    rows = zip(
        request_ids(len(columns)),
        [time / PS_PER_SECOND for time in columns.arrival_ps.tolist()],
        columns.tenant.tolist(),
        columns.num_prompt_bytes.tolist(),
        columns.num_prompt_tokens.tolist(),
        columns.max_tokens.tolist(),
        priorities(columns),
        ttft_slos(columns),
        columns.stream.tolist(),
        sessions,
        models,
        strict=True,
    )
    return [
        RequestArrived(
            time=time,
            request_id=request_id,
            model=model,
            tenant=names[tenant],
            session_id=session,
            num_prompt_bytes=num_bytes,
            num_prompt_tokens=tokens if columns.exact_prompt_tokens else None,
            max_tokens=max_tokens or None,
            priority=priority,
            ttft_slo=slo,
            deadline=None if deadline_seconds is None else time + deadline_seconds,
            stream=stream,
        )
        for request_id, time, tenant, num_bytes, tokens, max_tokens, priority, slo, stream, session, model in rows
    ]


def engine_requests(columns: RequestColumns) -> list[EngineRequest]:
    """The truth; priorities in vLLM's sense, lower first."""
    chunks = columns.prefix_chunks or ((),) * len(columns)
    if columns.answer_chunks:
        chunks = tuple(before + after for before, after in zip(chunks, columns.answer_chunks, strict=True))
    rows = zip(
        request_ids(len(columns)),
        columns.num_prompt_tokens.tolist(),
        columns.num_output_tokens.tolist(),
        priorities(columns),
        chunks,
        strict=True,
    )
    return [EngineRequest(name, prompt, output, -priority, keys) for name, prompt, output, priority, keys in rows]


def priorities(columns: RequestColumns) -> list[int]:
    """Of each request, higher first: its own, or its tenant's."""
    if columns.priorities is not None:
        own: list[int] = columns.priorities.tolist()
        return own
    return [columns.tenants[tenant].priority for tenant in columns.tenant.tolist()]


def ttft_slos(columns: RequestColumns) -> list[float | None]:
    """Seconds promised to each request: to itself, or to its tenant."""
    promised = [columns.tenants[tenant].ttft_slo_seconds for tenant in columns.tenant.tolist()]
    if columns.ttft_slos is None:
        return promised
    own: list[float] = columns.ttft_slos.tolist()
    return [default if math.isnan(slo) else slo for slo, default in zip(own, promised, strict=True)]


def believed_scales(columns: RequestColumns) -> list[float]:
    """Of each request, tokens that the gateway takes a token for: it counts bytes, by its prior."""
    scales: list[float] = (columns.num_prompt_bytes / columns.num_prompt_tokens / PRIOR_BYTES_PER_TOKEN).tolist()
    return scales
