"""The example of every target: a module that keeps the contract, with and without types."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import pytest

from designer.proposers.llm.example import example, plain_example
from designer.proposers.llm.slots import problem, slots_of_target
from designer.proposers.parts import PartName
from designer.subject import load_subject, subject_of_source
from policies.conformance import check_source

PARTS = get_args(PartName)
TARGETS = [
    parts
    for count in range(1, len(PARTS) + 1)
    for parts in combinations(PARTS, count)
    if not {"routing", "scheduling"} <= set(parts)
]


@pytest.mark.parametrize("parts", TARGETS, ids="+".join)
def test_the_example_is_a_module_of_its_target(parts: tuple[PartName, ...]) -> None:
    for source in (example(parts), plain_example(parts)):
        assert check_source(source) == []
        assert problem(source, parts) == ""
        filled = load_subject(subject_of_source(source, "example"), 1)[0].slots
        given = {"routing"} if "scheduling" in parts else set()
        assert set(filled) == {*slots_of_target(parts), *given}
    assert ":" + " Request" not in plain_example(parts)
