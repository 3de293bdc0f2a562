"""Limits of pools that change while requests are held and in flight; engines that begin anew."""

from __future__ import annotations

import json

import pytest

from gateway.core.commands import Command, Dispatch, Reject
from gateway.core.dispatcher import Dispatcher
from gateway.core.event_log import Recorder, encode_header, replay
from gateway.core.events import (
    Event,
    MetricsScraped,
    PoolsReconfigured,
    RequestArrived,
    RequestEnded,
    WorkerHealthChanged,
    WorkerJoined,
    WorkerMetrics,
)
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig

KEYS = ((1, 100), (2, 200))


def arrived(time: float, name: str, model: str = "m") -> RequestArrived:
    return RequestArrived(time, name, model, "t", num_prompt_tokens=200, prefix_keys=KEYS)


class Heard:
    """A dispatcher whose log is kept."""

    def __init__(self, *pools: PoolConfig) -> None:
        self.dispatcher = Dispatcher(pools)
        self.header = encode_header(pools)
        self._recorder = Recorder(self.dispatcher, checkpoint_every=1)
        self.records: list[list[object]] = []
        self.commands: list[Command] = []

    def hear(self, *events: Event) -> list[Command]:
        commands: list[Command] = []
        for event in events:
            commands = self.dispatcher.handle(event)
            self.commands += commands
            self.records += self._recorder.records(event, commands)
        return commands

    def replayed(self) -> list[Command]:
        records = json.loads(json.dumps(self.records))
        header = json.loads(json.dumps(self.header))
        made = replay(header, records, lambda pool, generation, sources: PolicySet.builtin(generation))
        return [command for _, commands in made for command in commands]


def test_other_limits_hold_from_there_on_and_the_log_replays() -> None:
    heard = Heard(PoolConfig("p", max_queue_requests=1))
    heard.hear(WorkerJoined(0.0, "w", "p"), WorkerHealthChanged(0.0, "w", healthy=False))
    assert heard.hear(arrived(1.0, "a")) == []
    assert isinstance(heard.hear(arrived(1.0, "b"))[0], Reject)
    more = PoolConfig("p", max_queue_requests=2, max_attempts=1, prefix_index_chunks=0, replicas={"v": (0, 2)})
    heard.hear(PoolsReconfigured(2.0, (more,)))
    assert heard.hear(arrived(3.0, "c")) == []
    assert heard.dispatcher.pools["p"].queue.num_requests == 2
    back = heard.hear(WorkerHealthChanged(4.0, "w", healthy=True))
    assert [command.request_id for command in back if isinstance(command, Dispatch)] == ["a", "c"]
    failed = heard.hear(RequestEnded(5.0, "a", "failed", retriable=True))
    assert [command.reason for command in failed if isinstance(command, Reject)] == ["attempts"]
    assert len(heard.dispatcher.pools["p"].prefix_index) == 0
    assert heard.replayed() == heard.commands


def test_other_models_are_served_by_other_pools() -> None:
    heard = Heard(PoolConfig("p", models=("a",)), PoolConfig("q", models=("b",)))
    heard.hear(WorkerJoined(0.0, "w", "p"), WorkerJoined(0.0, "v", "q"))
    heard.hear(PoolsReconfigured(1.0, (PoolConfig("p", models=("b",)), PoolConfig("q", models=("a",)))))
    assert heard.hear(arrived(2.0, "r", "a")) == [Dispatch("r", "v", 0)]
    assert heard.replayed() == heard.commands


@pytest.mark.parametrize(
    ("pools", "reason"),
    [
        ((PoolConfig("p", models=("a",)), PoolConfig("q", models=("a",))), "is named by pools"),
        ((PoolConfig("p"), PoolConfig("q")), "name no models"),
        ((PoolConfig("p", models=("a",)),), "a pool comes and goes"),
    ],
)
def test_pools_that_do_not_go_together_change_nothing(pools: tuple[PoolConfig, ...], reason: str) -> None:
    heard = Heard(PoolConfig("p", models=("a",)), PoolConfig("q", models=("b",)))
    with pytest.raises(ValueError, match=reason):
        heard.dispatcher.handle(PoolsReconfigured(1.0, pools))
    assert heard.dispatcher.pools["q"].config.models == ("b",)
    assert heard.dispatcher.num_events == 0


def test_an_engine_that_began_anew_is_believed_to_hold_nothing() -> None:
    heard = Heard(PoolConfig("p"))
    heard.hear(WorkerJoined(0.0, "w", "p"), arrived(1.0, "a"), RequestEnded(2.0, "a", "completed", 3))
    heard.hear(MetricsScraped(3.0, "w", WorkerMetrics(num_starts=0), 3.0))
    index = heard.dispatcher.pools["p"].prefix_index
    assert index.num_cached_tokens("w", KEYS) == 200
    heard.hear(MetricsScraped(4.0, "w", WorkerMetrics(num_starts=0), 4.0))
    assert index.num_cached_tokens("w", KEYS) == 200
    heard.hear(MetricsScraped(5.0, "w", WorkerMetrics(num_starts=1), 5.0))
    assert index.num_cached_tokens("w", KEYS) == 0
    heard.hear(arrived(6.0, "b"))
    assert index.num_cached_tokens("w", KEYS) == 200
    assert heard.replayed() == heard.commands
