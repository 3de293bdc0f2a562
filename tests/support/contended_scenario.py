"""A scenario that is over in a blink, with KV scarce enough that requests are held and preempted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from designer.simulator.scenario import Scenario, parse_scenario

PROFILE = """
description = "Round numbers, to be checked by hand."

[sources]
made_up = "chosen for the tests"

[engine]
num_gpu_blocks = { value = 1000, source = "made_up" }

[step]
weights_ms = { value = 0, source = "made_up" }
fixed_ms = { value = 10, source = "made_up" }
token_us = { value = 0, source = "made_up" }
decode_ms = { value = 0, source = "made_up" }
decode_context_ns = { value = 0, source = "made_up" }
prefill_context_ns = { value = 0, source = "made_up" }
host_step_ms = { value = 0, source = "made_up" }
host_sequence_us = { value = 0, source = "made_up" }
host_request_ms = { value = 2, source = "made_up" }
"""
"""Every step takes 10 ms; a request is seen by the scheduler 2 ms after it came."""

_BASE: dict[str, Any] = {
    "name": "small",
    "workload": {
        "kind": "synthetic",
        "num_requests": 80,
        "arrivals": {"process": "lognormal", "rate": 20.0, "sigma": 1.5},
        "prompt_tokens": {"median": 60.0, "sigma": 1.2, "max": 1000},
        "output_tokens": {"median": 40.0, "sigma": 0.8, "max": 400},
        "bytes": {"sigma": 0.2},
    },
    "workers": [
        {
            "profile": "a10-llama3-8b",
            "count": 2,
            "engine": {"num_gpu_blocks": 100, "watermark": 0.01, "enable_prefix_caching": False},
        }
    ],
    "queue": {"max_seconds": 600.0},
}


def contended_scenario(**tables: Any) -> Scenario:
    """The scenario with tables merged into it, one level deep; ``workers`` replaces as a whole."""
    content = copy.deepcopy(_BASE)
    for name, table in tables.items():
        content[name] = content.get(name, {}) | table if isinstance(table, dict) else table
    return parse_scenario(content, Path("small.toml"))


def by_hand(tmp_path: Path, **tables: Any) -> Scenario:
    """One worker of ``PROFILE``, one request of 5 prompt and 3 output tokens, a millisecond each way."""
    (tmp_path / "by_hand.toml").write_text(PROFILE)
    defaults: dict[str, Any] = {
        "workload": {
            "num_requests": 1,
            "arrivals": {"rate": 1.0},
            "prompt_tokens": {"median": 5.0},
            "output_tokens": {"median": 3.0},
        },
        "workers": [{"profile": str(tmp_path / "by_hand.toml")}],
        "network": {"dispatch_seconds": 0.001, "answer_seconds": 0.001},
    }
    for name, table in tables.items():
        defaults[name] = defaults.get(name, {}) | table if isinstance(table, dict) else table
    return contended_scenario(**defaults)
