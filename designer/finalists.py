"""What a finalist must show before validation: the contract kept, one way of deciding in both tiers, no foresight."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from designer.evaluations import Evaluator, Job
from designer.ledger import Ledger
from designer.proposers.protocol import Outcome
from designer.sandbox import Sandbox
from designer.subject import Subject, subject_of_source

_NUM_SEEDS = 2
"""Train seeds on which decisions and score are compared between the two tiers."""


def verified(
    outcomes: Sequence[Outcome],
    ledger: Ledger,
    sandbox: Sandbox,
    evaluator: Evaluator,
    say: Callable[[str], None] = lambda line: None,
) -> list[Subject]:
    """Those that keep the whole contract, decide alike in both tiers, and by nothing that is still to come.

    What was found is in the ledger, and not asked again when a run goes on: a second trial could end otherwise.
    """
    good: list[Subject] = []
    known = {content["digest"]: str(content["problem"]) for _, content in ledger.events("finalist")}
    for outcome in outcomes:
        subject = subject_of(outcome)
        problem = known.get(subject.digest)
        if problem is None:
            problem = _problem(subject, outcome, sandbox, evaluator)
            ledger.add_event("finalist", {"digest": subject.digest, "problem": problem})
        if problem:
            say(f"{subject.label} is out: {problem}")
        else:
            good.append(subject)
    return good


def subject_of(outcome: Outcome) -> Subject:
    return subject_of_source(outcome.proposal.source, f"candidate-{outcome.proposal.candidate_hash[:12]}")


def _problem(subject: Subject, outcome: Outcome, sandbox: Sandbox, evaluator: Evaluator) -> str:
    """The first one found; empty when there is none."""
    return (
        next(iter(sandbox.check(subject)), "")
        or _differs(subject, outcome, evaluator)
        or sandbox.foresight(subject, min(outcome.scores))
    )


def _differs(subject: Subject, outcome: Outcome, evaluator: Evaluator) -> str:
    seeds = sorted(outcome.scores)[:_NUM_SEEDS]
    first = evaluator.run("train", [Job(subject, seed) for seed in seeds])
    jobs = [Job(subject, r.seed, "lockstep", r.decisions, r.score) for r in first]
    failed = [record.reason for record in evaluator.run("train", jobs) if record.status == "failed"]
    return failed[0] if failed else ""
