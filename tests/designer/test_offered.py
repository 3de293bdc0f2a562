"""What a scenario offers a policy to read."""

from designer.offered import left_out
from tests.support.small_scenario import small_scenario


def test_what_never_changes_is_left_out_and_what_varies_is_not() -> None:
    found = left_out(small_scenario(), 1)
    assert found["candidate.num_cached_tokens"] == "always 0"
    assert not found.keys() & {"request.num_prompt_tokens", "worker.num_inflight_tokens", "worker.kv_capacity_tokens"}


def test_estimates_that_are_alike_for_all_that_wait_are_left_out() -> None:
    assert "all but alike" in left_out(small_scenario(num_requests=2000), 1)["request.expected_output_tokens"]


def test_what_only_a_holding_policy_sees_is_offered() -> None:
    assert not left_out(small_scenario(), 1).keys() & {"pool.num_queued_requests", "pool.seconds_waited"}
