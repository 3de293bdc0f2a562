"""``gateway serve --supervise``: holds the ports, and keeps a gateway process running behind them.

The listening sockets are the supervisor's, so no connection is refused while a process is started again: it waits in
the kernel's queue. A process that dies, or stands still so that it sends no beat, is replaced; one that dies again and
again is waited for longer and longer. On SIGUSR2 the next process is ready before the one before it drains.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.config import Config
from gateway.errors import StartError
from gateway.inherited import READY, Inherited
from gateway.listeners import listeners
from gateway.policy_state import LastEnd

log = logging.getLogger(__name__)

Reason = Literal["crashed", "stuck", "asked"]
STABLE_SECONDS = 60.0
"""A process that ran so long is no part of a crash loop."""
MAX_DELAY_SECONDS = 30.0
START_SECONDS = 120.0
"""For a process that was asked for: then the one before goes on."""
_LATE = 1.25
"""Of ``policy.stuck_seconds``: then it is killed. It should have ended itself, with every thread's stack, before."""


def supervise(config: Config, arguments: Sequence[str]) -> int:
    """Runs until SIGTERM or SIGINT, or until the first process does not start; the exit status.

    Args:
        arguments: of ``gateway``, for the process.

    Raises:
        StartError: a port is in use.
    """
    with ExitStack() as stack:
        data = listeners(config.server.host, config.server.port, "--port", config.server.reuse_port)
        stack.callback(_close, data)
        admin = listeners(config.admin.host, config.admin.port, "--admin-port")
        stack.callback(_close, admin)
        state = config.policy.state_dir
        folder = str(config.path(state)) if state else stack.enter_context(tempfile.TemporaryDirectory("-ranvier"))
        supervisor = Supervisor(arguments, data, admin, folder, config.policy.stuck_seconds)
        return asyncio.run(supervisor.run())


def delay(failures: int) -> float:
    """Seconds before the next process, after so many in a row that ended soon: none after the first."""
    return 0.0 if failures < 2 else min(MAX_DELAY_SECONDS, 2.0 ** (failures - 2))


@dataclass(eq=False, slots=True)
class _Child:
    process: asyncio.subprocess.Process
    began_at: float
    beat_at: float
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    killed_as_stuck: bool = False
    reload_when_ready: bool = False
    """It may have read the configuration before it was told to; before it is ready SIGHUP would end it."""


class Supervisor:
    """Args:
    data, admin: sockets that listen, one for each address.
    state: a folder.
    stuck_seconds: 0: a silent process is left alone.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        data: Sequence[socket.socket],
        admin: Sequence[socket.socket],
        state: str,
        stuck_seconds: float,
    ) -> None:
        self._arguments, self._data, self._admin, self._state = list(arguments), data, admin, state
        self._stuck_seconds = stuck_seconds
        self._asked = asyncio.Event()
        self._stop = asyncio.Event()
        self._child: _Child | None = None
        self._children: set[_Child] = set()
        """All that run: the one that serves, the one that is to, those that drain."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.restarts: Counter[str] = Counter()
        """By reason."""

    async def run(self) -> int:
        """Status of the last process: 0 when it drained as asked."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin_stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        loop.add_signal_handler(signal.SIGUSR2, self._asked.set)
        child = self._child = await self._first()
        failures = 0
        while True:
            end = await self._end_of(child)
            if end is None:
                child = self._child = await self._replaced(child)
                continue
            never_served = not child.ready.is_set() and not self.restarts
            failures = 1 if time.monotonic() - child.began_at > STABLE_SECONDS else failures + 1
            following = None if never_served else await self._next(child, end, failures)
            if following is None:
                await asyncio.gather(*(other.process.wait() for other in self._children))
                return _status(child.process.returncode)
            child = self._child = following

    async def _first(self) -> _Child:
        try:
            return await self._start(None)
        except OSError as error:
            raise StartError(f"the gateway process cannot be started: {error.strerror or error}") from None

    async def _next(self, child: _Child, end: Reason, failures: int) -> _Child | None:
        """The one after ``child``, which ended by itself; None when there is to be none."""
        if self._stop.is_set():
            return None
        facts = {"reason": end, "status": child.process.returncode, "failures": failures}
        log.error("the gateway process ended; it is started again", extra={**facts, "next_in_seconds": delay(failures)})
        while not await self._stopped_within(delay(failures)):
            try:
                following = await self._start(end)
            except OSError as error:  # no process or descriptor to be had: that passes
                failures += 1
                wait = {"error": str(error), "next_in_seconds": delay(failures)}
                log.error("the gateway process cannot be started; trying on", extra=wait)
            else:
                self.restarts[end] += 1
                return following
        return None

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    def _begin_stop(self) -> None:
        self._stop.set()
        _close(
            (*self._data, *self._admin)
        )  # once the processes close theirs, a connection is refused, not left waiting
        for child in self._children:
            _signal(child, signal.SIGTERM)

    def _hang_up(self) -> None:
        for child in self._children:
            child.reload_when_ready = not child.ready.is_set()
        if self._child is not None and self._child.ready.is_set() and not self._stop.is_set():
            _signal(self._child, signal.SIGHUP)

    async def _start(self, reason: Reason | None) -> _Child:
        """Args: reason: there was one before, which this one follows. OSError: no process can be made."""
        data, admin = [one.fileno() for one in self._data], [one.fileno() for one in self._admin]
        last_end: LastEnd | None = "stopped" if reason == "asked" else reason
        restarts = self.restarts + Counter([reason] if reason else [])
        reading, writing = os.pipe()
        inherited = Inherited(data, admin, writing, self._state, last_end, dict(restarts))
        command = [sys.executable, "-m", "gateway.replicas.leash", str(os.getpid())]
        command += [sys.executable, "-m", "gateway.cli", *self._arguments, "--inherited", inherited.text()]
        try:
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=(*data, *admin, writing), start_new_session=True
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        child = _Child(process, time.monotonic(), time.monotonic())
        self._children.add(child)
        if self._stop.is_set():  # since the process was made
            _signal(child, signal.SIGTERM)
        self._keep(self._see_off(child))
        self._listen_to(child, reading)
        log.info("gateway process started", extra={"pid": process.pid})
        return child

    def _listen_to(self, child: _Child, reading: int) -> None:
        os.set_blocking(reading, False)
        loop = asyncio.get_running_loop()

        def heard() -> None:
            said = b""
            with suppress(BlockingIOError):
                said = os.read(reading, 65_536)
                if not said:
                    loop.remove_reader(reading)
                    os.close(reading)
            if said:  # its end is no beat
                child.beat_at = time.monotonic()
            if READY in said:
                child.ready.set()
                if child.reload_when_ready and not self._stop.is_set():
                    _signal(child, signal.SIGHUP)

        loop.add_reader(reading, heard)

    async def _end_of(self, child: _Child) -> Reason | None:
        """How it ended; None when another is asked for instead."""
        waiting = asyncio.ensure_future(child.process.wait())
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            while True:
                awaited = (waiting,) if self._stop.is_set() else (waiting, asked)
                await asyncio.wait(awaited, timeout=self._look_seconds, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    silent = time.monotonic() - child.beat_at
                    stuck = child.killed_as_stuck or 0 < self._stuck_seconds / 2 < silent
                    return "stuck" if stuck else "crashed"
                if asked.done() and not self._stop.is_set():
                    self._asked.clear()
                    return None
                self._look_at(child)
        finally:
            waiting.cancel()
            asked.cancel()

    @property
    def _look_seconds(self) -> float | None:
        return self._stuck_seconds / 8 if self._stuck_seconds else None

    def _look_at(self, child: _Child) -> None:
        """Kills what is silent: it is stuck where it could not even end itself."""
        silent = time.monotonic() - child.beat_at
        if 0 < self._stuck_seconds * _LATE < silent and not child.killed_as_stuck:
            child.killed_as_stuck = True
            log.error("the gateway process stands still; killing it", extra={"silent_seconds": round(silent, 1)})
            _signal(child, signal.SIGKILL)

    async def _replaced(self, child: _Child) -> _Child:
        """The next process, once it is ready; the one before drains beside it. Where it does not start, ``child``."""
        try:
            following = await self._start("asked")
        except OSError as error:
            log.error("no next gateway process can be started; the one before runs on", extra={"error": str(error)})
            return child
        await self._ready_or_not(following, child)
        if following.ready.is_set():
            self.restarts["asked"] += 1
            _signal(child, signal.SIGUSR2)
            return following
        _signal(following, signal.SIGTERM)
        facts = {"status": following.process.returncode}
        log.error("the next gateway process did not start; the one before runs on", extra=facts)
        return child

    async def _ready_or_not(self, following: _Child, serving: _Child) -> None:
        """Returns when it is decided, ``START_SECONDS`` at most; meanwhile ``serving`` is looked at as ever."""
        until = time.monotonic() + START_SECONDS
        while (left := until - time.monotonic()) > 0.0:
            look = min(left, self._look_seconds or left)
            if await _first_of(look, following.ready.wait(), following.process.wait(), self._stop.wait()):
                return
            self._look_at(serving)

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_off(self, child: _Child) -> None:
        status = await child.process.wait()
        self._children.discard(child)
        log.info("gateway process ended", extra={"pid": child.process.pid, "status": status})


async def _first_of(seconds: float, *waits: Coroutine[Any, Any, Any]) -> bool:
    """Whether one of them was done within the time."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for task in tasks:
            task.cancel()


def _close(listening: Iterable[socket.socket]) -> None:
    for listener in listening:
        listener.close()


def _signal(child: _Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.process.send_signal(number)


def _status(returncode: int | None) -> int:
    """As a shell says it."""
    return 1 if returncode is None else returncode if returncode >= 0 else 128 - returncode
