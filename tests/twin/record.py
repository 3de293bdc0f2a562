"""Record what vLLM's own scheduler decides, without a model: ``PYTHON -m tests.twin.record [vllm|policy [FILE]]``.

``policy``: with a batch policy in it.

Run from the repository root by a Python that has vLLM (the version is written into the file). The real ``Scheduler``
or ``AsyncScheduler`` with its real KV cache manager is called as vLLM's ``EngineCore`` calls it (``step`` and
``step_with_batch_queue``), under a virtual clock on which every step takes ``STEP_TICKS``; only the model is missing,
and each sampled token is one that occurs nowhere else. Not run in CI.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import torch
import vllm
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from tests.twin.cases import (
    GOLDEN,
    GOLDEN_POLICY,
    POLICIES,
    STEP_TICKS,
    TICKS_PER_SECOND,
    Step,
    TwinCase,
    TwinConfig,
    write_golden,
)
from tests.twin.workloads import generate, generate_with_policies

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "max_position_embeddings": 65536,
    "vocab_size": 2048,
}
"""A model to configure the scheduler for; nothing of it but its length limit matters."""


def scheduler_config(config: TwinConfig) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_request_tokens,
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        policy=config.policy,
        watermark=config.watermark,
        scheduler_reserve_full_isl=config.reserve_full_isl,
        async_scheduling=config.async_scheduling,
        scheduler_cls="gateway.vllm_scheduler.PolicyScheduler" if config.batch_policy else None,
        enable_chunked_prefill=True,
        is_encoder_decoder=False,
    )


def make_scheduler(model: Path, config: TwinConfig) -> Any:
    """vLLM's scheduler, its preemptions and evictions noted in ``preempted`` and ``num_evictions``."""
    vllm_config = VllmConfig(
        model_config=ModelConfig(
            model=str(model), skip_tokenizer_init=True, dtype="float16", max_model_len=config.max_request_tokens
        ),
        scheduler_config=scheduler_config(config),
        cache_config=CacheConfig(
            block_size=config.block_size, cache_dtype="auto", enable_prefix_caching=config.enable_prefix_caching
        ),
        device_config=DeviceConfig("cpu"),
        additional_config={"ranvier_batch_policy": str(POLICIES / f"{config.batch_policy}.py")},
    )
    vllm_config.cache_config.block_size = config.block_size  # a CPU prefers multiples of 32; no kernel runs here
    vllm_config.cache_config.num_gpu_blocks = config.num_blocks
    vllm_config.scheduler_config.async_scheduling = config.async_scheduling  # a CPU switches it off
    spec = FullAttentionSpec(block_size=config.block_size, num_kv_heads=1, head_size=32, dtype=torch.float16)
    blocks = KVCacheConfig(config.num_blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    scheduler = vllm_config.scheduler_config.get_scheduler_cls()(
        vllm_config=vllm_config,
        kv_cache_config=blocks,
        structured_output_manager=StructuredOutputManager(vllm_config),
        block_size=config.block_size,
        log_stats=True,
    )
    return watch(scheduler)


def watch(scheduler: Any) -> Any:
    scheduler.preempted = []
    scheduler.num_evictions = 0
    preempt, pool = scheduler._preempt_request, scheduler.kv_cache_manager.block_pool
    evict = pool._maybe_evict_cached_block

    def preempt_request(request: Request, *args: Any, **kwargs: Any) -> None:
        scheduler.preempted.append(int(request.request_id))
        preempt(request, *args, **kwargs)

    def maybe_evict_cached_block(block: Any) -> bool:
        evicted = bool(evict(block))
        scheduler.num_evictions += evicted
        return evicted

    scheduler._preempt_request = preempt_request
    pool._maybe_evict_cached_block = maybe_evict_cached_block
    return scheduler


class Batch(NamedTuple):
    """A scheduled step whose output has not come back yet."""

    output: Any
    sampling: frozenset[str]
    """Requests that sample a token in it."""
    step: Step
    end: int


class Recording:
    """One case on one scheduler."""

    def __init__(self, case: TwinCase, scheduler: Any) -> None:
        self.case = case
        self.scheduler = scheduler
        self.clock = 0
        self.steps: list[Step] = []
        self._last_end = 0
        self._batches: deque[Batch] = deque()
        self._most_batches = 2 if case.config.async_scheduling else 1
        self._new_tokens = itertools.count(2 * 10**8)
        self._hasher = get_request_block_hasher(case.config.block_size, sha256)
        self._arrivals = deque(enumerate(case.requests))
        self._aborts = deque(case.cancels)

    def run(self) -> list[Step]:
        """``EngineCore.run_busy_loop``, until all has arrived and ended."""
        while self._poll():
            if self.scheduler.has_requests():
                executed = self._schedule()
                if len(self._batches) < self._most_batches and (executed or self.scheduler.has_requests()):
                    continue
            self._update(self._batches.popleft())
        return self.steps

    def _poll(self) -> bool:
        """Hand over what has arrived; an idle engine waits for it. False when there is nothing left to do."""
        if not self._batches and not self.scheduler.has_requests():
            if not self._arrivals:
                return False
            self.clock = max(self.clock, self._arrivals[0][1].arrival)
            self._add()
        while self._arrivals and self._arrivals[0][1].arrival < self.clock:
            self._add()
        self._abort()
        while self._aborts and self._aborts[0][0] < self.clock:
            self._aborts.popleft()
        return True

    def _add(self) -> None:
        index, request = self._arrivals.popleft()
        sampling = SamplingParams(max_tokens=request.num_output_tokens, ignore_eos=True)
        self.scheduler.add_request(
            Request(
                request_id=str(index),
                prompt_token_ids=request.prompt(index),
                sampling_params=sampling,
                pooling_params=None,
                priority=request.priority,
                arrival_time=request.arrival / TICKS_PER_SECOND,
                block_hasher=self._hasher,
            )
        )

    def _abort(self) -> None:
        """As vLLM does when a step ends, and again with what has arrived since, in case it is what is aborted."""
        for time, index in self._aborts:
            if time < self.clock:
                self.scheduler.finish_requests(str(index), RequestStatus.FINISHED_ABORTED)

    def _schedule(self) -> bool:
        scheduler = self.scheduler
        running = {request.request_id for request in scheduler.running}
        output = scheduler.schedule()
        scheduled = output.num_scheduled_tokens
        start = max(self.clock, self._last_end)
        computed = {r: scheduler.requests[r].num_computed_tokens - scheduled[r] for r in scheduled if r not in running}
        counts = scheduler.get_request_counts()
        step = Step(
            start,
            [(int(r), n) for r, n in scheduled.items()],
            [(int(r), n) for r, n in computed.items()],
            scheduler.preempted,
            scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            *counts,
        )
        scheduler.preempted = []
        if scheduled or step.preempted:
            self.steps.append(step)
        self._last_end = start + STEP_TICKS if scheduled else start
        sampling = frozenset(r for r in scheduled if not scheduler.requests[r].is_prefill_chunk)
        self._batches.append(Batch(output, sampling, step, self._last_end))
        return bool(scheduled)

    def _update(self, batch: Batch) -> None:
        self.clock = max(self.clock, batch.end)
        self._abort()
        ids = list(batch.output.num_scheduled_tokens)
        tokens = [[next(self._new_tokens)] if r in batch.sampling else [] for r in ids]
        output = ModelRunnerOutput(
            req_ids=ids, req_id_to_index={r: i for i, r in enumerate(ids)}, sampled_token_ids=tokens
        )
        for outputs in self.scheduler.update_from_output(batch.output, output).values():
            batch.step.finished.extend(int(o.request_id) for o in outputs.outputs if o.finish_reason is not None)


def record(case: TwinCase, model: Path) -> TwinCase:
    scheduler = make_scheduler(model, case.config)
    steps = Recording(case, scheduler).run()
    return replace(case, steps=tuple(steps), num_evictions=scheduler.num_evictions)


def main() -> None:
    which = sys.argv[1] if len(sys.argv) > 1 else "vllm"
    golden, generated = {"vllm": (GOLDEN, generate), "policy": (GOLDEN_POLICY, generate_with_policies)}[which]
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else golden
    init_none_hash(sha256)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(MODEL))
        cases = []
        for case in generated():
            cases.append(record(case, Path(directory)))
            done = cases[-1]
            print(
                f"{done.name}: {len(done.steps)} steps, {done.num_preemptions} preempted, {done.num_evictions} evicted"
            )
    pressed = sum(bool(case.num_preemptions or case.num_evictions) for case in cases)
    num_steps = sum(len(case.steps) for case in cases)
    write_golden(path, {"vllm": vllm.__version__, "step_ticks": STEP_TICKS, "cases": len(cases)}, cases)
    print(f"{path}: {len(cases)} cases, {num_steps} steps, {pressed} cases with preemption or eviction")


if __name__ == "__main__":
    main()
