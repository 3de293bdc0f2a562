"""The one place where policies are called. What a policy proposes is checked here, and replaced when it is wrong.

An exception, a wrong answer or a call over its time budget falls back to the built-in: fewest in flight, first
come first served, admit, no change of replicas. Failures are counted by slot and reason; a set that keeps failing
is reported as ``tripped``, and the dispatcher puts the last good one back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from gateway.core.policy_set import PolicySet
from gateway.core.worker_state import CandidateSet, WorkerState, fewest_in_flight
from policies.contract import Dispatched, Finished, FirstToken, HoldingPolicy, Pool, Request, Slot, Worker

FailureReason = Literal["exception", "wrong_answer", "overrun", "interrupted"]
SortKey = tuple[Any, ...]
FIRST_COME: SortKey = ()
"""Before every key of a policy: a request whose key fails is not made to wait for it."""
_CLASS_NAME = type.__dict__["__name__"]
_MAX_KEY_ITEMS = 16
_MAX_KEY_DEPTH = 2
_MAX_KEY_TEXT = 1024
_MAX_KEY_INT = 1 << 1024


class PolicyInterrupted(BaseException):
    """Raised inside a policy call by the watch, to end it.

    No ``Exception``, so that a policy's own ``except Exception`` cannot swallow it.
    """


class Watch(Protocol):
    """Times policy calls. May raise PolicyInterrupted between ``enter`` and ``exit``, once an ``enter`` at most."""

    def enter(self) -> None: ...

    def exit(self) -> bool:
        """True when the call overran its budget. Called a second time after an interrupt, which may have hit it."""
        ...


class CallLog:
    """Counts the policy calls of a dispatcher and takes down what its watch found: an input, like the events."""

    __slots__ = ("num_calls", "verdicts")

    def __init__(self) -> None:
        self.num_calls = 0
        self.verdicts: list[tuple[int, FailureReason]] = []
        """(number of the call, ``overrun`` or ``interrupted``), of the current event."""


class _Failed:
    """Stands for the answer of a call that gave none."""


_FAILED = _Failed()


class Guard:
    """Calls the policies of one set.

    Args:
        failures: so many failed calls ...
        window: ... among so many calls trip the guard; one PolicyInterrupted does at once.
    """

    def __init__(
        self, policy_set: PolicySet, watch: Watch | None, calls: CallLog, failures: int = 5, window: int = 100
    ) -> None:
        self._watch = watch
        self._calls = calls
        self._max_failures = failures
        self._window = window
        self.num_failures: dict[tuple[Slot, FailureReason], int] = {}
        """Since the start, over all sets."""
        self.last_failure = ""
        """One line for people: slot and error of the latest."""
        self.replace(policy_set)

    def reconfigure(self, failures: int, window: int) -> None:
        self._max_failures, self._window = failures, window

    def replace(self, policy_set: PolicySet) -> None:
        """From the next call on, these policies; their record is clean."""
        self.policy_set = policy_set
        self.tripped: str | None = None
        """Why the set must go; None while it may stay. A tripped set is not called."""
        self._num_calls = 0
        self._failed_calls: deque[int] = deque()

    # --- the slots ---

    def route(self, request: Request, candidates: CandidateSet, pool: Pool) -> WorkerState | None:
        """The chosen worker, or None to hold the request."""
        policy = self.policy_set.routing
        if policy is None:
            return fewest_in_flight(candidates)
        answer = self._call("routing", policy.route, request, candidates.views, pool)
        if answer is None:
            return None
        if (state := candidates.shown_as(answer)) is not None:
            return state
        if answer is not _FAILED:
            self._fail("routing", "wrong_answer", f"route answered {_shown(answer)}, none of its candidates")
        return fewest_in_flight(candidates)

    def may_go(self, policy: HoldingPolicy, request: Request, worker: Worker) -> bool:
        """Whether to ask ``route`` again for what it held; True when there is no telling."""
        answer = self._call("routing", policy.may_go, request, worker)
        if answer is True or answer is False:
            return bool(answer)
        if answer is not _FAILED:
            self._fail("routing", "wrong_answer", f"may_go answered {_shown(answer)}, no bool")
        return True

    def admit(self, request: Request, pool: Pool) -> bool:
        policy = self.policy_set.scheduling
        if policy is None:
            return True
        answer = self._call("scheduling", policy.admit, request, pool)
        if answer is True or answer is False:
            return bool(answer)
        if answer is not _FAILED:
            self._fail("scheduling", "wrong_answer", f"admit answered {_shown(answer)}, no bool")
        return True

    def key(self, request: Request) -> SortKey:
        """A tuple that can be compared with every other that this returns."""
        policy = self.policy_set.scheduling
        if policy is None:
            return FIRST_COME
        answer = self._call("scheduling", lambda: sort_key(policy.key(request)))
        if answer is None:
            self._fail("scheduling", "wrong_answer", "key answered neither a number nor a tuple of numbers and strings")
        return FIRST_COME if answer is None or answer is _FAILED else answer

    def desired_replicas(self, pool: Pool, known: tuple[str, ...]) -> Mapping[str, int]:
        """Replicas wanted by variant, only of ``known`` ones; empty when nothing is to change."""
        policy = self.policy_set.autoscaling
        if policy is None:
            return {}
        answer = self._call("autoscaling", lambda: _replicas(policy.desired_replicas(pool), known))
        if answer is None:
            self._fail(
                "autoscaling", "wrong_answer", "desired_replicas answered no mapping of the pool's variants to counts"
            )
        return {} if answer is None or answer is _FAILED else answer

    def observe(self, event: Dispatched | FirstToken | Finished) -> None:
        for observer in self.policy_set.observers:
            self._call("observer", observer.observe, event)

    # --- one call ---

    def _call(self, slot: Slot, function: Callable[..., Any], *args: Any) -> Any:
        """The policy's answer, or ``_FAILED``."""
        if self.tripped is not None:
            return _FAILED
        self._num_calls += 1
        self._calls.num_calls += 1
        watch, overran = self._watch, False
        try:
            if watch is None:
                return function(*args)
            try:
                watch.enter()
                answer = function(*args)
            finally:
                overran = watch.exit()
        except KeyboardInterrupt:  # the operator's, not the policy's
            raise
        except PolicyInterrupted:
            if watch is not None:
                watch.exit()
            self._judged(slot, "interrupted", "stopped by the watch: it did not return")
            return _FAILED
        except BaseException as error:  # noqa: BLE001 a policy may raise anything, SystemExit included
            self._fail(slot, "exception", _one_line(error))
            if overran:
                self._judged(slot, "overrun", "over its time budget")
            return _FAILED
        if overran:
            self._judged(slot, "overrun", "over its time budget")
            return _FAILED
        return answer

    def _judged(self, slot: Slot, reason: FailureReason, text: str) -> None:
        self._calls.verdicts.append((self._calls.num_calls, reason))
        self._fail(slot, reason, text)
        if reason == "interrupted":
            self.tripped = self.last_failure

    def _fail(self, slot: Slot, reason: FailureReason, text: str) -> None:
        self.num_failures[slot, reason] = self.num_failures.get((slot, reason), 0) + 1
        self.last_failure = f"{slot}: {reason}: {text}"
        failed = self._failed_calls
        failed.append(self._num_calls)
        while failed[0] <= self._num_calls - self._window:
            failed.popleft()
        if len(failed) >= self._max_failures:
            self.tripped = f"{len(failed)} failures in its last {self._window} calls; the latest {self.last_failure}"


def sort_key(answer: Any, depth: int = 0) -> SortKey | None:
    """A key that compares with every other one this makes, or None for what is no key.

    Numbers and tuples of numbers compare as they are. Other forms are set apart by a tag in front, so that a
    number never meets a string. Small enough to be compared quickly, whatever a policy makes up.
    """
    if _is_number(answer):
        return (0, answer)
    if not isinstance(answer, tuple) or len(answer) > _MAX_KEY_ITEMS or depth > _MAX_KEY_DEPTH:
        return None
    items = tuple(answer)
    if all(_is_number(item) for item in items):
        return (0, *items)
    tagged = tuple(_tagged(item, depth) for item in items)
    return None if None in tagged else (1, tagged)


def _tagged(item: Any, depth: int) -> SortKey | None:
    if type(item) is str:
        return (2, item) if len(item) <= _MAX_KEY_TEXT else None
    return sort_key(item, depth + 1)


def _is_number(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(-_MAX_KEY_INT < value < _MAX_KEY_INT)
    return kind is bool or (kind is float and value == value)


def _replicas(answer: Any, known: tuple[str, ...]) -> dict[str, int] | None:
    """A plain copy, in the order of ``known``, made inside the guarded call: the mapping may be the policy's own."""
    if not isinstance(answer, Mapping):
        return None
    copy = dict(answer)
    if any(name not in known for name in copy) or any(type(n) is not int or n < 0 for n in copy.values()):
        return None
    return {name: copy[name] for name in known if name in copy}


def _one_line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001 its __str__ is the policy's as well, and may raise anything
        text = "(no text)"
    whole = f"{_kind(error)}: {text}"[:300]
    return whole.encode("utf-8", "replace").decode()  # half a surrogate pair would spoil every log and answer


def _shown(answer: object) -> str:
    return f"a {_kind(answer)}"


def _kind(thing: object) -> str:
    """The name of its class, whatever a metaclass of the policy's says that it is."""
    return str(_CLASS_NAME.__get__(type(thing)))
