"""The KV cache: free blocks as a count, cached ones as runs of blocks, never single blocks.

Exactly vLLM's block pool with a prefix cache, seen from outside: what is a hit, how many blocks are free and what is
evicted next are the same, block for block. A block that nobody can ever hit again is only counted; a prefix of a
thousand blocks under one key is one run. Two facts make that possible: a request holds a prefix of its chain of
blocks, and gives it back tail first, so that a run loses its last blocks first.

Free blocks are used in this order: those that were never hashed, then the cached ones, least recently used first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

Key = int | tuple[int]
"""A chunk of the prompt shared by whoever names it, or (sequence,) for what is one request's own."""


class Segment(NamedTuple):
    """The blocks of a request that one key covers: indices ``low`` to ``high - 1`` of its chain of blocks."""

    key: Key
    low: int
    high: int


class Run:
    """Physical blocks ``low`` to ``high - 1`` under one key, all with as many holders; linked in the free queue when
    there are none."""

    __slots__ = ("after", "before", "high", "key", "low", "num_holders", "parts")

    def __init__(self, key: Key | None, low: int, high: int, num_holders: int) -> None:
        self.key = key
        """None: blocks that can never be hit again."""
        self.low = low
        self.high = high
        self.num_holders = num_holders
        self.parts: tuple[Run, Run] | None = None
        """What replaced it when part of it got one more holder."""
        self.before: Run = self
        self.after: Run = self


class Hit(NamedTuple):
    """Blocks ``low`` to ``high - 1`` of a run, found for a request and not yet taken."""

    key: Key
    run: Run
    low: int
    high: int


class KVCache:
    """Counts and runs. To allocate blocks that are free is to lower ``num_free``."""

    __slots__ = ("_num_accounted", "_queue", "_runs", "_unhashed", "_used_up", "num_free")

    def __init__(self, num_blocks: int) -> None:
        self.num_free = num_blocks
        """Cached blocks without holder included."""
        self._num_accounted = num_blocks
        """``num_free`` when it was last split into unhashed and cached blocks."""
        self._unhashed = num_blocks
        self._used_up = 0
        """Blocks taken from the front of the queue that the queue does not show yet."""
        self._queue = Run(None, 0, 0, 1)
        """A ring: ``after`` it the run that is evicted next, ``before`` it the one freed last."""
        self._runs: dict[Key, list[Run]] = {}
        """By key, in the order they were cached: of two copies of a block the older is hit."""

    def _account(self) -> None:
        """Split what was allocated since into unhashed blocks, which go first, and the front of the queue."""
        self._unhashed -= self._num_accounted - self.num_free
        self._num_accounted = self.num_free
        if self._unhashed < 0:
            self._used_up -= self._unhashed
            self._unhashed = 0

    def _free(self, count: int) -> None:
        self.num_free += count
        self._num_accounted += count

    def free_unhashed(self, count: int) -> None:
        self.free_for_good(0, count)

    def free_for_good(self, hashed: int, unhashed: int) -> None:
        """Blocks under keys that will never be looked up again, which only queue to be reused, and unhashed ones."""
        used = self._num_accounted - self.num_free
        left = self._unhashed - used
        if left < 0:
            self._used_up -= left
            left = 0
        self._unhashed = left + unhashed
        self._num_accounted = self.num_free = self.num_free + hashed + unhashed
        if hashed:
            last = self._queue.before
            if last.key is None and last is not self._queue:
                last.high += hashed
            else:
                self._append(Run(None, 0, hashed, 0))

    def free_own(self, key: Key, low: int, high: int) -> None:
        """Hashed blocks of a request that will come back and look for them."""
        if low < high:
            self._settle()
            run = Run(key, low, high, 0)
            self._runs.setdefault(key, []).append(run)
            self._free(high - low)
            self._append(run)

    def free_held(self, held: list[Run]) -> None:
        """Give back runs in the order of the chain: the tail is freed, and so evicted, first."""
        self._settle()
        for run in reversed(held):
            for leaf in _leaves_backwards(run):
                leaf.num_holders -= 1
                if leaf.num_holders == 0:
                    self._free(leaf.high - leaf.low)
                    self._append(leaf)

    def cache(self, held: list[Run], segment: Segment) -> None:
        """Newly computed blocks become findable; the request that computed them holds them."""
        key, low, high = segment
        runs = self._runs.get(key)
        if runs is None:
            run = Run(key, low, high, 1)
            self._runs[key] = [run]
        else:
            run = runs[-1]
            if len(runs) == 1 and held and held[-1] is run and run.num_holders == 1 and run.high == low:
                run.high = high
                return
            run = Run(key, low, high, 1)
            runs.append(run)
        held.append(run)

    def find(self, segments: list[Segment], most: int) -> list[Hit]:
        """The longest cached prefix of a chain, at most ``most`` blocks."""
        self._settle()
        hits: list[Hit] = []
        for key, low, high in segments:
            stop = min(high, most)
            runs = self._runs.get(key)
            at = low
            if runs is not None:
                for hit in _find(key, runs, low, stop):
                    hits.append(hit)
                    at = hit.high
            if at < high:
                break
        return hits

    def hold(self, hits: list[Hit]) -> list[Run]:
        """Take what ``find`` found, before anything else is taken or freed."""
        held = []
        for key, found, low, high in hits:
            run = self._cut(key, self._cut(key, _leaf(found, low), low)[1], high)[0]
            if run.num_holders == 0:
                self._free(run.low - run.high)
                run.before.after = run.after
                run.after.before = run.before
            run.num_holders += 1
            held.append(run)
        return held

    def _cut(self, key: Key, run: Run, at: int) -> tuple[Run, Run]:
        """Two runs for one; at its end or start the run itself, and itself."""
        if at in (run.low, run.high):
            return run, run
        head, tail = Run(key, run.low, at, run.num_holders), Run(key, at, run.high, run.num_holders)
        runs = self._runs[key]
        index = runs.index(run)
        runs[index : index + 1] = head, tail
        run.parts = head, tail
        if run.num_holders == 0:
            tail.before, tail.after, head.before, head.after = run.before, head, tail, run.after
            run.before.after, run.after.before = tail, head
        return head, tail

    def _append(self, run: Run) -> None:
        queue = self._queue
        last = queue.before
        run.before, run.after = last, queue
        last.after = queue.before = run

    def _settle(self) -> None:
        """Evict what has been used up since."""
        self._account()
        left = self._used_up
        if not left:
            return
        queue = self._queue
        run = queue.after
        while left:
            size = run.high - run.low
            if size > left:
                run.high -= left
                break
            left -= size
            if run.key is not None:
                self._forget(run, run.key)
            run = run.after
        self._used_up = 0
        queue.after, run.before = run, queue

    def _forget(self, run: Run, key: Key) -> None:
        runs = self._runs[key]
        if len(runs) == 1:
            del self._runs[key]
        else:
            runs.remove(run)


def _leaves_backwards(run: Run) -> Iterator[Run]:
    """What has become of a run that was held whole."""
    if run.parts is None:
        yield run
    else:
        yield from _leaves_backwards(run.parts[1])
        yield from _leaves_backwards(run.parts[0])


def _leaf(run: Run, at: int) -> Run:
    while run.parts is not None:
        run = run.parts[at >= run.parts[1].low]
    return run


def _find(key: Key, runs: list[Run], at: int, stop: int) -> Iterator[Hit]:
    """Block by block the first run that has it, as intervals."""
    while at < stop:
        high = stop
        for run in runs:
            if run.low <= at < run.high:
                yield Hit(key, run, at, min(high, run.high))
                at = min(high, run.high)
                break
            if at < run.low < high:
                high = run.low
        else:
            return
