"""One context, with a playground that knows the answers: experiments, questions, judgements, and every way to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from designer.proposers.llm.conversation import Desk
from designer.proposers.llm.digest import Finding
from designer.proposers.llm.prompts import MARKS
from designer.proposers.llm.records import Records, RecordsError
from designer.proposers.llm.researcher import Context, Start
from designer.proposers.protocol import History, Outcome
from tests.designer.proposers.llm.test_records import COLUMNS
from tests.support.conversations import desk_of
from tests.support.scripted_models import GOOD, IMPORTS_OS, Cast, experiment, judges, says, wanted

REFERENCE = {1: 10.0, 2: 20.0}
VALUES = {mark: f"<{mark}>" for mark in MARKS["researcher"]}
OTHER = GOOD.replace("Shortest", "Still the shortest")


class KnownPlayground:
    """Of a search with 50 simulations."""

    def simulations_left(self, history: History) -> int:
        return 50 - len(history.outcomes)

    def summaries(self, outcome: Outcome) -> Mapping[str, Mapping[str, Any]]:
        return {}

    async def records(self, outcome: Outcome | None, name: str) -> Records:
        if outcome is not None and outcome.status == "failed":
            raise RecordsError("this candidate has not been simulated to the end")
        records = Records()
        records.add_policy("reference", COLUMNS)
        return records


class Bench:
    """Runs what a context proposes: what the contract refuses fails, the rest scores ``ratio``."""

    def __init__(self, context: Context, ratio: float = 0.8) -> None:
        self.context = context
        self.ratio = ratio
        self.history = History(REFERENCE)

    async def step(self) -> bool:
        """One experiment; False when the context is over."""
        proposal = await self.context.advance(self.history)
        if proposal is None:
            return False
        self.context.own.append(len(self.history.outcomes))
        scored = Outcome(proposal, "scored", {1: 10.0 * self.ratio})
        failed = Outcome(proposal, "failed", reason="breaks the contract: line 3: import: os is not allowed")
        outcome = failed if "import os" in proposal.source else scored
        self.history = History(REFERENCE, (*self.history.outcomes, outcome))
        return True


@asynccontextmanager
async def bench(
    cast: Cast, folder: Path, start: Start | None = None, **changes: Any
) -> AsyncIterator[tuple[Bench, Desk]]:
    async with desk_of(cast, folder, **changes) as desk:
        yield Bench(Context("0", desk, KnownPlayground(), start or Start(VALUES))), desk


def told(cast: Cast) -> str:
    """What the Researcher was sent last."""
    return str(cast.heard["researcher"][-1]["messages"])


async def test_an_experiment_is_proposed_and_its_outcome_comes_back(tmp_path: Path) -> None:
    cast = Cast(researcher=[experiment(GOOD, "short first", 0.7)], supervisor=[judges(message="Why not better?")])
    async with bench(cast, tmp_path) as (bench_, desk):
        assert await bench_.step()
        [outcome] = bench_.history.outcomes
        assert outcome.proposal.source == GOOD
        assert (outcome.proposal.hypothesis, outcome.proposal.predicted_effect) == ("short first", 0.7)
        cast.lines["researcher"] = [experiment(OTHER)]
        assert await bench_.step()
        assert "candidate 0: 0.800 times the reference" in told(cast)
        assert "predicted 0.700" in told(cast)
        assert "simulations left: 49" in told(cast)
        assert "The Supervisor: Why not better?" in told(cast)
        assert [call.name for call in desk.log.tool_calls("0/researcher")] == ["run_experiment"]
    assert "def route" not in cast.texts("supervisor")
    assert "short first" in cast.texts("supervisor")


async def test_a_reply_that_cheats_is_run_as_any_other_and_told_what_caught_it(tmp_path: Path) -> None:
    cast = Cast(researcher=[experiment(IMPORTS_OS), experiment(GOOD)], supervisor=[judges()])
    async with bench(cast, tmp_path) as (bench_, _):
        assert await bench_.step()
        assert await bench_.step()
    assert "candidate 0 failed and counts as spent: breaks the contract: line 3: import: os" in told(cast)


async def test_bad_arguments_are_repaired_and_prose_is_asked_for_a_call(tmp_path: Path) -> None:
    lines = [
        says("Let me think about it."),
        says(calls=[("run_experiment", '{"hypothesis": "cut')]),
        says(calls=[("run_experiment", {"hypothesis": "no source"})]),
        experiment(GOOD),
    ]
    cast = Cast(researcher=lines, supervisor=[judges()])
    async with bench(cast, tmp_path) as (bench_, desk):
        assert await bench_.step()
        problems = [call.result for call in desk.log.tool_calls() if call.name == "unusable"]
    assert problems[0] == "no tool was called"
    assert problems[1].startswith("the arguments of run_experiment are no JSON")
    assert problems[2] == "run_experiment: source: Field required"
    assert "That cannot be used: no tool was called. Call one of your tools." in cast.texts("researcher")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (says("I would rather talk."), "no tool was called"),
        (says(refusal="I cannot help."), "you declined"),
        (says("and then and then", finish="length"), "cut off at its limit"),
        (says(calls=[("rm", {"path": "/"})]), "no tool 'rm'"),
        (says(), "no tool was called"),
    ],
)
async def test_what_stays_unusable_ends_the_context(tmp_path: Path, line: Any, problem: str) -> None:
    cast = Cast(researcher=[line], supervisor=[judges(message="Run an experiment.")])
    async with bench(cast, tmp_path) as (bench_, _):
        assert not await bench_.step()
        assert "4 unusable replies in a row" in bench_.context.over
        assert problem in bench_.context.over
    assert len(cast.heard["researcher"]) == 4


async def test_an_endless_tool_loop_is_told_to_come_to_the_point_and_ended(tmp_path: Path) -> None:
    cast = Cast(researcher=[says(calls=[("show_candidate", {"number": 7})])])
    async with bench(cast, tmp_path, turns_per_experiment=5) as (bench_, _):
        assert not await bench_.step()
        assert bench_.context.over == "6 replies without an experiment"
    assert len(cast.heard["researcher"]) == 6
    assert "You have replied 5 times without an experiment" in told(cast)
    assert "error: no candidate 7 of yours" in told(cast)


async def test_questions_go_to_the_analyst_and_findings_are_kept(tmp_path: Path) -> None:
    asked = [("ask_analyst", {"question": "Who waits?", "candidate": 0})]
    lines = [
        experiment(IMPORTS_OS),
        says(calls=asked),
        says(calls=[("ask_analyst", {"question": "Who?"})]),
        experiment(GOOD),
    ]
    cast = Cast(
        researcher=lines,
        analyst=[says(calls=[("report", {"findings": ["all of them"]})])],
        supervisor=[judges(), judges(recall=["F2"])],
    )
    async with bench(cast, tmp_path) as (bench_, _):
        for _ in range(2):
            assert await bench_.step()
        assert "error: this candidate has not been simulated to the end" in told(cast)
        assert "all of them" in told(cast)
        assert [f.identity for f in bench_.context.findings] == ["F1", "F2"]
        cast.lines["researcher"] = [experiment(OTHER)]
        assert await bench_.step()
    assert "Recall:\\nF2. Who?: - all of them" in told(cast)


async def test_the_same_module_is_not_run_twice(tmp_path: Path) -> None:
    cast = Cast(researcher=[experiment(GOOD), experiment(GOOD), experiment(OTHER)], supervisor=[judges()])
    async with bench(cast, tmp_path) as (bench_, _):
        assert await bench_.step()
        assert await bench_.step()
        assert bench_.history.outcomes[1].proposal.source == OTHER
    assert "this is candidate 0 to the byte; nothing was run" in told(cast)


async def test_two_experiments_in_one_reply_are_run_one_after_the_other(tmp_path: Path) -> None:
    both = [("run_experiment", wanted(GOOD)), ("run_experiment", {**wanted(OTHER), "based_on": [0, 5]})]
    cast = Cast(researcher=[says(calls=both), says("done")], supervisor=[judges()])
    async with bench(cast, tmp_path) as (bench_, _):
        assert await bench_.step()
        assert await bench_.step()
        assert len(cast.heard["researcher"]) == 1
        first, second = (outcome.proposal for outcome in bench_.history.outcomes)
        assert second.parents == (first.candidate_hash,)
        await bench_.step()
    results = [m for m in cast.heard["researcher"][1]["messages"] if m["role"] == "tool"]
    assert ["candidate 0" in results[0]["content"], "candidate 1" in results[1]["content"]] == [True, True]


async def test_nobody_stops_before_enough_was_tried(tmp_path: Path) -> None:
    eager = [says(calls=[("finish", {"reason": "perfect"})]), experiment(GOOD), experiment(OTHER)]
    cast = Cast(researcher=eager, supervisor=[judges("stop", "Enough.")])
    async with bench(cast, tmp_path, min_experiments=2) as (bench_, _):
        assert await bench_.step()
        assert "error: 0 experiments done, 2 at least come first; call run_experiment" in told(cast)
        assert await bench_.step()
        assert not await bench_.step()
        assert bench_.context.over == "the Supervisor stopped it"


async def test_who_wants_to_finish_asks_the_supervisor(tmp_path: Path) -> None:
    lines = [experiment(GOOD), says(calls=[("finish", {"reason": "perfect"})])]
    cast = Cast(researcher=lines, supervisor=[judges(), judges("stop", "Enough.")])
    async with bench(cast, tmp_path, min_experiments=1) as (bench_, _):
        assert await bench_.step()
        assert not await bench_.step()
    assert "I want to finish: perfect" in cast.texts("supervisor")


async def test_a_sequential_context_ends_at_its_limit_or_when_it_is_to_branch(tmp_path: Path) -> None:
    cast = Cast(researcher=[experiment(GOOD), experiment(OTHER)], supervisor=[judges()])
    async with bench(cast, tmp_path / "a", Start(VALUES, limit=2), mode="sequential") as (bench_, _):
        assert [await bench_.step() for _ in range(3)] == [True, True, False]
        assert bench_.context.over == "2 experiments done"
    cast = Cast(researcher=[experiment(GOOD)], supervisor=[judges("branch", "Elsewhere.")])
    async with bench(cast, tmp_path / "b", mode="sequential", min_experiments=1) as (bench_, _):
        assert [await bench_.step() for _ in range(2)] == [True, False]
        assert bench_.context.over == "the Supervisor wants another start"


async def test_a_later_context_begins_with_what_is_known(tmp_path: Path) -> None:
    lines = [experiment(GOOD, "short first"), says(calls=[("show_candidate", {"number": 0})]), experiment(OTHER)]
    cast = Cast(researcher=lines, supervisor=[judges()])
    async with bench(cast, tmp_path) as (bench_, desk):
        assert await bench_.step()
        start = Start(VALUES, known=(0,), findings=(Finding("F1", "why?", "they wait"),))
        later = Bench(Context("1", desk, KnownPlayground(), start))
        later.history = bench_.history
        assert await later.step()
    first = cast.heard["researcher"][1]["messages"][1]["content"]
    assert "candidate 0: predicted 0.900, observed 0.800. short first" in first
    assert "F1. why?: they wait" in first
    assert "## The best module so far" in first
    assert GOOD in first
    assert "```python" in cast.heard["researcher"][-1]["messages"][-1]["content"]


async def test_a_cap_ends_the_context(tmp_path: Path) -> None:
    cast = Cast(researcher=[experiment(GOOD)], supervisor=[judges()])
    async with bench(cast, tmp_path, caps={"requests": 2}) as (bench_, desk):
        assert await bench_.step()
        assert not await bench_.step()
        assert bench_.context.over == "cap of 2 requests reached"
        assert desk.log.ends() == {"0/researcher": "cap of 2 requests reached"}
