"""A case of the twin test: what arrives, and what vLLM's scheduler decided step by step; and the file of them all.

Standard library only, since the recorder runs under a Python that has vLLM and perhaps nothing else.

Time is in ticks, ``STEP_TICKS`` to a step of either engine. No two events have the same time modulo a step, so an
event never falls on the boundary of a step and every order is decided by the clock alone.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STEP_TICKS = 1000
GOLDEN = Path(__file__).parent / "golden" / "vllm.jsonl.gz"
GOLDEN_POLICY = Path(__file__).parent / "golden" / "policy.jsonl.gz"
"""Of vLLM's scheduler with a batch policy in it."""
TICKS_PER_SECOND = 10**12
"""Ticks are picoseconds, for policies that read an arrival time."""
POLICIES = Path(__file__).parent / "policies"


@dataclass(frozen=True)
class TwinConfig:
    """vLLM's flags. ``num_blocks`` counts the null block, as vLLM's own ``num_gpu_blocks`` does."""

    num_blocks: int = 401
    block_size: int = 16
    max_num_batched_tokens: int = 256
    max_num_seqs: int = 16
    max_model_len: int = 0
    """0: what the KV cache holds."""
    long_prefill_token_threshold: int = 0
    enable_prefix_caching: bool = True
    watermark: float = 0.0
    policy: str = "fcfs"
    reserve_full_isl: bool = True
    async_scheduling: bool = False
    batch_policy: str = ""
    """A file of ``tests/twin/policies``, without its ending."""

    @property
    def max_request_tokens(self) -> int:
        capacity = (self.num_blocks - 1) * self.block_size
        return min(self.max_model_len or capacity, capacity)


@dataclass(frozen=True)
class TwinRequest:
    arrival: int
    num_prompt_tokens: int
    num_output_tokens: int
    priority: int = 0
    chunks: tuple[tuple[int, int], ...] = ()
    """The shared start of the prompt: (chunk, prompt tokens up to its end). A chunk follows one other chunk only."""

    def prompt(self, index: int) -> list[int]:
        """Token ids: alike in two requests as far as their chunks are, and nowhere else."""
        tokens: list[int] = []
        for key, end in self.chunks:
            tokens += [key * 10_000 + i for i in range(len(tokens), end)]
        return tokens + [10**8 + index * 10_000 + i for i in range(len(tokens), self.num_prompt_tokens)]


@dataclass(frozen=True)
class Step:
    """One call of vLLM's ``schedule`` that scheduled or preempted something. Requests are named by their index."""

    start: int
    """Tick at which the step begins to compute."""
    scheduled: list[tuple[int, int]]
    """(request, tokens) in the scheduler's order."""
    admitted: list[tuple[int, int]]
    """(request, tokens found in the prefix cache)."""
    preempted: list[int]
    """In order."""
    free_blocks: int
    """After the step was scheduled, as the two below."""
    num_running: int
    num_waiting: int
    finished: list[int] = field(default_factory=list)
    """By the tokens that this step made, in order of request."""


@dataclass(frozen=True)
class TwinCase:
    name: str
    config: TwinConfig
    requests: tuple[TwinRequest, ...]
    cancels: tuple[tuple[int, int], ...] = ()
    """(time, request), in order of time, more than a step apart: vLLM aborts those of one step in no fixed order."""
    steps: tuple[Step, ...] = ()
    num_evictions: int = 0
    """Cached blocks that vLLM reused for something else."""

    @property
    def family(self) -> str:
        return self.name.split("/")[0]

    @property
    def num_preemptions(self) -> int:
        return sum(len(step.preempted) for step in self.steps)


def write_golden(path: Path, header: dict[str, Any], cases: Iterable[TwinCase]) -> None:
    """One JSON object a line, the header first; the same bytes for the same content."""
    lines = [json.dumps(header, separators=(",", ":"))]
    for case in cases:
        record = {
            "name": case.name,
            "config": asdict(case.config),
            "requests": [list(asdict(request).values()) for request in case.requests],
            "cancels": case.cancels,
            "num_evictions": case.num_evictions,
            "steps": [list(asdict(step).values()) for step in case.steps],
        }
        lines.append(json.dumps(record, separators=(",", ":")))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode(), 9, mtime=0))


def read_golden(path: Path = GOLDEN) -> tuple[dict[str, Any], list[TwinCase]]:
    header, *records = map(json.loads, gzip.decompress(path.read_bytes()).decode().splitlines())
    return header, [_case(record) for record in records]


def _case(record: dict[str, Any]) -> TwinCase:
    return TwinCase(
        record["name"],
        TwinConfig(**record["config"]),
        tuple(TwinRequest(*fields, _pairs(chunks)) for *fields, chunks in record["requests"]),
        _pairs(record["cancels"]),
        tuple(Step(s[0], list(_pairs(s[1])), list(_pairs(s[2])), *s[3:]) for s in record["steps"]),
        record["num_evictions"],
    )


def _pairs(values: Iterable[Iterable[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((first, second) for first, second in values)
