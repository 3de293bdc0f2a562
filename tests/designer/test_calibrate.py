"""A fit finds the coefficients of a worker whose coefficients are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from designer.calibrate import (
    CalibrationError,
    Coefficients,
    Fit,
    Plan,
    Point,
    Step,
    _residuals,
    check_load,
    fit,
    load_asks,
    profile_of,
    sweep,
)
from designer.worker_probe import Ask, Stream
from gateway.mockworker.engine import EngineConfig
from gateway.mockworker.profile import WorkerProfile, load_profile
from tests.support.virtual_worker import VirtualWorker

SMALL = EngineConfig(num_gpu_blocks=2000, max_num_batched_tokens=1024, max_num_seqs=16, enable_prefix_caching=False)


def known(**changes: int) -> WorkerProfile:
    """An A100 in the form that a calibration can find."""
    profile = replace(load_profile("a100-llama3-8b"), engine=SMALL, decode_ps=0, host_step_ps=0, host_sequence_ps=10**8)
    return replace(profile, **changes)


def plan() -> Plan:
    return Plan.for_config(SMALL, longest_prompt=4096, most_concurrent=16, repeats=1)


def test_the_plan_keeps_to_what_the_worker_takes() -> None:
    told = plan()
    assert told.prompt_lengths == (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    assert told.concurrencies == (1, 2, 4, 8, 16)
    assert Plan.for_config(replace(SMALL, max_model_len=300), 4096, 99).prompt_lengths[-1] == 300 - 48 - 16
    with pytest.raises(CalibrationError, match="too few to fit"):
        Plan.for_config(replace(SMALL, max_model_len=70), 4096, 4)


@pytest.mark.parametrize("changes", [{}, {"weights_ps": 15 * 10**9, "token_ps": 80 * 10**6}, {"host_request_ps": 0}])
def test_known_coefficients_are_found(changes: dict[str, int]) -> None:
    profile = known(**changes)
    fitted = fit(sweep(VirtualWorker(profile), plan(), SMALL))
    found = profile_of(fitted, SMALL, "found", "")
    for name, tolerance in (("weights_ps", 0.03), ("token_ps", 0.03), ("prefill_context_ps", 0.1)):
        assert getattr(found, name) == pytest.approx(getattr(profile, name), rel=tolerance), name
    assert found.decode_context_ps == pytest.approx(profile.decode_context_ps, rel=0.15)
    assert found.host_request_ps == pytest.approx(profile.host_request_ps, abs=0.5e9)
    assert max(fitted.errors(held_out=False)) < 0.02
    assert max(fitted.errors(held_out=True)) < 0.03


def test_what_cannot_be_told_apart_is_predicted_all_the_same() -> None:
    profile = known(decode_ps=7 * 10**8, host_step_ps=10**9)
    worker = VirtualWorker(profile)
    fitted = fit(sweep(worker, plan(), SMALL))
    assert max(fitted.errors(held_out=True)) < 0.05
    asks = load_asks(fitted, plan(), SMALL, seconds=60.0, seed=3)
    check = check_load(worker, asks, profile_of(fitted, SMALL, "found", ""))
    assert check.num_requests == len(asks) > 30
    assert all(abs(check.error(key)) < 0.05 for key in check.measured)


def test_a_wrong_profile_fails_the_check() -> None:
    profile = known()
    worker = VirtualWorker(profile)
    fitted = fit(sweep(worker, plan(), SMALL))
    asks = load_asks(fitted, plan(), SMALL, seconds=30.0, seed=3)
    check = check_load(worker, asks, replace(profile, weights_ps=profile.weights_ps * 2))
    assert check.error("mean_response_time") > 0.3


def test_held_out_points_are_not_fitted() -> None:
    points = sweep(VirtualWorker(known()), plan(), SMALL)
    for kind in ("prefill", "decode", "mixed"):
        of_kind = [point for point in points if point.kind == kind]
        assert 0 < sum(point.held_out for point in of_kind) <= len(of_kind) // 3
    spoiled = [replace(p, seconds=p.seconds * 5) if p.held_out else p for p in points]
    assert fit(spoiled).coefficients == fit(points).coefficients


def test_too_few_points_are_an_error() -> None:
    point = Point("decode", "", (Step(1, 1, 10.0, 0.0),), False, 0.01)
    with pytest.raises(CalibrationError, match="cannot fix 7 coefficients"):
        fit([point] * 6)


def test_the_fit_minimizes_what_the_model_says() -> None:
    points = sweep(VirtualWorker(known()), plan(), SMALL)
    model = Coefficients(11.0, 5.0, 50.0, 80.0, 3.0, 90.0, 14.0)
    expected = [model.seconds(point) / point.seconds - 1.0 for point in points]
    assert _residuals(points)(np.array(model)) == pytest.approx(expected)


def test_a_model_s_seconds_add_up() -> None:
    model = Coefficients(10.0, 5.0, 100.0, 50.0, 2.0, 3.0, 7.0)
    alone = Point("prefill", "", (Step(1000, 1, 0.0, 500_000.0),), True, 1.0)
    assert model.seconds(alone) == pytest.approx(0.005 + 0.1 + 0.001 + 3e-6 + 0.007)
    floor = Point("decode", "", (Step(2, 2, 4000.0, 0.0),), False, 1.0)
    assert model.seconds(floor) == pytest.approx(0.010 + 0.0002 + 6e-6)


def test_tokens_that_come_in_one_lump_are_an_error() -> None:
    class Lumpy(VirtualWorker):
        def run(self, asks: Sequence[Ask]) -> list[Stream]:
            return [replace(s, times=(s.times[-1],) * len(s.times)) for s in super().run(asks)]

    with pytest.raises(CalibrationError, match="did not decode side by side"):
        sweep(Lumpy(known()), plan(), SMALL)


def test_a_poor_fit_makes_no_flood() -> None:
    points = sweep(VirtualWorker(known()), plan(), SMALL)
    nothing = Fit(Coefficients(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), tuple(points))
    assert len(load_asks(nothing, plan(), SMALL, seconds=10.0, seed=1)) < 500


def test_an_empty_check_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="no request"):
        check_load(VirtualWorker(known()), [], known())
