"""A trace's request as the bytes a client would send.

The true output length goes into ``x-ranvier-output-tokens``, which the mock worker alone honours: a gateway hides it
from its policies, and a real server ignores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from loadgen.plan import Plan, bounds
from loadgen.prompts import Prompts
from loadgen.trace import TraceRequest

_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


@dataclass(frozen=True, slots=True)
class Payload:
    """Ready to be sent."""

    request_id: str
    path: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    max_tokens: int | None


class Payloads:
    """Makes the payloads of a plan's requests; the n-th depends on the plan, the request and n alone."""

    def __init__(self, plan: Plan, requests: Sequence[TraceRequest]) -> None:
        self._plan = plan
        self._prompts = Prompts(plan.salt)
        self._bounds = bounds(requests)

    def make(self, number: int, request: TraceRequest) -> Payload:
        request_id = request.request_id or f"{self._plan.run_id}-{number:06d}"
        max_tokens = self._max_tokens(number, request)
        return Payload(
            request_id=request_id,
            path=_PATHS[self._plan.endpoint],
            headers=self._headers(request_id, request),
            body=orjson.dumps(self._body(number, request, max_tokens)),
            max_tokens=max_tokens,
        )

    def _max_tokens(self, number: int, request: TraceRequest) -> int | None:
        match self._plan.max_tokens:
            case "none":
                return None
            case "forced":
                return request.output_length
        return request.max_tokens or Random(f"{self._plan.seed}/max_tokens/{number}").choice(self._bounds)

    def _headers(self, request_id: str, request: TraceRequest) -> list[tuple[str, str]]:
        headers = [("user-agent", "ranvier-loadgen"), ("x-request-id", request_id)]
        if self._plan.api_key is not None:
            headers.append(("authorization", f"Bearer {self._plan.api_key}"))
        if self._plan.output_header:
            headers.append(("x-ranvier-output-tokens", f"{request.output_length}"))
        for name, value in (
            ("x-session-id", request.session_id),
            ("x-ranvier-tenant", request.tenant),
            ("x-ranvier-ttft-slo-ms", request.ttft_slo_ms),
        ):
            if value is not None:
                headers.append((name, f"{value}"))
        return headers

    def _body(self, number: int, request: TraceRequest, max_tokens: int | None) -> dict[str, Any]:
        text = self._prompts.text(request.input_length, request.hash_ids, unique=f"{number}")
        chat = self._plan.endpoint == "chat"
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        optional = {
            "model": self._plan.model or request.model,
            "max_tokens": max_tokens,
            "priority": None if request.priority is None else -request.priority,
        }
        body |= {name: value for name, value in optional.items() if value is not None}
        if self._plan.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self._plan.max_tokens == "forced":
            body |= {"min_tokens": max_tokens, "ignore_eos": True}
        return body
