"""The policy's side of lockstep (``designer.lockstep``): the policy, and the objects that it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from designer.lockstep_messages import (
    EVENTS,
    LockstepError,
    Shape,
    Shown,
    Values,
    answered,
    failed,
    read_call,
    shape_of,
    unpacked,
    write_answer,
)
from designer.subject import Subject, load_subject
from gateway.mockworker.engine_types import BatchEngineView, BatchRequestView
from policies.contract import Candidate, Pool, Request, Slot, Variant, Worker


def serve(fds: Sequence[int], subject: Subject, seed: int) -> None:
    """Load the subject and answer calls until the other side closes. Runs confined.

    Args:
        fds: to read calls from, and to write answers to; one that is both, or two.

    Raises:
        PolicyLoadError: it does not load.
    """
    loaded = load_subject(subject, seed)
    slots = [slot for policy in loaded for slot in policy.slots]
    identities = [{"name": p.name, "policy_hash": p.policy_hash, "params": dict(p.params)} for p in loaded]
    write_answer(fds[-1], answered({"slots": slots, "identities": identities}))
    policies: dict[Slot, Any] = {
        slot: policy.policy for policy in loaded for slot in policy.slots if slot != "observer"
    }
    observers = [policy.policy for policy in loaded if "observer" in policy.slots]
    host = _Host(policies, observers, shape_of(subject))
    while call := read_call(fds[0]):
        write_answer(fds[-1], host.reply(call))


class _Host:
    """The policies, and what they were last told of. Pool and workers are live as the gateway's are."""

    def __init__(self, policies: Mapping[Slot, Any], observers: Sequence[Any], shape: Shape) -> None:
        self._policies = policies
        self._observers = observers
        self._shape = shape
        self._workers: dict[str, Worker] = {}
        self._offered: list[Worker] = []
        self._members: list[Worker] = []
        self._asked: Values = ()
        self._pool = Pool("")
        self._methods: tuple[Callable[..., Any], ...] = (
            self._route,
            self._admit,
            self._key,
            self._desired_replicas,
            self._waiting_key,
            self._victim_key,
            self._prefill_budget,
            self._observe,
        )

    def reply(self, call: Values) -> bytes:
        try:
            return answered(self._methods[call[0]](*call[1:]))
        except Exception as error:  # noqa: BLE001 - the boundary to code that is not ours
            return failed(f"{type(error).__name__}: {error}"[:500])

    def _route(self, request: bytes | None, pool: Shown, offered: list[str] | None, cached: list[int] | None) -> Any:
        shown = self._show(pool)
        if offered is not None:
            self._offered = [self._workers[name] for name in offered]
        if cached is None:
            candidates = tuple([Candidate(worker) for worker in self._offered])
        else:
            candidates = tuple([Candidate(worker, n) for worker, n in zip(self._offered, cached, strict=True)])
        chosen = self._policies["routing"].route(self._request(request), candidates, shown)
        if chosen is None:
            return None
        for place, candidate in enumerate(candidates):
            if candidate is chosen:
                return place
        raise LockstepError(f"route answered a {type(chosen).__name__} that it was not given")

    def _admit(self, request: bytes | None, pool: Shown) -> Any:
        shown = self._show(pool)
        return self._policies["scheduling"].admit(self._request(request), shown)

    def _key(self, request: bytes | None) -> Any:
        return self._policies["scheduling"].key(self._request(request))

    def _desired_replicas(self, pool: Shown) -> Any:
        return dict(self._policies["autoscaling"].desired_replicas(self._show(pool)))

    def _waiting_key(self, request: Values) -> Any:
        return self._policies["batch"].waiting_key(BatchRequestView(*request))

    def _victim_key(self, request: Values) -> Any:
        return self._policies["batch"].victim_key(BatchRequestView(*request))

    def _prefill_budget(self, engine: Values) -> Any:
        return self._policies["batch"].prefill_budget(BatchEngineView(*engine))

    def _observe(self, kind: int, values: Values) -> None:
        for observer in self._observers:
            observer.observe(EVENTS[kind](*values))

    def _request(self, told: bytes | None) -> Request:
        """A new object with every call: one that was kept is another than the one that is shown."""
        if told is not None:
            self._asked = unpacked(told)
        request = Request("", "")
        _set(request, self._shape.request, self._asked)
        return request

    def _show(self, shown: Shown) -> Pool:
        """The pool, brought up to date; what holds its workers is new with every call."""
        own, changed, members, variants = shown
        _set(self._pool, self._shape.pool, own)
        for told in changed:
            self._update(unpacked(told))
        if members is not None:
            self._members = [self._workers[name] for name in members]
        if self._shape.all_workers:
            self._pool.workers = tuple(self._members)
        if variants is not None:
            self._pool.variants = {name: Variant(*variant) for name, variant in variants}
        return self._pool

    def _update(self, values: Values) -> None:
        """The object that stands for a worker for as long as it lives."""
        worker = self._workers.get(values[0])
        if worker is None:
            worker = self._workers[values[0]] = Worker(values[0])
        _set(worker, self._shape.worker, values)


def _set(thing: Any, names: tuple[str, ...], values: Values) -> None:
    for n in range(len(names)):
        setattr(thing, names[n], values[n])
