"""What the next step computes: vLLM's scheduler over counts instead of lists, with no notion of time.

All decoding requests make a token a step, so what distinguishes them is constant while they do, and a step costs the
same however many they are: one count of steps, and for each request its offset to it, the count at which it ends and
the residue at which it needs a block. Only what prefills, waits, ends or is preempted is handled by itself. Where
tokens or blocks are short, ``_contend`` goes through the running requests one by one, in vLLM's order.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from gateway.mockworker.engine_types import (
    PS_PER_SECOND,
    BatchEngineView,
    BatchPolicy,
    BatchRequestView,
    EngineConfig,
    EngineRequest,
    RequestStats,
)
from gateway.mockworker.kv_cache import Hit, KVCache, Run, Segment

WAITING, PREFILLING, DECODING, ENDED = range(4)
_UNBOUNDED = 1 << 60


class Losses:
    """What preemptions cost a request."""

    __slots__ = ("cached_at_admission", "high", "num_preemptions", "preempted_at", "preempted_ps", "recomputed")

    def __init__(self) -> None:
        self.num_preemptions = 0
        self.recomputed = 0
        self.cached_at_admission = 0
        self.high = 0
        """Most tokens ever computed, as of the last preemption."""
        self.preempted_at = -1
        """Of the first preemption since its last token."""
        self.preempted_ps = 0

    def add(self, computed: int) -> None:
        """Account for what was computed since the admission, now that it ends or is lost."""
        self.recomputed += max(0, min(computed, self.high) - self.cached_at_admission)
        self.high = max(self.high, computed)


class LiveRequest:
    """A live request and all that the scheduler knows of it."""

    __slots__ = (
        "arrival",
        "cancelled",
        "computed",
        "end_count",
        "first_scheduled",
        "first_token",
        "held",
        "limit",
        "losses",
        "num_cached",
        "num_held",
        "num_keyed",
        "offset",
        "order",
        "segments",
        "sequence",
        "spec",
        "starved_at",
        "state",
        "target",
        "visible",
    )

    offset: int
    """While it decodes: its tokens less the engine's count of steps."""
    end_count: int
    """While it decodes: the engine's count of steps at which it ends."""
    order: int
    """Of its last admission."""
    held: list[Run]
    """Cached blocks it shares or may share, in order; set while ``num_held`` is not 0."""

    def __init__(self, spec: EngineRequest, arrival: int, visible: int, limit: int, sequence: int) -> None:
        self.spec = spec
        self.arrival = arrival
        self.visible = visible
        self.sequence = sequence
        self.state = WAITING
        self.cancelled = False
        prompt = spec.num_prompt_tokens
        most = prompt + spec.num_output_tokens
        self.limit = most if most < limit else limit
        """It ends when it has so many tokens."""
        self.target = prompt
        """Tokens to compute before it decodes: those it had when it last started to wait."""
        self.computed = 0
        """Tokens computed, while it prefills and at its end."""
        self.segments: list[Segment] | None = None
        """Keys of its prompt's blocks, where any can be hit by others."""
        self.num_keyed = 0
        """Blocks, from the first, that are under those keys."""
        self.num_held = 0
        """Blocks in ``held``."""
        self.starved_at = -1
        """While it decodes: the engine's count of steps after the last one that had no token for it."""
        self.first_scheduled = -1
        self.first_token = -1
        self.num_cached = 0
        self.losses: Losses | None = None

    def stats(self, num_tokens: int, finish: int) -> RequestStats:
        spec, losses = self.spec, self.losses
        prompt = spec.num_prompt_tokens
        times = (spec.request_id, self.arrival, self.first_scheduled, self.first_token, finish)
        lost = (losses.num_preemptions, losses.recomputed, losses.preempted_ps) if losses else (0, 0, 0)
        return tuple.__new__(RequestStats, (*times, prompt, num_tokens - prompt, self.num_cached, *lost))


class Scheduler:
    """Who waits, runs and holds blocks. ``_schedule`` composes a step, the others account for what it does.

    Its state is the engine's, which adds time: ``gateway.mockworker.engine``.
    """

    __slots__ = (
        "_async",
        "_block_size",
        "_cache",
        "_caching",
        "_chunks",
        "_contexts",
        "_count",
        "_end_counts",
        "_ended",
        "_ends",
        "_fcfs",
        "_last_decoding",
        "_long_prefill",
        "_membership_changed",
        "_most_seqs",
        "_most_tokens",
        "_need",
        "_num_admitted",
        "_num_decoding",
        "_num_made",
        "_policy",
        "_prefill_budget",
        "_prefilling",
        "_ranked",
        "_repeats",
        "_reserve",
        "_running",
        "_starved",
        "_sum_offsets",
        "_tokens_left",
        "_waiting",
        "_watermark",
        "config",
        "num_computed_prompt_tokens",
        "num_preemptions",
        "num_prefix_hits",
        "num_prefix_queries",
    )

    def __init__(self, config: EngineConfig, batch_policy: BatchPolicy | None) -> None:
        self.config = config
        self.num_preemptions = 0
        self.num_prefix_queries = 0
        """Tokens looked up in the prefix cache by admissions."""
        self.num_prefix_hits = 0
        """Tokens of those that were found."""
        self.num_computed_prompt_tokens = 0
        """Prefilled by completed steps, recomputation included."""
        self._policy = batch_policy
        self._async = config.async_scheduling
        self._fcfs = batch_policy is None and config.scheduling_policy == "fcfs"
        self._block_size = config.block_size
        self._most_tokens = config.max_num_batched_tokens
        self._most_seqs = config.max_num_seqs
        self._caching = config.enable_prefix_caching
        self._watermark = config.watermark_blocks
        self._reserve = config.reserve_full_isl
        self._long_prefill = config.long_prefill_token_threshold
        self._cache = KVCache(config.num_gpu_blocks)

        self._waiting: deque[LiveRequest] = deque()
        """FCFS; any other order is in ``_ranked``."""
        self._ranked: list[tuple[Any, LiveRequest]] = []
        self._running: dict[LiveRequest, None] = {}
        """In order of admission, those in ``_ended`` included."""
        self._num_admitted = 0
        self._ended: list[LiveRequest] = []
        """Async scheduling: requests that ended and still hold their seat and blocks."""
        self._prefilling: list[LiveRequest] = []
        self._membership_changed = True
        self._prefill_budget = self._most_tokens

        # Decoding requests, by what stays constant of each.
        self._count = 0
        """Steps in which they made a token."""
        self._num_decoding = 0
        self._sum_offsets = 0
        self._need = [0] * config.block_size
        """How many of them need a block when the count, modulo the block size, is the index."""
        self._ends: dict[int, list[LiveRequest]] = {}
        """By the count at which they end."""
        self._end_counts: list[int] = []
        """Heap of the keys of ``_ends``, and of some that are gone."""
        self._last_decoding = 0
        """No request admitted later decodes."""

        # The step last composed.
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

    # -- waiting --------------------------------------------------------------------------------------------------

    def _wait(self, request: LiveRequest, front: bool = False) -> None:
        self._membership_changed = True
        if self._fcfs:
            if front:
                self._waiting.appendleft(request)
            else:
                self._waiting.append(request)
            return
        if self._policy is not None:
            order: Any = (self._policy.waiting_key(self._view(request)), request.arrival, request.sequence)
        else:
            order = (request.spec.priority, request.arrival, request.spec.request_id)
        heapq.heappush(self._ranked, (order, request))

    def _withdraw(self, request: LiveRequest) -> None:
        """A waiting request is cancelled."""
        self._waiting = deque(r for r in self._waiting if r is not request)
        self._ranked = [entry for entry in self._ranked if entry[1] is not request]
        heapq.heapify(self._ranked)
        self._membership_changed = True

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

    def _num_tokens(self, request: LiveRequest) -> int:
        """Prompt and output so far."""
        return self._count + request.offset if request.state == DECODING else request.target

    # -- composing a step -----------------------------------------------------------------------------------------

    def _schedule(self, now: int) -> bool:
        """Compose the step that starts now; False when it comes out empty."""
        cache, num_made, size = self._cache, self._num_decoding, self._block_size
        left = threshold = self._most_tokens
        prefill_left = most_prefill = left if self._policy is None else self._ask_prefill_budget()
        if self._long_prefill and len(self._running) + len(self._waiting) + len(self._ranked) > 1:
            threshold = self._long_prefill
        left -= num_made
        blocks = self._need[self._count % size]
        free = cache.num_free
        if left < 0 or blocks > free:
            return self._contend(now, most_prefill, threshold)
        self._chunks = chunks = []
        for request in self._prefilling:
            computed = request.computed
            share = request.target - computed
            if share > threshold:
                share = threshold
            if share > prefill_left:
                share = prefill_left
            if share > left:
                if request.order < self._last_decoding:
                    return self._contend(now, most_prefill, threshold)
                share = left
            if share > 0:
                blocks += (computed + share + size - 1) // size - (computed + size - 1) // size
                if blocks > free:
                    return self._contend(now, most_prefill, threshold)
                chunks.append((request, share))
                left -= share
                prefill_left -= share
        cache.num_free = free - blocks
        for request, share in chunks:
            if request.num_held < request.num_keyed:
                self._cache_keyed(request, request.computed + share)
        if self._starved:
            self._starved = []
        self._num_made = num_made
        self._contexts = num_made * self._count + self._sum_offsets
        self._repeats = True
        self._tokens_left = left
        if left and (self._waiting or self._ranked):
            self._admit(now, prefill_left, threshold)
        return num_made > 0 or len(chunks) > 0

    def _ask_prefill_budget(self) -> int:
        """The policy's, asked anew when running or waiting have changed."""
        most = self._most_tokens
        if self._membership_changed and self._policy is not None:
            blocks, num_waiting = self.config.num_gpu_blocks, len(self._waiting) + len(self._ranked)
            view = BatchEngineView(len(self._running), num_waiting, self._cache.num_free, blocks, most)
            self._prefill_budget = min(max(int(self._policy.prefill_budget(view)), 0), most)
            self._membership_changed = False
        return self._prefill_budget if self._num_decoding else max(1, self._prefill_budget)

    def _admit(self, now: int, prefill_left: int, threshold: int) -> None:
        """Take waiting requests into the step, in order, until one does not fit."""
        size, queue, ranked, cache = self._block_size, self._waiting, self._ranked, self._cache
        left, most_seqs = self._tokens_left, self._most_seqs
        while left and prefill_left > 0 and len(self._running) < most_seqs:
            if queue:
                request = queue[0]
            elif ranked:
                request = ranked[0][1]
            else:
                break
            hits: list[Hit] = []
            if self._caching and (request.segments or request.losses):
                hits = self._find(request)
            cached = hits[-1].high * size if hits else 0
            share = request.target - cached
            if share > left:
                share = left
            if share > prefill_left or share > threshold:
                share = min(prefill_left, threshold)
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
            prefill_left -= share
        self._tokens_left = left

    def _fits(self, request: LiveRequest, computed: int, hits: list[Hit]) -> bool:
        reserve = self._reserve
        needed = -(-(request.target if reserve else computed) // self._block_size)
        if self._running:
            needed += self._watermark
        for _key, run, low, high in hits:
            if run.num_holders:
                needed -= high - low
        if needed <= self._cache.num_free:
            return True
        if hits and not reserve:
            # Its hits may be evicted; a first chunk that starts earlier may then need fewer blocks.
            self._repeats = False
        return False

    def _find(self, request: LiveRequest) -> list[Hit]:
        segments = request.segments or []
        if request.losses:
            segments = [*segments, Segment((request.sequence,), request.num_keyed, _UNBOUNDED)]
        return self._cache.find(segments, (request.target - 1) // self._block_size)

    def _start_running(self, request: LiveRequest, cached: int, hits: list[Hit], now: int) -> None:
        if hits:
            request.held = self._cache.hold(hits)
            request.num_held = hits[-1].high
        if self._caching:
            self.num_prefix_queries += request.target
            self.num_prefix_hits += cached
        request.computed = cached
        if request.losses:
            request.losses.cached_at_admission = cached
        if request.first_scheduled < 0:
            request.first_scheduled = now
            request.num_cached = cached
        self._num_admitted += 1
        request.order = self._num_admitted
        request.state = PREFILLING
        self._running[request] = None
        self._prefilling.append(request)
        self._membership_changed = True

    def _cache_keyed(self, request: LiveRequest, computed: int) -> None:
        """The blocks of its prompt that are full by now can be found by others."""
        until = min(computed // self._block_size, request.num_keyed)
        done = request.num_held
        if until > done:
            if not done:
                request.held = []
            for key, low, high in request.segments or ():
                if high > done:
                    if low >= until:
                        break
                    self._cache.cache(request.held, Segment(key, max(low, done), min(high, until)))
            request.num_held = until

    # -- a step in which tokens or blocks are short ---------------------------------------------------------------

    def _contend(self, now: int, prefill_left: int, threshold: int) -> bool:
        """Compose the step request by request; the last running one makes room."""
        size, left, num_preemptions = self._block_size, self._most_tokens, self.num_preemptions
        shares: dict[LiveRequest, int] = {}
        order, index = list(self._running), 0
        while index < len(order) and left:
            request = order[index]
            index += 1
            if request.state == DECODING:
                share, computed = 1, self._count + request.offset - 1
            else:
                computed = request.computed
                share = min(request.target - computed, left, prefill_left, threshold)
            if share <= 0 or request.state == ENDED:
                continue
            blocks = -(-(computed + share) // size) - -(-computed // size)
            while blocks > self._cache.num_free and request.state != WAITING:
                if self._policy is not None and self._release_ended():
                    order = list(self._running)
                    index = order.index(request) + 1
                    continue
                victim = self._victim(order)
                given = shares.pop(victim, 0)
                left += given
                prefill_left += given if victim.state == PREFILLING else 0
                index -= order.index(victim) < index
                order.remove(victim)
                self._preempt(victim, given, now)
            if request.state == WAITING:
                break
            self._cache.num_free -= blocks
            if request.state == PREFILLING:
                prefill_left -= share
                if request.num_held < request.num_keyed:
                    self._cache_keyed(request, computed + share)
            shares[request] = share
            left -= share
        self._compose(shares, left)
        if self.num_preemptions == num_preemptions:
            self._admit(now, prefill_left, threshold)
        return bool(self._num_made or self._chunks)

    def _compose(self, shares: dict[LiveRequest, int], left: int) -> None:
        made = [r for r in shares if r.state == DECODING]
        self._num_made = len(made)
        self._contexts = len(made) * self._count + sum([r.offset for r in made])
        self._chunks = [(r, share) for r, share in shares.items() if r.state == PREFILLING]
        self._starved = []
        if len(made) < self._num_decoding:
            self._starved = [r for r in self._running if r.state == DECODING and r not in shares]
        self._tokens_left = left
        self._repeats = False

    def _victim(self, order: list[LiveRequest]) -> LiveRequest:
        policy = self._policy
        if policy is not None:
            others = order[:0:-1] or order
            return max(others, key=lambda r: policy.victim_key(self._view(r)))
        if self._fcfs:
            return order[-1]
        # vLLM compares no further than arrival; two that arrived at once would then preempt each other for ever.
        return max(order, key=lambda r: (r.spec.priority, r.arrival, r.spec.request_id))

    def _preempt(self, victim: LiveRequest, share: int, now: int) -> None:
        """``share``: its tokens in the step being composed, whose blocks it has already."""
        self.num_preemptions += 1
        if victim.state == ENDED:
            self._ended.remove(victim)
            self._release([victim], self._num_known(victim, victim.computed, 0))
            return
        num_tokens = self._num_tokens(victim)
        computed = known = victim.computed
        if victim.state == DECODING:
            computed = num_tokens - 1
            known = self._num_known(victim, computed, share)
            self._stop_decoding(victim)
        else:
            known += share
            self._prefilling.remove(victim)
        victim.state = WAITING
        del self._running[victim]
        self._give_back(victim, computed + share, known, comes_back=True)
        losses = victim.losses
        if losses is None:
            losses = victim.losses = Losses()
            losses.cached_at_admission = victim.num_cached
        losses.add(computed)
        losses.num_preemptions += 1
        if losses.preempted_at < 0:
            losses.preempted_at = now
        victim.target = num_tokens
        victim.computed = 0
        self._wait(victim, front=True)

    def _num_known(self, request: LiveRequest, computed: int, share: int) -> int:
        """Tokens of one that decodes, or has just ended, whose blocks are hashed by now if they are full.

        Async scheduling decides a step before it has the token of the one before, and can hash no block with it.
        """
        if not self._async or request in self._starved:
            return computed + share
        if request.starved_at == self._count - 1:
            return computed
        return max(request.target, computed + share - 1)

    # -- what steps change ----------------------------------------------------------------------------------------

    def _start_decoding(self, request: LiveRequest) -> None:
        """It has computed all its tokens and just made one."""
        offset = request.target + 1 - self._count
        request.offset = offset
        request.state = DECODING
        self._num_decoding += 1
        self._sum_offsets += offset
        self._need[(1 - offset) % self._block_size] += 1
        self._end_at(request, request.limit - offset)
        if request.order > self._last_decoding:
            self._last_decoding = request.order

    def _end_at(self, request: LiveRequest, count: int) -> None:
        request.end_count = count
        ends = self._ends.get(count)
        if ends is None:
            self._ends[count] = [request]
            heapq.heappush(self._end_counts, count)
        else:
            ends.append(request)

    def _not_end(self, request: LiveRequest) -> None:
        ends = self._ends[request.end_count]
        ends.remove(request)
        if not ends:
            del self._ends[request.end_count]

    def _stop_decoding(self, request: LiveRequest) -> None:
        self._not_end(request)
        self._forget_decoding(request)

    def _forget_decoding(self, request: LiveRequest) -> None:
        offset = request.offset
        self._num_decoding -= 1
        self._sum_offsets -= offset
        self._need[(1 - offset) % self._block_size] -= 1

    def _wait_a_step(self, request: LiveRequest) -> None:
        """The others made a token, a starved one did not."""
        size, offset = self._block_size, request.offset
        request.starved_at = self._count
        self._need[(1 - offset) % size] -= 1
        self._need[(2 - offset) % size] += 1
        request.offset = offset - 1
        self._sum_offsets -= 1
        self._not_end(request)
        self._end_at(request, request.end_count + 1)

    def _give_back(self, request: LiveRequest, computed: int, known: int, comes_back: bool = False) -> None:
        """Its blocks, tail first; those that ``known`` tokens fill are hashed."""
        size, cache = self._block_size, self._cache
        full = known // size
        unhashed = -(-computed // size) - full
        if not self._caching:
            cache.free_unhashed(full + unhashed)
            return
        if comes_back:
            cache.free_unhashed(unhashed)
            cache.free_own((request.sequence,), request.num_held, full)
        else:
            cache.free_for_good(full - request.num_held, unhashed)
        if request.num_held:
            cache.free_held(request.held)
            request.num_held = 0

    def _end_requests(self, ended: list[LiveRequest]) -> None:
        """Ended requests give back seat and blocks: at once, or with async scheduling one step later."""
        if self._ended:
            self._release_ended()
        if self._async:
            self._ended = ended
        else:
            self._release(ended)

    def _release_ended(self) -> bool:
        ended, self._ended = self._ended, []
        if ended:
            self._release(ended)
        return bool(ended)

    def _release(self, ended: list[LiveRequest], known: int = _UNBOUNDED) -> None:
        running = self._running
        for request in ended:
            del running[request]
            self._give_back(request, request.computed, min(request.computed, known))
        self._membership_changed = True

    # -- blocks of steps composed alike ---------------------------------------------------------------------------

    def _blocks_of_next(self, num_steps: int) -> int:
        """Blocks that the ``num_steps`` steps after the current one take."""
        size, need = self._block_size, self._need
        whole, rest = divmod(num_steps, size)
        low = (self._count + 1) % size
        blocks = whole * self._num_decoding + sum(need[low : low + rest])
        if low + rest > size:
            blocks += sum(need[: low + rest - size])
        for request, share in self._chunks:
            computed = request.computed + share
            blocks += -(-(computed + share * num_steps) // size) - -(-computed // size)
        return blocks

    def _num_repeats(self) -> int:
        """How many steps, the current one included, are surely composed alike if nothing arrives."""
        if not self._repeats or self._ended or (self._policy is not None and self._membership_changed):
            return 1
        size, free, counts = self._block_size, self._cache.num_free, self._end_counts
        while counts and counts[0] not in self._ends:
            heapq.heappop(counts)
        num_steps = counts[0] - self._count if counts else _UNBOUNDED
        blocks_a_round = self._num_decoding
        if self._chunks:
            if len(self._chunks) > 1 or self._tokens_left or self._policy is not None or self._long_prefill:
                return 1
            ((request, share),) = self._chunks
            rest = (request.target - request.computed - 1) // share
            if rest < 2:
                return 1
            if rest < num_steps:
                num_steps = rest
            blocks_a_round += share
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
