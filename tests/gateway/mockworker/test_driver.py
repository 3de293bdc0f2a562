from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from gateway.mockworker.driver import Driver
from gateway.mockworker.engine import Engine, EngineRequest, RequestStats, TokenRun
from gateway.mockworker.profile import WorkerProfile, load_profile
from tests.support.mock_profile import MILLISECOND_PS, flat_profile

MS_NS = 1_000_000


@dataclass
class Flight:
    request: EngineRequest
    counts: list[int] = field(default_factory=list)
    stats: RequestStats | None = None
    landed: asyncio.Event = field(default_factory=asyncio.Event)

    def tokens(self, count: int) -> None:
        self.counts.append(count)

    def finish(self, count: int, stats: RequestStats) -> None:
        self.counts.append(count)
        self.stats = stats
        self.landed.set()


@dataclass
class Seen:
    runs: list[TokenRun] = field(default_factory=list)

    def observe(self, run: TokenRun, engine: Engine) -> None:
        self.runs.append(run)


class HandClock:
    """Nanoseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 5 * MS_NS

    def __call__(self) -> int:
        return self.now


def flight(request_id: str, output: int = 5, prompt: int = 4) -> Flight:
    return Flight(EngineRequest(request_id, prompt, output))


def driver(profile: WorkerProfile, clock: HandClock, speed: float = 1.0) -> tuple[Driver, Seen]:
    seen = Seen()
    return Driver(Engine(profile.engine, profile), seen, speed, clock_ns=clock), seen


async def test_every_step_hands_out_its_tokens_when_it_ends() -> None:
    clock = HandClock()
    drive, seen = driver(flat_profile(step_ms=10), clock)
    one = flight("a", output=3)
    drive.submit(one)
    for at, tokens in [(9, 0), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3)]:
        clock.now = (5 + at) * MS_NS
        drive.refresh()
        assert sum(one.counts) == tokens, f"after {at} ms"
    assert one.stats is not None and one.stats.finish == 30 * MILLISECOND_PS
    assert [run.num_steps for run in seen.runs] == [1, 1, 1]
    drive.close()


async def test_a_late_wake_up_hands_out_all_it_missed_and_shifts_nothing() -> None:
    clock = HandClock()
    drive, _ = driver(flat_profile(step_ms=10), clock)
    one, other = flight("a", output=10), flight("b", output=4)
    drive.submit(one)
    clock.now += 57 * MS_NS
    drive.submit(other)
    assert sum(one.counts) == 5, "steps that ended before the arrival"
    clock.now += 1000 * MS_NS
    drive.refresh()
    assert one.stats is not None and one.stats.finish == 100 * MILLISECOND_PS
    assert other.stats is not None and other.stats.first_token == 70 * MILLISECOND_PS
    drive.close()


async def test_speed_scales_the_schedule() -> None:
    clock = HandClock()
    drive, _ = driver(flat_profile(step_ms=10), clock, speed=20)
    one = flight("a", output=4)
    drive.submit(one)
    clock.now += 2 * MS_NS
    drive.refresh()
    assert one.landed.is_set(), "40 ms of engine in 2 ms"
    assert one.stats is not None and drive.seconds(one.stats.finish) == pytest.approx(0.002)
    drive.close()


async def test_a_cancelled_request_hears_nothing_more() -> None:
    clock = HandClock()
    drive, _ = driver(flat_profile(step_ms=10), clock)
    one, other = flight("a", output=10), flight("b", output=3)
    drive.submit(one)
    drive.submit(other)
    clock.now += 25 * MS_NS
    stats = drive.cancel("a")
    assert stats is not None and stats.num_output_tokens == 2
    assert drive.cancel("a") is None
    clock.now += 500 * MS_NS
    drive.refresh()
    assert sum(one.counts) == 0, "it was cancelled before its tokens were handed out"
    assert not one.landed.is_set() and other.landed.is_set()
    assert (drive.num_flights, drive.engine.num_running) == (0, 0)
    drive.close()


async def test_what_waits_is_counted_now_and_as_of_the_last_step() -> None:
    clock = HandClock()
    drive, _ = driver(flat_profile(step_ms=10, max_num_seqs=1), clock)
    for name in "abc":
        drive.submit(flight(name, output=2))
    assert (drive.num_queued, drive.reported_num_queued) == (2, 0)
    clock.now += 10 * MS_NS
    drive.refresh()
    assert drive.reported_num_queued == 2
    clock.now += 500 * MS_NS
    drive.refresh()
    assert (drive.num_queued, drive.reported_num_queued) == (0, 0)
    drive.close()


async def test_a_request_that_never_fits_is_refused_and_disturbs_nothing() -> None:
    drive, _ = driver(flat_profile(num_gpu_blocks=2), HandClock())
    with pytest.raises(ValueError, match="do not fit"):
        drive.submit(flight("a", prompt=100))
    assert drive.num_flights == 0
    drive.close()


async def test_real_time_is_virtual_time_to_the_picosecond() -> None:
    """300 requests through the driver's own timers, then their arrivals through an engine that never waits."""
    profile = load_profile("a100-llama3-8b")
    drive = Driver(Engine(profile.engine, profile), Seen(), speed=200.0)
    rng = random.Random(1)
    flights = [flight(f"r{i}", rng.randint(1, 60), rng.randint(1, 800)) for i in range(300)]
    for one in flights:
        drive.submit(one)
        await asyncio.sleep(rng.expovariate(500))
    async with asyncio.timeout(20):
        for one in flights:
            await one.landed.wait()
    drive.close()
    real = {s.request_id: s for s in (one.stats for one in flights) if s is not None}
    assert {one.request.request_id: sum(one.counts) for one in flights} == {
        one.request.request_id: one.request.num_output_tokens for one in flights
    }
    assert real == virtual(profile, [(real[one.request.request_id].arrival, one.request) for one in flights])


def virtual(profile: WorkerProfile, arrivals: list[tuple[int, EngineRequest]]) -> dict[str, RequestStats]:
    engine = Engine(profile.engine, profile)
    runs: list[TokenRun] = []
    for at, request in arrivals:
        runs += engine.advance(at)
        engine.add(request, at)
    while (at_next := engine.next_event_time()) is not None:
        runs += engine.advance(at_next)
    return {stats.request_id: stats for run in runs for stats in run.stats}
