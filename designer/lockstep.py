"""A policy in another process than the simulation, call by call: the second tier of trust.

The simulation's side, which is this, turns every call of a policy into a message and waits for the answer; the
policy's side (``designer.lockstep_host``) keeps objects of its own with the same values. So a policy can see the
contract's values and nothing else: no future, no true length, no simulator. Only the fields whose names its source
holds are sent, and of these what is not as it was last told: a policy that changes the objects it is shown fools
nobody but itself.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from designer.lockstep_messages import (
    ADMIT,
    BUDGET,
    EVENT_VALUES,
    EVENTS,
    KEY,
    OBSERVE,
    REPLICAS,
    ROUTE,
    VARIANT_VALUES,
    VICTIM_KEY,
    WAITING_KEY,
    LockstepError,
    Shown,
    Values,
    packed,
    read_answer,
    shape_of,
    values_of,
    write_call,
)
from designer.subject import Subject, fields_read
from gateway.core.policy_set import PolicyIdentity, PolicySet
from gateway.mockworker.engine_types import BatchEngineView, BatchRequestView
from policies.contract import SLOTS, Candidate, Dispatched, Finished, FirstToken, Pool, Request, Slot, Worker
from policies.syntax import parse


class RemotePolicy:
    """Fills the slots of a policy that runs elsewhere.

    Args:
        fds: to read answers from, and to write calls to; one that is both, or two.
    """

    def __init__(self, fds: Sequence[int], subject: Subject) -> None:
        self._reading, self._writing = fds[0], fds[-1]
        self._subject = subject
        self._shape = shape_of(subject)
        self._request_values = values_of(self._shape.request)
        self._worker_values = values_of(self._shape.worker)
        self._pool_values = values_of(self._shape.pool)
        self._admits_all = admits_all(subject)
        self._request: Request | None = None
        self._told_request = b""
        self._told_workers: dict[str, bytes] = {}
        self._told_candidates: Sequence[Candidate] = ()
        self._told_pool: list[str] = []
        hello = _hello(read_answer(self._reading))
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
        changed: list[bytes] = []
        for candidate in candidates:
            self._note(candidate.worker, changed)
        offered: list[str] | None = None
        if candidates is not self._told_candidates:
            offered = [candidate.worker.worker_id for candidate in candidates]
            self._told_candidates = candidates if type(candidates) is tuple else ()
        cached = [candidate.num_cached_tokens for candidate in candidates] if self._shape.cached else None
        shown = self._show(pool, changed)
        index = self._ask((ROUTE, self._new_request(request), shown, offered, cached))
        if index is None:
            return None
        if type(index) is not int or not 0 <= index < len(candidates):
            raise LockstepError(f"route answered {index!r}")
        return candidates[index]

    def admit(self, request: Request, pool: Pool) -> Any:
        """Whatever it answered, as with all that follows: the guard judges it, as it does beside the policy."""
        if self._admits_all:
            return True
        return self._ask((ADMIT, self._new_request(request), self._show(pool, [])))

    def key(self, request: Request) -> Any:
        return _tuples(self._ask((KEY, self._new_request(request))))

    def desired_replicas(self, pool: Pool) -> Any:
        return self._ask((REPLICAS, self._show(pool, [])))

    def waiting_key(self, request: BatchRequestView) -> Any:
        return _tuples(self._ask((WAITING_KEY, tuple(request))))

    def victim_key(self, request: BatchRequestView) -> Any:
        return _tuples(self._ask((VICTIM_KEY, tuple(request))))

    def prefill_budget(self, engine: BatchEngineView) -> Any:
        return self._ask((BUDGET, tuple(engine)))

    def observe(self, event: Dispatched | FirstToken | Finished) -> None:
        kind = type(event)
        self._ask((OBSERVE, EVENTS.index(kind), EVENT_VALUES[kind](event)))

    def _new_request(self, request: Request) -> bytes | None:
        """Its values; None when it is the request before, as it was."""
        told = packed(self._request_values(request))
        if request is self._request and told == self._told_request:
            return None
        self._request, self._told_request = request, told
        return told

    def _note(self, worker: Worker, changed: list[bytes]) -> None:
        """Bytes are compared, as equal numbers can be of different types."""
        told = packed(self._worker_values(worker))
        if self._told_workers.get(worker.worker_id) != told:
            self._told_workers[worker.worker_id] = told
            changed.append(told)

    def _show(self, pool: Pool, changed: list[bytes]) -> Shown:
        shape = self._shape
        members: list[str] | None = None
        if shape.all_workers:
            for worker in pool.workers:
                self._note(worker, changed)
            names = [worker.worker_id for worker in pool.workers]
            if names != self._told_pool:
                self._told_pool = members = names
        variants = [(name, VARIANT_VALUES(v)) for name, v in pool.variants.items()] if shape.variants else None
        return self._pool_values(pool), changed, members, variants

    def _ask(self, call: Values) -> Any:
        try:
            write_call(self._writing, call)
        except OSError:
            raise LockstepError("the policy's process has gone") from None
        return read_answer(self._reading)


def _hello(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict) or not answer.keys() >= {"slots", "identities"}:
        raise LockstepError("the policy's process did not say what it is")
    return answer


def _tuples(value: Any) -> Any:
    return tuple([_tuples(part) for part in value]) if isinstance(value, list) else value


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
