"""Figures and records of what was simulated: the real sandbox, train seeds, and a cap."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from designer.evaluations import Evaluator, Job
from designer.ledger import Ledger, RunRecord
from designer.proposers.llm.playground import ANALYSIS_EVENT, SimulatorPlayground
from designer.proposers.llm.records import Records, RecordsError
from designer.proposers.llm.settings import Caps
from designer.proposers.protocol import History, Outcome, Proposal
from designer.sandbox import Sandbox
from designer.subject import subject_of_source, subject_of_specs
from tests.support.scripted_models import GOOD, READS_FUTURE
from tests.support.small_scenario import small_scenario

SEED = 7
REFERENCE = "least_loaded+fcfs"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(small_scenario(40), jobs=1) as made:
        yield made


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    record = RunRecord("r", 0.0, "small", small_scenario(40).model_dump_json(), "hash", {}, "s")
    with Ledger.create(tmp_path, record) as made:
        yield made


def playground(ledger: Ledger, sandbox: Sandbox, cap: int = 10) -> SimulatorPlayground:
    made = SimulatorPlayground(ledger, sandbox, REFERENCE, 20, Caps(analysis_simulations=cap))
    assert made.simulations_left(History({SEED: 1.0})) == 20
    return made


def outcome(source: str = GOOD, score: float | None = 1.0) -> Outcome:
    scores = {} if score is None else {SEED: score}
    return Outcome(Proposal(source, "h", None), "scored" if scores else "failed", scores)


async def test_requests_of_reference_and_candidate_come_back_and_are_kept(ledger: Ledger, sandbox: Sandbox) -> None:
    made = playground(ledger, sandbox)
    for _ in range(2):
        records = await made.records(outcome(), "candidate 3")
        table = records.query("SELECT policy, count(*), min(response_time) > 0 FROM requests GROUP BY policy")
        records.close()
        assert table.rows == (("candidate 3", 40, 1), ("reference", 40, 1))
    assert len(list(ledger.events("analysis simulation"))) == 2


async def test_the_reference_alone_can_be_looked_at(ledger: Ledger, sandbox: Sandbox) -> None:
    records = await playground(ledger, sandbox).records(None, "")
    assert records.query("SELECT DISTINCT policy FROM requests").rows == (("reference",),)
    records.close()


async def test_what_was_not_scored_or_passes_the_cap_is_refused(ledger: Ledger, sandbox: Sandbox) -> None:
    with pytest.raises(RecordsError, match="not been simulated to the end"):
        await playground(ledger, sandbox).records(outcome(score=None), "candidate 0")
    with pytest.raises(RecordsError, match="cap of 1 analysis simulations"):
        await playground(ledger, sandbox, cap=1).records(outcome(), "candidate 0")


async def test_code_that_does_not_load_gives_a_reason_and_no_records(ledger: Ledger, sandbox: Sandbox) -> None:
    with pytest.raises(RecordsError, match="could not be repeated"):
        await playground(ledger, sandbox).records(outcome("def create(rng): return 1 / 0\n"), "candidate 0")


def test_figures_are_those_of_the_same_seed(ledger: Ledger, sandbox: Sandbox) -> None:
    evaluator = Evaluator(ledger, sandbox, "hash")
    evaluator.run("train", [Job(subject_of_specs(REFERENCE), SEED), Job(subject_of_source(GOOD, "c"), SEED)])
    made = playground(ledger, sandbox)
    found = made.summaries(outcome())
    assert found["candidate"]["num_requests"] == found["reference"]["num_requests"] == 40
    assert made.summaries(outcome(READS_FUTURE, None)) == {}


def test_what_is_left_is_what_the_search_says(ledger: Ledger, sandbox: Sandbox) -> None:
    history = History({SEED: 1.0}, (outcome(), outcome(score=None)), spent=5)
    assert playground(ledger, sandbox).simulations_left(history) == 15
    assert playground(ledger, sandbox).simulations_left(replace(history, spent=50)) == 0


async def test_questions_side_by_side_keep_below_the_cap_and_simulate_nothing_twice(
    ledger: Ledger, sandbox: Sandbox
) -> None:
    made = playground(ledger, sandbox, cap=3)
    sources = [GOOD.replace("Shortest", f"Variant {n}: shortest") for n in range(4)]
    asked = [made.records(outcome(source), f"candidate {n}") for n, source in enumerate([*sources, *sources])]
    found = await asyncio.gather(*asked, return_exceptions=True)
    for records in found:
        if isinstance(records, Records):
            records.close()
    # The reference and two candidates; a question about one of them again costs nothing.
    assert [isinstance(records, Records) for records in found] == [True, True, False, False] * 2
    assert len(list(ledger.events(ANALYSIS_EVENT))) == 3


async def test_what_was_granted_before_a_stop_is_granted_again_and_told(ledger: Ledger, sandbox: Sandbox) -> None:
    for again in (False, True):
        records = await playground(ledger, sandbox, cap=2).records(outcome(), "candidate 0")
        records.close()
        assert [c.get("again", False) for _, c in ledger.events(ANALYSIS_EVENT)] == [False, False] + 2 * [True] * again
    with pytest.raises(RecordsError, match="cap of 2"):
        await playground(ledger, sandbox, cap=2).records(outcome(f"{GOOD}\n"), "candidate 1")
