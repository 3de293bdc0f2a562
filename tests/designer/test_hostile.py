"""The hostile candidates are sources that load, each with a name of its own."""

from __future__ import annotations

import ast

from designer.endurance import HARMLESS
from designer.hostile import HOSTILE, MARK
from policies.conformance import check_source


def test_each_is_a_policy_with_one_thing_wrong() -> None:
    assert len({cheat.name for cheat in HOSTILE}) == len(HOSTILE) > 45
    for cheat in HOSTILE:
        ast.parse(cheat.source)
        assert "def create(rng):" in cheat.source
        assert cheat.wants
    assert HARMLESS


def test_the_static_rules_refuse_most_and_every_file_has_the_mark() -> None:
    refused = [cheat for cheat in HOSTILE if check_source(cheat.source)]
    assert len(refused) > 0.8 * len(HOSTILE)
    writers = [cheat for cheat in HOSTILE if cheat.name.startswith("file in")]
    assert len(writers) == 3
    assert all(MARK in cheat.source for cheat in writers)
