"""The batch of a step and what steps change in it, over counts instead of lists, with no notion of time.

All decoding requests make a token a step, so what distinguishes them is constant while they do, and a step costs the
same however many they are: one count of steps, and for each request its offset to it, the count at which it ends and
the residue at which it needs a block.
"""

from __future__ import annotations

from heapq import heappush

from gateway.mockworker.engine_types import PS_PER_SECOND, BatchRequestView, EngineConfig
from gateway.mockworker.kv_cache import Chain, KVCache
from gateway.mockworker.live_request import DECODING, LiveRequest

UNBOUNDED = 1 << 60


class Batch:
    """Who runs, and what of the KV cache they hold."""

    __slots__ = (
        "_async",
        "_block_size",
        "_cache",
        "_caching",
        "_chunks",
        "_contexts",
        "_count",
        "_ended",
        "_ends",
        "_last_decoding",
        "_membership_changed",
        "_need",
        "_num_decoding",
        "_num_made",
        "_prefilling",
        "_repeats",
        "_running",
        "_starved",
        "_sum_offsets",
        "_tokens_left",
        "config",
    )

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._async = config.async_scheduling
        self._block_size = config.block_size
        self._caching = config.enable_prefix_caching
        self._cache = KVCache(config.num_gpu_blocks)
        self._running: dict[LiveRequest, None] = {}
        """In order of admission, those in ``_ended`` included."""
        self._prefilling: list[LiveRequest] = []
        self._ended: list[LiveRequest] = []
        """Async scheduling: requests that ended and still hold their seat and blocks."""
        self._membership_changed = True
        self._no_decodes()
        self._no_step()

    def _no_decodes(self) -> None:
        """Decoding requests, by what stays constant of each."""
        self._count = 0
        """Steps in which they made a token."""
        self._num_decoding = 0
        self._sum_offsets = 0
        self._need = [0] * (2 * self._block_size)
        """How many of them need a block when the count, modulo the block size, is the index; twice over, so that any
        so many counts are one slice."""
        self._ends: list[tuple[int, int, LiveRequest]] = []
        """Heap of (count at which it ends, sequence, request), some of them out of date."""
        self._last_decoding = 0
        """No request admitted later decodes."""

    def _no_step(self) -> None:
        """The step last composed."""
        self._num_made = 0
        """Decoding requests that make a token in it."""
        self._contexts = 0
        """Sum of their contexts, the token being made included."""
        self._chunks: list[tuple[LiveRequest, int]] = []
        """Prefilling requests and how many tokens of each it computes."""
        self._starved: list[LiveRequest] = []
        """Decoding requests for which it has no token."""
        self._tokens_left = 0
        self._repeats = False
        """The next step is composed alike, unless a request ends, arrives or needs a block that is not there."""

    def _num_tokens(self, request: LiveRequest) -> int:
        """Prompt and output so far."""
        return self._count + request.offset if request.state == DECODING else request.target

    def _view(self, request: LiveRequest) -> BatchRequestView:
        num_tokens = self._num_tokens(request)
        return BatchRequestView(
            request.spec.request_id,
            request.spec.num_prompt_tokens,
            num_tokens - 1 if request.state == DECODING else request.computed,
            num_tokens - request.spec.num_prompt_tokens,
            request.arrival / PS_PER_SECOND,
            -request.spec.priority,
            request.losses.num_preemptions if request.losses else 0,
        )

    # -- decoding -------------------------------------------------------------------------------------------------

    def _start_decoding(self, request: LiveRequest) -> None:
        """It has computed all its tokens and just made one."""
        request.offset = offset = request.target + 1 - self._count
        request.state = DECODING
        self._num_decoding += 1
        self._sum_offsets += offset
        size, need = self._block_size, self._need
        residue = (1 - offset) % size
        need[residue] += 1
        need[residue + size] += 1
        request.end_count = end = request.limit - offset
        heappush(self._ends, (end, request.sequence, request))
        if request.order > self._last_decoding:
            self._last_decoding = request.order

    def _forget_decoding(self, request: LiveRequest) -> None:
        """What follows sets its state: what the heap says of it is out of date."""
        offset = request.offset
        self._num_decoding -= 1
        self._sum_offsets -= offset
        size, need = self._block_size, self._need
        residue = (1 - offset) % size
        need[residue] -= 1
        need[residue + size] -= 1

    def _wait_a_step(self, request: LiveRequest) -> None:
        """The others made a token, a starved one did not."""
        request.starved_at = self._count
        size, need = self._block_size, self._need
        before, after = (1 - request.offset) % size, (2 - request.offset) % size
        for lap in (0, size):
            need[lap + before] -= 1
            need[lap + after] += 1
        request.offset -= 1
        self._sum_offsets -= 1
        request.end_count += 1
        heappush(self._ends, (request.end_count, request.sequence, request))

    # -- blocks ---------------------------------------------------------------------------------------------------

    def _cache_keyed(self, request: LiveRequest, computed: int) -> None:
        """The blocks that are full by now and under keys can be found by others."""
        until = min(computed // self._block_size, request.num_keyed)
        done = request.num_held
        if until > done and request.chain:
            if not done:
                request.held = []
            self._cache.cache(request.held, request.chain, done, until)
            request.num_held = until

    def _give_back(self, request: LiveRequest, computed: int, known: int, *, comes_back: bool = False) -> None:
        """Its blocks, tail first; those that ``known`` tokens fill are hashed.

        Those of generated tokens come under their keys here at the latest: nobody has looked for them before.
        """
        size, cache = self._block_size, self._cache
        if not self._caching:
            cache.num_free += -(-computed // size)
            return
        if request.num_held < request.num_keyed:
            self._cache_keyed(request, known)
        full = known // size
        unhashed = -(-computed // size) - full
        if not comes_back:
            cache.free_for_good(full - request.num_held, unhashed)
        else:
            cache.free_for_good(0, unhashed)
            if full > request.num_held:
                self._keep_for(request, full)
        if request.num_held:
            cache.free_held(request.held)
            request.num_held = 0

    def _keep_for(self, request: LiveRequest, full: int) -> None:
        """Its blocks that are under no key get one of its own: it comes back and looks for them."""
        chain, last = request.chain, (request.sequence,)
        if chain is None:
            chain = request.chain = Chain((last,), [UNBOUNDED])
        elif chain.highs[-1] != UNBOUNDED:
            chain = request.chain = Chain((*chain.keys, last), [*chain.highs, UNBOUNDED])
        if not request.num_held:
            request.held = []
        self._cache.cache(request.held, chain, request.num_held, full)
        request.num_held = full

    def _release(self, ended: list[LiveRequest], known: int = UNBOUNDED) -> None:
        running = self._running
        for request in ended:
            del running[request]
            computed = request.computed
            self._give_back(request, computed, computed if computed < known else known)
        self._membership_changed = True

    def _release_ended(self) -> bool:
        ended, self._ended = self._ended, []
        if ended:
            self._release(ended)
        return bool(ended)

    def _end_requests(self, ended: list[LiveRequest]) -> None:
        """Ended requests give back seat and blocks: at once, or with async scheduling one step later."""
        if self._ended:
            self._release_ended()
        if self._async:
            self._ended = ended
        else:
            self._release(ended)

    def _blocks_of_next(self, num_steps: int) -> int:
        """Blocks that the ``num_steps`` steps after the current one take."""
        size = self._block_size
        whole, low = num_steps // size, (self._count + 1) % size
        blocks = whole * self._num_decoding + sum(self._need[low : low + num_steps - whole * size])
        for request, share in self._chunks:
            computed = request.computed + share
            blocks += -(-(computed + share * num_steps) // size) - -(-computed // size)
        return blocks
