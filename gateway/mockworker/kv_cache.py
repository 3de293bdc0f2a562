"""The KV cache: free blocks as a count, cached ones as runs of blocks, never single blocks.

Exactly vLLM's block pool with a prefix cache, seen from outside: what is a hit, how many blocks are free and what is
evicted next are the same, block for block. A block that nobody can ever hit again is only counted; a prompt of a
hundred chunks that one request computed is one run. Two facts make that possible: a request holds a prefix of its
chain of blocks, and gives it back tail first, so that a run loses its last blocks first.

Free blocks are used in this order: those that were never hashed, then the cached ones, least recently used first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

Key = int | tuple[int]
"""A chunk of the prompt shared by whoever names it, or (sequence,) for what is one request's own."""


class Chain:
    """The keys of a request's blocks, from its first: chunk ``i`` ends before block ``highs[i]``.

    A key covers all before it: where it is the same in two chains, so are the chunks up to it.
    """

    __slots__ = ("highs", "keys")

    def __init__(self, keys: tuple[Key, ...], highs: list[int]) -> None:
        self.keys = keys
        self.highs = highs
        """Growing: every chunk has a block."""

    def keys_of(self, low: int, high: int) -> tuple[Key, ...]:
        """Of the chunks that hold blocks ``low`` to ``high - 1``."""
        highs = self.highs
        first = bisect_right(highs, low)
        return self.keys[first : bisect_left(highs, high, first) + 1]


class Run:
    """Physical blocks ``low`` to ``high - 1`` of a chain, all with as many holders; linked in the free queue when
    there are none."""

    __slots__ = ("after", "before", "chain", "high", "low", "num_holders", "rest")

    after: Run
    before: Run

    def __init__(self, chain: Chain | None, low: int, high: int, num_holders: int, rest: Run | None = None) -> None:
        self.chain = chain
        """None: blocks that can never be hit again."""
        self.low = low
        self.high = high
        self.num_holders = num_holders
        self.rest = rest
        """The next of the runs that were one with this."""


_NO_CHAIN = Chain((), [])

Held = list[tuple[Run, int]]
"""What a request holds, in the order of its chain: a run with those of its ``rest`` that end by the block named."""


class Hit(NamedTuple):
    """Blocks ``low`` to ``high - 1`` of a run, found for a request and not yet taken."""

    run: Run
    low: int
    high: int


class KVCache:
    """Counts and runs. To allocate blocks that are free is to lower ``num_free``."""

    __slots__ = ("_num_accounted", "_queue", "_runs", "_unhashed", "_used_up", "_younger", "num_free")

    def __init__(self, num_blocks: int) -> None:
        self.num_free = num_blocks
        """Cached blocks without holder included."""
        self._num_accounted = num_blocks
        """``num_free`` when it was last split into unhashed and cached blocks."""
        self._unhashed = num_blocks
        self._used_up = 0
        """Blocks taken from the front of the queue that the queue does not show yet."""
        self._queue = queue = Run(None, 0, 0, 1)
        """A ring: ``after`` it the run that is evicted next, ``before`` it the one freed last."""
        queue.after = queue.before = queue
        self._runs: dict[Key, Run] = {}
        """The run that has been cached longest, of those with blocks of this key: of two copies it is the one hit."""
        self._younger: dict[Key, list[Run]] = {}
        """The others, where there are any, in the order they were cached."""

    def _account(self) -> None:
        """Split what was allocated since into unhashed blocks, which go first, and the front of the queue."""
        self._unhashed -= self._num_accounted - self.num_free
        self._num_accounted = self.num_free
        if self._unhashed < 0:
            self._used_up -= self._unhashed
            self._unhashed = 0

    def free_for_good(self, hashed: int, unhashed: int) -> None:
        """Blocks under keys that will never be looked up again, which only queue to be reused, and unhashed ones."""
        left = self._unhashed - self._num_accounted + self.num_free
        if left < 0:
            self._used_up -= left
            left = 0
        self._unhashed = left + unhashed
        self._num_accounted = self.num_free = self.num_free + hashed + unhashed
        if hashed:
            last = self._queue.before
            if last.chain is None and last is not self._queue:
                last.high += hashed
            else:
                self._append(Run(None, 0, hashed, 0))

    def free_held(self, held: Held) -> None:
        """Give back runs in the order of the chain: the tail is freed, and so evicted, first."""
        self._account()
        for run, until in reversed(held):
            if run.high == until:
                run.num_holders -= 1
                if not run.num_holders:
                    self._append(run)
                    self.num_free += run.high - run.low
            else:
                self._free_parts(run, until)
        self._num_accounted = self.num_free

    def _free_parts(self, run: Run, until: int) -> None:
        parts = [run]
        while run.high < until and run.rest:
            run = run.rest
            parts.append(run)
        for part in reversed(parts):
            part.num_holders -= 1
            if not part.num_holders:
                self._append(part)
                self.num_free += part.high - part.low

    def cache(self, held: Held, chain: Chain, low: int, high: int) -> None:
        """Newly computed blocks become findable; the request that computed them holds them."""
        keys, runs = chain.keys_of(low, high), self._runs
        if held:
            run, until = held[-1]
            if run.chain is chain and run.high == low == until and run.num_holders == 1:
                new = keys[1:] if runs.get(keys[0]) is run and keys[0] not in self._younger else keys
                if runs.keys().isdisjoint(new):
                    run.high = high
                    held[-1] = run, high
                    if new:
                        runs.update(dict.fromkeys(new, run))
                    return
        run = Run(chain, low, high, 1)
        held.append((run, high))
        if runs.keys().isdisjoint(keys):
            runs.update(dict.fromkeys(keys, run))
            return
        for key in keys:
            if runs.setdefault(key, run) is not run:
                self._younger.setdefault(key, []).append(run)

    def find(self, chain: Chain, most: int) -> list[Hit]:
        """The longest cached prefix of a chain, at most ``most`` blocks."""
        if self.num_free != self._num_accounted or self._used_up:
            self._settle()
        runs, younger = self._runs, self._younger
        hits: list[Hit] = []
        found: Run | None = None
        low = at = 0
        for key, high in zip(chain.keys, chain.highs, strict=True):
            run = runs.get(key)
            if run is None or at >= most:
                break
            stop = high if high < most else most
            if key in younger:
                if found is not None:
                    hits.append(Hit(found, low, at))
                    found = None
                at = low = self._find_among(hits, [run, *younger[key]], at, stop)
            else:
                if run is not found:
                    if not run.low <= at < run.high:
                        break
                    if found is not None:
                        hits.append(Hit(found, low, at))
                    found, low = run, at
                at = run.high if run.high < stop else stop
            if at < stop:
                break
        if found is not None:
            hits.append(Hit(found, low, at))
        return hits

    def _find_among(self, hits: list[Hit], runs: list[Run], at: int, stop: int) -> int:
        """Block by block the first run that has it, as intervals; where they end."""
        while at < stop:
            high = stop
            for run in runs:
                if run.low <= at < run.high:
                    high = min(high, run.high)
                    hits.append(Hit(run, at, high))
                    at = high
                    break
                if at < run.low < high:
                    high = run.low
            else:
                break
        return at

    def hold(self, hits: list[Hit]) -> Held:
        """Take what ``find`` found, before anything else is taken or freed."""
        held: Held = []
        for run, low, high in hits:
            while low >= run.high and run.rest:  # an earlier hit has cut it
                run = run.rest
            if low > run.low:
                run = self._cut(run, low)
            if high < run.high:
                self._cut(run, high)
            if run.num_holders == 0:
                self.num_free -= high - low
                run.before.after = run.after
                run.after.before = run.before
            run.num_holders += 1
            held.append((run, high))
        self._num_accounted = self.num_free
        return held

    def _cut(self, run: Run, at: int) -> Run:
        """Its blocks from ``at`` on become a run of their own, which is evicted before the others."""
        chain = run.chain or _NO_CHAIN
        tail = Run(chain, at, run.high, run.num_holders, run.rest)
        keys = chain.keys_of(at, run.high)
        run.high, run.rest = at, tail
        if not run.num_holders:
            tail.before, tail.after = run.before, run
            run.before.after = run.before = tail
        runs, younger = self._runs, self._younger
        shared = chain.keys_of(at - 1, at)
        for key in keys:
            copies = [runs[key], *younger.get(key, ())]
            index = copies.index(run)
            copies[index : index + 1] = (run, tail) if key in shared else (tail,)
            self._enter(key, copies)
        return tail

    def _enter(self, key: Key, copies: list[Run]) -> None:
        if not copies:
            del self._runs[key]
            return
        self._runs[key] = copies[0]
        if len(copies) > 1:
            self._younger[key] = copies[1:]
        else:
            self._younger.pop(key, None)

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
        self._used_up = 0
        queue = self._queue
        run = queue.after
        while left:
            size = run.high - run.low
            kept = size - left if size > left else 0
            if run.chain is not None:
                self._forget(run, run.chain, run.low + kept)
            run.high = run.low + kept
            left -= size - kept
            if not kept:
                run = run.after
        queue.after, run.before = run, queue

    def _forget(self, run: Run, chain: Chain, high: int) -> None:
        """Its blocks from ``high`` on can be found no more."""
        runs, younger = self._runs, self._younger
        keys = chain.keys_of(high, run.high)
        if high > run.low and keys and keys[0] in chain.keys_of(high - 1, high):
            keys = keys[1:]
        if not younger or younger.keys().isdisjoint(keys):
            for key in keys:
                del runs[key]
            return
        for key in keys:
            if key in younger:
                copies = [runs[key], *younger[key]]
                copies.remove(run)
                self._enter(key, copies)
            else:
                del runs[key]
