"""Every proposer for every target."""

import pytest

from designer.proposers.protocol import History
from designer.proposers.roster import CONTROLS, PROPOSERS, TARGETS, Brief, Target
from policies.conformance import check_source


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PROPOSERS)
def test_each_writes_a_module_for_its_target(name: str, target: Target) -> None:
    proposal = PROPOSERS[name](Brief(1, 10, target=target)).propose(History({1: 10.0}))
    assert PROPOSERS[name](Brief(1, 10, target=target)).name == name
    assert check_source(proposal.source) == []
    assert ("def desired_replicas(" in proposal.source) == (target == "autoscaling")


def test_controls_are_proposers() -> None:
    assert set(CONTROLS.values()) < set(PROPOSERS)
