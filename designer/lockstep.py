"""A policy in another process than the simulation, call by call: the second tier of trust.

The simulation's side turns every call of a policy into a message and waits for the answer; the policy's side keeps
objects of its own with the same values. So a policy can see the contract's values and nothing else: no future, no true
length, no simulator. Only the fields whose names its source holds are sent. The way to the policy is ``marshal`` (from
the trusted side only), the way back is JSON.
"""

from __future__ import annotations

import ast
import json
import marshal
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from designer.subject import Subject, fields_read, load_subject
from gateway.core.policy_set import PolicyIdentity, PolicySet
from gateway.mockworker.engine_types import BatchEngineView, BatchRequestView
from policies.contract import SLOTS, Candidate, Dispatched, Finished, FirstToken, Pool, Request, Slot, Variant, Worker
from policies.syntax import parse

_LENGTH = struct.Struct(">I")
_MAX_ANSWER = 1 << 20
_VARIANT = tuple(f.name for f in fields(Variant))
_EVENTS: Mapping[str, type[Dispatched] | type[FirstToken] | type[Finished]] = {
    "Dispatched": Dispatched,
    "FirstToken": FirstToken,
    "Finished": Finished,
}


class LockstepError(Exception):
    """The policy's side raised, answered nonsense, or has gone."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """The fields that travel, in order; the same on both sides, as both take it from the same sources."""

    request: tuple[str, ...]
    worker: tuple[str, ...]
    pool: tuple[str, ...]
    all_workers: bool
    variants: bool

    @classmethod
    def of(cls, subject: Subject) -> _Shape:
        reads = fields_read(subject)
        return cls(
            request=_named(Request, reads),
            worker=("worker_id", *_named(Worker, reads - {"worker_id"})),
            pool=_named(Pool, reads - {"workers", "variants"}),
            all_workers="workers" in reads,
            variants="variants" in reads,
        )


def _named(kind: type, reads: frozenset[str]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name in reads)


# -- the simulation's side ------------------------------------------------------------------------------------------


class RemotePolicy:
    """Fills the slots of a policy that runs elsewhere."""

    def __init__(self, fd: int, subject: Subject) -> None:
        self._fd = fd
        self._subject = subject
        self._shape = _Shape.of(subject)
        self._admits_all = admits_all(subject)
        hello = self._receive()
        self.slots: tuple[Slot, ...] = tuple(slot for slot in SLOTS if slot in hello["slots"])
        self.identities: tuple[dict[str, Any], ...] = tuple(hello["identities"])

    def policy_set(self) -> PolicySet:
        """A set whose slots all lead to the other side."""
        mine: dict[str, Any] = {slot: self for slot in self.slots if slot != "observer"}
        identity = PolicyIdentity(self._subject.label, self._subject.digest)
        return PolicySet(
            generation=0,
            routing=mine.get("routing"),
            scheduling=mine.get("scheduling"),
            autoscaling=mine.get("autoscaling"),
            batch=mine.get("batch"),
            observers=(self,) if "observer" in self.slots else (),
            identities=dict.fromkeys(self.slots, identity),
            reads=fields_read(self._subject),
        )

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        offered = [(*_values(c.worker, self._shape.worker), c.num_cached_tokens) for c in candidates]
        index = self._ask(("route", _values(request, self._shape.request), offered, self._pool(pool)))
        if index is None:
            return None
        if type(index) is not int or not 0 <= index < len(candidates):
            raise LockstepError(f"route answered {index!r}")
        return candidates[index]

    def admit(self, request: Request, pool: Pool) -> bool:
        if self._admits_all:
            return True
        return cast(bool, self._ask(("admit", _values(request, self._shape.request), self._pool(pool))))

    def key(self, request: Request) -> Any:
        return _tuples(self._ask(("key", _values(request, self._shape.request))))

    def desired_replicas(self, pool: Pool) -> Mapping[str, int]:
        return cast(Mapping[str, int], self._ask(("desired_replicas", self._pool(pool))))

    def waiting_key(self, request: BatchRequestView) -> Any:
        return _tuples(self._ask(("waiting_key", tuple(request))))

    def victim_key(self, request: BatchRequestView) -> Any:
        return _tuples(self._ask(("victim_key", tuple(request))))

    def prefill_budget(self, engine: BatchEngineView) -> int:
        return cast(int, self._ask(("prefill_budget", tuple(engine))))

    def observe(self, event: Dispatched | FirstToken | Finished) -> None:
        kind = type(event)
        self._ask(("observe", kind.__name__, _values(event, tuple(f.name for f in fields(kind)))))

    def _pool(self, pool: Pool) -> tuple[Any, ...]:
        shape = self._shape
        workers = [_values(worker, shape.worker) for worker in pool.workers] if shape.all_workers else None
        variants = [(n, _values(v, _VARIANT)) for n, v in pool.variants.items()] if shape.variants else None
        return _values(pool, shape.pool), workers, variants

    def _ask(self, call: tuple[Any, ...]) -> Any:
        data = marshal.dumps(call)
        try:
            _write(self._fd, data)
        except OSError:
            raise LockstepError("the policy's process has gone") from None
        answer = self._receive()
        if not isinstance(answer, dict) or "answer" not in answer:
            raise LockstepError(str(answer.get("error")) if isinstance(answer, dict) else "no answer")
        return answer["answer"]

    def _receive(self) -> Any:
        try:
            return json.loads(_read(self._fd, _MAX_ANSWER))
        except (OSError, ValueError, RecursionError) as error:
            raise LockstepError(f"the policy's process has gone or answered nonsense: {error}") from None


def _values(thing: Any, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple([getattr(thing, name) for name in names])


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def admits_all(subject: Subject) -> bool:
    """Whether every ``admit`` in the sources is just ``return True``, so that asking would tell nothing."""
    found = [
        node
        for part in subject.parts
        for node in ast.walk(parse(part.source))
        if isinstance(node, ast.FunctionDef) and node.name == "admit"
    ]
    return bool(found) and all(_returns_true(node.body) for node in found)


def _returns_true(body: Sequence[ast.stmt]) -> bool:
    match body:
        case [ast.Return(value=ast.Constant(value=True))]:
            return True
        case [ast.Expr(value=ast.Constant()), ast.Return(value=ast.Constant(value=True))]:
            return True
    return False


# -- the policy's side ----------------------------------------------------------------------------------------------


def serve(fd: int, subject: Subject, seed: int) -> None:
    """Load the subject and answer calls until the other side closes. Runs confined.

    Raises:
        PolicyLoadError: it does not load.
    """
    loaded = load_subject(subject, seed)
    slots = [slot for policy in loaded for slot in policy.slots]
    identities = [{"name": p.name, "policy_hash": p.policy_hash, "params": dict(p.params)} for p in loaded]
    _write(fd, json.dumps({"slots": slots, "identities": identities}).encode())
    policies: dict[Slot, Any] = {
        slot: policy.policy for policy in loaded for slot in policy.slots if slot != "observer"
    }
    observers = [policy.policy for policy in loaded if "observer" in policy.slots]
    host = _Host(policies, observers, _Shape.of(subject))
    while call := _next_call(fd):
        _write(fd, host.reply(call))


class _Host:
    """The policies and the objects they are shown, kept from call to call as the gateway's are."""

    def __init__(self, policies: Mapping[Slot, Any], observers: Sequence[Any], shape: _Shape) -> None:
        self._policies = policies
        self._observers = observers
        self._shape = shape
        self._workers: dict[str, Worker] = {}
        self._pool = Pool("")

    def reply(self, call: tuple[Any, ...]) -> bytes:
        name, *arguments = call
        try:
            return json.dumps({"answer": getattr(self, f"_{name}")(*arguments)}).encode()
        except Exception as error:  # noqa: BLE001 - the boundary to code that is not ours
            return json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}).encode()

    def _route(self, request: tuple[Any, ...], offered: list[tuple[Any, ...]], pool: tuple[Any, ...]) -> int | None:
        shown = self._show(pool)
        candidates = [Candidate(self._worker(values), values[-1]) for values in offered]
        chosen = self._policies["routing"].route(self._request(request), candidates, shown)
        if chosen is None:
            return None
        places = [n for n, candidate in enumerate(candidates) if candidate is chosen]
        if not places:
            raise LockstepError(f"route answered a {type(chosen).__name__} that it was not given")
        return places[0]

    def _admit(self, request: tuple[Any, ...], pool: tuple[Any, ...]) -> Any:
        return self._policies["scheduling"].admit(self._request(request), self._show(pool))

    def _key(self, request: tuple[Any, ...]) -> Any:
        return self._policies["scheduling"].key(self._request(request))

    def _desired_replicas(self, pool: tuple[Any, ...]) -> Any:
        return dict(self._policies["autoscaling"].desired_replicas(self._show(pool)))

    def _waiting_key(self, request: tuple[Any, ...]) -> Any:
        return self._policies["batch"].waiting_key(BatchRequestView(*request))

    def _victim_key(self, request: tuple[Any, ...]) -> Any:
        return self._policies["batch"].victim_key(BatchRequestView(*request))

    def _prefill_budget(self, engine: tuple[Any, ...]) -> Any:
        return self._policies["batch"].prefill_budget(BatchEngineView(*engine))

    def _observe(self, kind: str, values: tuple[Any, ...]) -> None:
        for observer in self._observers:
            observer.observe(_EVENTS[kind](*values))

    def _request(self, values: tuple[Any, ...]) -> Request:
        request = Request("", "")
        for name, value in zip(self._shape.request, values, strict=True):
            setattr(request, name, value)
        return request

    def _show(self, values: tuple[Any, ...]) -> Pool:
        scalars, workers, variants = values
        for name, value in zip(self._shape.pool, scalars, strict=True):
            setattr(self._pool, name, value)
        if workers is not None:
            self._pool.workers = [self._worker(worker) for worker in workers]
        if variants is not None:
            self._pool.variants = {name: Variant(*variant) for name, variant in variants}
        return self._pool

    def _worker(self, values: tuple[Any, ...]) -> Worker:
        """The object that stands for a worker for as long as it lives, brought up to date."""
        worker = self._workers.get(values[0])
        if worker is None:
            worker = self._workers[values[0]] = Worker(values[0])
        for name, value in zip(self._shape.worker, values, strict=False):
            setattr(worker, name, value)
        return worker


def _next_call(fd: int) -> tuple[Any, ...] | None:
    try:
        return cast(tuple[Any, ...], marshal.loads(_read(fd, 64 << 20)))  # noqa: S302 - from the trusted side
    except OSError:
        return None


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(_LENGTH.pack(len(data)) + data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read(fd: int, most: int) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(fd, _LENGTH.size))
    if length > most:
        raise OSError(f"a message of {length} bytes")
    return _exactly(fd, length)


def _exactly(fd: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = os.read(fd, length - len(data))
        if not chunk:
            raise OSError("closed")
        data += chunk
    return data
