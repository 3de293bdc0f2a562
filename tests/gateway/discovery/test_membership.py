"""Which workers exist, told as events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.config import WorkerSection
from gateway.core.events import Event, WorkerDraining, WorkerJoined, WorkerLeft, WorkerMetrics
from gateway.discovery.membership import Membership
from gateway.discovery.static import StaticWorkers
from gateway.errors import WorkerRefusedError


def worker(number: int, **fields: object) -> WorkerSection:
    return WorkerSection(url=f"http://x:{number}", pool="p", **fields)  # type: ignore[arg-type]


class Parts:
    """The membership's neighbours: the data plane's table, the scraper, the dispatcher's counts."""

    def __init__(self, drain_seconds: float = 30.0) -> None:
        self.said: list[Event | str] = []
        self.table: dict[str, str] = {}
        self.watched: set[str] = set()
        self.in_flight: dict[str, int] = {}
        self.membership = Membership(
            self.said.append,
            lambda: 1.0,
            self,
            in_flight=lambda worker_id: self.in_flight.get(worker_id, 0),
            left=lambda worker_id: self.said.append(f"gone {worker_id}"),
            drain_seconds=drain_seconds,
        )
        self.membership.attach(self)

    def add_worker(self, worker_id: str, url: str, api_key: str | None = None) -> None:
        self.table[worker_id] = url

    def remove_worker(self, worker_id: str) -> None:
        del self.table[worker_id]

    def watch(self, worker: WorkerSection) -> None:
        self.watched.add(worker.worker_id)

    async def forget(self, worker_id: str) -> None:
        self.watched.discard(worker_id)

    def joins(self, *numbers: int) -> None:
        for number in numbers:
            self.membership.joined(self.membership.members[f"x:{number}"].worker, ("m",), None)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_a_worker_joins_when_it_answers_with_what_is_known_of_it() -> None:
    parts = Parts()
    parts.membership.apply("static", [worker(1, kv_capacity_tokens=100, max_num_seqs=8, variant="v")])
    assert (parts.table, parts.watched, parts.said) == ({"x:1": "http://x:1"}, {"x:1"}, [])
    member = parts.membership.members["x:1"]
    parts.membership.joined(member.worker, ("m",), WorkerMetrics(kv_capacity_tokens=200))
    known = WorkerMetrics(kv_capacity_tokens=200, max_num_seqs=8)
    assert parts.said == [WorkerJoined(1.0, "x:1", "p", "v", ("m",), known)]
    parts.membership.joined(member.worker, ("m", "adapter"), None)
    assert isinstance(parts.said[1], WorkerJoined) and parts.said[1].models == ("m", "adapter")
    parts.membership.drain("x:1")
    parts.membership.joined(member.worker, ("m",), None)
    assert parts.said[2:] == [WorkerDraining(1.0, "x:1")]


async def test_one_that_is_no_longer_wanted_is_drained_first() -> None:
    parts = Parts()
    parts.membership.apply("file", [worker(1), worker(2)])
    parts.joins(1, 2)
    parts.in_flight["x:1"] = 1
    parts.membership.apply("file", [worker(2)])
    await parts.until(lambda: WorkerDraining(1.0, "x:1") in parts.said)
    assert "x:1" in parts.table
    parts.in_flight["x:1"] = 0
    await parts.until(lambda: "x:1" not in parts.membership.members)
    assert parts.said[-2:] == [WorkerLeft(1.0, "x:1"), "gone x:1"]
    assert list(parts.table) == ["x:2"]


async def test_one_that_never_joined_goes_without_a_word_to_the_dispatcher() -> None:
    parts = Parts()
    parts.membership.apply("file", [worker(1)])
    parts.membership.apply("file", [])
    await parts.until(lambda: not parts.membership.members)
    assert parts.said == ["gone x:1"]


async def test_sources_do_not_touch_each_others_workers() -> None:
    parts = Parts()
    parts.membership.apply("static", [worker(1)])
    parts.membership.apply("file", [worker(2)])
    parts.membership.add(worker(3))
    parts.membership.apply("file", [])
    await parts.until(lambda: len(parts.membership.members) == 2)
    assert sorted(parts.membership.members) == ["x:1", "x:3"]


async def test_a_worker_that_changes_leaves_and_comes_back() -> None:
    parts = Parts()
    parts.membership.apply("file", [worker(1)])
    parts.joins(1)
    parts.membership.apply("file", [worker(1, variant="new")])
    await parts.until(
        lambda: parts.membership.members.get("x:1") and parts.membership.members["x:1"].state == "connecting"
    )
    assert parts.membership.members["x:1"].worker.variant == "new"
    assert [type(e) for e in parts.said[:3]] == [WorkerJoined, WorkerDraining, WorkerLeft]


async def test_a_drain_has_an_end() -> None:
    parts = Parts(drain_seconds=0.0)
    parts.membership.add(worker(1))
    parts.joins(1)
    parts.in_flight["x:1"] = 1
    await parts.membership.remove("x:1")
    assert WorkerLeft(1.0, "x:1") in parts.said


async def test_what_cannot_be_is_refused() -> None:
    parts = Parts()
    parts.membership.add(worker(1))
    with pytest.raises(WorkerRefusedError, match="x:1 is there already"):
        parts.membership.add(worker(1))
    with pytest.raises(WorkerRefusedError, match="no worker is called x:9"):
        parts.membership.remove("x:9")


async def test_the_static_source_says_it_once() -> None:
    source = StaticWorkers([worker(1)])
    assert [workers async for workers in source.snapshots()] == [(worker(1),)]


async def test_closing_ends_removals_under_way() -> None:
    parts = Parts()
    parts.membership.add(worker(1))
    parts.joins(1)
    parts.in_flight["x:1"] = 1
    removal = parts.membership.remove("x:1")
    await parts.membership.close()
    assert removal.cancelled()
