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
from itertools import pairwise
from operator import lt
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
from gateway.mockworker.kv_cache import Chain
from gateway.mockworker.live_request import WAITING, LiveRequest
from gateway.mockworker.quick import QuickStretch

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


class Engine(QuickStretch):
    """One engine. Every method that takes ``now`` moves the engine's clock there, and it never goes backwards.

    With ``report_tokens`` off, only runs with a first token or an end are reported, and ``request_ids`` names only
    those: what a simulation needs, at a cost that does not depend on how many requests decode.
    """

    __slots__ = ("_host_request", "_limit", "_sequence")

    def __init__(
        self,
        config: EngineConfig,
        profile: WorkerProfile,
        batch_policy: BatchPolicy | None = None,
        *,
        report_tokens: bool = True,
    ) -> None:
        super().__init__(config, profile, batch_policy, report_tokens=report_tokens)
        self._host_request = profile.host_request_ps
        self._limit = config.max_request_tokens
        self._sequence = 0

    def add(self, request: EngineRequest, now: int) -> None:
        """Hand ``request`` to the engine at ``now``, which is not before the engine's clock or the last added.

        Raises:
            ValueError: its prompt leaves no room for a token in the KV cache or ``max_model_len``, it is malformed,
                one of its id is live, or time went backwards.
        """
        pending = self._pending
        if now < (pending[-1].arrival if pending else self._now):
            raise ValueError(f"time went backwards: {now} ps after {self._now} ps")
        request_id, prompt, live = request.request_id, request.num_prompt_tokens, self._live
        if request_id in live:
            self._process(now)
        if request_id in live or not 0 < prompt < self._limit or request.num_output_tokens < 1:
            raise ValueError(f"request {request_id}: {self._fault(request)}")
        self._sequence = sequence = self._sequence + 1
        live[request_id] = added = LiveRequest(request, now, now + self._host_request, self._limit, sequence)
        if request.prefix_chunks:
            self._name_blocks(added, request.prefix_chunks)
        pending.append(added)
        if self._num_steps > 1 and len(pending) == 1:
            self._leave_at_arrival()

    def _fault(self, request: EngineRequest) -> str:
        prompt = request.num_prompt_tokens
        if prompt < 1 or request.num_output_tokens < 1:
            return "needs a prompt token and an output token"
        if request.request_id in self._live:
            return "another of this id is live"
        return f"a prompt of {prompt} tokens and one more do not fit in {self._limit} (max_model_len or the KV cache)"

    def _name_blocks(self, request: LiveRequest, chunks: tuple[tuple[int, int], ...]) -> None:
        """A block belongs to the chunk that holds its last token."""
        keys, ends = zip(*chunks, strict=True)
        spec = request.spec
        if (
            ends[0] < 1
            or ends[-1] > spec.num_prompt_tokens + spec.num_output_tokens
            or not all(map(lt, ends, ends[1:]))
        ):
            raise self._bad_chunks(request, "must grow and end within prompt and output")
        if len(set(keys)) < len(keys):
            raise self._bad_chunks(request, "has a key twice")
        if not self._caching:
            return
        size = self._block_size
        highs = [end // size for end in ends]
        if highs[0] == 0 or not all(map(lt, highs, highs[1:])):
            kept = [index for index, (low, high) in enumerate(pairwise((0, *highs))) if low < high]
            keys, highs = tuple([keys[index] for index in kept]), [highs[index] for index in kept]
        if highs:
            request.chain = Chain(keys, highs)
            request.num_keyed = highs[-1]

    def _bad_chunks(self, request: LiveRequest, fault: str) -> ValueError:
        del self._live[request.spec.request_id]
        return ValueError(f"request {request.spec.request_id}: prefix_chunks {fault}")

    def cancel(self, request_id: str, now: int) -> bool:
        """Abort a request; False when it is not live. It makes no further token, not even in the current step; its
        blocks are free when that step ends."""
        self._process(now)
        self._catch_up()
        request = self._live.pop(request_id, None)
        if request is None:
            return False
        if request.state == WAITING:
            self._pending = deque(r for r in self._pending if r is not request)
            self._withdraw(request)
        else:
            self._cancelled.append(request)
        if self._num_steps:
            self._end_after(1)
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
            return self._end
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
            if now < self._end:
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
    def num_computed_prompt_tokens(self) -> int:
        """Prefilled by completed steps, recomputation included."""
        self._catch_up()
        return self._num_prefilled

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
