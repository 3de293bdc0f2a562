"""A policy in another process than the simulation, call by call: the second tier of trust.

The simulation's side turns every call of a policy into a message and waits for the answer; the policy's side keeps
objects of its own with the same values. So a policy can see the contract's values and nothing else: no future, no true
length, no simulator. The way to the policy is ``marshal`` (from the trusted side only), the way back is JSON.
"""

from __future__ import annotations

import json
import marshal
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

from designer.subject import Subject, fields_read, load_subject
from gateway.core.policy_set import PolicyIdentity, PolicySet
from policies.contract import SLOTS, Candidate, Dispatched, Finished, FirstToken, Pool, Request, Slot, Variant, Worker

_LENGTH = struct.Struct(">I")
_MAX_ANSWER = 1 << 20
_REQUEST = tuple(f.name for f in fields(Request))
_WORKER = tuple(f.name for f in fields(Worker))
_VARIANT = tuple(f.name for f in fields(Variant))
_POOL = tuple(f.name for f in fields(Pool) if f.name not in ("workers", "variants"))
_EVENTS: Mapping[str, type[Dispatched] | type[FirstToken] | type[Finished]] = {
    "Dispatched": Dispatched,
    "FirstToken": FirstToken,
    "Finished": Finished,
}
REMOTE_SLOTS: tuple[Slot, ...] = ("routing", "scheduling", "autoscaling", "observer")
"""A batch policy is asked inside the engine, thousands of times a second: it is run in the first tier only."""


class LockstepError(Exception):
    """The policy's side raised, answered nonsense, or has gone."""


# -- the simulation's side ------------------------------------------------------------------------------------------


class RemotePolicy:
    """Fills the slots of a policy that runs elsewhere."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        hello = self._receive()
        self.slots: tuple[Slot, ...] = tuple(slot for slot in SLOTS if slot in hello["slots"])
        self.identities: tuple[dict[str, Any], ...] = tuple(hello["identities"])
        if "batch" in self.slots:
            raise LockstepError("a batch policy cannot be run in a process of its own")

    def policy_set(self, subject: Subject) -> PolicySet:
        """A set whose slots all lead to the other side."""
        mine: dict[str, Any] = {slot: self for slot in self.slots if slot in REMOTE_SLOTS and slot != "observer"}
        identity = PolicyIdentity(subject.label, subject.digest)
        return PolicySet(
            generation=0,
            routing=mine.get("routing"),
            scheduling=mine.get("scheduling"),
            autoscaling=mine.get("autoscaling"),
            observers=(self,) if "observer" in self.slots else (),
            identities=dict.fromkeys(self.slots, identity),
            reads=fields_read(subject),
        )

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        places = {worker.worker_id: n for n, worker in enumerate(pool.workers)}
        offered = [(places[c.worker.worker_id], c.num_cached_tokens) for c in candidates]
        index = self._ask(("route", _values(request, _REQUEST), offered, _pool_values(pool)))
        if index is None:
            return None
        if type(index) is not int or not 0 <= index < len(candidates):
            raise LockstepError(f"route answered {index!r}")
        return candidates[index]

    def admit(self, request: Request, pool: Pool) -> bool:
        return cast(bool, self._ask(("admit", _values(request, _REQUEST), _pool_values(pool))))

    def key(self, request: Request) -> Any:
        return _tuples(self._ask(("key", _values(request, _REQUEST))))

    def desired_replicas(self, pool: Pool) -> Mapping[str, int]:
        return cast(Mapping[str, int], self._ask(("desired_replicas", _pool_values(pool))))

    def observe(self, event: Dispatched | FirstToken | Finished) -> None:
        kind = type(event)
        self._ask(("observe", kind.__name__, _values(event, tuple(f.name for f in fields(kind)))))

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


def _pool_values(pool: Pool) -> tuple[Any, ...]:
    workers = [_values(worker, _WORKER) for worker in pool.workers]
    variants = [(name, _values(variant, _VARIANT)) for name, variant in pool.variants.items()]
    return _values(pool, _POOL), workers, variants


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


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
    host = _Host({slot: policy.policy for policy in loaded for slot in policy.slots if slot != "observer"})
    host.observers = [policy.policy for policy in loaded if "observer" in policy.slots]
    while call := _next_call(fd):
        _write(fd, host.reply(call))


class _Host:
    """The policies and the objects they are shown, kept from call to call as the gateway's are."""

    def __init__(self, policies: Mapping[Slot, Any]) -> None:
        self._policies = policies
        self.observers: list[Any] = []
        self._workers: dict[str, Worker] = {}
        self._pool = Pool("")

    def reply(self, call: tuple[Any, ...]) -> bytes:
        name, *arguments = call
        try:
            return json.dumps({"answer": getattr(self, f"_{name}")(*arguments)}).encode()
        except Exception as error:  # noqa: BLE001 - the boundary to code that is not ours
            return json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}).encode()

    def _route(self, request: tuple[Any, ...], offered: list[tuple[int, int]], pool: tuple[Any, ...]) -> int | None:
        shown = self._show(pool)
        candidates = [Candidate(shown.workers[place], cached) for place, cached in offered]
        chosen = self._policies["routing"].route(Request(*request), candidates, shown)
        if chosen is None:
            return None
        places = [n for n, candidate in enumerate(candidates) if candidate is chosen]
        if not places:
            raise LockstepError(f"route answered a {type(chosen).__name__} that it was not given")
        return places[0]

    def _admit(self, request: tuple[Any, ...], pool: tuple[Any, ...]) -> Any:
        return self._policies["scheduling"].admit(Request(*request), self._show(pool))

    def _key(self, request: tuple[Any, ...]) -> Any:
        return self._policies["scheduling"].key(Request(*request))

    def _desired_replicas(self, pool: tuple[Any, ...]) -> Any:
        return dict(self._policies["autoscaling"].desired_replicas(self._show(pool)))

    def _observe(self, kind: str, values: tuple[Any, ...]) -> None:
        for observer in self.observers:
            observer.observe(_EVENTS[kind](*values))

    def _show(self, values: tuple[Any, ...]) -> Pool:
        scalars, workers, variants = values
        for name, value in zip(_POOL, scalars, strict=True):
            setattr(self._pool, name, value)
        self._pool.workers = [self._worker(worker) for worker in workers]
        self._pool.variants = {name: Variant(*variant) for name, variant in variants}
        return self._pool

    def _worker(self, values: tuple[Any, ...]) -> Worker:
        worker = self._workers.get(values[0])
        if worker is None:
            worker = self._workers[values[0]] = Worker(*values)
            return worker
        for name, value in zip(_WORKER, values, strict=True):
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
