"""Records into columns."""

from __future__ import annotations

import numpy as np

from designer.simulator.records import make_records, make_result
from designer.simulator.workload import draw_workload
from gateway.mockworker.engine import PS_PER_SECOND
from tests.support.contended_scenario import contended_scenario


def test_records_are_in_order_and_hold_both_faces() -> None:
    columns = draw_workload(contended_scenario(), 1)
    records = make_records(columns, None)
    assert [record.arrival_ps for record in records] == columns.arrival_ps.tolist()
    assert [record.truth.num_output_tokens for record in records] == columns.num_output_tokens.tolist()
    assert all(record.arrival.time == record.arrival_ps / PS_PER_SECOND for record in records)


def test_what_never_happened_is_nan() -> None:
    scenario = contended_scenario()
    columns = draw_workload(scenario, 1)
    records = make_records(columns, None)
    for record in records:
        record.outcome, record.ended = "shed", record.arrival_ps + PS_PER_SECOND
    result = make_result(
        records, columns, seed=1, objective=scenario.objective, workers=("w",), counters={"num_events": 3}
    )
    assert np.isnan(result.dispatched).all()
    assert np.isnan(result.first_token).all()
    assert set(result.worker.tolist()) == {-1}
    assert np.allclose(result.finished - result.arrival, 1.0)
    assert result.counters == {"num_events": 3}
