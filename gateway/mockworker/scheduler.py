"""What the next step computes: vLLM's scheduler over counts instead of lists, with no notion of time.

Only what prefills, waits, ends or is preempted is handled by itself: ``gateway.mockworker.batch`` says how the rest is
counted, ``gateway.mockworker.contention`` what happens where tokens or blocks are short.
"""

from __future__ import annotations

import heapq

from gateway.mockworker.batch import UNBOUNDED
from gateway.mockworker.contention import Contention
from gateway.mockworker.engine_types import BatchEngineView, BatchPolicy, EngineConfig
from gateway.mockworker.kv_cache import Hit
from gateway.mockworker.live_request import DECODING, PREFILLING, LiveRequest


class Scheduler(Contention):
    """Who waits, runs and holds blocks. ``_schedule`` composes a step, the others account for what it does.

    Its state is the engine's, which adds time: ``gateway.mockworker.engine``.
    """

    __slots__ = (
        "_long_prefill",
        "_most_seqs",
        "_num_admitted",
        "_num_prefilled",
        "_prefill_budget",
        "_reserve",
        "_restore",
        "_unbounded_chunks",
        "_watermark",
        "num_prefix_hits",
        "num_prefix_queries",
    )

    def __init__(self, config: EngineConfig, batch_policy: BatchPolicy | None) -> None:
        super().__init__(config, batch_policy)
        self.num_prefix_queries = 0
        """Tokens looked up in the prefix cache by admissions."""
        self.num_prefix_hits = 0
        """Tokens of those that were found."""
        self._num_prefilled = 0
        """Prompt tokens computed by completed steps, recomputation included."""
        self._num_admitted = 0
        self._most_seqs = config.max_num_seqs
        self._watermark = config.watermark_blocks
        self._reserve = config.reserve_full_isl
        self._restore = config.restore_preempted
        self._long_prefill = config.long_prefill_token_threshold
        self._prefill_budget = self._most_tokens
        self._unbounded_chunks = batch_policy is None and not self._long_prefill
        """Nothing but the step's tokens bounds a chunk."""

    def _schedule(self, now: int) -> bool:
        """Compose the step that starts now; False when it comes out empty."""
        count, num_made = self._count, self._num_decoding
        most = budget = threshold = self._most_tokens
        if not self._unbounded_chunks:
            budget, threshold = self._bounds()
        left = most - num_made
        free = self._cache.num_free - self._need[count % self._block_size]
        if left < 0 or free < 0 or (self._prefilling and self._short_of_chunks(left, free, budget, threshold)):
            return self._schedule_short(now, budget, threshold)
        if self._prefilling:
            for _, share in self._chunks:
                left -= share
                budget -= share
        else:
            self._cache.num_free = free
            self._chunks = []
        if self._starved:
            self._starved = []
        self._num_made = num_made
        self._contexts = num_made * count + self._sum_offsets
        self._repeats = True
        self._tokens_left = left
        if left and (self._waiting or self._ranked):
            self._admit(now, budget, threshold)
        return num_made > 0 or len(self._chunks) > 0

    def _short_of_chunks(self, left: int, free: int, budget: int, threshold: int) -> bool:
        """Whether tokens or blocks are short for those that prefill already; if not, they have their chunks."""
        size = self._block_size
        chunks = []
        for request in self._prefilling:
            computed = request.computed
            share = request.target - computed
            if share > threshold:
                share = threshold
            if share > budget:
                share = budget
            if share > left:
                if request.order < self._last_decoding:
                    return True
                share = left
            if share > 0:
                free -= -(-(computed + share) // size) - -(-computed // size)
                if free < 0:
                    return True
                chunks.append((request, share))
                left -= share
                budget -= share
        self._chunks = chunks
        self._cache.num_free = free
        if self._caching:
            for request, share in chunks:
                if request.num_held < request.num_keyed:
                    self._cache_keyed(request, request.computed + share)
        return False

    def _schedule_short(self, now: int, budget: int, threshold: int) -> bool:
        num_preemptions = self.num_preemptions
        budget = self._contend(now, budget, threshold)
        if self.num_preemptions == num_preemptions:
            self._admit(now, budget, threshold)
        return bool(self._num_made or self._chunks)

    def _bounds(self) -> tuple[int, int]:
        """Most prompt tokens of the step, and of one request in it."""
        most = threshold = self._most_tokens
        if self._long_prefill and len(self._running) + len(self._waiting) + len(self._ranked) > 1:
            threshold = self._long_prefill
        return most if self._policy is None else self._ask_prefill_budget(self._policy), threshold

    def _ask_prefill_budget(self, policy: BatchPolicy) -> int:
        """The policy's, asked anew when running or waiting have changed."""
        most = self._most_tokens
        if self._membership_changed:
            blocks, num_waiting = self.config.num_gpu_blocks, len(self._waiting) + len(self._ranked)
            view = BatchEngineView(len(self._running), num_waiting, self._cache.num_free, blocks, most)
            self._prefill_budget = min(max(int(policy.prefill_budget(view)), 0), most)
            self._membership_changed = False
        return self._prefill_budget if self._num_decoding else max(1, self._prefill_budget)

    # -- admission ------------------------------------------------------------------------------------------------

    def _admit(self, now: int, budget: int, threshold: int) -> None:
        """Take waiting requests into the step, in order, until one does not fit."""
        size, queue, ranked, cache = self._block_size, self._waiting, self._ranked, self._cache
        left, most_seqs, running = self._tokens_left, self._most_seqs, self._running
        while left and budget > 0 and len(running) < most_seqs:
            if queue:
                request = queue[0]
            elif ranked:
                request = ranked[0][1]
            else:
                break
            hits: list[Hit] | None = None
            cached = 0
            if request.chain is not None:
                hits = cache.find(request.chain, (request.target - 1) // size)
                if hits:
                    cached = hits[-1].high * size
            if self._restore and request.losses:
                cached = max(cached, min(request.losses.high, request.target - 1))
            share = request.target - cached
            if share > left:
                share = left
            if share > budget or share > threshold:
                share = min(budget, threshold)
            if not self._fits(request, cached + share, hits):
                break
            if queue:
                queue.popleft()
            else:
                heapq.heappop(ranked)
            self._start_running(request, cached, hits, now)
            cache.num_free -= -(-(cached + share) // size) - request.num_held
            if request.num_held < request.num_keyed:
                self._cache_keyed(request, cached + share)
            self._chunks.append((request, share))
            left -= share
            budget -= share
        self._tokens_left = left

    def _fits(self, request: LiveRequest, computed: int, hits: list[Hit] | None) -> bool:
        needed = -(-(request.target if self._reserve else computed) // self._block_size)
        if self._watermark and self._running:
            needed += self._watermark
        if hits:
            for run, low, high in hits:
                if run.num_holders:
                    needed -= high - low
        if needed <= self._cache.num_free:
            return True
        if hits and not self._reserve:
            # Its hits may be evicted; a first chunk that starts earlier may then need fewer blocks.
            self._repeats = False
        return False

    def _start_running(self, request: LiveRequest, cached: int, hits: list[Hit] | None, now: int) -> None:
        if hits:
            request.held = self._cache.hold(hits)
            request.num_held = hits[-1].high
            self.num_prefix_hits += request.num_held * self._block_size
        if self._caching:
            self.num_prefix_queries += request.target
        request.computed = cached
        if request.losses:
            request.losses.cached_at_admission = cached
        if request.first_scheduled < 0:
            request.first_scheduled = now
            request.num_cached = cached
        self._num_admitted = request.order = self._num_admitted + 1
        request.state = PREFILLING
        self._running[request] = None
        self._prefilling.append(request)
        self._membership_changed = True

    # -- steps composed alike -------------------------------------------------------------------------------------

    def _num_repeats(self) -> int:
        """How many steps, the current one included, are surely composed alike if nothing arrives."""
        if not self._repeats or self._ended or (self._policy is not None and self._membership_changed):
            return 1
        ends, num_steps, blocks_a_round = self._ends, UNBOUNDED, self._num_decoding
        while ends:
            end, _, request = ends[0]
            if request.end_count == end and request.state == DECODING:
                num_steps = end - self._count
                break
            heapq.heappop(ends)
        if self._chunks:
            if len(self._chunks) > 1 or self._tokens_left or not self._unbounded_chunks:
                return 1
            ((request, share),) = self._chunks
            rest = (request.target - request.computed - 1) // share
            if rest < 2:
                return 1
            if rest < num_steps:
                num_steps = rest
            blocks_a_round += share
        size, free = self._block_size, self._cache.num_free
        if (num_steps // size + 1) * blocks_a_round <= free or self._blocks_of_next(num_steps - 1) <= free:
            return num_steps
        return 1 if self._chunks else self._steps_until_short(free)

    def _steps_until_short(self, free: int) -> int:
        """The step after so many lacks a block."""
        whole, free = divmod(free, self._num_decoding)
        num_steps = 1 + whole * self._block_size
        while (free := free - self._need[(self._count + num_steps) % self._block_size]) >= 0:
            num_steps += 1
        return num_steps
