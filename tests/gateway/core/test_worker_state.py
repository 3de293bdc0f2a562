from __future__ import annotations

import pytest

from gateway.core.events import ClientLeft, FirstTokenSeen, MetricsScraped, RequestEnded, Ticked, WorkerMetrics
from gateway.core.worker_state import CandidateSet
from tests.support.core_policies import Calls, arrived, completed, dispatcher, failed, joined, play, sized


class Seen:
    """A dispatcher of one worker ``a`` and what a policy is shown of it at each decision."""

    def __init__(self, metrics=None, **config):
        self.counts = {}
        self.worker = None

        def route(request, candidates, pool):
            self.worker = candidates[0].worker
            self.snapshot = {name: getattr(self.worker, name) for name in type(self.worker).__slots__}
            return candidates[0] if request.request_id != "look" else None

        self.dispatcher = dispatcher(routing=Calls(route=route), output_tokens=self.counts, **config)
        self.dispatcher.handle(joined("a", metrics=metrics))

    def hear(self, *events):
        play(self.dispatcher, *events)

    def look(self, now):
        """As a policy sees the worker at this time."""
        self.dispatcher.handle(arrived(now, "look"))
        self.dispatcher.handle(ClientLeft(now, "look"))
        return self.snapshot

    @property
    def state(self):
        return self.dispatcher.pools["p"].workers["a"]


def test_prompts_and_prefills_are_counted_from_dispatch_to_first_token_and_end():
    seen = Seen()
    seen.hear(arrived(1, "r1", tokens=10), arrived(2, "r2", tokens=7))
    look = seen.look(3)
    assert (look["num_inflight_requests"], look["num_inflight_prompt_tokens"]) == (2, 17)
    assert look["num_inflight_prefill_tokens"] == 17
    seen.hear(FirstTokenSeen(4, "r1"))
    assert seen.look(4)["num_inflight_prefill_tokens"] == 7
    seen.hear(completed(5, "r1"), completed(6, "r2"))
    look = seen.look(7)
    assert [look[name] for name in look if name.startswith("num_inflight")] == [0, 0, 0, 0]


def test_output_so_far_is_read_when_a_decision_is_due():
    seen = Seen()
    seen.hear(arrived(1, "r1", tokens=10), arrived(2, "r2", tokens=7))
    seen.counts["a"] = 30
    assert seen.look(3)["num_inflight_tokens"] == 47
    seen.counts["a"] = 45
    seen.hear(RequestEnded(4, "r1", "completed", 25))
    assert seen.look(5)["num_inflight_tokens"] == 7 + 20


def test_a_drift_of_the_counts_never_shows_as_less_than_the_prompts():
    seen = Seen()
    seen.hear(arrived(1, "r1", tokens=10), arrived(2, "r2", tokens=7))
    seen.counts["a"] = 30
    seen.hear(RequestEnded(4, "r1", "completed", 50))
    assert seen.look(5)["num_inflight_tokens"] == 7
    seen.counts["a"] = 34
    assert seen.look(6)["num_inflight_tokens"] == 11


def test_a_drift_ends_when_nothing_is_in_flight():
    seen = Seen()
    seen.hear(arrived(1, "r1", tokens=10))
    seen.counts["a"] = 30
    seen.hear(RequestEnded(4, "r1", "completed", 20))
    assert seen.look(5)["num_inflight_tokens"] == 0
    seen.hear(arrived(6, "r2", tokens=3))
    seen.counts["a"] = 31
    assert seen.look(7)["num_inflight_tokens"] == 4


def test_what_a_client_that_left_had_been_given_is_taken_off():
    seen = Seen()
    seen.hear(arrived(1, "r1", tokens=10), arrived(2, "r2", tokens=7))
    seen.counts["a"] = 30
    seen.hear(ClientLeft(3, "r1", num_output_tokens=12))
    assert seen.look(4)["num_inflight_tokens"] == 7 + 18


def test_counts_are_not_read_for_a_policy_that_does_not_use_them():
    class Untouchable(dict):
        def get(self, *arguments):
            raise AssertionError("read without need")

    d = dispatcher(
        "a",
        routing=Calls(route=lambda request, views, pool: views[0]),
        reads=frozenset({"num_inflight_requests"}),
        output_tokens=Untouchable(x=1),
    )
    play(d, arrived(1, "r"), FirstTokenSeen(2, "r"), completed(3, "r"), Ticked(4))


def test_remaining_output_is_what_was_expected_less_what_came():
    seen = Seen(prior_output_tokens=100.0)
    seen.hear(arrived(1, "r1"), arrived(1, "r2", max_tokens=40))
    assert seen.look(2)["expected_remaining_tokens"] == pytest.approx(140)
    seen.counts["a"] = 60
    assert seen.look(3)["expected_remaining_tokens"] == pytest.approx(80)
    seen.counts["a"] = 600
    assert seen.look(4)["expected_remaining_tokens"] == 0.0


class TestUnstreamed:
    def test_the_first_token_is_taken_as_made_when_it_usually_is(self):
        seen = Seen()
        seen.hear(arrived(0, "s"), FirstTokenSeen(2, "s"), completed(3, "s"))
        seen.hear(arrived(10, "r", tokens=9, stream=False))
        assert seen.look(11.9)["num_inflight_prefill_tokens"] == 9
        assert seen.look(12.0)["num_inflight_prefill_tokens"] == 0
        seen.hear(completed(13, "r"))
        assert seen.state.prefill_tokens == 0

    def test_one_that_ended_before_is_not_taken_off_twice(self):
        seen = Seen()
        seen.hear(arrived(0, "s"), FirstTokenSeen(2, "s"), completed(3, "s"))
        seen.hear(arrived(10, "r", tokens=9, stream=False), completed(10.5, "r"), arrived(11, "q", tokens=4))
        assert seen.look(20)["num_inflight_prefill_tokens"] == 4

    def test_a_retry_at_the_same_worker_begins_anew(self):
        seen = Seen()
        seen.hear(arrived(0, "s"), FirstTokenSeen(2, "s"), completed(3, "s"))
        seen.hear(arrived(10, "r", tokens=9, stream=False), failed(11, "r"))
        assert seen.look(12.5)["num_inflight_prefill_tokens"] == 9
        assert seen.look(13)["num_inflight_prefill_tokens"] == 0

    def test_until_a_first_token_was_ever_seen_nothing_is_taken_as_made(self):
        seen = Seen()
        seen.hear(arrived(0, "r", tokens=9, stream=False))
        assert seen.look(1000)["num_inflight_prefill_tokens"] == 9

    def test_what_the_pool_learned_does_for_a_new_worker(self):
        seen = Seen()
        seen.hear(arrived(0, "s"), FirstTokenSeen(2, "s"), completed(3, "s"))
        seen.hear(joined("a", time=4), arrived(10, "r", tokens=9, stream=False))
        assert seen.look(12)["num_inflight_prefill_tokens"] == 0

    def test_nobody_asking_does_not_pile_them_up(self):
        d = dispatcher("a")
        play(d, arrived(0, "s"), FirstTokenSeen(1, "s"), completed(1, "s"))
        for n in range(1000):
            play(d, arrived(2 + n, f"r{n}", stream=False), completed(2.5 + n, f"r{n}"))
        assert len(d.pools["p"].workers["a"].unstreamed) < 5


class TestScrape:
    def test_what_the_worker_said(self):
        seen = Seen()
        assert seen.look(1)["metrics_age"] == float("inf")
        seen.hear(MetricsScraped(5, "a", WorkerMetrics(3, 2, 0.5, 1600, 32, 64), 4.5))
        look = seen.look(6)
        names = ("num_requests_running", "num_requests_waiting", "kv_capacity_tokens", "block_size", "max_num_seqs")
        assert [look[name] for name in names] == [3, 2, 1600, 32, 64]
        assert look["metrics_age"] == pytest.approx(1.5)
        assert look["kv_cache_usage"] == pytest.approx(0.5)

    def test_what_it_did_not_say_stays(self):
        seen = Seen(sized(1000))
        seen.hear(MetricsScraped(5, "a", WorkerMetrics(num_requests_running=1), 5))
        assert seen.look(6)["kv_capacity_tokens"] == 1000

    def test_usage_moves_with_what_is_dispatched_and_ends_after_it(self):
        seen = Seen(sized(1000))
        seen.hear(arrived(1, "r1", tokens=100), MetricsScraped(2, "a", WorkerMetrics(kv_cache_usage=0.3), 2))
        seen.hear(arrived(3, "r2", tokens=200))
        assert seen.look(4)["kv_cache_usage"] == pytest.approx(0.5)
        seen.counts["a"] = 50
        assert seen.look(5)["kv_cache_usage"] == pytest.approx(0.55)
        seen.hear(RequestEnded(6, "r1", "completed", 50))
        assert seen.look(7)["kv_cache_usage"] == pytest.approx(0.4)

    def test_it_stays_between_nothing_and_all(self):
        seen = Seen(sized(100))
        seen.hear(arrived(1, "r1", tokens=90), MetricsScraped(2, "a", WorkerMetrics(kv_cache_usage=0.1), 2))
        seen.hear(completed(3, "r1"))
        assert seen.look(4)["kv_cache_usage"] == 0.0
        seen.hear(arrived(5, "r2", tokens=5000))
        assert seen.look(6)["kv_cache_usage"] == 1.0

    def test_a_scrape_that_comes_late_does_not_undo_what_was_dispatched_since(self):
        """A burst between scrapes must not look like an idle worker when an old answer comes in."""
        seen = Seen(sized(1000))
        seen.hear(arrived(1, "r1", tokens=100))
        seen.hear(arrived(5, "r2", tokens=300), MetricsScraped(6, "a", WorkerMetrics(kv_cache_usage=0.1), 4.0))
        assert seen.look(7)["kv_cache_usage"] == pytest.approx(0.4)

    def test_an_older_scrape_than_the_last_is_not_heard(self):
        seen = Seen(sized(1000))
        seen.hear(MetricsScraped(6, "a", WorkerMetrics(kv_cache_usage=0.5), 6.0))
        seen.hear(MetricsScraped(7, "a", WorkerMetrics(kv_cache_usage=0.1), 5.0))
        assert seen.look(8)["kv_cache_usage"] == pytest.approx(0.5)

    def test_before_the_first_it_is_what_is_in_flight(self):
        seen = Seen(sized(1000))
        seen.hear(arrived(1, "r1", tokens=250))
        assert seen.look(2)["kv_cache_usage"] == pytest.approx(0.25)


def test_latencies_are_learned_from_streams():
    seen = Seen()
    assert seen.look(0)["ttft_ewma"] == 0.0
    seen.hear(arrived(1, "r"), FirstTokenSeen(3, "r"), completed(5, "r", tokens=5))
    look = seen.look(6)
    assert (look["ttft_ewma"], look["tpot_ewma"]) == (pytest.approx(2.0), pytest.approx(0.5))


def test_candidates_without_some_unless_none_would_remain():
    d = dispatcher("a", "b", "c")
    candidates = d.pools["p"].candidates("m")
    assert [state.worker_id for state in candidates.without(("a", "c")).states] == ["b"]
    assert candidates.without(("a", "b", "c")) is candidates
    assert candidates.without(("gone",)) is candidates


@pytest.mark.parametrize(
    ("capacities", "tokens", "answer"), [((10, 20), 21, True), ((10, 20), 20, False), ((10, 0), 99, False)]
)
def test_what_fits_nowhere(capacities, tokens, answer):
    d = dispatcher()
    for n, capacity in enumerate(capacities):
        d.handle(joined(f"w{n}", metrics=sized(capacity)))
    assert CandidateSet(d.pools["p"].candidates("m").states).all_smaller_than(tokens) is answer
