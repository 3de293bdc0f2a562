from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.core.scaling import Scaling, ScalingConfig, VariantScaling

CONFIG = ScalingConfig(
    interval_seconds=15.0, up_delay_seconds=30.0, down_delay_seconds=300.0, start_timeout_seconds=900
)


class Fleet:
    """Replicas that start after a while and stop at once, asked for through a VariantScaling."""

    def __init__(self, num=1, minimum=0, maximum=10, start_seconds=60.0, config=CONFIG):
        self.scaling = VariantScaling(minimum, maximum, config)
        self.num = num
        self.now = 0.0
        self.start_seconds = start_seconds
        self.starting = []
        self.asked = []

    def wish(self, wish, seconds=15.0):
        self.now += seconds
        while self.starting and self.starting[0] <= self.now:
            self.starting.pop(0)
            self.num += 1
            self.scaling.joined()
        target = self.scaling.decide(self.now, self.num, wish)
        if target is not None:
            self.asked.append((self.now, target))
            surplus = self.num + len(self.starting) - target
            self.starting += [self.now + self.start_seconds] * -surplus
            for _ in range(max(0, surplus)):
                if self.starting:
                    self.starting.pop()
                else:
                    self.num -= 1
        return target


def test_bounds_hold_whatever_is_wished():
    fleet = Fleet(num=1, minimum=1, maximum=3)
    for wish in [99] * 10 + [0] * 60:
        fleet.wish(wish)
    assert [target for _, target in fleet.asked] == [3, 1]


def test_below_the_minimum_is_put_right_at_once_without_any_wish():
    assert Fleet(num=0, minimum=2).wish(None) == 2


def test_above_the_maximum_is_put_right_at_once():
    assert Fleet(num=9, maximum=4).wish(None) == 4


def test_no_wish_changes_nothing():
    fleet = Fleet(num=2)
    assert [fleet.wish(None) for _ in range(100)] == [None] * 100


def test_a_wish_upward_must_last():
    fleet = Fleet(num=1)
    fleet.wish(1)
    assert [fleet.wish(wish) for wish in (3, 2, 3, 3)] == [None, 2, None, 3]


def test_a_wish_downward_must_last_longer():
    fleet = Fleet(num=4)
    wishes = [4] + [2] * 40
    targets = [fleet.wish(wish) for wish in wishes]
    assert [target for target in targets if target is not None] == [2]
    assert fleet.asked[0][0] >= 300.0


def test_nothing_is_stopped_before_the_first_window_is_over():
    fleet = Fleet(num=4)
    while fleet.now < 299.0:
        assert fleet.wish(0) is None


def test_a_load_that_hovers_between_one_and_two_does_not_flap():
    fleet = Fleet(num=1)
    for n in range(2000):
        fleet.wish(1 + n % 2)
    assert fleet.asked == []
    fleet = Fleet(num=1)
    for n in range(2000):
        fleet.wish(2 if n % 10 < 5 else 1)
    assert [target for _, target in fleet.asked] == [2]


def test_a_policy_that_counts_what_it_has_does_not_flap():
    """Wishes that follow from its own last step: two halve the load of each, one doubles it."""
    fleet = Fleet(num=1)
    for _ in range(4000):
        fleet.wish(2 if fleet.num == 1 else 1)
    kept_for = [later - earlier for (earlier, target), (later, _) in pairwise(fleet.asked) if target == 2]
    assert len(kept_for) > 10
    assert min(kept_for) >= 300.0


def test_starting_replicas_count_and_are_not_asked_for_twice():
    fleet = Fleet(num=1, start_seconds=500.0)
    targets = [fleet.wish(3) for _ in range(20)]
    assert targets == [3] + [None] * 19
    assert fleet.scaling.num_starting == 2


def test_a_replica_that_never_starts_blocks_for_its_timeout_only():
    fleet = Fleet(num=1, start_seconds=1e9)
    fleet.wish(2)
    while fleet.now < 900:
        assert fleet.wish(2) is None
    assert [fleet.wish(2) for _ in range(3)] == [2, None, None]


def test_a_replica_that_died_is_asked_for_again():
    fleet = Fleet(num=2)
    fleet.wish(2)
    fleet.num = 1
    assert fleet.wish(2) == 2


def test_to_zero_without_traffic_and_back():
    fleet = Fleet(num=1)
    for _ in range(40):
        fleet.wish(0)
    assert fleet.num == 0
    assert [fleet.wish(1) for _ in range(3)] == [None, 1, None]


def test_a_pool_is_asked_at_its_interval():
    scaling = Scaling({"v": (0, 2)}, CONFIG)
    assert [scaling.is_due(now) for now in (0.0, 14.9, 15.0, 29.0, 100.0)] == [True, False, True, False, True]
    assert scaling.next_due == 115.0
    assert not Scaling({}, CONFIG).is_due(0.0)


def test_only_variants_with_bounds_are_asked_for():
    scaling = Scaling({"v": (0, 2)}, CONFIG)
    assert scaling.decide(0.0, {"v": 1, "other": 1}, {"other": 5, "v": 2}) == [("v", 2)]


@pytest.mark.parametrize("joined", ["v", "other"])
def test_a_replica_that_joins_is_no_longer_starting(joined):
    scaling = Scaling({"v": (2, 2)}, CONFIG)
    scaling.decide(0.0, {"v": 0}, {})
    scaling.joined(joined)
    assert scaling.num_starting == (1 if joined == "v" else 2)
