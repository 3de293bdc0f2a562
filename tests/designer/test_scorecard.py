"""The table and the JSON of a scorecard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from designer.evaluate import PolicyScore, Scorecard
from designer.scorecard import to_json, to_markdown


def summary(seed: int, value: float, **changes: Any) -> dict[str, Any]:
    plain = {
        "seed": seed,
        "objective": value,
        "num_requests": 100,
        "num_completed": 100,
        "preempted_share": 0.25,
        "mean_held": 1.5,
        "p99_ttft": 3.0,
        "p99_tpot": 0.05,
        "p99_response_time": 40.0,
        "num_policy_failures": 0,
        "num_sets_retired": 0,
    }
    return plain | changes


def card(**changes: Any) -> Scorecard:
    fast = PolicyScore("fast", ({"name": "fast"},), tuple(summary(s, v, **changes) for s, v in ((1, 5.0), (2, 11.0))))
    slow = PolicyScore("least_loaded", (), (summary(1, 10.0), summary(2, 20.0)))
    return Scorecard("made up", "abcdef0123456789", "mean_response_time", (1, 2), "least_loaded", (fast, slow))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table() -> None:
    text = to_markdown(card())
    lines = text.splitlines()
    assert lines[0] == "Scenario made up, seeds 1, 2 (scenario abcdef012345)"
    assert cells(lines[2])[:4] == ["policy", "mean response time, s", "ratio", "p"]
    assert len({len(line) for line in lines[2:6]}) == 1
    fast, slow = cells(lines[4]), cells(lines[5])
    assert fast[:2] == ["fast", "8.0 [5.0, 11.0]"]
    assert fast[2].startswith("0.524 [")
    assert fast[3:] == ["0.5", "25.0 %", "1.5", "3.0", "0.050", "40.0", "0"]
    assert slow[2:4] == ["1", ""]
    assert "Warning" not in text


def test_what_the_guard_replaced_and_what_was_not_served_is_said() -> None:
    text = to_markdown(card(num_policy_failures=5, num_sets_retired=1, num_completed=97, p99_tpot=None))
    assert "Warning: fast failed 10 times and was replaced by the built-in in 2 of 2 runs." in text
    assert cells(text.splitlines()[4])[-1] == "6"
    assert cells(text.splitlines()[4])[7] == ""


def test_a_long_run_of_seeds_is_shortened() -> None:
    score = PolicyScore("least_loaded", (), tuple(summary(seed, 1.0) for seed in range(5, 9)))
    made = Scorecard("s", "0" * 12, "mean_ttft", (5, 6, 7, 8), "least_loaded", (score,))
    assert to_markdown(made).splitlines()[0] == "Scenario s, seeds 5 to 8 (scenario 000000000000)"
    assert "mean ttft, s" in to_markdown(made)


def test_json_has_every_seed_and_both_intervals() -> None:
    content = orjson.loads(to_json(card()))
    fast, slow = content["policies"]
    assert fast["modules"] == [{"name": "fast"}]
    assert [seed["objective"] for seed in fast["seeds"]] == [5.0, 11.0]
    assert fast["ratio_t_95"][0] < fast["ratio"] < fast["ratio_t_95"][1]
    assert fast["ratio_bca_95"][0] <= fast["ratio"] <= fast["ratio_bca_95"][1]
    assert fast["p"] == fast["p_holm"] == 0.5
    assert slow["p_holm"] is None
    assert content["metric"] == "mean_response_time"


def test_one_seed_has_no_intervals() -> None:
    score = PolicyScore("least_loaded", (), (summary(1, 3.0),))
    made = Scorecard("s", "0" * 12, "mean_ttft", (1,), "least_loaded", (score,))
    assert orjson.loads(to_json(made))["policies"][0]["interval_90"] is None
    assert "nan" not in to_markdown(made)


def with_reference(**changes: Any) -> Scorecard:
    extra = {"lower_bound": 2.0, "lower_bound_solo": 1.0}
    reference = PolicyScore("clairvoyant", (), tuple(summary(s, v, **extra) for s, v in ((1, 4.0), (2, 8.0))))
    return replace(card(**changes), reference=reference)


def test_the_reference_and_the_bound_have_rows_of_their_own() -> None:
    lines = to_markdown(with_reference()).splitlines()
    assert cells(lines[2])[-1] == "won"
    assert cells(lines[4])[-1] == "78 % [54 %]"  # (15 - 8) / (15 - 6) and / (15 - 2)
    assert cells(lines[5])[-1] == ""
    assert cells(lines[6])[:2] == ["clairvoyant", "6.0 [4.0, 8.0]"]
    assert cells(lines[7])[:2] == ["lower bound", "2.0"]
    assert len({len(line) for line in lines[2:8]}) == 1


def test_a_policy_that_sheds_is_held_to_the_bound_that_shedding_cannot_break() -> None:
    shedding = with_reference(num_completed=99)
    assert shedding.bound("fast") == 1.0
    content = orjson.loads(to_json(shedding))
    assert content["policies"][0]["lower_bound"] == 1.0
    assert content["policies"][1]["lower_bound"] == 2.0
    assert content["policies"][0]["share_won"] == pytest.approx(7 / 9)
    assert content["clairvoyant"]["mean"] == 6.0


def test_the_bound_is_of_response_times_alone() -> None:
    ttft = replace(with_reference(), metric="mean_ttft")
    assert ttft.bound("fast") is None
    assert "lower bound |" not in to_markdown(ttft)
    assert "78 % |" in to_markdown(ttft)
