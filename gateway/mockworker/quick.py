"""The same engine in fewer operations, for the case that a simulation is almost always in.

That case: FCFS without a batch policy or a bound on chunks, no async scheduling, nobody cancelled or starved, and only
first tokens and ends are reported. Nothing is decided here otherwise than in ``gateway.mockworker.stretch``, to which
everything else is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.mockworker.engine_types import BatchPolicy, EngineConfig, TokenRun
from gateway.mockworker.live_request import DECODING, LiveRequest
from gateway.mockworker.stretch import Stretch

if TYPE_CHECKING:
    from gateway.mockworker.profile import WorkerProfile


class QuickStretch(Stretch):
    """Where stretches end and begin."""

    __slots__ = ("_decode_context", "_decode_steps", "_quick")

    def __init__(
        self, config: EngineConfig, profile: WorkerProfile, batch_policy: BatchPolicy | None, *, report_tokens: bool
    ) -> None:
        super().__init__(config, profile, batch_policy, report_tokens=report_tokens)
        self._quick = self._fcfs and self._unbounded_chunks and not report_tokens and not config.async_scheduling
        self._decode_context = profile.decode_context_ps
        weights, fixed, token, decode, _, _, host_step, host_sequence = self._costs
        self._decode_steps = [
            max(weights, fixed + token * count) + decode + host_step + host_sequence * count
            for count in range(min(config.max_num_seqs, config.max_num_batched_tokens) + 1)
        ]
        """By how many decode and nothing else: what the step takes but for contexts."""

    def _complete(self, num_steps: int, end: int) -> None:
        if self._cancelled or self._starved or not self._quick:
            Stretch._complete(self, num_steps, end)
            return
        if self._chunks:
            self._end_chunks(num_steps, end)
        else:
            count = self._count
            if num_steps > 1:
                size, more = self._block_size, num_steps - 1
                whole, low = more // size, (count + 1) % size
                self._cache.num_free -= whole * self._num_decoding + sum(self._need[low : low + more - whole * size])
            self._count = count = count + num_steps
            self._num_output_tokens += self._num_made * num_steps
            if self._ends and self._ends[0][0] <= count:
                self._report_ends(end, num_steps, [], [])
        pending = self._pending
        if pending and pending[0].visible < end:
            self._arrive(end)
        if self._prefilling or self._waiting:
            self._begin_chunks(end)
        else:
            self._begin_decodes(end)

    def _end_chunks(self, num_steps: int, end: int) -> None:
        """Of steps with prompts: some make their first token, some their last."""
        first: list[LiveRequest] = []
        finished: list[LiveRequest] = []
        if num_steps > 1:
            self._run(num_steps)
        else:
            self._count += 1
            self._num_output_tokens += self._num_made
            for request, share in self._chunks:
                self._num_prefilled += share
                request.computed = computed = request.computed + share
                if computed == request.target:
                    self._finish_prefill(request, end, first, finished)
        if finished or (self._ends and self._ends[0][0] <= self._count):
            self._report_ends(end, num_steps, first, finished)
        elif first:
            ids = (first[0].spec.request_id,) if len(first) == 1 else tuple([r.spec.request_id for r in first])
            self._runs.append(tuple.__new__(TokenRun, (self._start, end, 1, ids, ids, (), ())))

    def _report_ends(self, end: int, num_steps: int, first: list[LiveRequest], finished: list[LiveRequest]) -> None:
        self._finish_decodes(finished)
        if len(finished) == 1 and not first:
            (request,) = finished
            ids = (request.spec.request_id,)
            del self._live[ids[0]]
            stats = (request.final_stats(end),)
            self._runs.append(tuple.__new__(TokenRun, (self._start, end, num_steps, ids, (), ids, stats)))
            del self._running[request]
            self._give_back(request, request.computed, request.computed)
        elif first or finished:
            self._report(end, num_steps, (), first, finished)
            self._release(finished)

    def _begin_chunks(self, start: int) -> None:
        """Somebody prefills or waits."""
        num_made, size, cache = self._num_decoding, self._block_size, self._cache
        left = self._most_tokens - num_made
        free = cache.num_free - self._need[self._count % size]
        chunks = []
        for request in self._prefilling:
            computed = request.computed
            share = request.target - computed
            if share > left:
                share = left
                if share <= 0 or request.order < self._last_decoding:
                    break
            free -= -(-(computed + share) // size) - -(-computed // size)
            chunks.append((request, share))
            left -= share
        if free < 0 or left < 0 or len(chunks) < len(self._prefilling):
            self._begin(start)
            return
        cache.num_free = free
        self._chunks = chunks
        if self._caching:
            for request, share in chunks:
                if request.num_held < request.num_keyed:
                    self._cache_keyed(request, request.computed + share)
        self._num_made = num_made
        self._tokens_left = left
        self._repeats = True
        if left and self._waiting:
            self._admit(start, left, left)
        if chunks:
            self._start = start
            self._lay_chunks(start)
        elif num_made:
            self._start = start
            self._contexts = num_made * self._count + self._sum_offsets
            self._lay_out(start)
        else:
            self._begin(start)

    def _lay_chunks(self, start: int) -> None:
        """One step, unless a long prompt takes what the step has left for several."""
        num_made, chunks, left = self._num_made, self._chunks, self._tokens_left
        weights, fixed, token, decode, decode_context, prefill_context, host_step, host_sequence = self._costs
        linear = fixed + token * (self._most_tokens - left)
        pairs = 0
        for request, share in chunks:
            pairs += share * (2 * request.computed + share)
        step = host_step + host_sequence * (num_made + len(chunks)) + (linear if linear > weights else weights)
        step += prefill_context * pairs // 2
        if num_made:
            step += decode + decode_context * (num_made * self._count + self._sum_offsets)
        self._num_steps = 1
        self._step_ps = step
        self._end = start + step
        if not left and len(chunks) == 1 and request.computed + 2 * share < request.target:
            self._lay_prompt(start, request, share)

    def _lay_prompt(self, start: int, request: LiveRequest, share: int) -> None:
        """Steps beside one prompt that takes all they have left, but for its last chunk."""
        num_made = self._num_made
        num_steps = (request.target - request.computed - 1) // share
        if num_made:
            last, _, next_to_end = self._ends[0]
            if last - self._count < num_steps:
                num_steps = last - self._count
            if next_to_end.end_count != last or next_to_end.state != DECODING:
                num_steps = 0
        if num_steps and (num_steps // self._block_size + 1) * (num_made + share) <= self._cache.num_free:
            self._num_steps = num_steps
            self._growth_ps = growth = self._costs[5] * share * share + self._decode_context * num_made
            self._end = start + num_steps * self._step_ps + growth * (num_steps * (num_steps - 1) // 2)
            self._open = False
        else:
            self._contexts = num_made * self._count + self._sum_offsets
            self._lay_out(start)

    def _begin_decodes(self, start: int) -> None:
        """Nobody prefills or waits."""
        num_made, count, cache = self._num_decoding, self._count, self._cache
        self._start = start
        if not num_made:
            self._num_steps = 0
            return
        last, _, request = self._ends[0]
        free = cache.num_free - self._need[count % self._block_size]
        num_steps = last - count
        blocks = (num_steps // self._block_size + 1) * num_made
        if blocks > free or request.end_count != last or request.state != DECODING or num_made > self._most_tokens:
            self._begin(start)
            return
        cache.num_free = free
        self._chunks = []
        self._num_made = num_made
        self._num_steps = num_steps
        step = self._decode_steps[num_made] + self._decode_context * (num_made * count + self._sum_offsets)
        self._step_ps = step
        if num_steps == 1:
            self._end = start + step
            return
        self._growth_ps = growth = self._decode_context * num_made
        self._end = end = start + num_steps * step + growth * (num_steps * (num_steps - 1) // 2)
        self._open = num_made < self._most_seqs and num_made < self._most_tokens
        if self._pending and self._pending[0].visible < end:
            self._leave_at_arrival()
