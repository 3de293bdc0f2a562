"""The books of one pool: which sets are kept, and which of them a rollback goes back through."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from gateway.core.policy_set import PolicySet
from gateway.policy_versions import PoolPolicies, Version


def version(generation: int, folder: Path) -> Version:
    folder.mkdir(exist_ok=True)
    return Version(PolicySet.builtin(generation), f"set {generation}", (), "load", datetime.now(UTC), folder)


def test_the_oldest_go_with_their_copies_unless_another_has_the_same(tmp_path: Path) -> None:
    state = PoolPolicies("p", max_kept=2)
    for generation, folder in ((1, "a"), (2, "b"), (3, "b")):
        state.keep(version(generation, tmp_path / folder), state.stack)
    assert (list(state.kept), state.stack) == ([2, 3], [2, 3])
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    state.keep(version(4, tmp_path / "c"), [])
    assert (state.stack, (tmp_path / "b").exists()) == ([4], True)


def test_what_the_guard_put_back_is_what_runs(tmp_path: Path) -> None:
    state = PoolPolicies("p", max_kept=8)
    for generation in (1, 2, 3):
        state.keep(version(generation, tmp_path), state.stack)
    state.went_back_to(2)
    assert state.describe()["current"]["generation"] == 2
    assert state.describe()["can_roll_back_to"] == [1]
    state.went_back_to(0)
    assert state.describe()["current"] is None
