from __future__ import annotations

import pytest

from gateway.core.events import RequestArrived
from gateway.core.request_state import NEXT, RequestState
from policies.contract import Request


@pytest.fixture
def request_state():
    return RequestState(Request("r", "m"), RequestArrived(1.0, "r", "m"), None, None, 1)


def test_it_may_be_held_and_dispatched_any_number_of_times(request_state):
    for _ in range(3):
        for step in ("hold", "dispatch", "first_token", "hold", "dispatch"):
            request_state.step(step)
    request_state.step("end")
    assert request_state.phase == "over"


@pytest.mark.parametrize("phase", NEXT)
def test_a_step_that_is_not_in_the_table_is_a_mistake(request_state, phase):
    for step in ("hold", "dispatch", "first_token", "end"):
        request_state.phase = phase
        assert request_state.may(step) == (step in NEXT[phase])
        if not request_state.may(step):
            with pytest.raises(KeyError):
                request_state.step(step)


def test_every_phase_but_the_last_can_end():
    assert [phase for phase, steps in NEXT.items() if "end" not in steps] == ["over"]
    assert NEXT["over"] == {}


def test_an_attempt_is_counted_where_the_policy_sees_it(request_state):
    for worker_id in ("a", "b", "a"):
        request_state.failed_at(worker_id)
    assert (request_state.request.num_attempts, request_state.tried) == (3, ("a", "b"))
