from __future__ import annotations

import pytest

from gateway.core.prefix_index import PrefixIndex

KEYS = ((1, 16), (2, 32), (3, 48))


@pytest.fixture
def index():
    index = PrefixIndex(100)
    index.join("a")
    index.join("b")
    return index


def test_the_longest_run_of_chunks_from_the_start(index):
    index.add("a", KEYS[:2], 0)
    assert index.num_cached_tokens("a", KEYS) == 32
    assert index.num_cached_tokens("b", KEYS) == 0
    assert index.num_cached_tokens("a", ((9, 16), *KEYS)) == 0
    assert index.num_cached_tokens("a", ()) == 0


def test_a_worker_that_left_has_nothing_and_neither_has_one_of_its_name(index):
    index.add("a", KEYS, 0)
    index.forget("a")
    assert index.num_cached_tokens("a", KEYS) == 0
    index.add("a", KEYS, 0)
    index.join("a")
    assert index.num_cached_tokens("a", KEYS) == 0


def test_bounded_over_all_workers(index):
    for n in range(500):
        for worker in "ab":
            index.add(worker, ((n, 16),), 0)
    assert len(index) == 100
    for name in "cdefghij":
        index.join(name)
    assert len(index) == 20


def test_the_least_recently_used_goes_first_and_the_tail_before_the_head(index):
    for n in range(10, 57):
        index.add("a", ((n, 16),), 0)
    index.add("a", KEYS, 0)
    index.add("a", ((99, 16),), 0)
    assert index.num_cached_tokens("a", ((10, 16),)) == 0
    assert index.num_cached_tokens("a", ((11, 16),)) == 16
    for n in range(11, 58):
        index.add("a", ((n, 16),), 0)
    assert index.num_cached_tokens("a", KEYS) == 32
    index.add("a", ((200, 16),), 0)
    assert index.num_cached_tokens("a", KEYS) == 16


def test_no_more_tokens_than_the_workers_kv_cache(index):
    for n in range(10):
        index.add("a", ((n * 2, 100), (n * 2 + 1, 200)), 1000)
    assert index.sizes() == [("a", 10, 1000), ("b", 0, 0)]
    assert index.num_cached_tokens("a", ((18, 100), (19, 200))) == 200
    assert index.num_cached_tokens("a", ((0, 100),)) == 0


def test_at_most_64_chunks_of_a_request_are_looked_at():
    index = PrefixIndex(1000)
    index.join("a")
    keys = tuple((n, n + 1) for n in range(100))
    index.add("a", keys, 0)
    assert len(index) == 64
    assert index.num_cached_tokens("a", keys) == 64


def test_it_can_be_turned_off():
    index = PrefixIndex(0)
    index.join("a")
    index.add("a", KEYS, 0)
    assert index.num_cached_tokens("a", KEYS) == 0
