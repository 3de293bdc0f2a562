"""A log written as JSON text and read back makes a fresh dispatcher decide the same."""

from __future__ import annotations

import json
import random

import pytest

from gateway.core.commands import Dispatch, PolicySetRetired
from gateway.core.dispatcher import Dispatcher
from gateway.core.event_log import (
    DivergenceError,
    LogFormatError,
    LogGapError,
    Recorder,
    decode,
    encode,
    encode_gap,
    encode_header,
    replay,
)
from gateway.core.events import (
    ClientLeft,
    FirstTokenSeen,
    MetricsScraped,
    PolicySetReplaced,
    RequestArrived,
    RequestEnded,
    Ticked,
    WorkerDraining,
    WorkerHealthChanged,
    WorkerJoined,
    WorkerLeft,
    WorkerMetrics,
)
from gateway.core.guard import PolicyInterrupted
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from tests.support.core_policies import AtMost, Calls, arrived, completed, joined


class Choosy:
    """Random, and with a memory: the same decisions only come of the same state."""

    def __init__(self, seed):
        self._rng = random.Random(seed)
        self._last = None

    def route(self, request, candidates, pool):
        if self._rng.random() < 0.3:
            return None
        others = [c for c in candidates if c.worker.worker_id != self._last] or candidates
        chosen = self._rng.choice(others)
        self._last = chosen.worker.worker_id
        return chosen


def choosy(pool, generation, sources):
    return PolicySet(generation, Choosy(generation))


class Log:
    """A dispatcher of one pool and its log, through JSON text."""

    def __init__(self, *, every=3, counts=None, watch=None, load=choosy, **config):
        pools = [PoolConfig("p", policy_set=load("p", 1, ()), **config)]
        self.header = json.loads(json.dumps(encode_header(pools, seed=7)))
        self.load = load
        self._dispatcher = Dispatcher(pools, output_tokens={} if counts is None else counts, watch=watch)
        self._recorder = Recorder(self._dispatcher, every)
        self.records = []
        self.commands = []

    def hear(self, *events):
        for event in events:
            commands = self._dispatcher.handle(event)
            self.commands.append(commands)
            self.records += [json.loads(json.dumps(r)) for r in self._recorder.records(event, commands)]
        return self

    def replayed(self):
        return [commands for _, commands in replay(self.header, self.records, self.load)]


def busy(log, num=60):
    log.hear(joined("a"), joined("b"), joined("c"))
    for n in range(num):
        log.hear(arrived(n, f"r{n}"), Ticked(n + 0.3))
        if n % 3 == 2:
            log.hear(completed(n + 0.5, f"r{n - 2}"))
    return log


EVENTS = [
    RequestArrived(1.5, "r", "m", "t", "s", 10, 3, 5, -1, 0.2, 9.0, ((2**64 - 1, 16), (5, 32)), False),
    RequestArrived(1.5, "r", "m"),
    FirstTokenSeen(2.0, "r"),
    RequestEnded(3.0, "r", "completed", 5, 3, 1, True),
    ClientLeft(3.0, "r", 4),
    MetricsScraped(4.0, "w", WorkerMetrics(1, 2, 0.5, None, 16, 8), 3.9),
    WorkerJoined(1.0, "w", "p", "v", ("m", "x"), WorkerMetrics(kv_capacity_tokens=100), True),
    WorkerJoined(1.0, "w", "p"),
    WorkerDraining(1.0, "w"),
    WorkerLeft(1.0, "w"),
    WorkerHealthChanged(1.0, "w", False),
    Ticked(0.1),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_json(event):
    record = json.loads(json.dumps(encode(3, event, [Dispatch("r", "w", 2)], {"w": 5}, [(1, "overrun")])))
    entry = decode(record, choosy)
    assert entry.event == event
    assert (entry.number, entry.commands) == (3, [["Dispatch", "r", "w", 2]])
    assert (entry.counts_read, entry.verdicts) == ({"w": 5}, [(1, "overrun")])


def test_a_policy_set_is_logged_with_its_source_and_loaded_from_it():
    asked = []

    def load(pool, generation, sources):
        asked.append((pool, generation, sources))
        return PolicySet(generation, AtMost(1))

    source = {"name": "n", "policy_hash": "h", "params": {"a": 1}, "slots": ["routing"], "source": "def create(): …"}
    record = [1, "PolicySetReplaced", [2.0, "p", {"generation": 4, "builtin": False, "sources": [source]}], []]
    entry = decode(record, load)
    assert json.loads(json.dumps(encode(1, entry.event, [], {}, [])))[2][2]["builtin"] is False
    [(pool, generation, [logged])] = asked
    assert (pool, generation, logged.slots, logged.source) == ("p", 4, ("routing",), "def create(): …")


def test_stateful_and_random_policies_decide_the_same_again():
    log = busy(Log(max_queue_seconds=5.0))
    assert sum(isinstance(c, Dispatch) for commands in log.commands for c in commands) > 30
    assert log.replayed() == log.commands


def test_swaps_and_retirements_are_replayed():
    def load(pool, generation, sources):
        if generation == 2:
            return PolicySet(2, Calls(route=lambda *a: object()))
        return choosy(pool, generation, sources)

    log = Log(load=load, guard_failures=2)
    busy(log, 10)
    log.hear(PolicySetReplaced(20, "p", load("p", 2, ())))
    log.hear(*(arrived(20 + n, f"x{n}") for n in range(5)), PolicySetReplaced(30, "p", PolicySet.builtin(3)))
    assert [c for commands in log.commands for c in commands if isinstance(c, PolicySetRetired)]
    assert log.replayed() == log.commands


def test_the_counts_that_were_read_are_an_input():
    counts = {"a": 0, "b": 0}

    def load(pool, generation, sources):
        return PolicySet(
            generation,
            Calls(route=lambda r, candidates, p: min(candidates, key=lambda c: c.worker.num_inflight_tokens)),
        )

    log = Log(counts=counts, load=load)
    log.hear(joined("a"), joined("b"))
    for n in range(20):
        counts["a" if n % 3 else "b"] += 17
        log.hear(arrived(n, f"r{n}"))
    assert log.replayed() == log.commands
    for record in log.records:
        del record[4:]
    with pytest.raises(DivergenceError):
        log.replayed()


def test_what_the_watch_found_is_an_input():
    class Impatient:
        def __init__(self):
            self.num = 0

        def enter(self):
            self.num += 1
            if self.num == 30:
                raise PolicyInterrupted

        def exit(self):
            return self.num % 4 == 0

    log = busy(Log(watch=Impatient(), guard_failures=20, guard_window=20))
    retired = [c for commands in log.commands for c in commands if isinstance(c, PolicySetRetired)]
    assert "interrupted" in retired[0].reason
    assert log.replayed() == log.commands


def test_a_worker_that_joins_again_starts_counting_anew():
    """Its old count must not come back where the new one, still 0, was read without a change to be logged."""
    counts = {}

    def load(pool, generation, sources):
        least = Calls(route=lambda r, candidates, p: min(candidates, key=lambda c: c.worker.num_inflight_tokens))
        return PolicySet(generation, least)

    log = Log(counts=counts, load=load)
    log.hear(joined("a"), joined("b"), arrived(1, "r1"))
    counts["a"] = 500
    log.hear(arrived(2, "r2"), arrived(3, "r3"), WorkerLeft(4, "a"), joined("a", time=5))
    counts["a"] = 0
    log.hear(PolicySetReplaced(6, "p", PolicySet.builtin(2)), arrived(7, "x1"), arrived(7, "x2"), arrived(7, "x3"))
    log.hear(PolicySetReplaced(8, "p", load("p", 3, ())), *(arrived(9 + n, f"y{n}") for n in range(6)))
    assert log.replayed() == log.commands


def test_a_worker_that_serves_another_model_goes_on_counting():
    counts = {}

    def load(pool, generation, sources):
        least = Calls(route=lambda r, candidates, p: min(candidates, key=lambda c: c.worker.num_inflight_tokens))
        return PolicySet(generation, least)

    log = Log(counts=counts, load=load)
    log.hear(joined("a"), joined("b"), arrived(1, "r1"), arrived(1, "r2"))
    counts["a"] = 500
    log.hear(arrived(2, "r3"), joined("a", time=3, models=("m", "adapter")))
    log.hear(*(arrived(4, f"s{n}") for n in range(40)))
    assert log.replayed() == log.commands


def test_a_divergence_in_commands_names_its_event():
    log = busy(Log(load=lambda pool, generation, sources: PolicySet(generation, AtMost(5))))
    index = next(i for i, record in enumerate(log.records) if record[1] == "RequestArrived" and record[3])
    log.records[index][3][0][2] = "elsewhere"
    with pytest.raises(DivergenceError, match=f"event {log.records[index][0]}, RequestArrived .*elsewhere"):
        log.replayed()


def test_a_divergence_in_state_alone_is_found_at_the_next_checkpoint():
    log = busy(Log(every=10, load=lambda pool, generation, sources: PolicySet(generation, AtMost(50))))
    index = next(i for i, record in enumerate(log.records) if record[0] == 25 and record[1] != "checkpoint")
    assert log.records[index][1] == "RequestArrived"
    log.records[index][2][6] += 1  # a prompt token more: the same decisions, another state
    with pytest.raises(DivergenceError, match=r"after event 30 .* agreed was 20"):
        log.replayed()


def test_a_marked_gap_ends_the_replay_clearly():
    log = busy(Log())
    log.records[10:20] = [encode_gap(19, 9)]
    seen = replay(log.header, log.records, choosy)
    with pytest.raises(LogGapError, match="9 records up to number 19 were not kept"):
        for _ in seen:
            pass


def test_a_missing_record_is_noticed():
    log = busy(Log(every=1000))
    del log.records[10]
    with pytest.raises(LogGapError, match="record 11 is missing: the next one is number 12"):
        log.replayed()


def test_an_event_that_was_refused_is_no_record():
    log = Log().hear(joined("a"), arrived(1, "r"))
    dispatcher = log._dispatcher
    with pytest.raises(ValueError, match="in flight already"):
        dispatcher.handle(arrived(2, "r"))
    assert log._recorder.records(arrived(2, "r"), []) == []
    log.hear(arrived(3, "s"))
    assert log.replayed() == log.commands


def test_a_setting_that_an_older_log_does_not_have_takes_its_default():
    log = Log().hear(joined("a"), arrived(1, "r"), arrived(2, "s"))
    for pool in log.header["pools"]:
        del pool["max_turned_away"], pool["retry_floor"]
    assert log.replayed() == log.commands


@pytest.mark.parametrize("header", [{}, {"format": 99, "pools": []}, {"format": 1, "pools": [{"name": "p"}]}])
def test_another_format_is_refused(header):
    with pytest.raises(LogFormatError):
        list(replay(header, [], choosy))


@pytest.mark.parametrize(
    "record", [[1, "Nothing", [], []], [1, "Ticked", [1, 2, 3], []], [1, "Ticked"], [1], 5, None, "text", {"a": 1}]
)
def test_what_is_no_event_is_refused(record):
    with pytest.raises(LogFormatError, match=r"is no (event|record) of format 1"):
        list(replay(encode_header([PoolConfig("p")]), [record], choosy))
