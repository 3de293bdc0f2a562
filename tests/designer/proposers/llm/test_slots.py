"""What a module fills is read from its text, and what is outside a run's target is refused with the remedy."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest

from designer.proposers.llm.example import example
from designer.proposers.llm.slots import GIVEN_ROUTE, METHODS, problem, slots_of_target
from designer.proposers.parts import PartName
from policies.contract import SLOTS, slots_of
from policies.loader import PolicySpec, load_policy

ROUTER = example(("routing",))
SCALER = example(("autoscaling",))
BATCHER = example(("batch",))
ORDERER = example(("scheduling",))


def test_a_slot_is_what_the_contract_calls_one() -> None:
    assert tuple(METHODS) == SLOTS
    for slot, methods in METHODS.items():
        assert slots_of(type("Policy", (), dict.fromkeys(methods, 0))()) == (slot,)
        for left_out in methods:
            assert slots_of(type("Policy", (), {name: 0 for name in methods if name != left_out})()) == ()


@pytest.mark.parametrize(
    ("parts", "slots"),
    [
        (("routing",), ("routing", "scheduling")),
        (("scheduling", "batch"), ("scheduling", "batch")),
        (("routing", "autoscaling"), ("routing", "scheduling", "autoscaling")),
    ],
)
def test_routing_holds_the_order_of_what_is_held(parts: tuple[PartName, ...], slots: tuple[str, ...]) -> None:
    assert slots_of_target(parts) == slots


@pytest.mark.parametrize("part", get_args(PartName))
def test_the_example_of_a_target_is_accepted_for_it_and_refused_for_others(part: PartName, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(example((part,)) + "\n")
    filled = load_policy(PolicySpec(str(tmp_path / "mine.py")), random.Random(1)).slots
    assert set(slots_of_target((part,))) <= set(filled)
    assert problem(example((part,)), (part,)) == ""
    for other in get_args(PartName):
        if {other, part} != {"routing", "scheduling"} and other != part:
            assert problem(example((part,)), (other,)) != ""


def test_what_is_outside_is_named_with_its_remedy() -> None:
    both = example(("routing", "autoscaling"))
    assert problem(both, ("autoscaling",)) == (
        "the target of this run is autoscaling; take out `route`, which fills the slot routing outside of it"
    )
    assert problem(both, ("routing",)).endswith(
        "take out `desired_replicas`, which fills the slot autoscaling outside of it"
    )
    assert problem(both, ("routing", "autoscaling")) == ""
    observing = BATCHER.replace(
        "    def waiting_key", "    def observe(self, event):\n        pass\n\n    def waiting_key"
    )
    assert "take out `observe`" in problem(observing, ("batch",))
    assert problem(observing, ("routing", "batch")) == ""


def test_a_module_of_none_of_it_is_told_what_it_needs() -> None:
    empty = "class Policy:\n    pass\n\n\ndef create(rng):\n    return Policy()\n"
    assert problem(empty, ("autoscaling",)) == (
        "the module fills no slot of the target autoscaling; "
        "the class that create(rng) returns needs `desired_replicas`"
    )
    assert "needs `route` or `admit` and `key`" in problem(empty, ("routing",))


def test_a_slot_filled_in_part_would_be_left_out_in_silence() -> None:
    half = BATCHER.replace("victim_key", "victims")
    assert problem(half, ("batch",)) == (
        "batch is filled by `waiting_key`, `victim_key` and `prefill_budget` together; the class lacks `victim_key`"
    )
    assert "lacks `admit`" in problem(ROUTER.replace("def admit", "def shed"), ("routing",))


def test_of_a_joint_target_some_parts_may_keep_the_built_in() -> None:
    assert problem(SCALER, ("routing", "autoscaling")) == ""
    assert problem(ROUTER, ("routing", "autoscaling")) == ""


@pytest.mark.parametrize(
    "hidden",
    [
        SCALER.replace("class Policy:", "class Policy:\n    route = None\n"),
        SCALER.replace("class Policy:", "class Policy:\n    route: object = None\n"),
        SCALER.replace("class Policy:", "class Policy:\n    def __init__(self):\n        self.route = max\n"),
        SCALER.replace("class Policy:", "class Policy(RoutingPolicy):"),
        SCALER.replace("class Policy:", "class Other:\n    def route(self):\n        pass\n\n\nclass Policy(Other):"),
    ],
)
def test_a_method_is_found_however_it_comes_to_the_class(hidden: str) -> None:
    assert "take out `route`" in problem(hidden, ("autoscaling",))


def test_where_the_order_alone_is_searched_the_router_stays_as_it_is_given() -> None:
    assert problem(ORDERER, ("scheduling",)) == ""
    untyped = ORDERER.replace(
        "request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None",
        "request, candidates, pool)",
    )
    assert problem(untyped.replace("return min", "# fewest\n        return min"), ("scheduling",)) == ""
    for wrong in (
        ORDERER.replace("<= 0.8", "<= 0.5"),
        ORDERER.replace(GIVEN_ROUTE, ""),
        ORDERER.replace("    def key", "    def may_go(self, request, worker):\n        return True\n\n    def key"),
    ):
        assert GIVEN_ROUTE in problem(wrong, ("scheduling",))
        assert problem(ORDERER, ("routing",)) == ""


def test_what_is_no_python_is_left_to_the_static_check() -> None:
    for text in ("def (", "x" * 10 + "\x00", "(" * 5000, "class A:\n" * 300):
        assert problem(text, ("batch",)) == ""
