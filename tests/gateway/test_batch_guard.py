from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch_guard import (
    CALL_SECONDS,
    FORGIVEN_AFTER,
    MAX_FAILURES,
    MAX_SLOW,
    STEP_SECONDS,
    BatchGuard,
    WaitingHeap,
    load_batch_policy,
    victim_ranks,
)
from gateway.mockworker.engine import BatchEngineView, BatchRequestView
from gateway.promoted import MARKER
from policies.loader import PolicyLoadError

ENGINE = BatchEngineView(2, 3, 10, 40, 256)
REQUEST = BatchRequestView("a", 7, 0, 0, 1.0, 0, 0)
POLICIES = Path(__file__).parent.parent / "twin" / "policies"


@dataclass
class Waiting:
    request_id: str
    arrival_time: float = 0.0
    rank: float = 0.0


class Policy:
    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.num_calls = 0

    def _answer(self, view: object) -> object:
        self.num_calls += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    waiting_key = victim_key = prefill_budget = _answer


def heap() -> WaitingHeap[Waiting]:
    return WaitingHeap(lambda request: (0, request.rank))


@pytest.mark.parametrize(("answer", "budget"), [(-5, 0), (0, 0), (77, 77), (10**9, 256)])
def test_a_prefill_budget_is_held_between_nothing_and_the_engines_own(answer: int, budget: int) -> None:
    assert BatchGuard(Policy(answer)).prefill_budget(ENGINE) == budget


@pytest.mark.parametrize("answer", [1.5, None, "many", True, [3], ValueError("no"), SystemExit(1)])
def test_a_budget_that_is_none_leaves_the_engines_own(answer: object) -> None:
    guard = BatchGuard(Policy(answer))
    assert guard.prefill_budget(ENGINE) == 256
    assert guard.num_failures == 1


@pytest.mark.parametrize("answer", [float("nan"), None, [1], object(), RecursionError(), SystemExit(1)])
def test_a_key_that_is_none_puts_the_request_first(answer: object) -> None:
    guard = BatchGuard(Policy(answer))
    assert guard.waiting_key(REQUEST) == guard.victim_key(REQUEST) == ()
    assert guard.num_failures == 2


def test_keys_of_different_kinds_compare() -> None:
    keys = [BatchGuard(Policy(answer)).waiting_key(REQUEST) for answer in (3, 2.5, (1, "x"), ("y", 2), (), None)]
    assert sorted(keys)


def test_a_policy_that_keeps_failing_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(ZeroDivisionError())
    guard = BatchGuard(policy)
    with caplog.at_level(logging.WARNING, "vllm.ranvier"):
        for _ in range(MAX_FAILURES + 20):
            assert guard.waiting_key(REQUEST) == ()
    assert guard.tripped
    assert policy.num_calls == guard.num_failures == MAX_FAILURES
    assert [record.levelname for record in caplog.records] == ["WARNING"] * MAX_FAILURES + ["ERROR"]
    assert guard.prefill_budget(ENGINE) == 256


class Slow(Policy):
    """Every call takes so long, by a clock of its own."""

    def __init__(self, seconds: float) -> None:
        super().__init__(7)
        self.seconds, self.now = seconds, 0.0

    def _answer(self, view: object) -> object:
        self.now += self.seconds
        return super()._answer(view)

    waiting_key = victim_key = prefill_budget = _answer


def test_a_policy_that_keeps_being_slow_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    policy = Slow(STEP_SECONDS * 2)
    guard = BatchGuard(policy, lambda: policy.now)
    with caplog.at_level(logging.WARNING, "vllm.ranvier"):
        for _ in range(MAX_SLOW + 20):
            guard.prefill_budget(ENGINE)
            guard.step_ended()
    assert guard.tripped
    assert policy.num_calls == guard.num_slow == MAX_SLOW
    assert [record.levelname for record in caplog.records] == ["WARNING"] * MAX_SLOW + ["ERROR"]
    assert caplog.records[0].getMessage().startswith("batch policy: took 20.0 ms in a step, at most 10.1")
    assert guard.prefill_budget(ENGINE) == 256


def test_many_calls_of_a_step_are_slow_together_and_a_burst_is_not() -> None:
    for seconds, slow in ((0.001, 1), (CALL_SECONDS, 0)):
        policy = Slow(seconds)
        guard = BatchGuard(policy, lambda policy=policy: policy.now)  # type: ignore[misc]
        for _ in range(256):
            guard.victim_key(REQUEST)
        guard.step_ended()
        assert guard.num_slow == slow


def test_slow_steps_far_apart_are_forgiven() -> None:
    policy = Slow(1.0)
    guard = BatchGuard(policy, lambda: policy.now)
    for _ in range(MAX_SLOW + 2):
        guard.prefill_budget(ENGINE)
        for _ in range(FORGIVEN_AFTER + 1):
            guard.step_ended()
    assert not guard.tripped
    assert guard.num_slow == 0


def test_an_interrupt_by_the_operator_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        BatchGuard(Policy(KeyboardInterrupt())).waiting_key(REQUEST)


def test_the_largest_key_is_the_first_victim_and_the_first_request_never_is() -> None:
    running = [Waiting("first", rank=9.0), Waiting("b", rank=1.0), Waiting("c", rank=5.0), Waiting("d", rank=5.0)]
    ranks = victim_ranks(running, lambda request: (0, request.rank))
    assert sorted(ranks, key=lambda name: -ranks[name]) == ["d", "c", "b", "first"]
    assert victim_ranks([], lambda request: ()) == {}


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 1.0])), max_size=12))
def test_the_smallest_key_is_next_then_the_earliest_then_the_first(requests: list[tuple[float, float]]) -> None:
    queue = heap()
    expected = []
    for n, (rank, arrival) in enumerate(requests):
        queue.add_request(Waiting(str(n), arrival, rank))
        expected.append((rank, arrival, n))
    listed = [int(request.request_id) for request in queue]
    shown, taken = [], []
    for _ in expected:
        shown.append(queue.peek_request())
        taken.append(queue.pop_request())
    assert not queue
    assert listed == [int(request.request_id) for request in taken] == [n for _, _, n in sorted(expected)]
    assert shown == taken


def test_one_that_was_skipped_comes_back_with_its_key_and_one_that_was_preempted_is_asked_anew() -> None:
    queue = heap()
    a, b = Waiting("a", 0.0, 1.0), Waiting("b", 1.0, 2.0)
    queue.add_request(a)
    queue.add_request(b)
    changes = queue.num_changes
    assert queue.pop_request() is a
    a.rank = 9.0
    queue.prepend_requests([a])
    assert (queue.peek_request(), queue.num_changes) == (a, changes)
    assert queue.pop_request() is a
    queue.prepend_request(a)
    assert [request.request_id for request in queue] == ["b", "a"]
    assert queue.num_changes == changes + 1


def test_withdrawn_requests_are_gone_and_ended_ones_leave_nothing() -> None:
    queue = heap()
    requests = [Waiting(name) for name in "abcd"]
    for request in requests:
        queue.add_request(request)
    queue.remove_requests(requests[1:3])
    queue.remove_request(requests[3])
    assert [request.request_id for request in queue] == ["a"]
    queue.pop_request()
    queue.forget("abcd")
    assert not queue
    assert not queue._orders
    assert not queue._arrivals


def test_a_batch_policy_is_loaded_by_its_file() -> None:
    loaded = load_batch_policy(f"{POLICIES / 'shortest_prompt.py'}")
    assert loaded.slots == ("batch",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "name a batch policy"),
        ("", "name a batch policy"),
        (3, "name a batch policy"),
        ("least_loaded", "not one policy with waiting_key"),
        ("no_such_policy", "no_such_policy"),
        (f"{POLICIES / 'no_opinion.py'}+least_loaded", "not one policy"),
    ],
)
def test_what_names_no_batch_policy_is_refused(text: object, words: str) -> None:
    with pytest.raises(PolicyLoadError, match=words):
        load_batch_policy(text)


def test_a_file_that_breaks_the_contract_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "evil.py"
    file.write_text(f'"""Doc."""\nimport os\nos.mkdir("{tmp_path}/ran")\n')
    with pytest.raises(PolicyLoadError, match="breaks the contract"):
        load_batch_policy(str(file))
    with pytest.raises(PolicyLoadError, match="not one policy"):
        load_batch_policy(f"{file}+least_loaded")
    assert not (tmp_path / "ran").exists()


def test_a_promoted_file_that_was_edited_is_not_run(tmp_path: Path) -> None:
    body = (POLICIES / "shortest_prompt.py").read_text()
    head = f"# Promoted.\n{MARKER}{hashlib.sha256(body.encode()).hexdigest()}\n"
    file = tmp_path / "promoted.py"
    file.write_text(head + body)
    assert load_batch_policy(str(file)).slots == ("batch",)
    file.write_text(head + body + "\n")
    with pytest.raises(PolicyLoadError, match="not what was evaluated"):
        load_batch_policy(str(file))
