"""Which of a worker's tokens the gateway has seen."""

from __future__ import annotations

from designer.simulator.fleet import plan_workers
from designer.simulator.records import RequestRecord
from designer.simulator.worker import SimulatedWorker
from gateway.core.events import RequestArrived
from gateway.mockworker.engine import PS_PER_SECOND, EngineRequest
from tests.support.contended_scenario import contended_scenario


def worker() -> SimulatedWorker:
    return SimulatedWorker(0, plan_workers(contended_scenario())[0], None)


def record(name: str, *, stream: bool = True, prompt: int = 20) -> RequestRecord:
    return RequestRecord(0, RequestArrived(0.0, name, "", stream=stream), EngineRequest(name, prompt, 200))


def step(sim: SimulatedWorker, seconds: float) -> int:
    now = round(seconds * PS_PER_SECOND)
    sim.advance(now)
    return now


def test_streamed_tokens_are_seen_and_others_are_not() -> None:
    sim, streamed, silent = worker(), record("a"), record("b", stream=False)
    sim.add(streamed, 0)
    sim.add(silent, 0)
    assert sim.unstreamed
    now = step(sim, 1.0)
    assert sim.num_made(silent) > 0
    assert sim.num_tokens_seen(now) == sim.num_made(streamed) > 0


def test_an_answer_that_does_not_stream_counts_once_it_is_complete() -> None:
    sim, silent = worker(), record("b", stream=False)
    sim.add(silent, 0)
    now = step(sim, 1000.0)
    sim.answered(silent)
    assert sim.num_tokens_seen(now) == 200
    assert not sim.unstreamed


def test_tokens_made_after_a_client_left_are_never_seen() -> None:
    sim, leaver = worker(), record("a")
    sim.add(leaver, 0)
    now = step(sim, 1.0)
    seen = sim.client_left(leaver)
    assert seen == sim.num_tokens_seen(now) > 0
    later = step(sim, 2.0)
    sim.abort(leaver, later)
    assert sim.num_tokens_seen(later) == seen
    assert leaver.stats is not None
    assert leaver.stats.num_output_tokens > seen


def test_a_client_that_left_without_streaming_has_seen_nothing() -> None:
    sim, leaver = worker(), record("a", stream=False)
    sim.add(leaver, 0)
    now = step(sim, 1.0)
    assert sim.num_made(leaver) > 0
    assert sim.client_left(leaver) == 0
    sim.abort(leaver, now)
    assert sim.num_tokens_seen(now) == 0


def test_a_breakdown_keeps_what_was_seen_and_forgets_the_rest() -> None:
    sim, streamed, silent, leaver = worker(), record("a"), record("b", stream=False), record("c")
    for one in (streamed, silent, leaver):
        sim.add(one, 0)
    step(sim, 1.0)
    seen = sim.client_left(leaver)
    now = step(sim, 2.0)
    sim.break_down([streamed, silent, leaver], now + 5, hangs=False)
    assert streamed.broken
    assert streamed.stats is not None
    assert sim.num_tokens_seen(now) == streamed.num_seen + seen
    assert sim.num_made_before > sim.num_tokens_seen(now)
    assert (silent.num_seen, len(sim.unstreamed), sim.engine.num_running, sim.up_at) == (0, 0, 0, now + 5)
    again = record("d")
    sim.add(again, now + 5)
    later = step(sim, 3.0)
    assert sim.num_tokens_seen(later) == streamed.num_seen + seen + sim.num_made(again)


def test_what_fits_is_accepted() -> None:
    assert worker().accepts(record("a", prompt=1599))
    assert not worker().accepts(record("a", prompt=1600))


def test_metrics_are_the_engines() -> None:
    sim = worker()
    sim.add(record("a", prompt=160), 0)
    step(sim, 1.0)
    metrics = sim.metrics()
    assert metrics.num_requests_running == 1
    assert metrics.num_requests_waiting == 0
    assert metrics.kv_cache_usage is not None
    assert 0.1 <= metrics.kv_cache_usage < 0.4
