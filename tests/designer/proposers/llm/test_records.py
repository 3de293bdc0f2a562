"""Per-request records as tables: what is in them, and what is not let in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from designer.proposers.llm.records import Records, RecordsError
from designer.readonly_sql import QueryError

COLUMNS: dict[str, list[Any]] = {
    "arrival": [0.0, 1.0],
    "dispatched": [0.5, None],
    "first_token": [0.75, None],
    "finished": [2.0, 3.0],
    "worker": ["w0", None],
    "tenant": ["default", "default"],
    "outcome": ["completed", "queue_timeout"],
    "prompt": [10, 20],
    "output": [4, 5],
    "made": [4, 0],
    "cached": [0, 0],
    "preemptions": [1, 0],
    "num_dispatches": [1, 0],
}


@pytest.fixture
def records() -> Iterator[Records]:
    made = Records()
    yield made
    made.close()


def test_a_request_is_a_row_with_what_follows_from_its_times(records: Records) -> None:
    records.add_policy("reference", COLUMNS)
    table = records.query("SELECT policy, request, held, ttft, response_time, outcome FROM requests ORDER BY request")
    assert table.rows == (
        ("reference", 0, 0.5, 0.75, 2.0, "completed"),
        ("reference", 1, None, None, 2.0, "queue_timeout"),
    )


def test_events_are_in_the_order_of_time(records: Records) -> None:
    records.add_policy("reference", COLUMNS)
    assert records.query("SELECT time, kind, request, worker FROM events").rows == (
        (0.0, "arrived", 0, None),
        (0.5, "dispatched", 0, "w0"),
        (0.75, "first_token", 0, "w0"),
        (1.0, "arrived", 1, None),
        (2.0, "ended", 0, "w0"),
        (3.0, "ended", 1, None),
    )


def test_policies_are_summed_up_side_by_side(records: Records) -> None:
    records.add_policy("reference", COLUMNS)
    records.add_policy("candidate 3", {**COLUMNS, "finished": [1.0, 2.0]})
    records.add_experiments([(3, "shorter", 0.9, 0.5, "scored", "")])
    summary = records.summary().splitlines()
    assert summary[0].startswith("policy       requests  completed  mean_response_time")
    assert summary[1].split()[:4] == ["reference", "2", "1", "2"]
    assert summary[2].split()[:5] == ["candidate", "3", "2", "1", "1"]
    assert records.query("SELECT number, observed FROM experiments").rows == ((3, 0.5),)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1 << 80, "DROP TABLE", [1], {"a": 1}])
def test_what_is_no_number_becomes_null(records: Records, value: Any) -> None:
    records.add_policy("candidate 0", {**COLUMNS, "prompt": [value, 1]})
    assert records.query("SELECT prompt FROM requests").rows == ((None,), (1,))


@pytest.mark.parametrize(
    "columns", [{}, {**COLUMNS, "made": "many"}, {**COLUMNS, "made": [1]}, {**COLUMNS, "arrival": [0.0]}]
)
def test_columns_of_another_form_are_refused(records: Records, columns: dict[str, Any]) -> None:
    with pytest.raises(RecordsError):
        records.add_policy("candidate 0", columns)


def test_the_analyst_can_only_read(records: Records) -> None:
    records.add_policy("reference", COLUMNS)
    with pytest.raises(QueryError, match="only reading is allowed"):
        records.query("DELETE FROM requests")
    assert records.query("SELECT count(*) FROM requests").rows == ((2,),)
