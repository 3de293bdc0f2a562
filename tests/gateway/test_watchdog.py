"""The watchdog against policies that do not end, in the real guard, on a real event loop."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from gateway.core.events import WorkerJoined
from gateway.core.guard import CallLog, Guard
from gateway.core.policy_set import PolicySet
from gateway.core.worker_state import CandidateSet, WorkerState
from gateway.watchdog import Watchdog
from policies.contract import Pool, Request


class Routing:
    def __init__(self, think: Callable[[], object]) -> None:
        self._think = think

    def route(self, request: Request, candidates: Any, pool: Pool) -> Any:
        self._think()
        return candidates[0]


def endless() -> None:
    for _ in itertools.repeat(0):
        pass


def swallows_everything() -> None:
    for _ in itertools.repeat(0):
        try:
            for _ in itertools.repeat(0):
                pass
        except Exception:
            continue


def swallows_the_first() -> None:
    try:
        endless()
    except BaseException:
        endless()


def waits() -> None:
    time.sleep(0.8)


def candidates() -> CandidateSet:
    return CandidateSet((WorkerState(WorkerJoined(0.0, "a", "p")), WorkerState(WorkerJoined(0.0, "b", "p"))))


def guarded(think: Callable[[], object], watchdog: Watchdog) -> tuple[Guard, CallLog]:
    calls = CallLog()
    return Guard(PolicySet(1, routing=Routing(think)), watchdog, calls), calls


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    with Watchdog(budget_seconds=0.005, kill_seconds=0.05) as w:
        yield w


@pytest.mark.parametrize("think", [endless, swallows_everything, swallows_the_first])
def test_a_call_that_does_not_end_is_interrupted(watchdog: Watchdog, think: Callable[[], object]) -> None:
    guard, calls = guarded(think, watchdog)
    chosen = guard.route(Request("r", "m"), candidates(), Pool("p"))
    assert chosen is not None and chosen.worker_id == "a"
    assert [reason for _, reason in calls.verdicts] == ["interrupted"]
    assert guard.tripped is not None
    assert watchdog.num_interrupts >= 1


def test_a_call_that_waits_is_cut_as_well(watchdog: Watchdog) -> None:
    guard, calls = guarded(waits, watchdog)
    guard.route(Request("r", "m"), candidates(), Pool("p"))
    assert [reason for _, reason in calls.verdicts] in (["interrupted"], ["overrun"])


def test_a_slow_call_is_an_overrun_and_its_answer_is_not_used(watchdog: Watchdog) -> None:
    guard, calls = guarded(lambda: time.sleep(0.01), watchdog)
    guard.route(Request("r", "m"), candidates(), Pool("p"))
    assert [reason for _, reason in calls.verdicts] == ["overrun"]
    assert guard.tripped is None


def test_a_signal_that_comes_late_hurts_nobody(watchdog: Watchdog) -> None:
    guard, calls = guarded(lambda: None, watchdog)
    for _ in range(200):
        guard.route(Request("r", "m"), candidates(), Pool("p"))
        watchdog._on_signal(0, None)
        watchdog.enter()
        watchdog.exit()
        watchdog._condemned = watchdog._started  # found guilty just as it ended
        signal.raise_signal(signal.SIGURG)
    assert calls.verdicts == [] or {reason for _, reason in calls.verdicts} == {"overrun"}
    assert watchdog.num_interrupts == 0


def test_the_event_loop_goes_on(watchdog: Watchdog) -> None:
    """Under uvloop, with connections open: each interrupted call delays the echo, and loses nothing."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def main() -> int:
        guard, _ = guarded(endless, watchdog)
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for number in range(5):
            writer.write(b"%d" % number)
            guard.tripped = None
            guard.route(Request("r", "m"), candidates(), Pool("p"))
            assert await reader.readexactly(1) == b"%d" % number
        writer.close()
        server.close()
        return watchdog.num_interrupts

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) >= 5


def test_it_counts_calls_and_gives_the_signal_back() -> None:
    before = signal.getsignal(signal.SIGURG)
    with Watchdog() as w:
        w.enter()
        assert w.exit() is False
        assert w.exit() is False
        assert {m.name for m in w.collect()} >= {"ranvier_policy_call_seconds", "ranvier_policy_interrupts"}
    assert w.num_calls == 1
    assert signal.getsignal(signal.SIGURG) is before
