"""A worker profile with round numbers, for tests that compute what the engine must do."""

from __future__ import annotations

from typing import Any

from gateway.mockworker.engine import EngineConfig
from gateway.mockworker.profile import WorkerProfile

MILLISECOND_PS = 10**9


def flat_profile(step_ms: float = 10.0, request_ms: float = 0.0, **flags: Any) -> WorkerProfile:
    """Every step takes ``step_ms`` milliseconds, whatever is in it."""
    config = EngineConfig(**{"num_gpu_blocks": 1000, "block_size": 16, "max_num_seqs": 64, **flags})
    return WorkerProfile(
        name="flat",
        description="every step takes the same time",
        engine=config,
        weights_ps=round(step_ms * MILLISECOND_PS),
        host_request_ps=round(request_ms * MILLISECOND_PS),
    )
