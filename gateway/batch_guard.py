"""A batch policy inside an engine, called so that nothing it does can stop the engine.

Pure: no vLLM, no clock. ``gateway.vllm_scheduler`` puts it into vLLM.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gateway.core.guard import FIRST_COME, SortKey, sort_key
from gateway.errors import PolicyRefusedError
from gateway.promoted import promotion_of
from policies.conformance import check_source
from policies.contract import BatchEngine, BatchPolicy, BatchRequest
from policies.loader import LoadedPolicy, PolicyLoadError, load_policies, parse_specs, resolve

log = logging.getLogger("vllm.ranvier")
"""Under vLLM's own logger, so that it appears where vLLM's lines do."""
SCHEDULER = "gateway.vllm_scheduler.PolicyScheduler"
OPTION = "ranvier_batch_policy"
"""In vLLM's additional configuration: which policy."""
MAX_FAILURES = 5
"""After so many failed calls the policy is not asked any more."""

STEP_SECONDS, CALL_SECONDS = 0.010, 0.0001
"""Processor time that the calls of a step may take, together: so much, and so much for each (a burst has many)."""
MAX_SLOW = 5
"""After so many steps that took more the policy is not asked any more."""
FORGIVEN_AFTER = 1000
"""Steps in a row within the time, after which earlier slow ones do not count: a pause of the machine's is no fault."""


class Queued(Protocol):
    """What a queue needs of a request."""

    request_id: str
    arrival_time: float


R = TypeVar("R", bound=Queued)


def vllm_flags(source: str) -> str:
    """What ``vllm serve`` needs to run the batch rules of ``source``, as a shell reads it."""
    return f"--scheduler-cls {SCHEDULER} --additional-config {shlex.quote(json.dumps({OPTION: source}))}"


def load_batch_policy(text: object) -> LoadedPolicy:
    """The one policy that ``text`` names, as ``SOURCE[:key=value,…]``.

    Raises:
        PolicyLoadError: there is none, more than one, it breaks a static rule, was promoted as other code, or fills no
            batch slot.
    """
    if not isinstance(text, str) or not text:
        raise PolicyLoadError(f"name a batch policy: {vllm_flags('SOURCE')}")
    wrong = PolicyLoadError(f"{text}: not one policy with waiting_key, victim_key and prefill_budget")
    specs = parse_specs(text)
    if len(specs) != 1:
        raise wrong
    _require_fit(resolve(specs[0].source)[0], text)
    loaded = load_policies(specs, seed=0)
    if "batch" not in loaded[0].slots:
        raise wrong
    return loaded[0]


def _require_fit(path: Path, text: str) -> None:
    """Before anything of it runs. PolicyLoadError: it breaks a rule, or is not what was promoted."""
    if violations := check_source(path):
        raise PolicyLoadError(f"{text}: breaks the contract: line {violations[0]}")
    try:
        promotion_of(path.read_bytes().decode("utf-8", errors="replace"), str(path))
    except PolicyRefusedError as error:
        raise PolicyLoadError(str(error)) from None


class BatchGuard:
    """Calls one batch policy. What fails falls back to vLLM's own: first come, the last is the victim, no bound.

    Args: clock: this thread's processor time, seconds. A policy cannot sleep, and a busy machine is not its doing.
    """

    def __init__(self, policy: BatchPolicy, clock: Callable[[], float] = time.thread_time) -> None:
        self._policy: BatchPolicy | None = policy
        self._clock = clock
        self._seconds, self._num_calls = 0.0, 0  # of the step so far
        self._num_in_time = 0
        self.num_failures = 0
        self.num_slow = 0
        """Steps that took too long, of those that still count."""

    @property
    def tripped(self) -> bool:
        """Whether the policy has failed, or was slow, too often and is not asked any more."""
        return self._policy is None

    def step_ended(self) -> None:
        """Once a step: what was asked since the last one is held against the time that it may take."""
        seconds, allowed = self._seconds, STEP_SECONDS + CALL_SECONDS * self._num_calls
        self._seconds, self._num_calls = 0.0, 0
        if self._policy is None:
            return
        if seconds > allowed:
            self._was_slow(seconds, allowed)
            return
        self._num_in_time += 1
        if self._num_in_time >= FORGIVEN_AFTER:
            self.num_slow = 0

    def _was_slow(self, seconds: float, allowed: float) -> None:
        self.num_slow, self._num_in_time = self.num_slow + 1, 0
        times = (seconds * 1e3, allowed * 1e3, self.num_slow, MAX_SLOW)
        log.warning("batch policy: took %.1f ms in a step, at most %.1f (slow step %d of %d)", *times)
        if self.num_slow >= MAX_SLOW:
            self._retire()

    def waiting_key(self, request: BatchRequest) -> SortKey:
        """Smallest first; comparable with every other."""
        return self._key("waiting_key", request)

    def victim_key(self, request: BatchRequest) -> SortKey:
        """Largest first; comparable with every other."""
        return self._key("victim_key", request)

    def prefill_budget(self, engine: BatchEngine) -> int:
        """Prompt tokens, 0 to ``engine.max_num_batched_tokens``."""
        most = engine.max_num_batched_tokens
        answer = self._call("prefill_budget", lambda policy: _whole(policy.prefill_budget(engine)))
        return most if answer is None else min(max(answer, 0), most)

    def _key(self, name: str, request: BatchRequest) -> SortKey:
        answer: SortKey | None = self._call(name, lambda policy: sort_key(getattr(policy, name)(request)))
        return FIRST_COME if answer is None else answer

    def _call(self, name: str, function: Callable[[BatchPolicy], Any]) -> Any:
        """The answer, or None when there is none that can be used."""
        if self._policy is None:
            return None
        began = self._clock()
        try:
            answer = function(self._policy)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 a policy may raise anything, SystemExit included
            self._fail(f"{name} raised {type(error).__name__}")
            return None
        finally:
            self._seconds += self._clock() - began
            self._num_calls += 1
        if answer is None:
            self._fail(f"{name} answered what is no {'whole number' if name == 'prefill_budget' else 'key'}")
        return answer

    def _fail(self, text: str) -> None:
        self.num_failures += 1
        log.warning("batch policy: %s (failure %d of %d)", text, self.num_failures, MAX_FAILURES)
        if self.num_failures >= MAX_FAILURES:
            self._retire()

    def _retire(self) -> None:
        self._policy = None
        log.error("batch policy: not asked any more; first come, first served from here on")


def _whole(answer: Any) -> int | None:
    return answer if type(answer) is int else None


def victim_ranks(running: Sequence[R], key: Callable[[R], SortKey]) -> dict[str, int]:
    """For each request a number: the largest is preempted first.

    The first one never is, as long as there is another: so something always comes to its end. Of equal keys the
    request that was admitted last goes first.
    """
    order = sorted(range(1, len(running)), key=lambda n: (key(running[n]), n))
    ranks = {running[n].request_id: rank for rank, n in enumerate(order, 1)}
    return ranks | {running[0].request_id: 0} if running else ranks


class WaitingHeap(Generic[R]):
    """Requests by their key, smallest first; of equal keys the one that arrived first. The queue interface of vLLM.

    A key is asked for when a request begins to wait, and again when it was preempted.
    """

    def __init__(self, key: Callable[[R], SortKey]) -> None:
        self._key = key
        self._heap: list[tuple[SortKey, float, int, R]] = []
        self._orders: dict[str, tuple[SortKey, float, int]] = {}
        """Of every request that was skipped and may come back; by id."""
        self._sequence = itertools.count()
        self._arrivals: dict[str, int] = {}
        self.num_changes = 0
        """Goes up whenever another request waits, or one was withdrawn."""

    def add_request(self, request: R) -> None:
        """One that arrives, or that was preempted."""
        number = self._arrivals.setdefault(request.request_id, next(self._sequence))
        self._push((self._key(request), request.arrival_time, number), request)
        self.num_changes += 1

    prepend_request = add_request

    def prepend_requests(self, requests: Iterable[R]) -> None:
        """Those that were skipped: they keep their keys."""
        for request in requests:
            if (order := self._orders.get(request.request_id)) is None:
                self.add_request(request)
            else:
                self._push(order, request)

    def _push(self, order: tuple[SortKey, float, int], request: R) -> None:
        self._orders[request.request_id] = order
        heapq.heappush(self._heap, (*order, request))

    def pop_request(self) -> R:
        return heapq.heappop(self._heap)[3]

    def peek_request(self) -> R:
        return self._heap[0][3]

    def remove_request(self, request: R) -> None:
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[R]) -> None:
        gone = {request.request_id for request in requests}
        self._heap = [entry for entry in self._heap if entry[3].request_id not in gone]
        heapq.heapify(self._heap)
        self.num_changes += 1

    def forget(self, request_ids: Iterable[str]) -> None:
        """They have ended, and will not wait again."""
        for request_id in request_ids:
            self._orders.pop(request_id, None)
            self._arrivals.pop(request_id, None)

    def __len__(self) -> int:
        return len(self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def __iter__(self) -> Iterator[R]:
        return (entry[3] for entry in sorted(self._heap, key=lambda entry: entry[:3]))
