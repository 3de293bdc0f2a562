"""Pairs of a replay as a ledger has them, made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from designer.ledger import Ledger
from designer.replay_evidence import STARTED, pair_result


def _side(mean: float) -> dict[str, Any]:
    return {
        "num_requests": 10,
        "num_completed": 10,
        "ttft": {"mean": mean / 10, "p99": mean / 2},
        "response_time": {"mean": mean, "p99": mean * 3},
    }


def _policy(real: float, simulated: float) -> dict[str, Any]:
    return {"real": _side(real), "simulated": _side(simulated), "verdict": "valid", "lag_p99": 0.001, "num_runs": 1}


def pairs(
    ratios: Sequence[float],
    simulated: float,
    first: int = 1,
    state: str = "valid",
    first_seconds: float | None = None,
    workers: str = "mock workers",
) -> list[dict[str, Any]]:
    """Of these real ratios, on seeds of different size."""
    return [
        {
            "number": first + n,
            "state": state,
            "seed": n,
            "conditions": {"workers": workers, "speed": 1.0, "first_seconds": first_seconds},
            "comparator_label": "least_loaded",
            "winner": _policy(ratio * (n + 1), simulated * (n + 1)),
            "comparator": _policy(n + 1.0, n + 1.0),
        }
        for n, ratio in enumerate(ratios)
    ]


def aborted(number: int) -> dict[str, Any]:
    return {"number": number, "state": "aborted"}


def write(ledger: Ledger, made: Sequence[dict[str, Any]]) -> None:
    for pair in made:
        ledger.add_event(STARTED, {"number": pair["number"]})
        if pair["state"] != "aborted":
            ledger.add_result(pair_result(pair["number"]), pair)
