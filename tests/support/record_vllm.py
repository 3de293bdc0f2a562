"""Records what vLLM's own scheduler decides, step by step, as golden data for the engine model.

Needs vLLM (nothing else in the tests does) and a model directory whose configuration it can read; no model is run:

    python -m tests.support.record_vllm MODEL_DIR tests/gateway/mockworker/golden/vllm-0.32.json.gz

The scheduler is driven in virtual time: a request is handed over before the first step that starts after its
arrival, an idle scheduler gets the first to arrive, and a step takes ``step_ps`` plus ``token_ps`` a token.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

BLOCK_SIZE = 16
CHUNK = 40
STEP_PS, TOKEN_PS = 10_000, 20
NUM_CASES = 120


def draw_case(seed: int) -> dict[str, Any]:
    """A configuration and a workload; most of them short of KV blocks."""
    rng = random.Random(f"golden/{seed}")
    config = {
        "num_gpu_blocks": rng.choice([10, 14, 20, 30, 60]),
        "max_num_batched_tokens": rng.choice([16, 32, 64, 200]),
        "max_num_seqs": rng.choice([3, 6, 16]),
        "long_prefill_token_threshold": rng.choice([0, 0, 24]),
        "enable_prefix_caching": rng.random() < 0.7,
        "watermark": rng.choice([0.0, 0.0, 0.1]),
        "scheduling_policy": rng.choice(["fcfs", "fcfs", "priority"]),
        "reserve_full_isl": rng.random() < 0.6,
    }
    requests, now = [], 0
    gap = rng.choice([3e3, 3e4, 1.5e5])
    for _ in range(rng.randrange(6, 16)):
        now += 1 + int(rng.expovariate(1 / gap))
        prompt = min(1 + int(rng.lognormvariate(4.0, 0.9)), config["num_gpu_blocks"] * BLOCK_SIZE - 1)
        path = [rng.randrange(2) for _ in range(rng.randrange(6))][: prompt // CHUNK]
        requests.append([now, prompt, 1 + int(rng.expovariate(1 / 30)), rng.randrange(3), path])
    return {"config": config, "requests": requests}


def chunk_key(path: list[int]) -> int:
    return int("1" + "".join(map(str, path)))


def prompt_tokens(index: int, prompt: int, path: list[int]) -> list[int]:
    """Equal exactly as far as the paths are."""
    rng = random.Random(index)
    shared = [
        (chunk_key(path[: depth + 1]) * 31 + position) % 1500 + 4
        for depth in range(len(path))
        for position in range(CHUNK)
    ]
    return shared + [rng.randrange(1504, 2000) for _ in range(prompt - len(shared))]


class Recorder:
    """vLLM's scheduler for one case."""

    def __init__(self, model: str, case: dict[str, Any]) -> None:
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK_SIZE, sha256)
        self._case = case
        self._scheduler = self._build(model, case["config"])
        self._num_hits = 0
        self._index: dict[str, int] = {}

    def _build(self, model: str, config: dict[str, Any]) -> Any:
        import torch
        from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        length = config["num_gpu_blocks"] * BLOCK_SIZE
        num_blocks = config["num_gpu_blocks"] + 1  # one is the null block
        scheduling = SchedulerConfig(
            max_num_seqs=config["max_num_seqs"],
            max_num_batched_tokens=config["max_num_batched_tokens"],
            max_model_len=4096,
            is_encoder_decoder=False,
            enable_chunked_prefill=True,
            policy=config["scheduling_policy"],
            async_scheduling=False,
            long_prefill_token_threshold=config["long_prefill_token_threshold"],
            watermark=config["watermark"],
            scheduler_reserve_full_isl=config["reserve_full_isl"],
        )
        caching = config["enable_prefix_caching"]
        cache = CacheConfig(block_size=BLOCK_SIZE, cache_dtype="auto", enable_prefix_caching=caching)
        whole = VllmConfig(
            scheduler_config=scheduling,
            model_config=ModelConfig(model=model, dtype="float16", seed=0, max_model_len=4096),
            cache_config=cache,
            device_config=DeviceConfig("cpu"),
        )
        # Platform defaults may have overridden these; no kernel runs, so any value will do.
        whole.cache_config.block_size = BLOCK_SIZE
        whole.cache_config.enable_prefix_caching = caching
        whole.cache_config.num_gpu_blocks = num_blocks
        whole.scheduler_config.max_num_batched_tokens = config["max_num_batched_tokens"]
        whole.scheduler_config.max_num_seqs = config["max_num_seqs"]
        whole.model_config.max_model_len = whole.scheduler_config.max_model_len = length
        spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=32, dtype=torch.float16)
        return Scheduler(
            vllm_config=whole,
            kv_cache_config=KVCacheConfig(
                num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
            ),
            structured_output_manager=StructuredOutputManager(whole),
            block_size=BLOCK_SIZE,
            log_stats=True,
        )

    def _hand_over(self, index: int) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        arrival, prompt, output, priority, path = self._case["requests"][index]
        request = Request(
            request_id=f"r{index:02d}",
            prompt_token_ids=prompt_tokens(index, prompt, path),
            sampling_params=SamplingParams(max_tokens=output, ignore_eos=True),
            pooling_params=None,
            priority=priority,
            arrival_time=float(arrival),
            block_hasher=self._hasher,
        )
        self._index[request.request_id] = index
        self._scheduler.add_request(request)

    def run(self) -> list[list[Any]]:
        """Steps as [start, {request: tokens}, preempted, free blocks, prefix-hit tokens so far]."""
        scheduler, requests = self._scheduler, self._case["requests"]
        steps: list[list[Any]] = []
        clock, coming = 0, 0
        while coming < len(requests) or scheduler.has_unfinished_requests():
            if not scheduler.has_unfinished_requests():
                clock = max(clock, requests[coming][0])
                if requests[coming][0] == clock:
                    self._hand_over(coming)
                    coming += 1
            while coming < len(requests) and requests[coming][0] < clock:
                self._hand_over(coming)
                coming += 1
            clock += self._step(clock, steps)
        return steps

    def _step(self, clock: int, steps: list[list[Any]]) -> int:
        from vllm.v1.outputs import ModelRunnerOutput

        scheduler = self._scheduler
        decision = scheduler.schedule()
        shares = dict(decision.num_scheduled_tokens)
        free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        made = [
            [2000 + self._index[r]]
            if scheduler.requests[r].num_computed_tokens >= scheduler.requests[r].num_tokens
            else []
            for r in shares
        ]
        output = ModelRunnerOutput(
            req_ids=list(shares),
            req_id_to_index={r: position for position, r in enumerate(shares)},
            sampled_token_ids=made,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        for outputs in scheduler.update_from_output(decision, output).values():
            stats = outputs.scheduler_stats and outputs.scheduler_stats.prefix_cache_stats
            if stats:
                self._num_hits += stats.hits + stats.preempted_hits
        preempted = sorted(self._index[r] for r in decision.preempted_req_ids or ())
        by_index = sorted([self._index[r], tokens] for r, tokens in shares.items())
        steps.append([clock, by_index, preempted, free, self._num_hits])
        return STEP_PS + TOKEN_PS * sum(shares.values()) if shares else 0


def main() -> None:
    import vllm

    model, target = sys.argv[1:]
    cases = []
    for seed in range(NUM_CASES):
        case = draw_case(seed)
        cases.append({**case, "steps": Recorder(model, case).run()})
    golden = {"vllm": vllm.__version__, "block_size": BLOCK_SIZE, "chunk": CHUNK, "cases": cases}
    golden["step_ps"], golden["token_ps"] = STEP_PS, TOKEN_PS
    Path(target).write_bytes(gzip.compress(json.dumps(golden, separators=(",", ":")).encode(), mtime=0))


if __name__ == "__main__":
    main()
