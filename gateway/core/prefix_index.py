"""Which worker is believed to hold which prefix: opaque chunk keys, bounded memory, least recently used out first.

A key covers all of the prompt before it (``RequestArrived.prefix_keys``), so the longest believed hit of a worker
is the last key, from the start, that it holds. The belief is made at dispatch: what was sent will be computed.
"""

from __future__ import annotations

from collections import OrderedDict

PrefixKeys = tuple[tuple[int, int], ...]
MAX_CHUNKS = 64
"""Chunks of one request that are looked at."""


class _Believed:
    """Chunks of one worker, the one to forget next first, with the tokens each stands for."""

    __slots__ = ("chunks", "num_tokens")

    def __init__(self) -> None:
        self.chunks: OrderedDict[int, int] = OrderedDict()
        self.num_tokens = 0

    def shrink(self, max_chunks: int, max_tokens: int) -> None:
        while len(self.chunks) > max_chunks or self.num_tokens > max_tokens:
            self.num_tokens -= self.chunks.popitem(last=False)[1]


class PrefixIndex:
    """``max_chunks`` over all workers, each having an equal share; 0 turns the index off.

    Within its share a worker is believed to hold no more tokens than its KV cache can.
    """

    def __init__(self, max_chunks: int) -> None:
        self._max_chunks = max_chunks
        self._workers: dict[str, _Believed] = {}
        self._share = max_chunks

    def __len__(self) -> int:
        return sum(len(believed.chunks) for believed in self._workers.values())

    def join(self, worker_id: str) -> None:
        self._workers[worker_id] = _Believed()
        self._divide()

    def forget(self, worker_id: str) -> None:
        self._workers.pop(worker_id, None)
        self._divide()

    def empty(self, worker_id: str) -> None:
        """The worker's cache holds nothing any more."""
        if worker_id in self._workers:
            self._workers[worker_id] = _Believed()

    def resize(self, max_chunks: int) -> None:
        self._max_chunks = max_chunks
        self._divide()

    def num_cached_tokens(self, worker_id: str, keys: PrefixKeys) -> int:
        """Tokens of the longest believed hit; 0 for a worker that is not known."""
        believed = self._workers.get(worker_id)
        tokens = 0
        if believed is not None:
            chunks = believed.chunks
            for key, cumulative in keys[:MAX_CHUNKS]:
                if key not in chunks:
                    break
                tokens = cumulative
        return tokens

    def add(self, worker_id: str, keys: PrefixKeys, kv_capacity_tokens: int) -> None:
        """The worker was sent these chunks. A capacity of 0 is unknown and does not bound."""
        believed = self._workers.get(worker_id)
        if believed is None or not self._share:
            return
        chunks = believed.chunks
        for index in range(min(len(keys), MAX_CHUNKS) - 1, -1, -1):  # the tail first: vLLM frees it first
            key, cumulative = keys[index]
            if key in chunks:
                chunks.move_to_end(key)
            else:
                chunks[key] = cumulative - (keys[index - 1][1] if index else 0)
                believed.num_tokens += chunks[key]
        believed.shrink(self._share, kv_capacity_tokens or believed.num_tokens)

    def sizes(self) -> list[tuple[str, int, int]]:
        """Worker, chunks and tokens, for the state digest."""
        return [(name, len(believed.chunks), believed.num_tokens) for name, believed in self._workers.items()]

    def _divide(self) -> None:
        self._share = self._max_chunks // max(1, len(self._workers))
        for believed in self._workers.values():
            believed.shrink(self._share, believed.num_tokens)
