from __future__ import annotations

import pytest

from loadgen.describe import Distribution, describe, percentile
from loadgen.trace import TraceRequest


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (10, 1), (11, 2), (50, 5), (90, 9), (99, 10), (100, 10)])
def test_nearest_rank(percent, value):
    assert percentile(range(1, 11), percent) == value


def test_distribution():
    assert Distribution.of([3.0, 1.0, 2.0]) == Distribution(2.0, 2.0, 3.0, 3.0, 3.0)
    assert Distribution.of([]) is None


def test_counts_and_rates():
    told = describe(TraceRequest(500.0 * n, 100, 10, tenant="a", max_tokens=5 if n else None) for n in range(5))
    assert (told.num_requests, told.duration, told.rate, told.gap_cv) == (5, 2.0, 2.0, 0.0)
    assert (told.num_with_max_tokens, told.num_tenants, told.num_models, told.num_sessions) == (4, 1, 0, 0)
    assert told.prefix_reuse is None


def test_a_single_request_and_none():
    assert describe([TraceRequest(7.0, 1, 1)]).rate == 0.0
    with pytest.raises(ValueError, match="no request in the trace"):
        describe([])


def test_prefix_reuse_ends_at_the_first_new_block():
    trace = [
        TraceRequest(0, 1100, 1, hash_ids=(0, 1, 2)),
        TraceRequest(1, 1100, 1, hash_ids=(0, 1, 2)),  # all 1100 again
        TraceRequest(2, 1100, 1, hash_ids=(0, 9, 2)),  # 512; the last block is not the one after (0, 9)
        TraceRequest(3, 600, 1, hash_ids=(5, 1)),  # none
        TraceRequest(4, 100, 1),
    ]
    assert describe(trace).prefix_reuse == pytest.approx((1100 + 512) / 4000)
