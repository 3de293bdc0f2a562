"""The swap-in rehearsed: in the sandbox, under overload, once; and what counts as harm."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from designer.gates_page import gate_sections
from designer.ledger import Ledger
from designer.proposers.parts import PARTS, Joint, emit_joint
from designer.search import RunOutcome, new_ledger
from designer.subject import subject_of_source
from designer.swap_in import (
    AFTER_SECONDS,
    BOUNDS,
    NOT_SWAPPED,
    RESULT,
    SEEDS,
    RehearsalError,
    _around,
    _judged,
    fills_batch,
    harm_in,
    not_rehearsed,
    rehearse,
)
from designer.work_replay import busiest_moment
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


def test_it_is_simulated_once_and_stays_in_the_ledger(outcome: RunOutcome) -> None:
    """Made with the run that all tests share."""
    with Ledger.open(outcome.folder) as ledger:
        known = ledger.result(RESULT)
        assert rehearse(ledger) == known
    assert known["seeds"] == SEEDS
    assert known["num_open"] > 10
    assert [row["what"] for row in known["rows"]] == ["mean response time", "p99 response time"]
    assert all(row["num_seeds"] == SEEDS for row in known["rows"])
    assert not known["harm"], known["sentence"]
    mean = known["rows"][0]
    assert mean["swap"] != mean["comparator"] != mean["winner"]


def seed(stay: float, swap: float, tail: float = 1.0) -> dict[str, Any]:
    return {
        "num_open": 40,
        "mean": {"comparator": stay, "swap": swap, "winner": stay},
        "p99": {"comparator": 4 * stay, "swap": 4 * stay * tail, "winner": 4 * stay},
    }


def test_harm_is_beyond_the_declared_bound_with_its_whole_interval() -> None:
    sure = _judged([seed(n + 1.0, (n + 1.0) * (1.2 + 0.01 * n)) for n in range(8)], "least_loaded")
    assert sure["harm"]
    assert "significant harm in the mean response time." in harm_in(sure)
    small = _judged([seed(n + 1.0, (n + 1.0) * (1.05 + 0.01 * (n % 2))) for n in range(8)], "least_loaded")
    assert harm_in(small) == ""
    noisy = _judged([seed(n + 1.0, (n + 1.0) * (0.7 + 0.2 * n)) for n in range(8)], "least_loaded")
    assert noisy["rows"][0]["ratio"] > BOUNDS["mean"]
    assert not noisy["harm"]
    tail = _judged([seed(n + 1.0, n + 1.0 + 0.01 * n, tail=1.5 + 0.01 * n) for n in range(8)], "least_loaded")
    assert "p99" in harm_in(tail)


def test_only_requests_around_the_swap_are_looked_at() -> None:
    """Long over, open, come soon after, come much later."""
    arrivals, ends = [0.0, 5.0, 11.0, 11.0 + AFTER_SECONDS], [9.0, 20.0, 30.0, 99.0]
    way = {"moment": 10.0, "arrivals": arrivals, "ends": ends}
    found = _around(
        {
            "comparator": {**way, "response_times": [9.0, 15.0, 19.0, 7.0]},
            "swap": {**way, "response_times": [9.0, 25.0, 29.0, 700.0]},
            "winner": {**way, "response_times": [1.0, 1.0, 1.0, 1.0]},
        }
    )
    assert (found["num_open"], found["num_requests"]) == (1, 2)
    assert found["mean"] == {"comparator": 17.0, "swap": 27.0, "winner": 1.0}


def test_the_busiest_moment_is_between_events() -> None:
    assert busiest_moment(np.array([0.0, 1.0, 4.0]), np.array([2.0, 3.0, 5.0])) == 1.5
    assert busiest_moment(np.array([0.0, 3.0]), np.array([3.0, 4.0])) == 1.5  # who leaves goes before who comes
    assert 0.0 < busiest_moment(np.array([0.0]), np.array([1.0])) < 1.0
    lasting = np.arange(90.0)
    assert busiest_moment(lasting, lasting + 1000.0) == 59.5  # a third is still to come


def test_a_winner_that_fails_is_not_harmless(outcome: RunOutcome, tmp_path: Path) -> None:
    """No time at all: the simulation is killed, that is told, and another may show something."""
    shutil.copytree(outcome.folder, tmp_path / "run")
    with Ledger.open(tmp_path / "run") as ledger:
        ledger._db.executescript("DROP TRIGGER results_DELETE; DELETE FROM results WHERE kind = 'swap in'")
        told = rehearse(ledger, deadline_seconds=0.01)
        assert "could not be simulated" in harm_in(told)
        assert ledger.result(RESULT) is None
        assert [content for _, content in ledger.events(f"{RESULT} failed")] == [told]


def test_a_run_without_a_winner_has_nothing_to_swap_in(tmp_path: Path) -> None:
    with (
        new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger,
        pytest.raises(RehearsalError, match="no winner"),
    ):
        rehearse(ledger)
    assert harm_in(None) == ""


def test_a_batch_policy_is_not_swapped_by_a_gateway() -> None:
    assert fills_batch(subject_of_source("class P:\n    def prefill_budget(self, engine): ...\n", "batch"))
    assert not fills_batch(subject_of_source("class P:\n    def route(self, r, c, p): ...\n", "routing"))
    assert harm_in(NOT_SWAPPED) == ""
    assert "".join(gate_sections(None, NOT_SWAPPED)).endswith("does not bring it in.</p>")


def test_a_winner_with_other_rules_beside_batch_rules_is_said_to_be_not_rehearsed() -> None:
    program = Joint(tuple((name, PARTS[name].founders[0][1]) for name in ("routing", "batch")))
    told = not_rehearsed(subject_of_source(emit_joint(program), "both"))
    assert told["sentence"].startswith("Not rehearsed: beside routing and scheduling rules")
    alone = Joint((("batch", PARTS["batch"].founders[0][1]),))
    assert not_rehearsed(subject_of_source(emit_joint(alone), "batch")) == NOT_SWAPPED
