"""A scenario small enough to be simulated in a few hundredths of a second, and tight enough that holding pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from designer.simulator.scenario import Scenario, parse_scenario


def small_scenario(num_requests: int = 120, **changes: Any) -> Scenario:
    """Two small workers under a burst; ``changes`` replace whole tables."""
    table: dict[str, Any] = {
        "name": "small",
        "workload": {
            "kind": "synthetic",
            "num_requests": num_requests,
            "arrivals": {"process": "lognormal", "rate": 30.0, "sigma": 1.0},
            "prompt_tokens": {"median": 60.0, "sigma": 1.5, "max": 1000},
            "output_tokens": {"median": 40.0, "sigma": 0.6, "max": 200},
            "bytes": {"per_token": 4.0},
        },
        "workers": [{"profile": "a10-llama3-8b", "count": 2, "engine": {"num_gpu_blocks": 120}}],
        "queue": {"max_seconds": 1000.0},
        "objective": {"metric": "mean_response_time", "penalty_seconds": 100.0},
        **changes,
    }
    return parse_scenario(table, Path("small.toml"))
