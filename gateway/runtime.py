"""Events in, commands carried out: the one place where the sans-io dispatcher meets the clock and its executor.

Events are handled one at a time in the order of submission; an event submitted while another is handled (an executor
that fails at once) waits for its turn. Nothing that goes wrong here stops the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gateway.core.commands import Cancel, Command, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.events import Event, RequestArrived, RequestEnded, Ticked

logger = logging.getLogger(__name__)


class Clock:
    """Monotonic seconds. ``now`` is the last reading anybody took, at most a tick old: for what need not be exact."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = time.monotonic()

    def time(self) -> float:
        now = self.now = time.monotonic()
        return now


class Handler(Protocol):
    """The dispatcher, as much of it as is used here and by the data plane."""

    @property
    def pools(self) -> Mapping[str, Any]:
        """``gateway.core.pool.PoolState`` by name, to be read only."""
        ...

    @property
    def counts_read(self) -> Mapping[str, int]: ...
    def handle(self, event: Event) -> list[Command]: ...


class Executor(Protocol):
    """Carries commands out. Called on the event loop; must not block."""

    def dispatch(self, command: Dispatch) -> None: ...
    def reject(self, command: Reject) -> None: ...
    def cancel(self, command: Cancel) -> None: ...
    def set_replicas(self, command: SetReplicas) -> None: ...
    def policy_set_retired(self, command: PolicySetRetired) -> None: ...


class RequestExecutor(Protocol):
    """The part of ``Executor`` that the data plane is."""

    def dispatch(self, command: Dispatch) -> None: ...
    def reject(self, command: Reject) -> None: ...
    def cancel(self, command: Cancel) -> None: ...


EventSink = Callable[[Event, Mapping[str, int], Sequence[Command]], None]
"""Hears each event with the output-token counts that were read for it and the commands it led to, in order."""


def _given_up(event: Event) -> list[Command]:
    """No client may wait for a decision that will not come."""
    return [Reject(event.request_id, "attempts")] if isinstance(event, RequestArrived | RequestEnded) else []


class Runtime:
    """Hands events to the dispatcher and its commands to the executor.

    ``executor`` and ``event_log`` may be set after construction (the data plane needs a runtime, and is its executor);
    ``bind`` sets the first. Commands without an executor are an error that is logged.
    """

    def __init__(
        self,
        dispatcher: Handler,
        clock: Clock | None = None,
        executor: Executor | None = None,
        event_log: EventSink | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.clock = clock if clock is not None else Clock()
        self.event_log = event_log
        self.num_errors = 0
        """Exceptions of dispatcher, executor and event log that were caught here; anything but 0 is a defect."""
        self._handle = dispatcher.handle
        self._waiting: deque[Event] = deque()
        self._busy = False
        self._carry_out: Mapping[type, Callable[[Any], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        if executor is not None:
            self.bind(executor)

    def bind(self, executor: Executor) -> None:
        """Sends all later commands to ``executor``."""
        self._carry_out = {
            Dispatch: executor.dispatch,
            Reject: executor.reject,
            Cancel: executor.cancel,
            SetReplicas: executor.set_replicas,
            PolicySetRetired: executor.policy_set_retired,
        }

    def submit(self, event: Event) -> None:
        """Handles ``event`` and whatever it leads to before it returns; if an event is being handled, after that."""
        if self._busy:
            self._waiting.append(event)
            return
        self._busy = True
        try:
            self._process(event)
            while self._waiting:
                self._process(self._waiting.popleft())
        finally:
            self._busy = False

    def _process(self, event: Event) -> None:
        try:
            commands = self._handle(event)
        except Exception:  # noqa: BLE001 - logged and counted there
            self._caught("the dispatcher failed on %s", type(event).__name__)
            commands = _given_up(event)
        if (event_log := self.event_log) is not None:
            try:
                event_log(event, self.dispatcher.counts_read, commands)
            except Exception:  # noqa: BLE001 - logged and counted there
                self._caught("the event log failed on %s", type(event).__name__)
        for command in commands:
            try:
                self._carry_out[type(command)](command)
            except Exception:  # noqa: BLE001 - logged and counted there
                self._caught("could not carry out %s", command)

    def _caught(self, message: str, what: object) -> None:
        self.num_errors += 1
        logger.exception(message, what)

    def start(self, tick_seconds: float = 0.1) -> None:
        """Submits ``Ticked`` every ``tick_seconds`` from now on; needs a running event loop."""
        self.stop()
        loop = asyncio.get_running_loop()

        def tick() -> None:
            self._timer = loop.call_later(tick_seconds, tick)
            self.submit(Ticked(self.clock.time()))

        self._timer = loop.call_later(tick_seconds, tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
