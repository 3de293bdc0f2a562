"""Runs of blocks against single blocks: the same hits, the same free blocks, the same evictions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mockworker.kv_cache import Hit, KVCache, Run, Segment
from tests.support.reference_engine import _Block, _BlockPool

BLOCKS = 12


def segments_of(path: tuple[int, ...], width: int) -> list[Segment]:
    """A chain of chunks of ``width`` blocks; the key of a chunk covers all before it."""
    keys = [int("1" + "".join(map(str, path[: depth + 1]))) for depth in range(len(path))]
    return [Segment(key, depth * width, (depth + 1) * width) for depth, key in enumerate(keys)]


def keys_of(segments: list[Segment]) -> list[tuple[int, int]]:
    return [(int(str(s.key)), index) for s in segments for index in range(s.low, s.high)]


class Both:
    """One request's view of both: it looks up, computes the rest of its chain, holds, gives back."""

    def __init__(self) -> None:
        self.cache = KVCache(BLOCKS)
        self.pool = _BlockPool(BLOCKS, enable_caching=True)
        self.holders: list[tuple[list[Run], int, int, list[_Block]]] = []

    def admit(self, path: tuple[int, ...], width: int, extra: int) -> None:
        segments = segments_of(path, width)
        keys = keys_of(segments)
        hits = self.cache.find(segments, len(keys))
        blocks = self.pool.longest_hit(keys)
        found = hits[-1].high if hits else 0
        assert found == len(blocks)
        free = sum(1 for block in blocks if block.num_references == 0)
        new = len(keys) - found + extra
        if free + new > self.pool.num_free:
            return
        held = self._hold(segments, hits, new)
        self.pool.touch(blocks)
        blocks += self.pool.take(new)
        for index in range(found, len(keys)):
            self.pool.hash_block(blocks[index], keys[index])
        self.holders.append((held, len(keys), extra, blocks))

    def _hold(self, segments: list[Segment], hits: list[Hit], new: int) -> list[Run]:
        held = self.cache.hold(hits)
        found = hits[-1].high if hits else 0
        self.cache.num_free -= new
        for key, low, high in segments:
            if high > found:
                self.cache.cache(held, Segment(key, max(low, found), high))
        return held

    def leave(self, index: int) -> None:
        if self.holders:
            held, _, extra, blocks = self.holders.pop(index % len(self.holders))
            self.pool.release(blocks)
            self.cache.free_unhashed(extra)
            self.cache.free_held(held)


paths = st.lists(st.integers(0, 1), max_size=4).map(tuple)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), paths, st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(actions, st.integers(1, 3))
def test_runs_behave_as_single_blocks_do(todo: list[tuple[str, object, int]], width: int) -> None:
    both = Both()
    for action, what, extra in todo:
        if action == "leave":
            both.leave(int(str(what)))
        else:
            assert isinstance(what, tuple)
            both.admit(what, width, extra)
        assert both.cache.num_free == both.pool.num_free
    while both.holders:
        both.leave(0)
    assert both.cache.num_free == BLOCKS


def test_a_partial_hit_of_a_held_run_outlives_its_first_holder() -> None:
    cache = KVCache(8)
    first: list[Run] = []
    cache.num_free -= 4
    cache.cache(first, Segment(1, 0, 4))
    second = cache.hold(cache.find([Segment(1, 0, 4)], 2))
    cache.free_held(first)
    assert cache.num_free == 6
    cache.num_free -= 6  # evicts the two blocks nobody holds
    assert [(h.low, h.high) for h in cache.find([Segment(1, 0, 4)], 4)] == [(0, 2)]
    cache.free_held(second)
    assert cache.num_free == 2


def test_blocks_that_were_never_hashed_are_used_before_cached_ones() -> None:
    cache = KVCache(4)
    held: list[Run] = []
    cache.num_free -= 2
    cache.cache(held, Segment(1, 0, 2))
    cache.free_held(held)
    cache.num_free -= 2
    assert cache.find([Segment(1, 0, 2)], 2)
    cache.free_unhashed(2)
    cache.num_free -= 3
    assert [(h.low, h.high) for h in cache.find([Segment(1, 0, 2)], 2)] == [(0, 1)]
