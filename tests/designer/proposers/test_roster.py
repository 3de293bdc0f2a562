"""Every proposer for every target."""

import pytest

from designer.proposers.protocol import History
from designer.proposers.roster import CONTROLS, PROPOSERS, Brief, TargetError, parse_target
from policies.conformance import check_source

TARGETS = ("routing", "scheduling", "autoscaling", "batch", "routing,scheduling,autoscaling,batch")
METHODS = {"routing": "route", "scheduling": "key", "autoscaling": "desired_replicas", "batch": "waiting_key"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PROPOSERS)
def test_each_writes_a_module_for_its_target(name: str, target: str) -> None:
    proposal = PROPOSERS[name](Brief(1, 10, target=target)).propose(History({1: 10.0}))
    assert PROPOSERS[name](Brief(1, 10, target=target)).name == name
    assert check_source(proposal.source) == []
    for part, method in METHODS.items():
        both = {"routing", "scheduling"} if part in ("routing", "scheduling") else {part}
        assert (f"def {method}(" in proposal.source) == bool(both & set(target.split(",")))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("routing", ("routing",)),
        ("routing,scheduling", ("routing",)),
        ("scheduling", ("scheduling",)),
        ("batch, autoscaling", ("autoscaling", "batch")),
        ("batch,routing,autoscaling,scheduling", ("routing", "autoscaling", "batch")),
    ],
)
def test_a_target_is_a_set_of_parts(text: str, parts: tuple[str, ...]) -> None:
    assert parse_target(text) == parts


@pytest.mark.parametrize("text", ["", "routing,", "sharding", "routing;batch"])
def test_an_unknown_part_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(TargetError, match="one or several of routing, scheduling, autoscaling, batch"):
        parse_target(text)


def test_routing_and_its_order_are_one_search() -> None:
    one, other = (PROPOSERS["evolve"](Brief(1, 10, target=t)) for t in ("routing", "routing,scheduling"))
    assert one.propose(History({1: 10.0})) == other.propose(History({1: 10.0}))


def test_controls_are_proposers() -> None:
    assert set(CONTROLS.values()) < set(PROPOSERS)
