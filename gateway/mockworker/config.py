"""How a mock worker behaves, its engine aside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MockConfig:
    """Fields are vLLM's flags where vLLM has one.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    model: str = "mock"
    """The one model served."""
    speed: float = 1.0
    """Engine seconds in a real second."""
    seed: int = 0
    max_num_queued_reqs: int = 0
    """Requests waiting at which new ones are refused with 503; 0: unbounded."""
    enable_prompt_tokens_details: bool = False
    enable_request_id_headers: bool = False
    sse_keep_alive_interval: float = 0.0
    """Seconds between ``:`` comments on a stream that has said nothing; 0: none."""
    shutdown_timeout: float = 0.0
    """Seconds that requests in flight may take to finish after SIGTERM; 0 aborts them."""
    output_median: float = 190.0
    output_sigma: float = 0.9
    """Of the log-normal output lengths of requests that do not carry one."""
    instance: int = 0
    """Tells apart the workers of one process and seed: the request ids they make up differ."""

    def __post_init__(self) -> None:
        if not 0.001 <= self.speed <= 10_000:
            raise ValueError(f"speed must be between 0.001 and 10000, not {self.speed}")
        if not self.output_median >= 1:
            raise ValueError(f"output_median must be at least 1, not {self.output_median}")
        for name in ("max_num_queued_reqs", "sse_keep_alive_interval", "shutdown_timeout", "output_sigma"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
