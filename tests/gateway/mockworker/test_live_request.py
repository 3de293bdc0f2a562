"""What preemptions cost a request, by hand."""

from __future__ import annotations

from gateway.mockworker.engine import EngineRequest
from gateway.mockworker.live_request import LiveRequest, Losses


def test_standing_still_before_the_first_token_is_told_apart() -> None:
    losses = Losses(0)
    losses.preempted_at = 100
    losses.made_token(130, first=True)
    losses.made_token(140, first=False)
    losses.preempted_at = 150
    losses.made_token(190, first=False)
    assert (losses.preempted_ps, losses.prefill_preempted_ps) == (70, 30)


def test_only_what_had_been_computed_and_is_not_found_again_is_recomputed() -> None:
    losses = Losses(4)
    losses.add(20)
    losses.cached_at_admission = 8
    losses.add(15)
    assert (losses.recomputed, losses.high) == (7, 20)
    losses.cached_at_admission = 0
    losses.add(30)
    assert (losses.recomputed, losses.high) == (27, 30)


def test_a_request_ends_at_its_length_or_at_the_bound() -> None:
    assert LiveRequest(EngineRequest("a", 10, 5), 0, 0, 100, 1).limit == 15
    assert LiveRequest(EngineRequest("a", 10, 5), 0, 0, 12, 1).limit == 12


def test_stats_are_in_the_order_of_their_fields() -> None:
    request = LiveRequest(EngineRequest("a", 10, 5), 3, 4, 100, 1)
    request.losses = Losses(0)
    request.losses.num_preemptions, request.losses.preempted_ps, request.losses.prefill_preempted_ps = 2, 9, 4
    request.first_scheduled, request.first_token, request.num_cached = 5, 6, 7
    stats = request.stats(12, 20)
    assert (stats.request_id, stats.arrival, stats.first_scheduled, stats.first_token, stats.finish) == (
        "a",
        3,
        5,
        6,
        20,
    )
    assert (stats.num_prompt_tokens, stats.num_output_tokens, stats.num_cached_tokens) == (10, 2, 7)
    assert (stats.num_preemptions, stats.num_recomputed_tokens) == (2, 0)
    assert (stats.preempted_ps, stats.prefill_preempted_ps) == (9, 4)
