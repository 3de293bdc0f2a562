"""Decision records out of a real dispatcher."""

from __future__ import annotations

import orjson

from gateway.core.dispatcher import Dispatcher
from gateway.core.events import (
    ClientLeft,
    Event,
    FirstTokenSeen,
    PolicySetReplaced,
    RequestArrived,
    RequestEnded,
    WorkerJoined,
)
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from gateway.telemetry.decisions import Decisions
from policies.loader import load_policies, parse_specs


class Bench:
    def __init__(self, max_per_second: float = 1000.0, keep: int = 10, specs: str = "least_tokens") -> None:
        self.dispatcher = Dispatcher([PoolConfig("p", max_queue_requests=0)])
        self.written: list[bytes] = []
        self.decisions = Decisions(self.dispatcher.pools, max_per_second, keep, self.written.append)
        policy_set = PolicySet.of(load_policies(parse_specs(specs), 0, 3), 3)
        self.tell(PolicySetReplaced(0.0, "p", policy_set))

    def tell(self, *events: Event) -> None:
        for event in events:
            self.decisions.event_handled(event, {}, self.dispatcher.handle(event))


def arrived(request_id: str, time: float = 1.0) -> RequestArrived:
    return RequestArrived(time, request_id, "m", num_prompt_tokens=100)


def test_a_decision_tells_who_what_why_and_how_it_ended() -> None:
    bench = Bench()
    bench.tell(WorkerJoined(0.0, "a", "p"), WorkerJoined(0.0, "b", "p"))
    bench.tell(arrived("r1"), arrived("r2"), FirstTokenSeen(1.5, "r2"), RequestEnded(3.0, "r2", "completed", 7))
    second, first = bench.decisions.latest(10)
    assert (first["request_id"], first["why"]) == ("r1", "candidates equal in every value the policy names")
    assert second["policy"] == "routing/least_tokens" and second["generation"] == 3
    assert second["chosen"] != first["chosen"]
    assert second["candidates"][first["chosen"]]["num_inflight_tokens"] == 100
    assert second["candidates"][second["chosen"]]["num_inflight_tokens"] == 0
    assert "lowest num_inflight_tokens of 2" in second["why"]
    assert second["request"]["num_prompt_tokens"] == 100
    assert second["outcome"] == {
        "seconds_to_first_token": 0.5,
        "ended": "completed",
        "seconds": 2.0,
        "num_output_tokens": 7,
    }
    assert [orjson.loads(line)["request_id"] for line in bench.written] == ["r2"]


def test_one_that_left_and_one_that_was_turned_away() -> None:
    bench = Bench()
    bench.tell(arrived("early"), WorkerJoined(1.0, "a", "p"), arrived("r1", 2.0), ClientLeft(2.5, "r1"))
    left, early = bench.decisions.latest(10)
    assert (early["decision"], early["reason"]) == ("reject", "no_worker")
    assert left["outcome"] == {"ended": "cancelled", "seconds": 0.5}
    assert len(bench.written) == 2


def test_their_number_is_bounded_by_the_clock_and_by_memory() -> None:
    bench = Bench(max_per_second=2.0, keep=3)
    bench.tell(WorkerJoined(0.0, "a", "p"))
    for number in range(100):
        bench.tell(arrived(f"r{number}", 10.0 + number / 50))
    assert len(bench.decisions.latest(100)) == 3
    bench.decisions.close()
    assert 3 <= len(bench.written) <= 6


def test_off_is_off() -> None:
    bench = Bench(max_per_second=0.0)
    bench.tell(WorkerJoined(0.0, "a", "p"), arrived("r"))
    assert bench.decisions.latest(10) == []
