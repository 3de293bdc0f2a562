"""During a run cycles are looked for rarely; afterwards as before."""

from __future__ import annotations

import gc

import pytest

from designer.simulator.garbage import rare_collections


def test_collections_are_rare_within_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with rare_collections():
        assert gc.isenabled()
        assert gc.get_threshold()[0] > 100 * before[0]
    assert gc.get_threshold() == before


def test_a_run_that_fails_leaves_the_collector_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(RuntimeError, match="broken"), rare_collections():
        raise RuntimeError("broken")
    assert gc.get_threshold() == before
