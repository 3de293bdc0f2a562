"""Each rule is shown to catch what it is there for: a good run, with one thing made wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from designer.simulator.breakdown import Part
from designer.simulator.fleet import plan_workers
from designer.simulator.invariants import (
    InvariantViolation,
    check_dispatcher,
    check_engines,
    check_queue,
    check_requests,
    check_steps,
)
from designer.simulator.policies import make_policy_set
from designer.simulator.pools import pool_config
from designer.simulator.results import OUTCOMES, SimulationResult
from designer.simulator.world import simulate
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import RequestArrived, WorkerJoined
from gateway.mockworker.engine import Engine, EngineConfig, EngineRequest
from gateway.mockworker.profile import load_profile
from tests.support.contended_scenario import contended_scenario

LIMITS = np.full(80, 1600)


@pytest.fixture(scope="module")
def good() -> SimulationResult:
    return simulate(contended_scenario(), "head_room", 1)


def changed(result: SimulationResult, column: str, change: Callable[[Any], Any]) -> SimulationResult:
    values = getattr(result, column).copy()
    values[7] = change(values[7])
    return dataclasses.replace(result, **{column: values})


def test_a_good_run_passes(good: SimulationResult) -> None:
    check_requests(good, LIMITS)
    check_queue(good, 600.0, 1.0)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("queued", lambda ps: -1, "queued for a negative time"),
        ("held", lambda ps: -1, "held for a negative time"),
        ("decode", lambda ps: 0, "shorter than the profile's floor"),
    ],
)
def test_a_broken_order_or_step_is_caught(good: SimulationResult, part: Part, change: Any, message: str) -> None:
    floors = np.full(len(good), plan_workers(contended_scenario())[0].profile.floor_ps)
    check_steps(good, floors)
    column = good.parts_ps[part].copy()
    column[7] = change(column[7])
    with pytest.raises(InvariantViolation, match=message):
        check_steps(dataclasses.replace(good, parts_ps={**good.parts_ps, part: column}), floors)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("finished", lambda _: 0.0, "ended before it arrived"),
        ("dispatched", lambda _: 0.0, "dispatched before it arrived"),
        ("dispatched", lambda _: float("nan"), "dispatched before it arrived, or never"),
        ("first_token", lambda _: 1e9, "out of order"),
        ("first_token", lambda _: float("nan"), "out of order"),
        ("made", lambda tokens: tokens - 1, "not given all of its tokens"),
        ("made", lambda tokens: tokens + 1, "not given all of its tokens"),
        ("outcome", lambda _: OUTCOMES.index("shed"), "ended as shed after a dispatch"),
    ],
)
def test_a_broken_request_is_caught(good: SimulationResult, column: str, change: Any, message: str) -> None:
    with pytest.raises(InvariantViolation, match=message):
        check_requests(changed(good, column, change), LIMITS)


def test_an_answer_cut_by_the_workers_context_is_whole(good: SimulationResult) -> None:
    limits = LIMITS.copy()
    limits[7] = good.prompt[7] + good.output[7] - 1
    check_requests(changed(good, "made", lambda tokens: tokens - 1), limits)
    with pytest.raises(InvariantViolation, match="all of its tokens"):
        check_requests(good, limits)


def test_held_too_long_is_caught(good: SimulationResult) -> None:
    longest = float(np.nanmax(good.held))
    with pytest.raises(InvariantViolation, match="held past its limit"):
        check_queue(good, longest / 2, longest / 4)


def test_an_engine_that_is_not_empty_or_made_other_tokens_is_caught() -> None:
    engine = Engine(EngineConfig(num_gpu_blocks=10), load_profile("a10-llama3-8b"))
    check_engines([engine], np.array([0]), 0)
    with pytest.raises(InvariantViolation, match="made 0 tokens, requests were given 5"):
        check_engines([engine], np.array([5]), 0)
    engine.add(EngineRequest("a", 10, 5), 0)
    now = 10**11
    engine.advance(now)
    with pytest.raises(InvariantViolation, match="holds a request after the end"):
        check_engines([engine], np.array([0]), now)


def test_a_dispatcher_with_a_request_in_hand_is_caught() -> None:
    dispatcher = Dispatcher([pool_config(contended_scenario(), make_policy_set("least_loaded", 1))])
    check_dispatcher(dispatcher.pools["default"])
    dispatcher.handle(WorkerJoined(0.0, "w", "default"))
    dispatcher.handle(RequestArrived(0.0, "r", "", num_prompt_bytes=10))
    with pytest.raises(InvariantViolation, match="in flight"):
        check_dispatcher(dispatcher.pools["default"])
