"""The engine's time: stretches of steps composed alike, each with a closed form, and what happens where they end.

All decoding, or decoding beside one long prompt that takes what the budget leaves: every step of a stretch costs the
same but for contexts that grow by one token a request. The present is in the first of its steps.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop
from math import isqrt
from typing import TYPE_CHECKING

from gateway.mockworker.engine_types import BatchPolicy, EngineConfig, TokenRun
from gateway.mockworker.live_request import DECODING, ENDED, LiveRequest
from gateway.mockworker.scheduler import Scheduler

if TYPE_CHECKING:
    from gateway.mockworker.profile import WorkerProfile


class Stretch(Scheduler):
    """The clock of an engine, and the stretch it is in."""

    __slots__ = (
        "_cancelled",
        "_costs",
        "_end",
        "_growth_ps",
        "_live",
        "_now",
        "_num_output_tokens",
        "_num_preemptions_seen",
        "_num_steps",
        "_open",
        "_pending",
        "_report_tokens",
        "_runs",
        "_start",
        "_step_ps",
        "profile",
    )

    def __init__(
        self, config: EngineConfig, profile: WorkerProfile, batch_policy: BatchPolicy | None, *, report_tokens: bool
    ) -> None:
        super().__init__(config, batch_policy)
        self.profile = profile
        self._report_tokens = report_tokens
        self._costs = (
            profile.weights_ps,
            profile.fixed_ps,
            profile.token_ps,
            profile.decode_ps,
            profile.decode_context_ps,
            profile.prefill_context_ps,
            profile.host_step_ps,
            profile.host_sequence_ps,
        )
        self._now = 0
        self._num_output_tokens = 0
        self._num_preemptions_seen = 0
        """By a schedule that came out empty."""
        self._runs: list[TokenRun] = []
        self._live: dict[str, LiveRequest] = {}
        self._pending: deque[LiveRequest] = deque()
        """Added and not yet seen by the scheduler."""
        self._cancelled: list[LiveRequest] = []
        """They leave when the current step ends."""
        self._idle()

    def _idle(self) -> None:
        self._num_steps = 0
        """Of the stretch; 0: idle."""
        self._start = 0
        """Of the current step, or of idleness."""
        self._end = 0
        """Of the stretch."""
        self._step_ps = 0
        """Of the current step."""
        self._growth_ps = 0
        """By which each step is longer than the one before it."""
        self._open = True
        """An arrival ends the stretch where it can be admitted."""

    def _process(self, to: int) -> None:
        if to < self._now:
            raise ValueError(f"time went backwards: {to} ps after {self._now} ps")
        self._now = to
        while True:
            if self._num_steps:
                if self._end > to:
                    break
                self._complete(self._num_steps, self._end)
            elif self._pending and self._idle_start() <= to:
                start = self._idle_start()
                self._arrive(start)
                if not self._waiting and not self._ranked:
                    self._wait(self._pending.popleft())
                self._begin(start)
            else:
                return
        if self._report_tokens:
            self._catch_up()

    def _idle_start(self) -> int:
        visible = self._pending[0].visible
        return visible if visible > self._start else self._start

    def _steps_in(self, elapsed: int) -> int:
        """Steps of the stretch that are over after ``elapsed``."""
        growth = self._growth_ps
        if not growth:
            return elapsed // self._step_ps
        # The largest k with k * step + growth * k * (k - 1) / 2 <= elapsed.
        b = 2 * self._step_ps - growth
        return (isqrt(b * b + 8 * growth * elapsed) - b) // (2 * growth)

    def _end_after(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._end = self._start + num_steps * self._step_ps + self._growth_ps * (num_steps * (num_steps - 1) // 2)

    def _catch_up(self) -> None:
        """Account for the steps of the stretch that are over at the engine's clock."""
        if self._num_steps < 2 or self._now < self._start + self._step_ps:
            return
        start, left = self._start, self._num_steps
        num_steps = self._steps_in(self._now - start)
        self._run(num_steps)
        self._end_after(num_steps)
        self._start = self._end
        previous = self._start - self._step_ps - self._growth_ps * (num_steps - 1)
        self._step_ps += self._growth_ps * num_steps
        self._end_after(left - num_steps)
        self._cache.num_free -= self._blocks_of_current()
        if self._report_tokens and self._num_made:
            self._runs.append(TokenRun(start, self._start, num_steps, self._decoding_ids(), (), ()))
        if self._pending:
            self._arrive(previous if self._async else self._start)

    def _blocks_of_current(self) -> int:
        """Blocks of the stretch's next step, which has just become the current one; its prompt's are cached."""
        size = self._block_size
        blocks = self._need[self._count % size]
        for request, share in self._chunks:
            computed = request.computed
            blocks += -(-(computed + share) // size) - -(-computed // size)
            if request.num_held < request.num_keyed:
                self._cache_keyed(request, computed + share)
        return blocks

    def _run(self, num_steps: int) -> None:
        """The tokens of so many steps, and the blocks of all but the first, which has its own."""
        if num_steps > 1:
            self._cache.num_free -= self._blocks_of_next(num_steps - 1)
        self._count += num_steps
        self._num_output_tokens += self._num_made * num_steps
        for request, share in self._chunks:
            request.computed += share * num_steps
            self._num_prefilled += share * num_steps
            if num_steps > 1 and request.num_held < request.num_keyed:
                self._cache_keyed(request, request.computed)

    # -- where a stretch ends -------------------------------------------------------------------------------------

    def _complete(self, num_steps: int, end: int) -> None:
        """The steps are over: hand out their tokens and decide what comes next."""
        gone = self._drop_cancelled() if self._cancelled else None
        first: list[LiveRequest] = []
        finished: list[LiveRequest] = []
        self._run(num_steps)
        ids = self._decoding_ids() if self._report_tokens else ()
        for request in self._starved:
            self._wait_a_step(request)
        for request, _ in self._chunks:
            if request.computed == request.target and request.state != ENDED:
                self._finish_prefill(request, end, first, finished)
                if self._report_tokens:
                    ids += (request.spec.request_id,)
        self._finish_decodes(finished)
        if first or finished or ids:
            self._report(end, num_steps, ids, first, finished)
        if gone:
            self._end_requests([*sorted(gone, key=_by_order), *finished])
        elif finished or self._ended:
            self._end_requests(finished)
        last_start = end - self._step_ps - self._growth_ps * (num_steps - 1)
        self._arrive(last_start if self._async else end)
        self._begin(end)

    def _drop_cancelled(self) -> list[LiveRequest]:
        """Cancelled requests make no token in the step that ends; returned with their computed tokens set."""
        gone, self._cancelled = self._cancelled, []
        for request in gone:
            if request.state == DECODING:
                request.computed = self._count + request.offset - 1
                self._forget_decoding(request)
                if request in self._starved:
                    self._starved.remove(request)
                    request.starved_at = self._count
                else:
                    request.computed += 1
                    self._num_made -= 1
            else:
                self._prefilling.remove(request)
            request.state = ENDED
        return gone

    def _decoding_ids(self) -> tuple[str, ...]:
        starved = self._starved
        return tuple([r.spec.request_id for r in self._running if r.state == DECODING and r not in starved])

    def _finish_prefill(
        self, request: LiveRequest, end: int, first: list[LiveRequest], finished: list[LiveRequest]
    ) -> None:
        """Its last chunk was in the step: it makes a token and decodes from here on."""
        self._num_output_tokens += 1
        self._prefilling.remove(request)
        if request.losses:
            request.losses.made_token(end, first=request.first_token < 0)
        if request.first_token < 0:
            request.first_token = end
            first.append(request)
        if request.target + 1 >= request.limit:
            request.state = ENDED
            finished.append(request)
        else:
            self._start_decoding(request)

    def _finish_decodes(self, finished: list[LiveRequest]) -> None:
        """``finished``: those that ended with their prefill. Then all that end, in the order in which they ran."""
        ends, count, num_prefilled = self._ends, self._count, len(finished)
        while ends and ends[0][0] <= count:
            end, _, request = heappop(ends)
            if request.end_count == end and request.state == DECODING:
                request.state = ENDED
                request.computed = request.limit - 1
                self._forget_decoding(request)
                finished.append(request)
        if self._policy is not None:  # decoding goes before prefill
            finished[:] = [*sorted(finished[num_prefilled:], key=_by_order), *finished[:num_prefilled]]
        elif len(finished) > 1:
            finished.sort(key=_by_order)

    def _report(
        self,
        end: int,
        num_steps: int,
        ids: tuple[str, ...],
        first: list[LiveRequest],
        finished: list[LiveRequest],
    ) -> None:
        ended_ids = tuple([r.spec.request_id for r in finished])
        stats = tuple([r.final_stats(end) for r in finished])
        for request_id in ended_ids:
            del self._live[request_id]
        first_ids = tuple([r.spec.request_id for r in first]) if first else ()
        if not self._report_tokens:
            ids = tuple(dict.fromkeys(first_ids + ended_ids)) if first_ids and ended_ids else first_ids or ended_ids
        self._runs.append(tuple.__new__(TokenRun, (self._start, end, num_steps, ids, first_ids, ended_ids, stats)))

    def _arrive(self, before: int) -> None:
        """Requests visible strictly before ``before`` start to wait."""
        pending = self._pending
        while pending and pending[0].visible < before:
            self._wait(pending.popleft())

    # -- where one begins -----------------------------------------------------------------------------------------

    def _begin(self, start: int) -> None:
        """Decide the steps that start now; without work the engine is idle."""
        self._start = start
        if not self._schedule(start) and not self._schedule_again(start):
            self._num_steps = 0
        else:
            self._lay_out(start)

    def _lay_out(self, start: int) -> None:
        """The stretch of steps like the one composed."""
        weights, fixed, token, decode, decode_context, prefill_context, host_step, host_sequence = self._costs
        num_made, chunks, left = self._num_made, self._chunks, self._tokens_left
        linear = fixed + token * (self._most_tokens - left)
        step = host_step + host_sequence * (num_made + len(chunks)) + (linear if linear > weights else weights)
        if num_made:
            step += decode + decode_context * self._contexts
        if chunks:
            pairs = 0
            for request, share in chunks:
                pairs += share * (2 * request.computed + share)
            step += prefill_context * pairs // 2
        self._step_ps = step
        num_steps = 1 if chunks and (left or len(chunks) > 1) else self._num_repeats()
        self._num_steps = num_steps
        self._end = start + step
        if num_steps > 1:
            growth = decode_context * num_made
            if chunks:
                growth += prefill_context * share * share
            self._growth_ps = growth
            blocked = len(self._running) >= self._most_seqs or not left or self._waiting
            self._open = not blocked or self._policy is not None
            self._end_after(num_steps)
            self._leave_at_arrival()

    def _leave_at_arrival(self) -> None:
        """Cut the stretch where the first of the pending requests can be admitted."""
        if self._open and self._pending and self._pending[0].visible < self._end:
            since = self._pending[0].visible - self._start
            num_steps = self._steps_in(since) + (2 if self._async else 1) if since >= 0 else 1
            if num_steps < self._num_steps:
                self._end_after(num_steps)

    def _schedule_again(self, start: int) -> bool:
        """A step may come out empty though there is work: everything in it was preempted, or what ended still holds
        the blocks. vLLM then schedules again at once. False without work."""
        while self._release_ended() or self.num_preemptions != self._num_preemptions_seen:
            self._num_preemptions_seen = self.num_preemptions
            self._arrive(start)
            if self._schedule(start):
                return True
        return False


def _by_order(request: LiveRequest) -> int:
    return request.order
