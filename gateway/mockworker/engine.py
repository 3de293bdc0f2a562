"""A model of one vLLM engine in integer virtual time: the simulator's worker, and the mock server's clockwork.

The one rule: what happens depends on the requests, their times and the configuration alone, never on how often
the engine is asked. Time is in integer picoseconds, so that two ways of computing a run agree to the last bit.

Semantics (vLLM V1; checked step by step against the scheduler of 0.32):

- A step has ``max_num_batched_tokens``. Running requests are served first, in the order of their admission, each
  taking its remaining tokens, at most ``long_prefill_token_threshold`` (ignored while it is the only request).
- A request that cannot have a block preempts the last running request (scheduling policy ``priority``: the one
  with the largest (priority, arrival)), until it fits or is itself the victim. A victim loses its blocks, keeps its
  output, and prefills prompt and output again. A step that preempted admits nobody.
- Waiting requests are admitted in order until one does not fit: a seat (``max_num_seqs``), a token of the step, its
  blocks (with ``reserve_full_isl`` those of all its tokens), and the watermark unless nothing is running.
- Prefix cache: whole blocks, at most ``num_tokens - 1`` tokens of a request; a block is hashed when the step that
  fills it is scheduled, generated tokens included; blocks are freed tail first, unhashed ones reused first, hashed
  ones least recently used first.
- Async scheduling: the next step is decided when the current one starts, so an arrival joins one step later, the
  seat and blocks of a request that ended are free one step later (it may even be preempted for them), and a block is
  hashed one step later if a generated token fills it.

A request becomes visible to the scheduler ``host_request_ps`` after ``add`` and joins the first step that starts
strictly later. An idle engine starts a step at once, with the first request to become visible.

On purpose different: two requests of equal priority and arrival are told apart by id when a victim is sought, or
they would preempt each other for ever; under async scheduling a cancelled request takes no part in the next step,
though vLLM has scheduled that already; with a batch policy, what ended gives back its blocks before anyone is
preempted. Not modelled: speculative decoding, LoRA, multimodal and structured input, KV
transfer, sliding-window and hybrid caches; the blocks of generated tokens are found again by their own request only.

It skips events: between two changes of the batch every step costs the same but for contexts that grow by one token a
request, so the next k steps have a closed form, and a request costs the same however long its output. A stretch is
such steps: all decoding, or decoding beside one long prompt that takes what the budget leaves. A step in which
tokens or blocks are short is worked out request by request, as vLLM does it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from math import isqrt
from typing import TYPE_CHECKING

from gateway.mockworker.engine_types import (
    PS_PER_SECOND,
    BatchEngineView,
    BatchPolicy,
    BatchRequestView,
    EngineConfig,
    EngineRequest,
    RequestStats,
    TokenRun,
)
from gateway.mockworker.kv_cache import Segment
from gateway.mockworker.scheduler import DECODING, ENDED, WAITING, LiveRequest, Scheduler

if TYPE_CHECKING:
    from gateway.mockworker.profile import WorkerProfile

__all__ = [
    "PS_PER_SECOND",
    "BatchEngineView",
    "BatchPolicy",
    "BatchRequestView",
    "Engine",
    "EngineConfig",
    "EngineRequest",
    "RequestStats",
    "TokenRun",
]


class Engine(Scheduler):
    """One engine. Every method that takes ``now`` moves the engine's clock there, and it never goes backwards.

    With ``report_tokens`` off, only runs with a first token or an end are reported, and ``request_ids`` names only
    those: what a simulation needs, at a cost that does not depend on how many requests decode.
    """

    __slots__ = (
        "_cancelled",
        "_costs",
        "_end",
        "_growth_ps",
        "_host_request",
        "_limit",
        "_live",
        "_now",
        "_num_output_tokens",
        "_num_steps",
        "_open",
        "_pending",
        "_report_tokens",
        "_runs",
        "_sequence",
        "_start",
        "_step_ps",
        "profile",
    )

    def __init__(
        self,
        config: EngineConfig,
        profile: WorkerProfile,
        batch_policy: BatchPolicy | None = None,
        *,
        report_tokens: bool = True,
    ) -> None:
        super().__init__(config, batch_policy)
        self.profile = profile
        self._report_tokens = report_tokens
        self._host_request = profile.host_request_ps
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
        self._limit = config.max_request_tokens

        self._now = 0
        self._sequence = 0
        self._num_output_tokens = 0
        self._runs: list[TokenRun] = []
        self._live: dict[str, LiveRequest] = {}
        self._pending: deque[LiveRequest] = deque()
        """Added and not yet seen by the scheduler."""
        self._cancelled: list[LiveRequest] = []
        """They leave when the current step ends."""

        # The stretch: steps composed alike. The present is in the first of them.
        self._num_steps = 0
        """0: idle."""
        self._start = 0
        """Of the current step, or of idleness."""
        self._end = 0
        """Of the stretch."""
        self._step_ps = 0
        """Of the current step."""
        self._growth_ps = 0
        """By which each step is longer than the one before it."""
        self._open = True
        """An arrival may be admitted before the stretch ends."""

    # -- what a caller does ---------------------------------------------------------------------------------------

    def add(self, request: EngineRequest, now: int) -> None:
        """Hand ``request`` to the engine at ``now``, which is not before the engine's clock or the last added.

        Raises:
            ValueError: its prompt leaves no room for a token in the KV cache or ``max_model_len``, it is malformed,
                one of its id is live, or time went backwards.
        """
        pending = self._pending
        if now < (pending[-1].arrival if pending else self._now):
            raise ValueError(f"time went backwards: {now} ps after {self._now} ps")
        if request.request_id in self._live:
            self._process(now)
        self._check(request)
        self._sequence += 1
        live = LiveRequest(request, now, now + self._host_request, self._limit, self._sequence)
        if request.prefix_chunks and self._caching:
            self._name_blocks(live, request.prefix_chunks)
        self._live[request.request_id] = live
        pending.append(live)

    def _check(self, request: EngineRequest) -> None:
        if request.num_prompt_tokens < 1 or request.num_output_tokens < 1:
            raise ValueError(f"request {request.request_id}: needs a prompt token and an output token")
        if request.request_id in self._live:
            raise ValueError(f"request {request.request_id}: another of this id is live")
        if request.num_prompt_tokens >= self._limit:
            raise ValueError(
                f"request {request.request_id}: a prompt of {request.num_prompt_tokens} tokens and one more do not fit "
                f"in {self._limit} (max_model_len or the KV cache)"
            )
        if request.prefix_chunks:
            ends = [0, *(end for _, end in request.prefix_chunks)]
            if any(b <= a for a, b in pairwise(ends)) or ends[-1] > request.num_prompt_tokens:
                raise ValueError(f"request {request.request_id}: prefix_chunks must grow and end within the prompt")

    def _name_blocks(self, request: LiveRequest, chunks: Iterable[tuple[int, int]]) -> None:
        """A block belongs to the chunk that holds its last token."""
        low, size = 0, self._block_size
        request.segments = segments = []
        for key, end in chunks:
            high = end // size
            if high > low:
                segments.append(Segment(key, low, high))
                low = high
        request.num_keyed = low

    def cancel(self, request_id: str, now: int) -> bool:
        """Abort a request; False when it is not live. It makes no further token, not even in the current step; its
        blocks are free when that step ends."""
        self._process(now)
        self._catch_up()
        request = self._live.pop(request_id, None)
        if request is None:
            return False
        request.cancelled = True
        if request.state == WAITING:
            self._pending = deque(r for r in self._pending if r is not request)
            self._withdraw(request)
        else:
            self._cancelled.append(request)
        if self._num_steps:
            self._num_steps = 1
            self._end = self._start + self._step_ps
        return True

    def advance(self, to: int) -> list[TokenRun]:
        """Everything that happened up to and including ``to`` and was not returned before."""
        self._process(to)
        runs, self._runs = self._runs, []
        return runs

    def next_event_time(self) -> int | None:
        """When to call ``advance`` next if nothing is added or cancelled; None when idle.

        Never later than the next step's end at which a request makes its first token, finishes or is preempted; it
        may be earlier: where an arrival joins, where a long prompt's last chunk starts.
        """
        if self._runs:
            return self._now
        if self._num_steps:
            return self._stop()[1]
        return self._idle_start() if self._pending else None

    def next_step_time(self) -> int | None:
        """When the current step ends (an idle engine: starts), for who must see every token as it comes."""
        if self._runs:
            return self._now
        if self._num_steps:
            self._catch_up()
            return self._start + self._step_ps
        return self._idle_start() if self._pending else None

    def num_output_tokens_at(self, now: int) -> int:
        """Tokens made since the start, up to and including ``now``, which is not before the engine's clock.

        A ``now`` past ``next_event_time`` moves the clock there; what happens on the way is kept for ``advance``.
        """
        if self._num_steps:
            if now < self._start + self._step_ps:
                return self._num_output_tokens
            if now < self._stop()[1]:
                return self._num_output_tokens + self._num_made * self._steps_in(now - self._start)
        elif not self._pending or now < self._idle_start():
            return self._num_output_tokens
        if now > self._now:
            self._process(now)
        return self._num_output_tokens

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """In the scheduler's queue; a request added less than ``host_request_ps`` ago is not there yet."""
        self._catch_up()
        return len(self._waiting) + len(self._ranked)

    @property
    def num_free_blocks(self) -> int:
        self._catch_up()
        return self._cache.num_free

    @property
    def kv_cache_usage(self) -> float:
        """0 to 1; blocks kept only for prefix hits count as free."""
        return 1 - self.num_free_blocks / self.config.num_gpu_blocks

    def stats(self, request_id: str) -> RequestStats | None:
        """Of a live request, as of the engine's clock; None when it is not live."""
        self._catch_up()
        request = self._live.get(request_id)
        return request.stats(self._num_tokens(request), -1) if request else None

    # -- time -----------------------------------------------------------------------------------------------------

    def _process(self, to: int) -> None:
        if to < self._now:
            raise ValueError(f"time went backwards: {to} ps after {self._now} ps")
        self._now = to
        while True:
            num_steps, end = self._num_steps, self._end
            if num_steps:
                if num_steps > 1 and self._open and self._pending:
                    num_steps, end = self._stop()
                if end > to:
                    break
                self._complete(num_steps, end)
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

    def _duration(self, num_steps: int) -> int:
        """Of the next steps of the stretch."""
        return num_steps * self._step_ps + self._growth_ps * (num_steps * (num_steps - 1) // 2)

    def _steps_in(self, elapsed: int) -> int:
        """Steps of the stretch that are over after ``elapsed``."""
        growth = self._growth_ps
        if not growth:
            return elapsed // self._step_ps
        # The largest k with k * step + growth * k * (k - 1) / 2 <= elapsed.
        b = 2 * self._step_ps - growth
        return (isqrt(b * b + 8 * growth * elapsed) - b) // (2 * growth)

    def _stop(self) -> tuple[int, int]:
        """Steps, and when they end, until the batch may change: the stretch, or the first step an arrival can join."""
        if not self._open or not self._pending:
            return self._num_steps, self._end
        since = self._pending[0].visible - self._start
        lag = 2 if self._async else 1
        num_steps = self._steps_in(since) + lag if since >= 0 else 1
        if num_steps >= self._num_steps:
            return self._num_steps, self._end
        return num_steps, self._start + self._duration(num_steps)

    def _catch_up(self) -> None:
        """Account for the steps of the stretch that are over at the engine's clock."""
        if self._num_steps < 2 or self._now < self._start + self._step_ps:
            return
        start = self._start
        num_steps = self._steps_in(self._now - start)
        self._run(num_steps)
        self._num_steps -= num_steps
        self._start = start + self._duration(num_steps)
        previous = self._start - self._step_ps - self._growth_ps * (num_steps - 1)
        self._step_ps += self._growth_ps * num_steps
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
            self.num_computed_prompt_tokens += share * num_steps
            if num_steps > 1 and request.num_held < request.num_keyed:
                self._cache_keyed(request, request.computed)

    def _complete(self, num_steps: int, end: int) -> None:
        """The steps are over: hand out their tokens and decide what comes next."""
        start, chunks = self._start, self._chunks
        first: list[LiveRequest] = []
        finished: list[LiveRequest] = []
        gone = self._drop_cancelled() if self._cancelled else None
        if num_steps > 1:
            self._run(num_steps)
        else:
            self._count += 1
            self._num_output_tokens += self._num_made
            for request, share in chunks:
                request.computed += share
                self.num_computed_prompt_tokens += share
        ids = self._decoding_ids() if self._report_tokens else ()
        for request in self._starved:
            self._wait_a_step(request)
        for request, _ in chunks:
            if request.computed == request.target and not request.cancelled:
                self._finish_prefill(request, end, first, finished)
                if self._report_tokens:
                    ids += (request.spec.request_id,)
        if self._count in self._ends:
            self._finish_decodes(finished)
        if first or finished:
            self._report(start, end, num_steps, ids, first, finished)
        elif ids:
            self._runs.append(TokenRun(start, end, num_steps, ids, (), ()))
        if gone:
            self._end_requests([*sorted(gone, key=_by_order), *finished])
        elif self._async:
            if finished or self._ended:
                self._end_requests(finished)
        elif finished:
            self._release(finished)
        if self._pending and self._pending[0].visible < end:
            last_start = end - self._step_ps - self._growth_ps * (num_steps - 1)
            self._arrive(last_start if self._async else end)
        self._begin(end)

    def _drop_cancelled(self) -> list[LiveRequest]:
        """Cancelled requests make no token in the step that ends; returned with their computed tokens set."""
        gone, self._cancelled = self._cancelled, []
        for request in gone:
            if request.state == DECODING:
                request.computed = self._count + request.offset - 1
                self._stop_decoding(request)
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
        if request.first_token < 0:
            request.first_token = end
            first.append(request)
        losses = request.losses
        if losses and losses.preempted_at >= 0:
            losses.preempted_ps += end - losses.preempted_at
            losses.preempted_at = -1
        if request.target + 1 >= request.limit:
            request.state = ENDED
            finished.append(request)
        else:
            self._start_decoding(request)

    def _finish_decodes(self, finished: list[LiveRequest]) -> None:
        for request in self._ends.pop(self._count):
            self._forget_decoding(request)
            request.state = ENDED
            request.computed = request.limit - 1
            finished.append(request)
        if len(finished) > 1:
            finished.sort(key=_by_order)

    def _report(
        self,
        start: int,
        end: int,
        num_steps: int,
        ids: tuple[str, ...],
        first: list[LiveRequest],
        finished: list[LiveRequest],
    ) -> None:
        ended_ids: tuple[str, ...] = ()
        stats: tuple[RequestStats, ...] = ()
        for request in finished:
            if request.losses:
                request.losses.add(request.computed)
            request_id = request.spec.request_id
            del self._live[request_id]
            ended_ids += (request_id,)
            stats += (request.stats(request.limit, end),)
        first_ids = tuple([r.spec.request_id for r in first]) if first else ()
        if not self._report_tokens:
            ids = tuple(dict.fromkeys(first_ids + ended_ids)) if first_ids and ended_ids else first_ids or ended_ids
        self._runs.append(tuple.__new__(TokenRun, (start, end, num_steps, ids, first_ids, ended_ids, stats)))

    def _arrive(self, before: int) -> None:
        """Requests visible strictly before ``before`` start to wait."""
        pending = self._pending
        while pending and pending[0].visible < before:
            self._wait(pending.popleft())

    def _begin(self, start: int) -> None:
        """Decide the steps that start now; without work the engine is idle.

        A step may come out empty though there is work: everything in it was preempted, or what ended still holds the
        blocks. vLLM then schedules again at once.
        """
        self._start = start
        num_preemptions = self.num_preemptions
        while not self._schedule(start):
            if not self._release_ended() and self.num_preemptions == num_preemptions:
                self._num_steps = 0
                return
            self._arrive(start)
            num_preemptions = self.num_preemptions
        self._set_step_time()
        self._end = start + self._step_ps
        if len(self._chunks) > 1 or (self._chunks and self._tokens_left):
            self._num_steps = 1
            return
        self._num_steps = num_steps = self._num_repeats()
        if num_steps > 1:
            self._end = start + num_steps * self._step_ps + self._growth_ps * (num_steps * (num_steps - 1) // 2)
            blocked = len(self._running) >= self._most_seqs or not self._tokens_left or self._waiting
            self._open = self._policy is not None or not blocked

    def _set_step_time(self) -> None:
        weights, fixed, token, decode, decode_context, prefill_context, host_step, host_sequence = self._costs
        num_made = tokens = num_seqs = self._num_made
        growth = decode_context * num_made
        step = host_step
        if num_made:
            step += decode + decode_context * self._contexts
        if self._chunks:
            pairs = 0
            for request, share in self._chunks:
                num_seqs += 1
                tokens += share
                pairs += share * (2 * request.computed + share)
                growth += prefill_context * share * share
            step += prefill_context * pairs // 2
        linear = fixed + token * tokens
        self._step_ps = step + (linear if linear > weights else weights) + host_sequence * num_seqs
        self._growth_ps = growth


def _by_order(request: LiveRequest) -> int:
    return request.order
