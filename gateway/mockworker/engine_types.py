"""What goes into the engine model and what comes out of it. Times are integer picoseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

PS_PER_SECOND = 10**12
"""Picoseconds in a second: the unit of every time of the engine."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Flags of one engine; names and defaults are vLLM's.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    num_gpu_blocks: int
    """Usable KV blocks. vLLM keeps one of those it reports as a null block: pass its number less one."""
    block_size: int = 16
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    long_prefill_token_threshold: int = 0
    """Most prompt tokens of one request in a step; 0: no bound."""
    enable_prefix_caching: bool = True
    watermark: float = 0.0
    """Fraction of the blocks that an admission leaves free while something runs."""
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    reserve_full_isl: bool = True
    """Admit a request only if the blocks of all its tokens are free, not just of its first chunk."""
    async_scheduling: bool = False
    max_model_len: int = 0
    """Most tokens of a request, prompt and output; 0, or more than the KV cache holds: what the KV cache holds."""
    restore_preempted: bool = field(default=False, repr=False)
    """No flag of vLLM's, and nothing a server does: what a preemption took comes back with the next admission at no
    cost. A counterfactual, for telling what computing again costs."""

    def __post_init__(self) -> None:
        for name in ("num_gpu_blocks", "block_size", "max_num_batched_tokens", "max_num_seqs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("long_prefill_token_threshold", "max_model_len"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark must be at least 0 and less than 1, not {self.watermark}")
        if self.scheduling_policy not in ("fcfs", "priority"):
            raise ValueError(f'scheduling_policy must be "fcfs" or "priority", not {self.scheduling_policy!r}')

    @property
    def max_request_tokens(self) -> int:
        """Most tokens of one request: ``max_model_len``, but never more than the KV cache holds."""
        capacity = self.num_gpu_blocks * self.block_size
        return min(self.max_model_len, capacity) if self.max_model_len else capacity

    @property
    def watermark_blocks(self) -> int:
        """vLLM takes the fraction of all its blocks, the null block included."""
        return int(self.watermark * (self.num_gpu_blocks + 1))


@dataclass(slots=True)
class EngineRequest:
    """One request, with the truth about its length, which no policy is ever shown."""

    request_id: str
    num_prompt_tokens: int
    num_output_tokens: int
    """Tokens it will make, at least 1; fewer if ``EngineConfig.max_request_tokens`` ends it before."""
    priority: int = 0
    """vLLM's sense: lower is served first. Used by the scheduling policy ``priority`` only."""
    prefix_chunks: tuple[tuple[int, int], ...] = ()
    """Chunks of prompt and output from the start: (key that covers all before it, tokens up to its end). A prompt that
    begins with the same chunks finds their blocks in the prefix cache. Tokens past the last chunk are shared with no
    other request. Chunks that hold generated tokens are for whoever comes after the answer, as the next turn of a
    session does: a prompt that names one while the request still makes tokens may find less of it than is there."""


class RequestStats(NamedTuple):
    """The life of one request in one engine. Times in picoseconds; -1 for what has not happened."""

    request_id: str
    arrival: int
    """When it was added."""
    first_scheduled: int
    """Start of the first step that computed a token of it."""
    first_token: int
    finish: int
    num_prompt_tokens: int
    num_output_tokens: int
    """Made so far; at the end fewer than asked for only if the request hit ``max_request_tokens``."""
    num_cached_tokens: int
    """Prompt tokens found in the prefix cache at its first admission."""
    num_preemptions: int
    num_recomputed_tokens: int
    """Tokens computed again after preemptions, prefix hits of the request on its own blocks not counted."""
    preempted_ps: int
    """Time from each preemption to the next token, summed."""
    prefill_preempted_ps: int = 0
    """That part of it which lies before the first token."""


class TokenRun(NamedTuple):
    """Consecutive steps in which the same requests made one token each."""

    start: int
    """When the first of the steps started."""
    end: int
    """When the last of them ended: its tokens appear then."""
    num_steps: int
    request_ids: tuple[str, ...]
    first: tuple[str, ...]
    """Those of them whose first token this is; ``num_steps`` is 1 then."""
    finished: tuple[str, ...]
    """Those of them that end at ``end``."""
    stats: tuple[RequestStats, ...] = ()
    """Of ``finished``, in the same order."""


class BatchRequestView(NamedTuple):
    """What a batch policy sees of a request (``policies.contract.BatchRequest``)."""

    request_id: str
    num_prompt_tokens: int
    num_computed_tokens: int
    num_output_tokens: int
    """Made so far."""
    arrival_time: float
    """Seconds."""
    priority: int
    """The contract's sense: higher is served first."""
    num_preemptions: int


class BatchEngineView(NamedTuple):
    """What a batch policy sees of the engine (``policies.contract.BatchEngine``)."""

    num_running: int
    num_waiting: int
    num_free_blocks: int
    num_blocks: int
    max_num_batched_tokens: int


class BatchPolicy(Protocol):
    """Order of waiting, victim and prefill share (``policies.contract.BatchPolicy``).

    ``waiting_key`` is asked when a request starts to wait (arrival or preemption), ``victim_key`` when a victim is
    needed, ``prefill_budget`` before a step when running or waiting have changed since it was last asked.

    The victim is never the request that has been running longest, and a step in which nothing decodes prefills at
    least one token, so that no policy can keep an engine busy for ever.
    """

    def waiting_key(self, request: BatchRequestView) -> Any: ...
    def victim_key(self, request: BatchRequestView) -> Any: ...
    def prefill_budget(self, engine: BatchEngineView) -> int: ...
