"""Successive halving with a sandbox that answers from a table: what is tried, on which seeds, at what cost."""

from pathlib import Path

from designer.arm import BATCH, Arm, Progress
from designer.evaluations import Evaluator
from designer.ledger import Ledger, RunRecord
from designer.proposers.protocol import History, NoProposalError, Proposal
from designer.sandbox import Evaluation, Sandbox, Task
from tests.support.small_scenario import small_scenario

TRAIN = list(range(8))
REFERENCE = {seed: 100.0 + seed for seed in TRAIN}
MODULE = "def create(rng, *, factor: float = {factor}):\n    return object()\n"


class ScriptedSandbox(Sandbox):
    """Scores a module by the factor in its text; a negative one fails."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def run(self, tasks, on_done=None):  # type: ignore[no-untyped-def]
        done = []
        for task in tasks:
            self.tasks.append(task)
            factor = float(task.subject.parts[0].source.split("= ")[1].split(")")[0])
            score = factor * REFERENCE[task.seed]
            status = "scored" if factor > 0 else "failed"
            done.append(Evaluation(task, status, score if factor > 0 else None, reason="" if factor > 0 else "bad"))
            if on_done is not None:
                on_done(done[-1])
        return done


class ScriptedProposer:
    name = "scripted"

    def __init__(self, factors: list[float]) -> None:
        self._factors = factors
        self.histories: list[History] = []

    def propose(self, history: History) -> Proposal:
        self.histories.append(history)
        factor = self._factors[len(history.outcomes) % len(self._factors)]
        return Proposal(MODULE.format(factor=factor), "because.", None)


def run_arm(
    folder: Path, factors: list[float], budget: int
) -> tuple[Arm, ScriptedSandbox, list[Progress], ScriptedProposer]:
    sandbox, proposer, progress = ScriptedSandbox(), ScriptedProposer(factors), []
    record = RunRecord("r", 0.0, "small", small_scenario().model_dump_json(), "hash", {}, "s")
    with Ledger.create(folder, record) as ledger:
        evaluator = Evaluator(ledger, sandbox, "hash")
        arm = Arm("search", proposer, budget, TRAIN, REFERENCE, evaluator, ledger, progress.append)
        arm.run()
        assert len(list(ledger.candidates("search"))) == len(arm.history.outcomes)
    return arm, sandbox, progress, proposer


def test_a_batch_is_thinned_out_over_more_and_more_seeds(tmp_path: Path) -> None:
    factors = [0.99, 0.98, 0.97, 0.96, 0.5, 0.501, 0.502, 2.0]
    arm, sandbox, _, _ = run_arm(tmp_path, factors, budget=19)
    tried = {round(o.scores[7] / REFERENCE[7], 3): len(o.scores) for o in arm.history.outcomes if o.scores}
    assert len(arm.history.outcomes) == BATCH
    assert tried[2.0] == tried[0.99] == 1
    assert tried[0.5] == 8
    assert len(sandbox.tasks) == arm.spent == 19
    assert sandbox.tasks[0].seed == 7, "the seed on which there is most to win comes first"


def test_the_budget_is_spent_and_never_exceeded(tmp_path: Path) -> None:
    for budget in (1, 5, 23, 60):
        factors = [1.0 + n / 1000 for n in range(100)]
        arm, sandbox, progress, _ = run_arm(tmp_path / str(budget), factors, budget)
        assert arm.spent == budget == progress[-1].spent
        assert len(sandbox.tasks) == budget


def test_failures_are_paid_for_and_go_no_further(tmp_path: Path) -> None:
    arm, sandbox, _, _ = run_arm(tmp_path, [-1.0, -2.0, 0.9], budget=14)
    failed = [outcome for outcome in arm.history.outcomes if outcome.status == "failed"]
    assert arm.spent == 14
    assert failed
    assert {outcome.reason for outcome in failed} == {"bad"}
    assert all(not outcome.scores for outcome in failed)
    assert len(sandbox.tasks) <= 14


def test_what_breaks_the_static_rules_is_not_run_and_paid_for(tmp_path: Path) -> None:
    class Smuggler(ScriptedProposer):
        def propose(self, history: History) -> Proposal:
            return Proposal(f"import os\n# {len(history.outcomes)}\n", "because.", None)

    sandbox = ScriptedSandbox()
    record = RunRecord("r", 0.0, "small", "{}", "hash", {}, "s")
    with Ledger.create(tmp_path, record) as ledger:
        arm = Arm("search", Smuggler([]), 6, TRAIN, REFERENCE, Evaluator(ledger, sandbox, "hash"), ledger)
        arm.run()
        assert [e.status for e in ledger.evaluations()] == ["failed"] * 6
    assert sandbox.tasks == []
    assert arm.history.outcomes[0].reason.startswith("breaks the contract")


def test_finalists_are_the_best_that_beat_the_reference_and_differ(tmp_path: Path) -> None:
    arm, _, _, _ = run_arm(tmp_path, [0.7, 1.2, 0.8, 0.700, 1.3, 0.9, 1.01, 0.75], budget=40)
    factors = [round(min(o.scores[s] / REFERENCE[s] for s in o.scores), 6) for o in arm.finalists(3)]
    assert factors[0] == 0.7
    assert len(factors) == len(set(factors)) == 3
    assert max(factors) < 1.0


def test_a_proposer_sees_train_scores_of_all_that_went_before(tmp_path: Path) -> None:
    arm, _, _, proposer = run_arm(tmp_path, [0.9, 0.8, 1.1], budget=20)
    last = proposer.histories[-1]
    assert last.reference == REFERENCE
    assert all(set(outcome.scores) <= set(TRAIN) for outcome in last.outcomes)
    assert len(last.outcomes) == len(arm.history.outcomes) - 1


class HesitantProposer(ScriptedProposer):
    """Two at a time, and five in all."""

    batch = 2

    def propose(self, history: History) -> Proposal:
        if len(history.outcomes) == len(self._factors):
            raise NoProposalError
        return super().propose(history)


def test_a_proposer_may_want_its_outcomes_sooner_and_may_have_no_more(tmp_path: Path) -> None:
    sandbox, proposer = ScriptedSandbox(), HesitantProposer([0.9, 0.8, 0.7, 1.2, 0.6])
    record = RunRecord("r", 0.0, "small", small_scenario().model_dump_json(), "hash", {}, "s")
    with Ledger.create(tmp_path, record) as ledger:
        arm = Arm("search", proposer, 1000, TRAIN, REFERENCE, Evaluator(ledger, sandbox, "hash"), ledger)
        arm.run()
    assert [len(outcome.scores) for outcome in arm.history.outcomes] == [1, 8, 8, 1, 8]
    known = [sum(outcome.status == "scored" for outcome in history.outcomes) for history in proposer.histories]
    assert known == [0, 0, 2, 2, 4]
    assert arm.spent < 1000
