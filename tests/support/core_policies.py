"""Small policies and a dispatcher set up for tests of the core: events in, commands out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.core.commands import Command
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import RequestArrived, RequestEnded, WorkerJoined, WorkerMetrics
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from policies.contract import Candidate, Pool, Request


class First:
    """Always the first candidate."""

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        return candidates[0]


class Hold:
    """Never any."""

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        return None


class AtMost:
    """Fewest in flight, while that is below a limit; holds otherwise."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        best = min(candidates, key=lambda c: c.worker.num_inflight_requests)
        return best if best.worker.num_inflight_requests < self.limit else None


class ShortestFirst:
    def admit(self, request: Request, pool: Pool) -> bool:
        return True

    def key(self, request: Request) -> tuple[Any, ...] | float:
        return request.num_prompt_tokens


class Calls:
    """A policy of given functions."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        for name, method in methods.items():
            setattr(self, name, method)


class Recorder:
    """An observer that keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def observe(self, event: Any) -> None:
        self.seen.append(event)


def joined(worker_id: str, *, pool: str = "p", time: float = 0.0, **more: Any) -> WorkerJoined:
    return WorkerJoined(time, worker_id, pool, **more)


def sized(kv_capacity_tokens: int) -> WorkerMetrics:
    return WorkerMetrics(kv_capacity_tokens=kv_capacity_tokens)


def arrived(time: float, request_id: str, *, tokens: int = 10, **more: Any) -> RequestArrived:
    return RequestArrived(time, request_id, more.pop("model", "m"), num_prompt_tokens=tokens, **more)


def completed(time: float, request_id: str, tokens: int = 5) -> RequestEnded:
    return RequestEnded(time, request_id, "completed", tokens)


def failed(time: float, request_id: str, *, retriable: bool = True) -> RequestEnded:
    return RequestEnded(time, request_id, "failed", retriable=retriable)


def dispatcher(
    *workers: str, output_tokens: Mapping[str, int] | None = None, watch: Any = None, **config: Any
) -> Dispatcher:
    """One pool ``p`` with these workers. ``routing``, ``scheduling`` … make its policy set, generation 1."""
    slots = ("routing", "scheduling", "autoscaling", "observers", "reads")
    policies = {name: config.pop(name) for name in slots if name in config}
    if policies:
        config["policy_set"] = PolicySet(1, **policies)
    made = Dispatcher(
        [PoolConfig("p", **config)], output_tokens={} if output_tokens is None else output_tokens, watch=watch
    )
    for worker in workers:
        made.handle(joined(worker))
    return made


def play(made: Dispatcher, *events: Any) -> list[list[Command]]:
    """What each event led to."""
    return [made.handle(event) for event in events]
