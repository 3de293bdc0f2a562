"""Events in order, commands carried out, and nothing that goes wrong stops either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.core.commands import Cancel, Command, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.events import ClientLeft, Event, RequestArrived, RequestEnded, Ticked
from gateway.runtime import Clock, Runtime


class ScriptedDispatcher:
    """Answers each event with what ``script`` makes of it."""

    def __init__(self, script: Callable[[Event], list[Command]]) -> None:
        self.script = script
        self.heard: list[Event] = []
        self.pools: Mapping[str, Any] = {}
        self.counts_read: Mapping[str, int] = {"w": 7}

    def handle(self, event: Event) -> list[Command]:
        self.heard.append(event)
        return self.script(event)


class RecordingExecutor:
    """Writes commands down; ``then`` is called with each."""

    def __init__(self, then: Callable[[Command], None] = lambda command: None) -> None:
        self.carried_out: list[Command] = []
        self.then = then

    def dispatch(self, command: Dispatch | Reject | Cancel | SetReplicas | PolicySetRetired) -> None:
        self.carried_out.append(command)
        self.then(command)

    reject = cancel = set_replicas = policy_set_retired = dispatch


ALL: list[Command] = [Dispatch("r", "w"), Reject("r", "shed"), Cancel("r", "w"), SetReplicas("p", "v", 1),
                      PolicySetRetired("p", 2, 1, "x")]  # fmt: skip


def test_every_command_reaches_the_executor_in_order() -> None:
    executor = RecordingExecutor()
    runtime = Runtime(ScriptedDispatcher(lambda event: ALL), executor=executor)
    runtime.submit(Ticked(1.0))
    assert executor.carried_out == ALL


def test_an_event_from_within_waits_for_its_turn() -> None:
    dispatcher = ScriptedDispatcher(
        lambda event: [Dispatch("a", "w"), Reject("b", "shed")] if event.time == 1.0 else []
    )
    order: list[object] = []

    def then(command: Command) -> None:
        order.append(command)
        if isinstance(command, Dispatch):
            runtime.submit(Ticked(2.0))
            assert len(dispatcher.heard) == 1

    runtime = Runtime(dispatcher, executor=RecordingExecutor(then))
    runtime.submit(Ticked(1.0))
    assert [event.time for event in dispatcher.heard] == [1.0, 2.0]
    assert len(order) == 2


def test_the_event_log_hears_what_was_read_and_decided() -> None:
    log: list[tuple[Event, Mapping[str, int], Sequence[Command]]] = []
    runtime = Runtime(
        ScriptedDispatcher(lambda event: ALL[:1]),
        executor=RecordingExecutor(),
        event_log=lambda event, read, commands: log.append((event, read, commands)),
    )
    runtime.submit(Ticked(1.0))
    assert log == [(Ticked(1.0), {"w": 7}, ALL[:1])]


def test_a_failing_executor_does_not_lose_the_other_commands() -> None:
    def then(command: Command) -> None:
        if isinstance(command, Dispatch):
            raise RuntimeError("planted")

    executor = RecordingExecutor(then)
    runtime = Runtime(ScriptedDispatcher(lambda event: ALL), executor=executor)
    runtime.submit(Ticked(1.0))
    assert executor.carried_out == ALL
    assert runtime.num_errors == 1


def test_a_failing_dispatcher_leaves_no_client_waiting() -> None:
    def fail(event: Event) -> list[Command]:
        raise RuntimeError("planted")

    executor = RecordingExecutor()
    runtime = Runtime(ScriptedDispatcher(fail), executor=executor)
    runtime.submit(RequestArrived(1.0, "a", "m"))
    runtime.submit(RequestEnded(1.0, "b", "failed"))
    runtime.submit(ClientLeft(1.0, "c"))
    assert executor.carried_out == [Reject("a", "attempts"), Reject("b", "attempts")]
    assert runtime.num_errors == 3


def test_a_failing_event_log_stops_nothing() -> None:
    def log(event: Event, read: Mapping[str, int], commands: Sequence[Command]) -> None:
        raise OSError("planted: disk full")

    executor = RecordingExecutor()
    runtime = Runtime(ScriptedDispatcher(lambda event: ALL[:1]), executor=executor, event_log=log)
    runtime.submit(Ticked(1.0))
    runtime.submit(Ticked(2.0))
    assert executor.carried_out == ALL[:1] * 2
    assert runtime.num_errors == 2


def test_the_clock_never_goes_back_and_remembers_its_last_reading() -> None:
    clock = Clock()
    readings = [clock.time() for _ in range(100)]
    assert readings == sorted(readings)
    assert clock.now == readings[-1]


async def test_time_passes_for_the_dispatcher_until_it_is_stopped() -> None:
    ticked = asyncio.Event()

    def script(event: Event) -> list[Command]:
        if len(dispatcher.heard) == 3:
            ticked.set()
        return []

    dispatcher = ScriptedDispatcher(script)
    runtime = Runtime(dispatcher, executor=RecordingExecutor())
    runtime.start(0.001)
    await asyncio.wait_for(ticked.wait(), 5)
    runtime.stop()
    times = [event.time for event in dispatcher.heard]
    assert times == sorted(times)
    await asyncio.sleep(0.01)
    assert len(dispatcher.heard) == len(times)
