from __future__ import annotations

import pytest

from gateway.core.events import FirstTokenSeen, Ticked, WorkerDraining, WorkerHealthChanged, WorkerLeft
from gateway.core.needs import Needs
from gateway.core.policy_set import PolicySet
from tests.support.core_policies import Calls, First, Hold, arrived, completed, dispatcher, failed, joined, play


def shown(*fields, reads=frozenset(), **config):
    """A dispatcher whose routing policy takes down these fields of the pool at every decision, and the list."""
    seen = []

    def route(request, candidates, pool):
        seen.append(tuple(getattr(pool, field) for field in fields))
        return candidates[0] if request.request_id.startswith("r") else None

    return dispatcher("a", "b", routing=Calls(route=route), reads=reads, **config), seen


def test_the_request_in_hand_counts_as_held():
    d, seen = shown("num_queued_requests", "num_queued_prompt_tokens", "num_inflight_requests")
    play(d, arrived(1, "r1"), arrived(2, "held1", tokens=3), Ticked(3))
    assert seen == [(1, 10, 0), (1, 3, 1), (1, 3, 1)]


def test_time_rate_and_means():
    d, seen = shown("now", "arrival_rate", "mean_prompt_tokens", "mean_output_tokens")
    play(d, arrived(1, "r1", tokens=10), completed(1.5, "r1", tokens=8), arrived(2, "r2", tokens=30))
    assert seen[0] == (1, 0.0, 10.0, 256.0)
    assert seen[1] == (2, pytest.approx(1.0, rel=0.05), 20.0, 8.0)


def test_arrivals_are_counted_for_good():
    d, seen = shown("num_arrived_requests", "num_arrived_prompt_tokens")
    play(d, arrived(1, "r1", tokens=10), completed(1.5, "r1"), arrived(2, "held", tokens=30))
    assert seen == [(1, 10), (2, 40)]


@pytest.mark.parametrize("field", ["num_arrived_requests", "num_arrived_prompt_tokens"])
def test_arrivals_are_counted_for_a_set_that_reads_nothing_else(field):
    d, seen = shown(field, reads=frozenset({field}))
    play(d, arrived(1, "r1", tokens=1))
    assert seen == [(1,)]


def test_the_oldest_held():
    d, seen = shown("oldest_queued_arrival")
    play(d, arrived(1, "r1"), arrived(2, "held1"), arrived(3, "held2"), Ticked(4))
    assert seen == [(1,), (2,), (2,)]


def test_workers_are_those_that_take_requests_in_the_order_they_joined():
    d, _ = shown("workers")

    def names():
        return [worker.worker_id for worker in d.pools["p"].pool.workers]

    d.handle(joined("c"))
    assert names() == ["a", "b", "c"]
    play(d, WorkerHealthChanged(1, "a", False), WorkerDraining(1, "b"))
    assert names() == ["c"]
    play(d, WorkerHealthChanged(2, "a", True), WorkerLeft(2, "c"))
    assert names() == ["a"]


def test_candidates_are_reused_from_decision_to_decision():
    kept = []

    def route(request, candidates, pool):
        kept.append((candidates, candidates[0], candidates[0].worker, pool))
        return candidates[0]

    d = dispatcher("a", routing=Calls(route=route))
    play(d, arrived(1, "r1"), arrived(2, "r2"))
    assert all(one is other for one, other in zip(*kept, strict=True))


def test_prefix_hits_are_shown_and_not_left_for_the_next_request():
    seen = []

    def route(request, candidates, pool):
        seen.append([candidate.num_cached_tokens for candidate in candidates])
        return candidates[0]

    d = dispatcher("a", "b", routing=Calls(route=route))
    keys = ((11, 16), (12, 32))
    commands = play(
        d,
        arrived(1, "r1", tokens=40, prefix_keys=keys),
        arrived(2, "r2", tokens=40, prefix_keys=keys),
        arrived(3, "r3"),
    )
    assert seen == [[0, 0], [32, 0], [0, 0]]
    assert [command.num_cached_tokens for [command] in commands] == [0, 32, 0]


def test_the_last_token_of_a_prompt_is_never_cached():
    d = dispatcher("a")
    keys = ((11, 16), (12, 32))
    play(d, arrived(1, "r1", tokens=32, prefix_keys=keys))
    [command] = d.handle(arrived(2, "r2", tokens=32, prefix_keys=keys))
    assert command.num_cached_tokens == 31


def test_a_set_that_does_not_say_what_it_reads_is_given_everything():
    needs = Needs(PolicySet(1))
    assert all(getattr(needs, name) for name in Needs.__slots__)
    needs = Needs(PolicySet(1, reads=frozenset({"kv_cache_usage"})))
    assert [name for name in Needs.__slots__ if getattr(needs, name)] == ["anything", "estimates", "output", "scraped"]


def test_the_sets_to_go_back_to_are_bounded_and_the_built_in_stays():
    d = dispatcher("a", routing=First())
    pool = d.pools["p"]
    for generation in range(2, 40):
        pool.remember(pool.policy_set)
        pool.replace(PolicySet(generation, Hold()))
    assert len(pool.history) <= 8
    assert pool.history[0].policy_set.routing is None
    assert [entry.policy_set.generation for entry in pool.history[1:]] == list(range(32, 39))


def test_made_up_model_names_do_not_fill_the_memory():
    d = dispatcher("a")
    for n in range(2000):
        d.handle(arrived(n, f"r{n}", model=f"m{n}"))
    assert len(d.pools["p"]._candidates) <= 256


def resting(d):
    """Those that no request is sent to, for their failures or on trial with one."""
    return [worker_id for worker_id, state in d.pools["p"].workers.items() if state.resting == "failures"]


def fail_at(d, worker_id, now, name):
    """A request, sent to the worker by ``First``, that fails after its first byte."""
    d.handle(arrived(now, name))
    assert d.pools["p"].in_flight[name].worker.worker_id == worker_id
    d.handle(failed(now, name, retriable=False))


def broken():
    """``a`` rests until 2, after three failures."""
    d = dispatcher("a", "b", routing=First())
    for n in range(3):
        fail_at(d, "a", 1, f"f{n}")
    assert resting(d) == ["a"]
    return d


def where(commands):
    return [command.worker_id for command in commands]


def test_a_worker_comes_back_with_one_request():
    d = broken()
    assert [where(d.handle(arrived(2, f"r{n}"))) for n in range(3)] == [["a"], ["b"], ["b"]]
    d.handle(completed(2.5, "r0"))
    assert [where(d.handle(arrived(3, f"s{n}"))) for n in range(3)] == [["a"], ["a"], ["a"]]


def test_a_first_token_passes_the_trial_and_a_later_failure_is_remembered():
    d = broken()
    play(d, arrived(2, "r0"), FirstTokenSeen(2.1, "r0"))
    assert where(d.handle(arrived(2.2, "r1"))) == ["a"]
    d.handle(failed(2.3, "r1", retriable=False))
    assert resting(d) == ["a"]
    assert where(d.handle(arrived(4.2, "r2"))) == ["b"]  # two seconds this time
    assert where(d.handle(arrived(4.3, "r3"))) == ["a"]


def test_a_trial_that_fails_is_a_longer_rest():
    d = broken()
    play(d, arrived(2, "r0"), failed(2.1, "r0", retriable=False))
    assert where(d.handle(arrived(4.0, "r1"))) == ["b"]
    assert where(d.handle(arrived(4.1, "r2"))) == ["a"]


def test_not_all_that_fail_are_left_alone():
    d = dispatcher("a", "b", "c", "d", routing=First(), max_resting_share=0.5)
    for n in range(3):
        fail_at(d, "a", 1, f"a{n}")
    for n in range(3):
        fail_at(d, "b", 1, f"b{n}")
    for n in range(5):
        fail_at(d, "c", 1, f"c{n}")
    assert resting(d) == ["a", "b"]
