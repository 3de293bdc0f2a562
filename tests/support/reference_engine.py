"""The engine model step by step and block by block: slow, short, and what the real one must agree with by ``==``.

It keeps to vLLM's own structure (running and waiting lists, block objects in one free queue), so that it can be read
beside vLLM's scheduler. ``gateway.mockworker.engine`` says what the semantics are.
"""

from __future__ import annotations

import copy
import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from gateway.mockworker.engine import (
    PS_PER_SECOND,
    BatchEngineView,
    BatchPolicy,
    BatchRequestView,
    EngineConfig,
    EngineRequest,
    RequestStats,
    TokenRun,
)
from gateway.mockworker.profile import WorkerProfile


class _Block:
    __slots__ = ("key", "num_references")

    def __init__(self) -> None:
        self.key: tuple[Any, int] | None = None
        self.num_references = 0


class _BlockPool:
    """Paged KV blocks with a prefix cache, block by block."""

    def __init__(self, num_blocks: int, enable_caching: bool) -> None:
        self._enable_caching = enable_caching
        self._free: OrderedDict[_Block, None] = OrderedDict((_Block(), None) for _ in range(num_blocks))
        self._cached: dict[tuple[Any, int], dict[_Block, None]] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    def longest_hit(self, keys: Iterable[tuple[Any, int]]) -> list[_Block]:
        hit: list[_Block] = []
        for key in keys:
            blocks = self._cached.get(key)
            if not blocks:
                break
            hit.append(next(iter(blocks)))
        return hit

    def take(self, count: int) -> list[_Block]:
        taken = []
        for _ in range(count):
            block, _nothing = self._free.popitem(last=False)
            self._forget(block)
            block.num_references = 1
            taken.append(block)
        return taken

    def _forget(self, block: _Block) -> None:
        if block.key is None:
            return
        same = self._cached[block.key]
        del same[block]
        if not same:
            del self._cached[block.key]
        block.key = None

    def touch(self, blocks: list[_Block]) -> None:
        for block in blocks:
            if block.num_references == 0:
                del self._free[block]
            block.num_references += 1

    def hash_block(self, block: _Block, key: tuple[Any, int]) -> None:
        if self._enable_caching:
            block.key = key
            self._cached.setdefault(key, {})[block] = None

    def release(self, blocks: list[_Block]) -> None:
        """Tail first; the unhashed to the front of the free queue, the hashed to its back."""
        for block in reversed(blocks):
            block.num_references -= 1
            if block.num_references == 0:
                self._free[block] = None
                if block.key is None:
                    self._free.move_to_end(block, last=False)


class _Request:
    """A live request and all that the scheduler knows of it."""

    __slots__ = (
        "arrival",
        "blocks",
        "cached_at_admission",
        "cancelled",
        "computed",
        "first_scheduled",
        "first_token",
        "high",
        "limit",
        "num_cached",
        "num_hashed",
        "num_known",
        "num_preemptions",
        "num_tokens",
        "order",
        "preempted_at",
        "preempted_ps",
        "prefill_preempted_ps",
        "prompt",
        "recomputed",
        "sequence",
        "spec",
        "target",
        "visible",
    )

    def __init__(self, spec: EngineRequest, arrival: int, visible: int, limit: int, sequence: int) -> None:
        self.spec = spec
        self.arrival = arrival
        self.visible = visible
        self.sequence = sequence
        self.prompt = spec.num_prompt_tokens
        self.num_tokens = self.prompt
        """Prompt and output so far."""
        self.limit = min(self.prompt + spec.num_output_tokens, limit)
        """It ends when it has so many tokens."""
        self.target = self.prompt
        """Tokens to compute before it decodes: those it had when it was last admitted."""
        self.computed = 0
        self.blocks: list[_Block] = []
        self.num_hashed = 0
        self.num_known = self.prompt
        """Tokens of which the scheduler knows the value: with async scheduling not the last step's."""
        self.cancelled = False
        self.order = 0
        """How many were admitted before its last admission, and it."""
        self.first_scheduled = -1
        self.first_token = -1
        self.num_cached = 0
        self.num_preemptions = 0
        self.recomputed = 0
        self.cached_at_admission = 0
        self.high = 0
        """Most tokens ever computed."""
        self.preempted_at = -1
        self.preempted_ps = 0
        self.prefill_preempted_ps = 0

    @property
    def is_prefill(self) -> bool:
        return self.computed < self.target

    def block_keys(self, count: int, block_size: int, start: int = 0) -> Iterable[tuple[Any, int]]:
        """Identity of blocks ``start`` to ``count - 1``: the chunk that holds a block's last token, and its index."""
        chunks = iter(self.spec.prefix_chunks)
        key, end = next(chunks, (None, 0))
        for index in range(count):
            while key is not None and end < (index + 1) * block_size:
                key, end = next(chunks, (None, 0))
            if index >= start:
                yield (self.sequence, -1 - index) if key is None else (key, index)

    def view(self) -> BatchRequestView:
        return BatchRequestView(
            self.spec.request_id,
            self.prompt,
            self.computed,
            self.num_tokens - self.prompt,
            self.arrival / PS_PER_SECOND,
            -self.spec.priority,
            self.num_preemptions,
        )

    def admit(self, hit: list[_Block], start: int) -> None:
        self.blocks = hit
        self.num_hashed = len(hit)
        self.cached_at_admission = self.computed
        if self.first_scheduled < 0:
            self.first_scheduled = start
            self.num_cached = self.computed

    def preempt(self, now: int) -> None:
        self.leave()
        self.blocks = []
        self.computed = self.num_hashed = 0
        self.num_known = self.num_tokens
        self.num_preemptions += 1
        if self.preempted_at < 0:
            self.preempted_at = now

    def make_token(self, now: int) -> None:
        self.num_tokens += 1
        self.num_known = self.num_tokens
        if self.preempted_at >= 0:
            self.preempted_ps += now - self.preempted_at
            self.preempted_at = -1
        if self.first_token < 0:
            self.first_token = now
            self.prefill_preempted_ps = self.preempted_ps

    def leave(self) -> None:
        """Account for what was computed since the admission, now that it ends or is lost."""
        self.recomputed += max(0, min(self.computed, self.high) - self.cached_at_admission)
        self.high = max(self.high, self.computed)

    def stats(self, finish: int = -1) -> RequestStats:
        return RequestStats(
            self.spec.request_id,
            self.arrival,
            self.first_scheduled,
            self.first_token,
            finish,
            self.prompt,
            self.num_tokens - self.prompt,
            self.num_cached,
            self.num_preemptions,
            self.recomputed,
            self.preempted_ps,
            self.prefill_preempted_ps,
        )


class _Step:
    """One step: while it is drafted, what of its budget is left; then what it computes."""

    __slots__ = ("end", "num_preempted", "prefill_left", "scheduled", "start", "threshold", "tokens_left")

    def __init__(self, start: int, tokens: int, prefill_tokens: int, threshold: int) -> None:
        self.start = start
        self.end = start
        self.tokens_left = tokens
        self.prefill_left = prefill_tokens
        self.threshold = threshold
        self.scheduled: dict[_Request, int] = {}
        """Tokens computed of each request, in the order of running."""
        self.num_preempted = 0

    def share(self, request: _Request) -> int:
        """Tokens of ``request`` that this step may still compute."""
        left = self.tokens_left
        if request.is_prefill:
            left = min(left, self.prefill_left, self.threshold)
        return min(request.num_tokens - request.computed, left)

    def put(self, request: _Request, count: int) -> None:
        self.scheduled[request] = count
        self._charge(request, count)

    def withdraw(self, request: _Request) -> None:
        if request in self.scheduled:
            self._charge(request, -self.scheduled.pop(request))

    def _charge(self, request: _Request, count: int) -> None:
        self.tokens_left -= count
        if request.is_prefill:
            self.prefill_left -= count


class ReferenceEngine:
    """One engine. Every method that takes ``now`` moves the engine's clock there, and it never goes backwards."""

    def __init__(self, config: EngineConfig, profile: WorkerProfile, batch_policy: BatchPolicy | None = None) -> None:
        self.config = config
        self.profile = profile
        self.num_preemptions = 0
        self.num_prefix_queries = 0
        """Tokens looked up in the prefix cache by admissions."""
        self.num_prefix_hits = 0
        """Tokens of those that were found."""
        self.num_computed_prompt_tokens = 0
        """Prefilled by completed steps, recomputation included."""
        self._policy = batch_policy
        self._pool = _BlockPool(config.num_gpu_blocks, config.enable_prefix_caching)
        self._now = 0
        self._sequence = 0
        self._live: dict[str, _Request] = {}
        self._pending: deque[_Request] = deque()
        self._waiting: list[tuple[Any, _Request]] = []
        self._front = 0
        self._num_admitted = 0
        self._running: list[_Request] = []
        self._ended: list[_Request] = []
        """Async scheduling: requests that ended and still hold their seat and blocks."""
        self._step: _Step | None = None
        self._idle_since = 0
        self._runs: list[TokenRun] = []
        self._num_output_tokens = 0
        self._membership_changed = True
        self._prefill_budget = config.max_num_batched_tokens

    # -- what a caller does ---------------------------------------------------------------------------------------

    def add(self, request: EngineRequest, now: int) -> None:
        """Hand ``request`` to the engine.

        Raises:
            ValueError: its prompt leaves no room for a token in the KV cache or ``max_model_len``, it is malformed,
                or one of its id is live.
        """
        self._process(now)
        self._check(request)
        self._sequence += 1
        visible = now + self.profile.host_request_ps
        live = _Request(request, now, visible, self.config.max_request_tokens, self._sequence)
        self._live[request.request_id] = live
        self._pending.append(live)

    def _check(self, request: EngineRequest) -> None:
        if request.num_prompt_tokens < 1 or request.num_output_tokens < 1:
            raise ValueError(f"request {request.request_id}: needs a prompt token and an output token")
        if request.request_id in self._live:
            raise ValueError(f"request {request.request_id}: another of this id is live")
        limit = self.config.max_request_tokens
        if request.num_prompt_tokens + 1 > limit:
            raise ValueError(
                f"request {request.request_id}: a prompt of {request.num_prompt_tokens} tokens and one more do not fit "
                f"in {limit} (max_model_len or the KV cache)"
            )
        ends = [0, *(end for _, end in request.prefix_chunks)]
        if any(b <= a for a, b in pairwise(ends)) or ends[-1] > request.num_prompt_tokens + request.num_output_tokens:
            raise ValueError(f"request {request.request_id}: prefix_chunks must grow and end within prompt and output")

    def cancel(self, request_id: str, now: int) -> bool:
        """Abort a request; False when it is not live. It makes no further token, not even in the current step; its
        blocks are free when that step ends."""
        self._process(now)
        request = self._live.pop(request_id, None)
        if request is None:
            return False
        request.cancelled = True
        if request not in self._running:
            self._pending = deque(r for r in self._pending if r is not request)
            self._waiting = [entry for entry in self._waiting if entry[1] is not request]
            heapq.heapify(self._waiting)
            self._membership_changed = True
        return True

    def advance(self, to: int) -> list[TokenRun]:
        """Everything that happened up to and including ``to`` and was not returned before."""
        self._process(to)
        runs, self._runs = self._runs, []
        return runs

    def next_event_time(self) -> int | None:
        """When to call ``advance`` next if nothing is added or cancelled; None when idle.

        Never later than the next step's end at which a request makes its first token, finishes or is preempted; it
        may be earlier.
        """
        if self._runs:
            return self._now
        if self._step is not None:
            return self._step.end
        return self._idle_start() if self._pending else None

    def next_step_time(self) -> int | None:
        """When the current step ends (an idle engine: starts), for who must see every token as it comes."""
        return self.next_event_time()

    def num_output_tokens_at(self, now: int) -> int:
        """Tokens made since the start, up to and including ``now``, which is not before the engine's clock."""
        end = self._step.end if self._step else self._idle_start() if self._pending else now + 1
        if now < end:
            return self._num_output_tokens
        ahead = copy.deepcopy(self)
        ahead._process(now)
        return ahead._num_output_tokens

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """In the scheduler's queue; a request added less than ``host_request_ps`` ago is not there yet."""
        return len(self._waiting)

    @property
    def num_free_blocks(self) -> int:
        return self._pool.num_free

    @property
    def kv_cache_usage(self) -> float:
        """0 to 1; blocks kept only for prefix hits count as free."""
        return 1 - self._pool.num_free / self.config.num_gpu_blocks

    def stats(self, request_id: str) -> RequestStats | None:
        """Of a live request, as of the engine's clock; None when it is not live."""
        request = self._live.get(request_id)
        return request.stats() if request else None

    # -- time -----------------------------------------------------------------------------------------------------

    def _process(self, to: int) -> None:
        if to < self._now:
            raise ValueError(f"time went backwards: {to} ps after {self._now} ps")
        self._now = to
        while True:
            if self._step is not None:
                if self._step.end > to:
                    return
                self._complete(self._step)
            elif self._pending and self._idle_start() <= to:
                self._start_from_idle()
            else:
                return

    def _idle_start(self) -> int:
        return max(self._idle_since, self._pending[0].visible)

    def _start_from_idle(self) -> None:
        start = self._idle_start()
        self._arrive(start)
        if not self._waiting:
            self._wait(self._pending.popleft())
        self._begin(start)

    def _arrive(self, before: int) -> None:
        """Requests visible strictly before ``before`` start to wait."""
        while self._pending and self._pending[0].visible < before:
            self._wait(self._pending.popleft())

    def _wait(self, request: _Request, front: bool = False) -> None:
        self._membership_changed = True
        request.target = request.num_tokens
        if self._policy is not None:
            order: Any = (self._policy.waiting_key(request.view()), request.arrival, request.sequence)
        elif self.config.scheduling_policy == "priority":
            order = (request.spec.priority, request.arrival, request.spec.request_id)
        else:
            self._front -= front
            order = self._front if front else request.sequence
        heapq.heappush(self._waiting, (order, request))

    def _begin(self, start: int) -> None:
        """Decide the step that starts now; without work the engine is idle.

        A schedule may come out empty though there is work: everything scheduled was preempted, or what ended still
        holds the blocks. vLLM then schedules again at once.
        """
        step = self._schedule(start)
        while not step.scheduled and (step.num_preempted or self._ended):
            self._learn_tokens()
            self._release_ended()
            self._arrive(start)
            step = self._schedule(start)
        self._step, self._idle_since = None, start
        if step.scheduled:
            step.end = start + self._duration(step.scheduled)
            for request, count in step.scheduled.items():
                request.computed += count
            self._step = step

    def _duration(self, scheduled: dict[_Request, int]) -> int:
        cost = self.profile
        decodes = [r.num_tokens for r in scheduled if not r.is_prefill]
        prefills = [(r.computed, n) for r, n in scheduled.items() if r.is_prefill]
        linear = max(cost.weights_ps, cost.fixed_ps + cost.token_ps * sum(scheduled.values()))
        decode = cost.decode_ps * bool(decodes) + cost.decode_context_ps * sum(decodes)
        prefill = cost.prefill_context_ps * sum(n * (2 * context + n) for context, n in prefills) // 2
        return linear + decode + prefill + cost.host_step_ps + cost.host_sequence_ps * len(scheduled)

    def _complete(self, step: _Step) -> None:
        made = [r for r in step.scheduled if r.computed == r.num_tokens and not r.cancelled]
        first = [r for r in made if r.first_token < 0]
        self.num_computed_prompt_tokens += sum(n for r, n in step.scheduled.items() if r.computed - n < r.target)
        self._learn_tokens()
        for request in made:
            request.make_token(step.end)
            request.num_known -= self.config.async_scheduling
        finished = [r for r in made if r.num_tokens >= r.limit]
        self._report(step, made, first, finished)
        self._end([*(r for r in self._running if r.cancelled), *(r for r in self._running if r in finished)])
        self._arrive(step.start if self.config.async_scheduling else step.end)
        self._begin(step.end)

    def _report(self, step: _Step, made: list[_Request], first: list[_Request], finished: list[_Request]) -> None:
        for request in finished:
            request.leave()
            del self._live[request.spec.request_id]
        self._num_output_tokens += len(made)
        if made:
            stats = tuple(r.stats(step.end) for r in finished)
            self._runs.append(TokenRun(step.start, step.end, 1, _ids(made), _ids(first), _ids(finished), stats))

    def _end(self, ended: list[_Request]) -> None:
        """Ended requests give back seat and blocks: at once, or with async scheduling one step later."""
        before = self._ended
        self._release_ended()
        self._ended = [r for r in ended if r not in before]
        if not self.config.async_scheduling:
            self._release_ended()

    def _release_ended(self) -> bool:
        ended, self._ended = self._ended, []
        for request in ended:
            self._running.remove(request)
            self._hash_full_blocks(request, request.computed)
            self._pool.release(request.blocks)
        self._membership_changed |= bool(ended)
        return bool(ended)

    # -- one step's schedule --------------------------------------------------------------------------------------

    def _schedule(self, start: int) -> _Step:
        alone = len(self._running) + len(self._waiting) <= 1
        tokens = self.config.max_num_batched_tokens
        threshold = tokens if alone else self.config.long_prefill_token_threshold or tokens
        prefill_tokens = self._ask_prefill_budget()
        if self._policy is not None:
            self._running.sort(key=lambda r: (r.is_prefill, r.order))
            decoding = sum(not r.is_prefill for r in self._running if r not in self._ended)
            tokens = prefill_tokens = min(tokens, decoding + prefill_tokens)
        step = _Step(start, tokens, prefill_tokens, threshold)
        self._schedule_running(step)
        if not step.num_preempted:
            self._schedule_waiting(step)
        return step

    def _ask_prefill_budget(self) -> int:
        most = self.config.max_num_batched_tokens
        if self._policy is None:
            return most
        if self._membership_changed:
            blocks = self.config.num_gpu_blocks
            view = BatchEngineView(len(self._running), len(self._waiting), self._pool.num_free, blocks, most)
            self._prefill_budget = min(max(int(self._policy.prefill_budget(view)), 0), most)
            self._membership_changed = False
        decoding = any(not r.is_prefill for r in self._running if r not in self._ended)
        return self._prefill_budget if decoding else max(1, self._prefill_budget)

    def _schedule_running(self, step: _Step) -> None:
        index = 0
        while index < len(self._running) and step.tokens_left:
            request = self._running[index]
            count = step.share(request)
            if count and request not in self._ended:
                self._make_room(request, count, step)
                if request not in self._running:
                    return
                index = self._running.index(request)
                self._allocate(request, count)
                step.put(request, count)
            index += 1

    def _make_room(self, request: _Request, count: int, step: _Step) -> None:
        """Preempt until ``request`` has its blocks, or is itself preempted."""
        needed = self._num_blocks(request.computed + count) - len(request.blocks)
        while needed > self._pool.num_free and request in self._running:
            victim = self._victim()
            step.withdraw(victim)
            step.num_preempted += 1
            self._preempt(victim, step.start)

    def _victim(self) -> _Request:
        policy = self._policy
        if policy is not None:
            if self._ended:
                return max(self._ended, key=self._running.index)
            others = self._running[:0:-1] or self._running
            return max(others, key=lambda r: policy.victim_key(r.view()))
        if self.config.scheduling_policy == "priority":
            # vLLM compares no further; two that arrived at once would then preempt each other for ever.
            return max(self._running, key=lambda r: (r.spec.priority, r.arrival, r.spec.request_id))
        return self._running[-1]

    def _preempt(self, victim: _Request, now: int) -> None:
        self.num_preemptions += 1
        self._running.remove(victim)
        self._pool.release(victim.blocks)
        if victim in self._ended:
            self._ended.remove(victim)
            self._membership_changed = True
        else:
            victim.preempt(now)
            self._wait(victim, front=True)

    def _schedule_waiting(self, step: _Step) -> None:
        while self._waiting and step.tokens_left and len(self._running) < self.config.max_num_seqs:
            request = self._waiting[0][1]
            hit = self._hit(request)
            request.computed = len(hit) * self.config.block_size
            if self.config.restore_preempted:
                request.computed = max(request.computed, min(request.high, request.num_tokens - 1))
            count = step.share(request)
            if not count or not self._fits(request, count, hit):
                request.computed = 0
                return
            heapq.heappop(self._waiting)
            self._admit(request, hit, step.start)
            self._allocate(request, count)
            step.put(request, count)

    def _hit(self, request: _Request) -> list[_Block]:
        if not self.config.enable_prefix_caching:
            return []
        most = (request.num_tokens - 1) // self.config.block_size
        return self._pool.longest_hit(request.block_keys(most, self.config.block_size))

    def _fits(self, request: _Request, count: int, hit: list[_Block]) -> bool:
        tokens = request.num_tokens if self.config.reserve_full_isl else request.computed + count
        needed = self._num_blocks(tokens) - sum(1 for block in hit if block.num_references)
        watermark = self.config.watermark_blocks if self._running else 0
        return needed + watermark <= self._pool.num_free

    def _admit(self, request: _Request, hit: list[_Block], start: int) -> None:
        self._pool.touch(hit)
        if self.config.enable_prefix_caching:
            self.num_prefix_queries += request.num_tokens
            self.num_prefix_hits += len(hit) * self.config.block_size
        request.admit(hit, start)
        self._num_admitted = request.order = self._num_admitted + 1
        self._running.append(request)
        self._membership_changed = True

    def _allocate(self, request: _Request, count: int) -> None:
        computed = request.computed + count
        request.blocks += self._pool.take(self._num_blocks(computed) - len(request.blocks))
        self._hash_full_blocks(request, min(computed, request.num_known))

    def _hash_full_blocks(self, request: _Request, computed: int) -> None:
        full, known = computed // self.config.block_size, request.num_hashed
        if full > known:
            for index, key in enumerate(request.block_keys(full, self.config.block_size, known), known):
                self._pool.hash_block(request.blocks[index], key)
            request.num_hashed = full

    def _learn_tokens(self) -> None:
        """Async scheduling: the tokens of the step before the last have come, and fill blocks that can be hashed."""
        for request in self._running:
            if request.num_known < request.num_tokens:
                request.num_known = request.num_tokens
                self._hash_full_blocks(request, min(request.computed, request.num_tokens - 1))

    def _num_blocks(self, tokens: int) -> int:
        return -(-tokens // self.config.block_size)


def _ids(requests: Iterable[_Request]) -> tuple[str, ...]:
    return tuple(r.spec.request_id for r in requests)
