"""Ask a policy as a runner does, in one line a case."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from policies.contract import Candidate, Pool, Request, Worker
from policies.loader import load_policy, parse_specs


def load(text: str, seed: int = 0) -> Any:
    """The policy object of one spec."""
    (spec,) = parse_specs(text)
    return load_policy(spec, random.Random(seed)).policy


def request(num_prompt_tokens: int = 100, **fields: Any) -> Request:
    return Request(request_id="r", model="m", num_prompt_tokens=num_prompt_tokens, **fields)


def workers(**fields: Sequence[Any]) -> list[Worker]:
    """``workers(num_inflight_requests=[3, 1])``: w0 with 3 in flight, w1 with 1."""
    count = max(len(values) for values in fields.values())
    return [Worker(f"w{n}", **{name: values[n] for name, values in fields.items()}) for n in range(count)]


def route(policy: Any, some: Sequence[Worker], asked: Request | None = None, cached: Sequence[int] = ()) -> str | None:
    """The id of the worker that ``policy`` sends the request to, or None when it holds it."""
    hits = [*cached, *[0] * (len(some) - len(cached))]
    candidates = [Candidate(worker, hit) for worker, hit in zip(some, hits, strict=True)]
    chosen = policy.route(asked or request(), candidates, Pool("p", workers=some))
    return None if chosen is None else chosen.worker.worker_id
