"""How often a checkpoint is written, and when it has a state."""

from __future__ import annotations

from itertools import pairwise

from gateway.core.checkpoints import Checkpoints, encode_state
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import PolicySetReplaced, RequestArrived, Ticked, WorkerJoined
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig


def written(num_requests: int, num_events: int, every: int) -> list[list[object]]:
    dispatcher = Dispatcher([PoolConfig("p")])
    checkpoints, records = Checkpoints(dispatcher, every), []
    arrivals = [RequestArrived(1.0, f"r{n}", "m") for n in range(num_requests)]
    ticks = [Ticked(float(n)) for n in range(num_events)]
    for event in (WorkerJoined(0.0, "a", "p"), *arrivals, *ticks):
        dispatcher.handle(event)
        assert checkpoints.next_number() == dispatcher.num_events
        if (record := checkpoints.due()) is not None:
            records.append(record)
    return records


def test_a_state_is_written_when_the_records_since_outweigh_it() -> None:
    assert [len(record) for record in written(0, 300, 100)] == [4, 4, 4]
    busy = written(100, 6_000, 100)  # each of the 100 in flight weighs as six records, four times over
    assert {record[0] for record in busy if len(record) == 4} == {2_500, 5_000}


class Learned:
    def __init__(self) -> None:
        self.table = {f"tenant {n}": [n, n] for n in range(2_000)}

    def admit(self, request: object, pool: object) -> bool:
        return True

    def key(self, request: object) -> float:
        return 0.0


def test_what_policies_remember_weighs_too_once_it_is_known() -> None:
    dispatcher = Dispatcher([PoolConfig("p")])
    checkpoints, with_state = Checkpoints(dispatcher, every=500), []
    dispatcher.handle(PolicySetReplaced(0.0, "p", PolicySet(1, scheduling=Learned())))
    for n in range(12_000):
        dispatcher.handle(Ticked(float(n)))
        checkpoints.next_number()
        record = checkpoints.due()
        if record is not None and len(record) == 4:
            with_state.append(record[0])
    in_records = 2_000 * 7 / 20  # of each entry: itself, its key, the list, the word for it and two numbers
    assert with_state[0] == 500
    gaps = [after - before for before, after in pairwise(with_state)]
    assert len(gaps) >= 3
    assert all(4 * 0.7 * in_records <= gap <= 4 * in_records + 500 for gap in gaps)


def test_an_event_that_was_refused_has_no_number() -> None:
    checkpoints = Checkpoints(Dispatcher([PoolConfig("p")]))
    assert checkpoints.next_number() == 0


class Keeps:
    def __init__(self) -> None:
        self.kept = (value for value in "ab")

    def admit(self, request: object, pool: object) -> bool:
        return True

    def key(self, request: object) -> float:
        return 0.0


def test_where_there_is_no_state_it_says_why() -> None:
    dispatcher = Dispatcher([PoolConfig("p")])
    dispatcher.handle(PolicySetReplaced(0.0, "p", PolicySet(1, scheduling=Keeps())))
    assert encode_state(dispatcher) == "a policy's own state cannot be told: Keeps holds a generator"
