from __future__ import annotations

import pytest

from gateway.core.events import WorkerJoined
from gateway.core.guard import CallLog, Guard, PolicyInterrupted, sort_key
from gateway.core.policy_set import PolicySet
from gateway.core.worker_state import CandidateSet, WorkerState
from policies.contract import Pool, Request
from tests.support.core_policies import Calls

REQUEST = Request("r", "m")
POOL = Pool("p")


@pytest.fixture
def candidates():
    states = [WorkerState(WorkerJoined(0.0, name, "p")) for name in "abc"]
    states[0].num_inflight_requests = 2
    return CandidateSet(tuple(states))


def guard(watch=None, failures=5, window=100, **slots):
    return Guard(PolicySet(1, **slots), watch, CallLog(), failures, window)


def raising(error):
    def policy(*arguments):
        raise error

    return Calls(route=policy, admit=policy, key=policy, desired_replicas=policy, observe=policy)


class Watch:
    def __init__(self, *, overruns=False, interrupt=None):
        self.overruns, self.interrupt, self.calls = overruns, interrupt, []
        self.running = False

    def enter(self):
        self.running = True
        self.calls.append("enter")
        if self.interrupt == "enter":
            raise PolicyInterrupted

    def exit(self):
        self.calls.append("exit")
        if self.interrupt == "exit" and self.calls.count("exit") == 1:
            raise PolicyInterrupted
        self.running = False
        return self.overruns


class TestRoute:
    def test_the_candidate_it_answers(self, candidates):
        made = guard(routing=Calls(route=lambda request, views, pool: views[0]))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[0]

    def test_none_holds(self, candidates):
        assert guard(routing=Calls(route=lambda *a: None)).route(REQUEST, candidates, POOL) is None

    def test_without_a_policy_the_fewest_in_flight(self, candidates):
        assert guard().route(REQUEST, candidates, POOL) is candidates.states[1]

    @pytest.mark.parametrize("answer", [0, True, "a", object(), []], ids=["number", "bool", "text", "object", "list"])
    def test_anything_else_is_wrong(self, candidates, answer):
        made = guard(routing=Calls(route=lambda *a: answer))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[1]
        assert made.num_failures == {("routing", "wrong_answer"): 1}

    def test_a_worker_or_an_equal_candidate_is_not_the_candidate(self, candidates):
        made = guard(routing=Calls(route=lambda request, views, pool: type(views[0])(views[0].worker)))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[1]

    def test_what_it_is_given_cannot_be_reordered(self, candidates):
        made = guard(routing=Calls(route=lambda request, views, pool: views.sort()))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[1]
        assert made.num_failures == {("routing", "exception"): 1}


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("x"),
            RecursionError(),
            MemoryError(),
            SystemExit(3),
            GeneratorExit(),
            type("Own", (BaseException,), {})(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_whatever_a_policy_raises_is_caught(self, candidates, error):
        policy = raising(error)
        made = guard(routing=policy, scheduling=policy, autoscaling=policy, observers=(policy,))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[1]
        assert made.admit(REQUEST, POOL) is True
        assert made.key(REQUEST) == ()
        assert made.desired_replicas(POOL, ("v",)) == {}
        made.observe(None)
        assert {reason for _, reason in made.num_failures} == {"exception"}
        assert type(error).__name__ in made.last_failure

    def test_an_operators_interrupt_is_not(self, candidates):
        with pytest.raises(KeyboardInterrupt):
            guard(routing=raising(KeyboardInterrupt())).route(REQUEST, candidates, POOL)

    def test_endless_recursion_is_an_error_like_others(self, candidates):
        def route(*arguments):
            return route(*arguments)

        made = guard(routing=Calls(route=route))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[1]
        assert made.last_failure.startswith("routing: exception: RecursionError")

    def test_an_error_that_cannot_be_shown_is_named(self, candidates):
        class Rude(Exception):
            def __str__(self):
                raise ValueError

        made = guard(routing=raising(Rude()))
        made.route(REQUEST, candidates, POOL)
        assert made.last_failure == "routing: exception: Rude: (no text)"

    def test_nothing_that_an_error_or_answer_says_of_itself_gets_past(self, candidates):
        """A text that raises what is no Exception, and a class whose name does."""

        class Nameless(type):
            @property
            def __name__(cls):
                raise SystemExit

        class Rude(BaseException, metaclass=Nameless):
            def __str__(self):
                raise SystemExit

        made = guard(routing=raising(Rude()))
        made.route(REQUEST, candidates, POOL)
        assert made.last_failure == "routing: exception: Rude: (no text)"
        made = guard(routing=Calls(route=lambda *arguments: Nameless("Odd", (), {})()))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[1]
        assert made.last_failure == "routing: wrong_answer: route answered a Odd, none of its candidates"

    def test_the_failure_is_one_short_line(self, candidates):
        made = guard(routing=raising(ValueError("a\nb" + "x" * 5000)))
        made.route(REQUEST, candidates, POOL)
        assert "\n" not in made.last_failure
        assert len(made.last_failure) < 400


class TestTripping:
    def test_so_many_failures_among_so_many_calls(self, candidates):
        answers = iter([1, 2, None, None, None, None, 3, 4, 5])
        made = guard(failures=3, window=4, routing=Calls(route=lambda *a: next(answers)))
        tripped = []
        for _ in range(9):
            made.route(REQUEST, candidates, POOL)
            tripped.append(made.tripped is not None)
        assert tripped == [False] * 8 + [True]

    def test_one_interrupt_is_enough(self, candidates):
        made = guard(watch=Watch(interrupt="enter"), routing=Calls(route=lambda *a: None))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[1]
        assert made.tripped == "routing: interrupted: stopped by the watch: it did not return"

    def test_a_tripped_set_is_not_called_again(self, candidates):
        calls = []

        def route(*arguments):
            calls.append(1)
            raise ValueError

        made = guard(failures=1, routing=Calls(route=route))
        for _ in range(3):
            assert made.route(REQUEST, candidates, POOL) is candidates.states[1]
        assert len(calls) == 1

    def test_another_set_has_a_clean_record(self, candidates):
        made = guard(failures=2, routing=raising(ValueError()))
        made.route(REQUEST, candidates, POOL)
        made.replace(PolicySet(2, raising(ValueError())))
        made.route(REQUEST, candidates, POOL)
        assert made.tripped is None
        assert made.num_failures == {("routing", "exception"): 2}


class TestWatch:
    def test_it_sees_every_call_begin_and_end(self, candidates):
        watch = Watch()
        guard(watch=watch, routing=Calls(route=lambda *a: None)).route(REQUEST, candidates, POOL)
        guard(watch=watch, routing=raising(ValueError())).route(REQUEST, candidates, POOL)
        assert watch.calls == ["enter", "exit"] * 2

    def test_an_answer_that_came_too_late_is_not_used(self, candidates):
        made = guard(watch=Watch(overruns=True), routing=Calls(route=lambda request, views, pool: views[0]))
        assert made.route(REQUEST, candidates, POOL) is candidates.states[1]
        assert made.num_failures == {("routing", "overrun"): 1}

    @pytest.mark.parametrize("where", ["enter", "exit"])
    def test_an_interrupt_at_either_end_leaves_the_watch_ended(self, candidates, where):
        watch = Watch(interrupt=where)
        made = guard(watch=watch, routing=Calls(route=lambda *a: None))
        made.route(REQUEST, candidates, POOL)
        assert not watch.running
        assert made.num_failures == {("routing", "interrupted"): 1}

    def test_a_policy_cannot_swallow_an_interrupt(self, candidates):
        def route(*arguments):
            try:
                raise PolicyInterrupted
            except Exception:
                return

        made = guard(watch=Watch(), routing=Calls(route=route))
        made.route(REQUEST, candidates, POOL)
        assert made.tripped

    def test_verdicts_are_taken_down_with_the_number_of_the_call(self, candidates):
        calls = CallLog()
        made = Guard(PolicySet(1, Calls(route=lambda *a: None)), Watch(overruns=True), calls)
        made.route(REQUEST, candidates, POOL)
        made.route(REQUEST, candidates, POOL)
        assert calls.verdicts == [(1, "overrun"), (2, "overrun")]

    def test_an_operators_interrupt_ends_the_watch_too(self, candidates):
        watch = Watch()
        with pytest.raises(KeyboardInterrupt):
            guard(watch=watch, routing=raising(KeyboardInterrupt())).route(REQUEST, candidates, POOL)
        assert watch.calls == ["enter", "exit"]


class TestAdmitAndKey:
    @pytest.mark.parametrize("answer", [None, 1, 0, "no", []], ids=repr)
    def test_only_a_bool_is_an_answer_to_admit(self, answer):
        made = guard(scheduling=Calls(admit=lambda *a: answer))
        assert made.admit(REQUEST, POOL) is True
        assert made.num_failures == {("scheduling", "wrong_answer"): 1}

    def test_no_is_no(self):
        assert guard(scheduling=Calls(admit=lambda *a: False)).admit(REQUEST, POOL) is False

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            float("nan"),
            "a",
            [1],
            {1},
            (1, None),
            (1, float("nan")),
            ((float("nan"),),),
            (1,) * 17,
            ((((1, "a"),),),),
            ("a" * 1025,),
            10**400,
        ],
        ids=lambda answer: repr(answer)[:20],
    )
    def test_what_cannot_be_ordered_is_no_key(self, answer):
        made = guard(scheduling=Calls(key=lambda request: answer))
        assert made.key(REQUEST) == ()
        assert made.num_failures == {("scheduling", "wrong_answer"): 1}

    def test_any_two_keys_compare(self):
        answers = [0, 1.5, True, float("inf"), 10**300, (), (1,), (1, 2.0), ("a", 1), (1, "a"), ((1, "b"), 2), ((), 1)]
        keys = [sort_key(answer) for answer in answers]
        assert sorted(sorted(keys), reverse=True) == sorted(keys, reverse=True)

    def test_numbers_and_tuples_keep_their_order(self):
        answers = [(3, 1), (1, 9), (1, 2), (2,)]
        assert sorted(answers, key=sort_key) == sorted(answers)
        words = [(3, "a"), (1, "z"), (1, "b"), (2, "")]
        assert sorted(words, key=sort_key) == sorted(words)


class TestReplicas:
    @pytest.mark.parametrize(
        "answer", [None, 3, [("v", 1)], {"v": 1.0}, {"v": float("nan")}, {"v": True}, {"v": -1}, {"x": 1}], ids=repr
    )
    def test_anything_but_counts_of_known_variants_changes_nothing(self, answer):
        made = guard(autoscaling=Calls(desired_replicas=lambda pool: answer))
        assert made.desired_replicas(POOL, ("v",)) == {}
        assert made.num_failures == {("autoscaling", "wrong_answer"): 1}

    def test_the_answer_is_copied_in_a_known_order(self):
        made = guard(autoscaling=Calls(desired_replicas=lambda pool: {"b": 2, "a": 1}))
        assert list(made.desired_replicas(POOL, ("a", "b", "c")).items()) == [("a", 1), ("b", 2)]


def test_half_a_surrogate_pair_in_a_text_does_not_get_on(candidates):
    made = guard(failures=1, routing=raising(ValueError("\ud800 x")))
    made.route(REQUEST, candidates, POOL)
    assert made.last_failure == "routing: exception: ValueError: ? x"
    assert made.tripped is not None
    assert made.tripped.endswith("ValueError: ? x")
