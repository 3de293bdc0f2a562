"""Events in, commands out."""

from __future__ import annotations

import pytest

from gateway.core.commands import Cancel, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import (
    ClientLeft,
    FirstTokenSeen,
    MetricsScraped,
    PolicySetReplaced,
    QueueRekeyed,
    RequestEnded,
    Ticked,
    WorkerDraining,
    WorkerHealthChanged,
    WorkerJoined,
    WorkerLeft,
    WorkerMetrics,
)
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from policies.contract import Dispatched, Finished, FirstToken
from tests.support.core_policies import (
    AtMost,
    Calls,
    First,
    Hold,
    Recorder,
    ShortestFirst,
    arrived,
    completed,
    dispatcher,
    failed,
    joined,
    play,
    sized,
)


def to(request_id: str, worker_id: str, cached: int = 0) -> list[Dispatch]:
    return [Dispatch(request_id, worker_id, cached)]


class TestArrival:
    def test_goes_to_the_worker_with_fewest_in_flight(self):
        d = dispatcher("a", "b")
        assert play(d, arrived(1, "r1"), arrived(1, "r2"), completed(2, "r1"), arrived(3, "r3"), arrived(4, "r4")) == [
            to("r1", "a"),
            to("r2", "b"),
            [],
            to("r3", "a"),
            to("r4", "b"),
        ]

    def test_an_idle_pool_is_used_in_turn(self):
        d = dispatcher("a", "b", "c")
        used = []
        for n in range(6):
            used += [command.worker_id for command in d.handle(arrived(n, f"r{n}"))]
            d.handle(completed(n + 0.5, f"r{n}"))
        assert used == ["a", "b", "c", "a", "b", "c"]

    def test_a_model_that_no_pool_serves_is_unknown(self):
        d = dispatcher("a", models=("m",))
        assert d.handle(arrived(1, "r", model="other")) == [Reject("r", "unknown_model")]

    def test_a_pool_names_its_models_and_another_takes_the_rest(self):
        d = Dispatcher([PoolConfig("named", models=("m",)), PoolConfig("rest")])
        play(d, WorkerJoined(0, "a", "named"), WorkerJoined(0, "b", "rest"))
        assert play(d, arrived(1, "r1"), arrived(1, "r2", model="x")) == [to("r1", "a"), to("r2", "b")]

    def test_a_request_without_a_model_goes_to_the_only_pool(self):
        d = dispatcher("a", models=("m",))
        assert d.handle(arrived(1, "r", model="")) == to("r", "a")

    def test_workers_that_say_which_models_they_serve_are_believed(self):
        d = dispatcher()
        play(d, joined("a", models=("m",)), joined("b", models=("m", "lora")))
        assert play(d, *(arrived(1, f"l{n}", model="lora") for n in range(2)), arrived(1, "x", model="other")) == [
            to("l0", "b"),
            to("l1", "b"),
            [Reject("x", "unknown_model")],
        ]

    def test_no_worker_is_said_at_once_when_none_is_in_sight(self):
        d = dispatcher()
        assert d.handle(arrived(1, "r")) == [Reject("r", "no_worker", 5.0)]

    def test_a_pool_whose_workers_only_drain_has_none_in_sight(self):
        d = dispatcher("a")
        assert play(d, WorkerDraining(1, "a"), arrived(2, "r")) == [[], [Reject("r", "no_worker", 5.0)]]

    def test_it_is_held_while_a_worker_that_serves_it_is_unhealthy(self):
        d = dispatcher("a")
        d.handle(WorkerHealthChanged(1, "a", False))
        assert play(d, arrived(2, "r"), WorkerHealthChanged(3, "a", True)) == [[], to("r", "a")]

    def test_it_is_held_while_a_replica_starts(self):
        d = dispatcher(replicas={"default": (1, 2)})
        assert play(d, Ticked(1), arrived(2, "r"), joined("a", time=3, replica=True)) == [
            [SetReplicas("p", "default", 1)],
            [],
            to("r", "a"),
        ]

    def test_a_passed_deadline_is_refused_at_once(self):
        d = dispatcher("a")
        assert d.handle(arrived(5, "r", deadline=5.0)) == [Reject("r", "deadline", 1.0)]

    def test_an_id_in_flight_twice_is_the_runners_mistake(self):
        d = dispatcher("a")
        d.handle(arrived(1, "r"))
        with pytest.raises(ValueError, match="'r' is in flight already"):
            d.handle(arrived(2, "r"))

    def test_sizes_are_estimated_from_bytes_and_then_learned(self):
        seen = []

        class Look(First):
            def route(self, request, candidates, pool):
                seen.append(request.num_prompt_tokens)
                return candidates[0]

        d = dispatcher("a", routing=Look())
        for n in range(200):
            event = arrived(n, f"r{n}", tokens=None, num_prompt_bytes=4000)
            play(d, event, RequestEnded(n + 0.5, f"r{n}", "completed", 5, num_prompt_tokens=2000))
        assert seen[0] == 1000
        assert seen[-1] == pytest.approx(2000, rel=0.05)


class TestAdmission:
    def test_no_means_shed_with_a_retry_after(self):
        asked = []

        def admit(request, pool):
            asked.append(request.request_id)
            return False

        d = dispatcher("a", scheduling=Calls(admit=admit, key=lambda request: 0))
        assert d.handle(arrived(1, "r")) == [Reject("r", "shed", 1.0)]
        assert asked == ["r"]

    def test_it_is_asked_once_however_long_the_request_is_held_and_not_on_a_swap(self):
        asked = []

        def admit(request, pool):
            asked.append(request.request_id)
            return True

        scheduling = Calls(admit=admit, key=lambda request: 0)
        d = dispatcher("a", routing=Hold(), scheduling=scheduling)
        play(d, arrived(1, "r"), Ticked(2), PolicySetReplaced(3, "p", PolicySet(2, Hold(), scheduling)), Ticked(4))
        assert asked == ["r"]


class TestHolding:
    def test_none_holds_the_head_and_an_end_asks_again(self):
        d = dispatcher("a", routing=AtMost(1))
        assert play(
            d, arrived(1, "r1"), arrived(2, "r2"), arrived(3, "r3"), completed(4, "r1"), completed(5, "r2")
        ) == [
            to("r1", "a"),
            [],
            [],
            to("r2", "a"),
            to("r3", "a"),
        ]

    def test_nothing_behind_the_head_is_asked_about(self):
        asked = []

        def route(request, candidates, pool):
            asked.append(request.request_id)

        d = dispatcher("a", routing=Calls(route=route))
        play(d, arrived(1, "r1"), arrived(2, "r2"), Ticked(3))
        assert asked == ["r1", "r1"]

    def test_an_arrival_that_becomes_the_head_is_asked_about(self):
        asked = []

        def route(request, candidates, pool):
            asked.append(request.request_id)

        d = dispatcher("a", routing=Calls(route=route), scheduling=ShortestFirst())
        play(d, arrived(1, "long", tokens=100), arrived(2, "longer", tokens=200), arrived(3, "short", tokens=1))
        assert asked == ["long", "short"]

    @pytest.mark.parametrize(
        "event",
        [
            FirstTokenSeen(5, "busy"),
            completed(5, "busy"),
            ClientLeft(5, "busy"),
            failed(5, "busy", retriable=False),
            MetricsScraped(5, "a", WorkerMetrics(num_requests_waiting=0), 4.9),
            joined("b", time=5),
            WorkerLeft(5, "c"),
            WorkerHealthChanged(5, "c", False),
            PolicySetReplaced(5, "p", PolicySet(2)),
            Ticked(5),
        ],
        ids=lambda event: type(event).__name__,
    )
    def test_whatever_may_change_capacity_asks_again(self, event):
        open_ = []
        d = dispatcher(
            "a", "c", routing=Calls(route=lambda request, candidates, pool: candidates[0] if open_ else None)
        )
        open_.append(1)
        d.handle(arrived(1, "busy"))
        open_.clear()
        d.handle(arrived(2, "held"))
        open_.append(1)
        assert [command.request_id for command in d.handle(event) if isinstance(command, Dispatch)] == ["held"]

    def test_the_policys_key_orders_what_is_held(self):
        d = dispatcher("a", routing=AtMost(1), scheduling=ShortestFirst())
        play(d, *(arrived(n, f"r{tokens}", tokens=tokens) for n, tokens in enumerate([5, 30, 20, 10])))
        order = [d.handle(completed(10, request))[0].request_id for request in ("r5", "r10", "r20")]
        assert order == ["r10", "r20", "r30"]

    def test_held_to_the_limit_and_no_longer(self):
        d = dispatcher("a", routing=Hold(), max_queue_seconds=10.0)
        assert play(d, arrived(1, "r"), Ticked(10.9), Ticked(11.0), Ticked(12.0)) == [
            [],
            [],
            [Reject("r", "queue_timeout", 10.0)],
            [],
        ]

    def test_past_the_limit_it_is_not_dispatched_even_when_capacity_comes_then(self):
        d = dispatcher("a", routing=AtMost(1), max_queue_seconds=10.0)
        assert play(d, arrived(1, "r1"), arrived(2, "r2"), completed(12.5, "r1")) == [
            to("r1", "a"),
            [],
            [Reject("r2", "queue_timeout", 10.0)],
        ]

    def test_all_its_stays_in_the_queue_together_are_bounded(self):
        d = dispatcher("a", routing=AtMost(1), max_queue_seconds=10.0)
        play(d, arrived(0, "busy"), arrived(1, "r"))
        assert play(d, completed(7, "busy"), arrived(7, "other")) == [to("r", "a"), []]
        d.handle(PolicySetReplaced(8, "p", PolicySet(2, Hold())))
        assert play(d, failed(20, "r"), Ticked(23.9), Ticked(24)) == [
            [Reject("other", "queue_timeout", 10.0)],
            [],
            [Reject("r", "queue_timeout", 10.0)],
        ]

    def test_a_deadline_cuts_the_hold_short(self):
        d = dispatcher("a", routing=Hold(), max_queue_seconds=10.0)
        assert play(d, arrived(1, "r", deadline=3.0), Ticked(3.0)) == [[], [Reject("r", "deadline", 2.0)]]

    def test_the_next_in_line_is_offered_when_the_head_expires(self):
        def route(request, candidates, pool):
            return None if request.request_id == "stuck" else candidates[0]

        d = dispatcher("a", routing=Calls(route=route), max_queue_seconds=10.0)
        assert play(d, arrived(1, "stuck"), arrived(5, "r"), Ticked(11)) == [
            [],
            [],
            [Reject("stuck", "queue_timeout", 10.0), Dispatch("r", "a")],
        ]

    def test_a_queue_of_no_seconds_holds_nothing(self):
        d = dispatcher("a", routing=Hold(), max_queue_seconds=0.0)
        assert d.handle(arrived(1, "r")) == [Reject("r", "queue_timeout", 1.0)]

    def test_bounded_in_requests(self):
        d = dispatcher("a", routing=Hold(), max_queue_requests=1)
        assert play(d, arrived(1, "r1"), arrived(4, "r2")) == [[], [Reject("r2", "queue_full", 3.0)]]

    def test_bounded_in_prompt_tokens(self):
        d = dispatcher("a", routing=Hold(), max_queue_prompt_tokens=100)
        assert play(d, arrived(1, "r1", tokens=60), arrived(1, "r2", tokens=41), arrived(1, "r3", tokens=40)) == [
            [],
            [Reject("r2", "queue_full", 1.0)],
            [],
        ]

    def test_no_bound_applies_to_what_is_dispatched_at_once(self):
        d = dispatcher("a", max_queue_requests=0, max_queue_prompt_tokens=1)
        assert d.handle(arrived(1, "r", tokens=50)) == to("r", "a")

    def test_what_fits_nowhere_goes_to_the_emptiest_worker(self):
        d = dispatcher(routing=AtMost(0))
        play(d, joined("a", metrics=sized(100)), joined("b", metrics=sized(90)))
        assert play(d, arrived(1, "r1", tokens=101), arrived(2, "r2", tokens=300), arrived(3, "r3", tokens=100)) == [
            to("r1", "a"),
            to("r2", "b"),
            [],
        ]

    def test_of_unknown_capacity_nothing_is_said_to_fit_nowhere(self):
        d = dispatcher("a", routing=Hold())
        assert d.handle(arrived(1, "r", tokens=10**9)) == []

    def test_no_other_model_waits_behind_one_without_a_worker(self):
        d = dispatcher(routing=First())
        play(d, joined("a", models=("m",)), joined("b", models=("lora",)), WorkerHealthChanged(1, "b", False))
        assert play(d, arrived(2, "l", model="lora"), arrived(3, "r"), WorkerHealthChanged(4, "b", True)) == [
            [],
            to("r", "a"),
            to("l", "b"),
        ]

    def test_what_is_held_waits_for_a_worker_when_the_last_one_leaves(self):
        d = dispatcher("a", routing=AtMost(1))
        assert play(d, arrived(1, "r1"), arrived(2, "r2"), WorkerLeft(3, "a"), joined("b", time=4)) == [
            to("r1", "a"),
            [],
            [],
            to("r2", "b"),
        ]

    def test_the_next_due_time_is_the_first_limit(self):
        d = dispatcher("a", routing=Hold(), max_queue_seconds=10.0)
        assert d.next_due() is None
        play(d, arrived(1, "r1"), arrived(2, "r2", deadline=5.0))
        assert d.next_due() == 5.0


class TestPriorityAndTenants:
    def test_a_higher_priority_goes_first(self):
        d = dispatcher("a", routing=AtMost(1))
        play(d, arrived(1, "busy"), arrived(2, "low"), arrived(3, "high", priority=1))
        assert play(d, completed(4, "busy"), completed(5, "high")) == [to("high", "a"), to("low", "a")]

    def test_a_flood_of_one_tenant_does_not_starve_another(self):
        d = dispatcher("a", routing=AtMost(1))
        d.handle(arrived(0, "busy"))
        for n in range(5):
            d.handle(arrived(1, f"flood{n}", tenant="flood"))
        d.handle(arrived(2, "quiet", tenant="quiet"))
        order, last = [], "busy"
        for n in range(3):
            last = d.handle(completed(3 + n, last))[0].request_id
            order.append(last)
        assert order == ["flood0", "quiet", "flood1"]


class TestEnd:
    def test_a_failure_before_the_first_byte_goes_to_another_worker(self):
        d = dispatcher("a", "b", routing=First())
        assert play(d, arrived(1, "r"), failed(2, "r"), completed(3, "r")) == [to("r", "a"), to("r", "b"), []]
        assert d.num_requests == 0

    def test_after_some_bytes_it_is_over(self):
        d = dispatcher("a", "b")
        assert play(d, arrived(1, "r"), failed(2, "r", retriable=False)) == [to("r", "a"), []]
        assert d.num_requests == 0

    def test_attempts_are_bounded(self):
        d = dispatcher("a", "b", "c", max_attempts=2)
        assert play(d, arrived(1, "r"), failed(2, "r"), failed(3, "r")) == [
            to("r", "a"),
            to("r", "b"),
            [Reject("r", "attempts", 1.0)],
        ]

    def test_past_its_deadline_it_is_not_tried_again(self):
        d = dispatcher("a", "b")
        assert play(d, arrived(1, "r", deadline=2.0), failed(2, "r")) == [to("r", "a"), [Reject("r", "deadline", 1.0)]]

    def test_the_only_worker_is_tried_again(self):
        d = dispatcher("a")
        assert play(d, arrived(1, "r"), failed(2, "r")) == [to("r", "a"), to("r", "a")]

    def test_the_policy_sees_the_attempts(self):
        seen = []

        def route(request, candidates, pool):
            seen.append((request.num_attempts, [c.worker.worker_id for c in candidates]))
            return candidates[0]

        d = dispatcher("a", "b", routing=Calls(route=route))
        play(d, arrived(1, "r"), failed(2, "r"))
        assert seen == [(0, ["a", "b"]), (1, ["b"])]

    def test_a_retry_keeps_its_place_before_later_arrivals(self):
        d = dispatcher("a", "b", routing=AtMost(1))
        play(d, arrived(1, "r1"), arrived(1, "r2"), arrived(2, "late"))
        assert play(d, failed(3, "r1"), completed(4, "r2")) == [[], [Dispatch("r1", "b"), Dispatch("late", "a")]]

    def test_a_full_worker_is_left_alone_for_a_while(self):
        d = dispatcher("a", "b", routing=First())
        full = RequestEnded(2, "r1", "rejected", retriable=True)
        assert play(d, arrived(1, "r1"), full, arrived(2.5, "r2"), arrived(3.1, "r3")) == [
            to("r1", "a"),
            to("r1", "b"),
            to("r2", "b"),
            to("r3", "a"),
        ]

    def test_when_all_are_full_it_is_held_until_one_may_have_room(self):
        d = dispatcher("a")
        full = RequestEnded(2, "r", "rejected", retriable=True)
        assert play(d, arrived(1, "r"), full, Ticked(2.9), Ticked(3.0)) == [to("r", "a"), [], [], to("r", "a")]

    def test_an_answer_ends_the_rest_of_a_full_worker(self):
        d = dispatcher("a")
        full = RequestEnded(2, "r1", "rejected", retriable=True)
        play(d, arrived(1, "r0"), arrived(1, "r1"), full)
        assert d.handle(completed(2.1, "r0")) == to("r1", "a")

    def test_back_pressure_is_no_failed_attempt(self):
        d = dispatcher("a", max_turned_away=6)
        d.handle(arrived(0, "r"))
        for n in range(1, 6):
            assert d.handle(RequestEnded(2 * n, "r", "rejected", retriable=True)) == []
            assert d.handle(Ticked(2 * n + 1)) == to("r", "a")
        assert d.pools["p"].in_flight["r"].request.num_attempts == 0
        assert d.handle(RequestEnded(12, "r", "rejected", retriable=True)) == [Reject("r", "attempts", 1.0)]

    def test_a_full_worker_is_given_one_at_a_time_until_it_begins_to_answer(self):
        d = dispatcher("a")
        play(d, *(arrived(0, f"r{n}") for n in range(2)), RequestEnded(1, "r0", "rejected", retriable=True))
        play(d, *(arrived(1, f"s{n}") for n in range(9)))
        assert d.handle(Ticked(2)) == to("r0", "a")
        assert d.handle(Ticked(2.9)) == []
        assert d.handle(FirstTokenSeen(2.9, "r0")) == to("s0", "a")
        assert d.handle(ClientLeft(2.9, "r1"))[1:] == to("s1", "a")
        assert d.handle(completed(2.9, "r0")) == to("s2", "a")
        assert d.handle(Ticked(3.8)) == []
        assert d.handle(Ticked(3.9)) == to("s3", "a")

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_burst_at_full_workers_is_served_whole(self, stream):
        """Each takes two at a time and turns away the rest, as vLLM does with --max-num-queued-reqs."""
        d, places, num_turned_away = dispatcher("a", "b"), {"a": [], "b": []}, 0
        ended = []
        todo = [arrived(0, f"r{n}", stream=stream) for n in range(60)]
        for step in range(100_000):
            now = step / 100
            if not todo:
                done = places["ab"[step % 2]]
                todo = [completed(now, done.pop(0))] if done and not step % 5 else [Ticked(now)]
            for command in d.handle(todo.pop(0)):
                assert isinstance(command, Dispatch)
                place = places[command.worker_id]
                if len(place) < 2:
                    place.append(command.request_id)
                    ended.append(command.request_id)
                    todo += [FirstTokenSeen(now, command.request_id)] if stream else []
                else:
                    num_turned_away += 1
                    todo.append(RequestEnded(now, command.request_id, "rejected", retriable=True))
            if not d.num_requests:
                break
        assert sorted(ended) == sorted(f"r{n}" for n in range(60))
        assert num_turned_away < 2 * 60

    def test_a_worker_that_fails_fast_is_no_black_hole(self):
        """It has fewest in flight at every arrival, and yet gets few of them."""
        d = dispatcher("good", "bad")
        at_bad = 0
        for n in range(100):
            [command] = d.handle(arrived(n * 0.01, f"r{n}"))
            while command.worker_id == "bad":
                at_bad += 1
                [command] = d.handle(failed(n * 0.01, command.request_id))
        assert at_bad == 3

    def test_an_answer_between_failures_clears_the_worker(self):
        d = dispatcher("a", "b", routing=First())
        for n in range(12):
            assert d.handle(arrived(n, f"r{n}")) == to(f"r{n}", "a")
            d.handle(completed(n, f"r{n}") if n % 3 == 2 else failed(n, f"r{n}", retriable=False))

    def test_failing_workers_are_used_when_there_is_no_other(self):
        d = dispatcher("a", max_attempts=2)
        for n in range(10):
            assert d.handle(arrived(n, f"r{n}")) == to(f"r{n}", "a")
            d.handle(failed(n, f"r{n}", retriable=False))

    def test_unknown_requests_are_ignored_and_counted(self):
        d = dispatcher("a")
        events = [completed(1, "x"), FirstTokenSeen(1, "x"), ClientLeft(1, "x"), WorkerLeft(1, "x")]
        assert play(d, *events, completed(2, "x")) == [[]] * 5
        assert d.num_ignored == {"RequestEnded": 2, "FirstTokenSeen": 1, "ClientLeft": 1, "WorkerLeft": 1}

    def test_a_held_request_cannot_end_at_a_worker(self):
        d = dispatcher("a", routing=Hold())
        assert play(d, arrived(1, "r"), completed(2, "r"), FirstTokenSeen(2, "r")) == [[]] * 3
        assert d.num_requests == 1
        assert d.num_ignored == {"RequestEnded": 1, "FirstTokenSeen": 1}


class TestClientLeft:
    def test_held_it_is_gone_at_once(self):
        d = dispatcher("a", routing=Hold())
        assert play(d, arrived(1, "r"), ClientLeft(2, "r"), Ticked(100)) == [[], [], []]
        assert len(d.pools["p"].queue) == 0

    def test_in_flight_it_is_cancelled_and_its_place_is_free(self):
        d = dispatcher("a", routing=AtMost(1))
        play(d, arrived(1, "r1"), arrived(2, "r2"))
        assert d.handle(ClientLeft(3, "r1")) == [Cancel("r1", "a"), Dispatch("r2", "a")]

    def test_what_is_reported_of_it_later_is_ignored(self):
        d = dispatcher("a")
        assert play(d, arrived(1, "r"), ClientLeft(2, "r"), failed(3, "r")) == [to("r", "a"), [Cancel("r", "a")], []]


class TestWorkers:
    def test_draining_takes_nothing_new_and_finishes_what_it_has(self):
        d = dispatcher("a", "b")
        assert play(d, arrived(1, "r1"), WorkerDraining(2, "a"), arrived(3, "r2"), completed(4, "r1")) == [
            to("r1", "a"),
            [],
            to("r2", "b"),
            [],
        ]
        assert d.pools["p"].workers["a"].num_inflight_requests == 0

    def test_the_requests_of_a_worker_that_left_go_elsewhere_and_nothing_stays_counted(self):
        d = dispatcher("a", "b", routing=First())
        play(d, arrived(1, "r"), WorkerLeft(2, "a"))
        gone = d.pools["p"].in_flight["r"].worker
        assert d.handle(failed(3, "r")) == to("r", "b")
        d.handle(completed(4, "r"))
        assert gone.num_inflight_requests == gone.prompt_tokens == gone.prefill_tokens == 0
        assert not d.pools["p"].in_flight

    def test_one_that_joins_again_is_fresh(self):
        d = dispatcher("a")
        play(d, arrived(1, "r"), WorkerLeft(2, "a"), joined("a", time=3))
        assert d.pools["p"].workers["a"].num_inflight_requests == 0
        d.handle(completed(4, "r"))
        assert d.pools["p"].workers["a"].num_inflight_requests == 0

    def test_one_that_serves_another_model_keeps_its_account(self):
        d = dispatcher("a", "b", routing=AtMost(1))
        play(d, joined("a", time=1, models=("m",)), arrived(2, "r1", tokens=7), arrived(2, "r2"))
        assert d.handle(arrived(3, "tuned", model="tuned")) == []
        d.handle(joined("a", time=4, models=("m", "tuned"), variant="big", metrics=sized(640)))
        (worker, _) = d.pools["p"].pool.workers
        assert (worker.worker_id, worker.variant, worker.kv_capacity_tokens) == ("a", "big", 640)
        assert (worker.num_inflight_requests, worker.num_inflight_prefill_tokens) == (1, 7)
        assert d.handle(completed(5, "r1")) == to("tuned", "a")
        d.handle(completed(6, "tuned"))
        assert d.pools["p"].workers["a"].num_inflight_requests == 0

    def test_one_that_drained_takes_requests_again_when_it_joins(self):
        d = dispatcher("a")
        play(d, WorkerDraining(1, "a"), joined("a", time=2))
        assert d.handle(arrived(3, "r")) == to("r", "a")

    def test_a_pool_that_is_not_configured_is_an_error(self):
        with pytest.raises(ValueError, match="pool 'x' is not configured; known: p"):
            dispatcher().handle(joined("a", pool="x"))


class TestSwap:
    def test_the_queue_is_ordered_anew_and_offered(self):
        d = dispatcher("a", routing=Hold())
        play(d, arrived(1, "long", tokens=9), arrived(2, "short", tokens=1))
        swap = PolicySetReplaced(3, "p", PolicySet(2, AtMost(1), ShortestFirst()))
        assert play(d, swap, completed(4, "short")) == [to("short", "a"), to("long", "a")]
        assert d.pools["p"].policy_set.generation == 2

    def test_new_observers_are_shown_what_is_in_flight(self):
        d = dispatcher("a", "b")
        play(d, arrived(1, "r1", tenant="t"), arrived(2, "r2"), completed(3, "r2"))
        recorder = Recorder()
        d.handle(PolicySetReplaced(4, "p", PolicySet(2, observers=(recorder,))))
        assert recorder.seen == [Dispatched(4, "r1", "a", "t", 10, 0)]

    def test_observers_see_a_request_through(self):
        recorder = Recorder()
        d = dispatcher("a", observers=(recorder,))
        play(d, arrived(1, "r"), FirstTokenSeen(2, "r"), completed(3, "r"), arrived(4, "s"), ClientLeft(5, "s"))
        assert recorder.seen == [
            Dispatched(1, "r", "a", "default", 10, 0),
            FirstToken(2, "r", "a"),
            Finished(3, "r", "a", "completed", 5),
            Dispatched(4, "s", "a", "default", 10, 0),
            Finished(5, "s", "a", "cancelled", 0),
        ]

    def test_a_set_that_keeps_failing_is_retired_for_the_last_good_one(self):
        def route(request, candidates, pool):
            raise KeyError("nothing")

        d = dispatcher("a", "b", routing=First(), guard_failures=2, guard_window=10)
        d.handle(PolicySetReplaced(1, "p", PolicySet(2, Calls(route=route))))
        reason = "2 failures in its last 10 calls; the latest routing: exception: KeyError: 'nothing'"
        assert play(d, arrived(2, "r1"), arrived(3, "r2"), arrived(4, "r3")) == [
            to("r1", "a"),
            [PolicySetRetired("p", 2, 1, reason), Dispatch("r2", "b")],
            to("r3", "a"),
        ]
        assert d.pools["p"].policy_set.generation == 1

    def test_under_the_first_set_is_the_built_in(self):
        d = dispatcher("a", routing=Calls(route=lambda *a: "nonsense"), guard_failures=1)
        [retired, dispatched] = d.handle(arrived(1, "r"))
        assert (retired.generation, retired.restored, dispatched) == (1, 0, Dispatch("r", "a"))

    def test_a_retired_set_is_not_gone_back_to(self):
        def bad(*arguments):
            raise ValueError

        d = dispatcher("a", routing=Calls(route=bad), guard_failures=1)
        d.handle(PolicySetReplaced(1, "p", PolicySet(2, Calls(route=bad))))
        commands = d.handle(arrived(2, "r1")) + d.handle(arrived(3, "r2"))
        assert [(c.generation, c.restored) for c in commands if isinstance(c, PolicySetRetired)] == [(2, 1), (1, 0)]

    def test_a_restored_observer_is_told_what_it_missed(self):
        recorder = Recorder()
        d = dispatcher("a", observers=(recorder,), guard_failures=1)
        d.handle(arrived(1, "old"))
        bad = Calls(route=lambda *a: 1 / 0)
        d.handle(PolicySetReplaced(2, "p", PolicySet(2, bad)))
        d.handle(completed(3, "old"))
        recorder.seen.clear()
        d.handle(arrived(4, "new"))
        assert recorder.seen == [
            Finished(4, "old", "a", "cancelled", 0),
            Dispatched(4, "new", "a", "default", 10, 0),
        ]

    def test_a_retirement_offers_what_the_bad_set_held(self):
        def admit(request, pool):
            raise ValueError("no")

        d = dispatcher("a", routing=AtMost(2), guard_failures=2)
        bad = PolicySet(2, Hold(), Calls(admit=admit, key=lambda request: 0))
        d.handle(PolicySetReplaced(1, "p", bad))
        assert d.handle(arrived(2, "held")) == []
        [retired, *dispatched] = d.handle(arrived(3, "last"))
        assert retired.restored == 1
        assert dispatched == [Dispatch("held", "a"), Dispatch("last", "a")]

    def test_a_policy_that_breaks_what_it_is_shown_breaks_nothing_else(self):
        def route(request, candidates, pool):
            request.request_id = "x"
            request.num_prompt_tokens = -(10**6)
            for candidate in candidates:
                candidate.worker.num_inflight_requests = 99
                candidate.worker.worker_id = "y"
            chosen = candidates[0]
            chosen.worker = None
            pool.workers = ()
            return chosen

        d = dispatcher("a", "b", routing=Calls(route=route))
        assert play(d, arrived(1, "r1"), completed(2, "r1"), arrived(3, "r2")) == [to("r1", "a"), [], to("r2", "b")]
        d.handle(PolicySetReplaced(4, "p", PolicySet(2, AtMost(5))))
        assert d.handle(arrived(5, "r3")) == to("r3", "a")
        assert [d.pools["p"].workers[name].prompt_tokens for name in "ab"] == [10, 10]


class TestScaling:
    def test_the_policy_is_asked_at_its_interval_and_bounded(self):
        asked = []

        def desired(pool):
            asked.append(pool.now)
            return {"default": 99}

        d = dispatcher("a", autoscaling=Calls(desired_replicas=desired), replicas={"default": (1, 3)})
        assert play(d, Ticked(1), Ticked(2), Ticked(16), Ticked(17)) == [[SetReplicas("p", "default", 3)], [], [], []]
        assert asked == [1, 16]

    def test_the_policy_sees_its_variants(self):
        seen = []

        def desired(pool):
            variant = pool.variants["default"]
            seen.append((variant.num_ready, variant.num_starting, variant.num_draining, pool.num_starting_replicas))
            return {"default": 3}

        d = dispatcher("a", "b", autoscaling=Calls(desired_replicas=desired), replicas={"default": (0, 5)})
        play(d, WorkerDraining(0, "b"), Ticked(1), joined("c", time=2, replica=True), Ticked(20))
        assert seen == [(1, 0, 1, 0), (2, 1, 1, 1)]


class TestConfiguration:
    def test_no_model_in_two_pools(self):
        with pytest.raises(ValueError, match="model 'm' is named by pools 'a' and 'b'"):
            Dispatcher([PoolConfig("a", models=("m",)), PoolConfig("b", models=("m",))])

    def test_one_pool_at_most_takes_any_model(self):
        with pytest.raises(ValueError, match="pools a, b name no models"):
            Dispatcher([PoolConfig("a"), PoolConfig("b")])

    def test_no_name_twice(self):
        with pytest.raises(ValueError, match="same name"):
            Dispatcher([PoolConfig("a", models=("x",)), PoolConfig("a", models=("y",))])


class Turned:
    """Orders by arrival, or against it once it is turned."""

    sign = 1

    def admit(self, request, pool):
        return True

    def key(self, request):
        return self.sign * request.arrival_time


def test_a_rekey_asks_for_every_key_again_and_the_new_head_is_offered():
    turned, few = Turned(), AtMost(0)
    d = dispatcher("a", routing=few, scheduling=turned)
    play(d, arrived(1, "r1"), arrived(2, "r2"), arrived(3, "r3"))
    turned.sign = -1
    assert d.handle(Ticked(4)) == []
    assert d.pools["p"].queue.head().request_id == "r1", "a key is kept until it is asked for"
    few.limit = 1
    assert d.handle(QueueRekeyed(5, "p")) == [Dispatch("r3", "a")]
    assert d.pools["p"].queue.head().request_id == "r2"


def test_a_set_that_fails_at_a_rekey_is_retired():
    class Broken(Turned):
        broken = False

        def key(self, request):
            if self.broken:
                raise ValueError("x")
            return 0.0

    policy = Broken()
    d = dispatcher("a", routing=AtMost(0), scheduling=policy, guard_failures=1)
    play(d, arrived(1, "r1"))
    policy.broken = True
    retired, sent = d.handle(QueueRekeyed(2, "p"))
    assert (type(retired), sent) == (PolicySetRetired, Dispatch("r1", "a"))
    with pytest.raises(ValueError, match="pool 'q' is not configured"):
        d.handle(QueueRekeyed(3, "q"))
