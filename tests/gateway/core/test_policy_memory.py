"""What a policy remembers is told in full or not at all."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.policy_memory import MAX_ITEMS, NotPlainError, plain, remembered, remind, unplain
from gateway.core.policy_set import PolicySet
from policies.loader import PolicySpec, load_source

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.integers() | st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.builds(deque, st.lists(inner, max_size=3), st.just(5))
        | st.sets(KEYS, max_size=3)
        | st.frozensets(KEYS, max_size=3)
    ),
    max_leaves=12,
)


@given(value=VALUES)
def test_there_and_back_through_json(value):
    told = json.loads(json.dumps(plain(value)))
    assert repr(unplain(told)) == repr(value) or unplain(told) == value


class Inner:
    __slots__ = ("history", "never_set")

    def __init__(self):
        self.history = deque([1, 2], maxlen=4)


class Learner:
    def __init__(self, rng):
        self.rng = rng
        self.inner = Inner()
        self.same = self.inner.history
        self.counts = defaultdict(int, {("a", 1): 3})
        self.recent = OrderedDict([("x", math.inf), ("y", -0.0)])
        self.kinds = Counter("aab")
        self.me = self

    def route(self, request: Any, candidates: Any, pool: Any) -> Any:
        return candidates[self.rng.randrange(len(candidates))]


def told(policy):
    return json.loads(json.dumps(remembered(PolicySet(1, policy))))


def test_a_learner_goes_on_where_it_was():
    first = Learner(Random(3))
    first.rng.random()
    first.inner.history.append(9)
    first.counts["b", 2] += 1
    second = Learner(Random(0))
    second.leftover = 1
    remind(PolicySet(1, second), told(first))
    assert [second.rng.random() for _ in range(3)] == [first.rng.random() for _ in range(3)]
    assert list(second.inner.history) == [1, 2, 9] and second.inner.history.maxlen == 4
    assert second.same is second.inner.history and second.me is second
    assert second.counts == first.counts and second.counts["new"] == 0
    assert list(second.recent.items()) == list(first.recent.items()) and second.kinds == first.kinds
    assert not hasattr(second, "leftover")


SOURCE = """
_TABLE = {}


def create(rng):
    return Writes()


class Writes:
    def route(self, request, candidates, pool):
        _TABLE[request.request_id] = 1
        return candidates[0]
"""


def test_what_is_written_to_a_table_of_the_module_is_told_as_well():
    def fresh() -> PolicySet:
        return PolicySet.of(
            [load_source(SOURCE.encode(), PolicySpec("x", None, {}), Random(1), path="x.py", name="x")], 1
        )

    first, second = fresh(), fresh()
    table = type(first.routing).route.__globals__["_TABLE"]
    table["r"] = 1
    remind(second, json.loads(json.dumps(remembered(first))))
    assert type(second.routing).route.__globals__["_TABLE"] == {"r": 1}


@pytest.mark.parametrize("kept", [print, object(), (n for n in "a"), Random, [[[lambda: 0]]], memoryview(b"x")])
def test_what_cannot_be_told_is_refused(kept):
    policy = Learner(Random(1))
    policy.kept = kept
    with pytest.raises(NotPlainError, match="Learner holds a "):
        told(policy)


def test_it_is_bounded():
    policy = Learner(Random(1))
    policy.kept = list(range(MAX_ITEMS))
    with pytest.raises(NotPlainError, match="more than 20000 values"):
        told(policy)


def test_another_policy_is_not_taken_for_it():
    with pytest.raises(NotPlainError, match="0 policies were told of, and there are 1"):
        remind(PolicySet(1, Learner(Random(1))), [])


class Pair(NamedTuple):
    left: Any
    right: float


class Table(dict[str, int]):
    pass


class Word(str):
    __slots__ = ()


class Kept:
    def __init__(self, value: Any) -> None:
        self.value = value

    def route(self, request: Any, candidates: Any, pool: Any) -> Any:
        return candidates[0]


def test_a_named_tuple_is_one_again():
    value = deque([Pair([1, Pair("x", math.inf)], 2.0), (Pair(None, 3.0),)], maxlen=4)
    told = json.loads(json.dumps(remembered(PolicySet(1, Kept(value)))))
    fresh = Kept(None)
    remind(PolicySet(1, fresh), told)
    assert fresh.value == value
    assert type(fresh.value[0]) is type(fresh.value[0].left[1]) is type(fresh.value[1][0]) is Pair


@pytest.mark.parametrize("value", [Table(a=1), Word("x")])
def test_what_is_more_than_its_attributes_is_not_told(value):
    with pytest.raises(NotPlainError, match=f"Kept holds a {type(value).__name__}"):
        remembered(PolicySet(1, Kept(value)))


class Listed(list[int]):
    def route(self, request: Any, candidates: Any, pool: Any) -> Any:
        return candidates[0]


def test_a_policy_that_is_a_list_is_not_told():
    with pytest.raises(NotPlainError, match="Listed is more than its attributes"):
        remembered(PolicySet(1, Listed([1])))
