"""Runs of blocks against single blocks: the same hits, the same free blocks, the same evictions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mockworker.kv_cache import Chain, Held, Hit, KVCache
from tests.support.reference_engine import _Block, _BlockPool

BLOCKS = 12


def chain_of(path: tuple[int, ...], width: int) -> Chain:
    """A chain of chunks of ``width`` blocks; the key of a chunk covers all before it."""
    keys = tuple(int("1" + "".join(map(str, path[: depth + 1]))) for depth in range(len(path)))
    return Chain(keys, [(depth + 1) * width for depth in range(len(path))])


def keys_of(chain: Chain, width: int) -> list[tuple[int, int]]:
    return [(int(str(chain.keys[index // width])), index) for index in range(len(chain.keys) * width)]


class Both:
    """One request's view of both: it looks up, computes the rest of its chain, holds, gives back."""

    def __init__(self) -> None:
        self.cache = KVCache(BLOCKS)
        self.pool = _BlockPool(BLOCKS, enable_caching=True)
        self.holders: list[tuple[Held, int, list[_Block]]] = []

    def admit(self, path: tuple[int, ...], width: int, extra: int, piece: int) -> None:
        """``piece``: blocks that a step computes."""
        chain = chain_of(path, width)
        keys = keys_of(chain, width)
        hits = self.cache.find(chain, len(keys))
        blocks = self.pool.longest_hit(keys)
        found = hits[-1].high if hits else 0
        assert found == len(blocks)
        free = sum(1 for block in blocks if block.num_references == 0)
        new = len(keys) - found + extra
        if free + new > self.pool.num_free:
            return
        held = self._hold(chain, hits, len(keys), piece)
        self.cache.num_free -= extra
        self.pool.touch(blocks)
        blocks += self.pool.take(new)
        for index in range(found, len(keys)):
            self.pool.hash_block(blocks[index], keys[index])
        self.holders.append((held, extra, blocks))

    def _hold(self, chain: Chain, hits: list[Hit], end: int, piece: int) -> Held:
        held = self.cache.hold(hits)
        found = hits[-1].high if hits else 0
        for low in range(found, end, piece):
            high = min(low + piece, end)
            self.cache.num_free -= high - low
            self.cache.cache(held, chain, low, high)
        return held

    def leave(self, index: int) -> None:
        if self.holders:
            held, extra, blocks = self.holders.pop(index % len(self.holders))
            self.pool.release(blocks)
            self.cache.free_for_good(0, extra)
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
@given(actions, st.integers(1, 3), st.integers(1, 5))
def test_runs_behave_as_single_blocks_do(todo: list[tuple[str, object, int]], width: int, piece: int) -> None:
    both = Both()
    for action, what, extra in todo:
        if action == "leave":
            both.leave(int(str(what)))
        else:
            assert isinstance(what, tuple)
            both.admit(what, width, extra, piece)
        assert both.cache.num_free == both.pool.num_free
    while both.holders:
        both.leave(0)
    assert both.cache.num_free == BLOCKS


def test_a_partial_hit_of_a_held_run_outlives_its_first_holder() -> None:
    cache = KVCache(8)
    first: Held = []
    chain = Chain((1,), [4])
    cache.num_free -= 4
    cache.cache(first, chain, 0, 4)
    second = cache.hold(cache.find(chain, 2))
    cache.free_held(first)
    assert cache.num_free == 6
    cache.num_free -= 6  # evicts the two blocks nobody holds
    assert [(h.low, h.high) for h in cache.find(chain, 4)] == [(0, 2)]
    cache.free_held(second)
    assert cache.num_free == 2


def test_blocks_that_were_never_hashed_are_used_before_cached_ones() -> None:
    cache = KVCache(4)
    held: Held = []
    chain = Chain((1,), [2])
    cache.num_free -= 2
    cache.cache(held, chain, 0, 2)
    cache.free_held(held)
    cache.num_free -= 2
    assert cache.find(chain, 2)
    cache.free_for_good(0, 2)
    cache.num_free -= 3
    assert [(h.low, h.high) for h in cache.find(chain, 2)] == [(0, 1)]


def test_what_one_request_computes_is_one_run_however_many_chunks_it_has() -> None:
    cache = KVCache(40)
    held: Held = []
    chain = Chain(tuple(range(10)), [4 * (n + 1) for n in range(10)])
    for low, high in ((0, 7), (7, 24), (24, 40)):
        cache.num_free -= high - low
        cache.cache(held, chain, low, high)
    assert len(held) == 1
    cache.free_held(held)
    cache.num_free -= 3  # evicts the last blocks of the last chunk
    (hit,) = cache.find(chain, 40)
    assert (hit.low, hit.high) == (0, 37)


def test_a_chain_that_parts_from_another_hits_it_up_to_there() -> None:
    cache = KVCache(40)
    held: Held = []
    cache.num_free -= 12
    cache.cache(held, Chain((1, 2, 3), [4, 8, 12]), 0, 12)
    other = Chain((1, 2, 9), [4, 8, 12])
    (hit,) = cache.find(other, 12)
    assert (hit.low, hit.high) == (0, 8)
    taken = cache.hold([hit])
    cache.free_held(held)
    assert cache.num_free == 32
    cache.free_held(taken)
    assert cache.num_free == 40
