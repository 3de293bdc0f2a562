"""What must hold in every simulation, whatever the policies do. Checked after each run, on columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from designer.simulator.draws import Ints
from designer.simulator.results import COMPLETED, OUTCOMES, SimulationResult
from gateway.core.pool import PoolState
from gateway.mockworker.engine import Engine

_SLACK = 1e-9
"""Seconds: columns are floats, the run's clock is not."""
_NEVER_DISPATCHED = ("shed", "queue_full", "unknown_model", "abandoned")


class InvariantViolation(Exception):  # noqa: N818 - it is the run that is wrong, not its input
    """The dispatcher, the engine or the world broke a rule; never a policy's fault."""


def require(holds: bool, text: str) -> None:
    if not holds:
        broken(text)


def broken(text: str) -> NoReturn:
    raise InvariantViolation(text)


def check_requests(result: SimulationResult, limits: Ints) -> None:
    """Conservation and order of every request.

    Args:
        limits: most tokens (prompt and output) of a request on its worker; 0 if it never had one.
    """
    done = result.outcome == COMPLETED
    require(bool(np.all(result.finished >= result.arrival - _SLACK)), "a request ended before it arrived")
    held = result.dispatched[done] - result.arrival[done]
    require(bool(np.all(held >= -_SLACK)), "a completed request was dispatched before it arrived, or never")
    ordered = (result.first_token - result.dispatched >= 0) & (result.finished - result.first_token >= 0)
    require(bool(np.all(ordered[done])), "times of a completed request are out of order")
    wanted = np.minimum(result.output, limits - result.prompt)
    require(bool(np.all((result.made == wanted)[done])), "a completed request was not given all of its tokens")
    for name in _NEVER_DISPATCHED:
        turned_away = result.outcome == OUTCOMES.index(name)
        require(bool(np.all(result.num_dispatches[turned_away] == 0)), f"a request ended as {name} after a dispatch")


def check_steps(result: SimulationResult, floors_ps: Ints) -> None:
    """No part of a request's time is negative: it arrived, was dispatched, scheduled, given a first token and its last
    in that order, to the picosecond. No step was under the profile's floor: each token was made in one of its own.

    Args:
        floors_ps: of each request the shortest step that its worker's profile allows; 0 if it never had a worker.
    """
    parts = result.parts_ps
    for name, column in parts.items():
        require(int(column.min()) >= 0, f"a request was {name} for a negative time")
    done = result.outcome == COMPLETED
    working = parts["prefill"] + parts["decode"] + parts["recompute"]
    require(bool(np.all((working >= result.made * floors_ps)[done])), "a step was shorter than the profile's floor")


def check_queue(result: SimulationResult, max_seconds: float, tick_seconds: float) -> None:
    """Nothing was held past the queue's limit; the clock ticks every ``tick_seconds``, so it may be late by one."""
    waited = np.where(np.isnan(result.dispatched), result.finished, result.dispatched) - result.arrival
    once = result.num_dispatches <= 1
    require(bool(np.all(waited[once] <= max_seconds + tick_seconds + _SLACK)), "a request was held past its limit")


def check_engines(engines: Sequence[Engine], made: Ints, now: int, made_besides: int = 0) -> None:
    """Engines are empty, hold no block, and made the tokens that requests were given and no others.

    Args:
        made_besides: by engines that broke down, less what was lost to requests that were then tried again.
    """
    for engine in engines:
        require(engine.num_running == 0 and engine.num_waiting == 0, "a worker holds a request after the end")
        require(engine.num_free_blocks == engine.config.num_gpu_blocks, "a worker leaked KV blocks")
    total = made_besides + sum(engine.num_output_tokens_at(now) for engine in engines)
    require(total == int(made.sum()), f"workers made {total} tokens, requests were given {int(made.sum())}")


def check_dispatcher(pool: PoolState) -> None:
    """Its books are at zero."""
    require(pool.queue.num_requests == 0, "the dispatcher holds a request after the end")
    require(not pool.in_flight, "the dispatcher counts a request in flight after the end")
    for worker in pool.workers.values():
        require(worker.num_inflight_requests == 0, f"{worker.worker_id} has requests in flight after the end")
        require(worker.prompt_tokens == 0, f"{worker.worker_id} has prompt tokens in flight after the end")
