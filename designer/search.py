"""A run of the designer: search, control, validation, sealed test; every step in the ledger before the next begins.

A run is a function of its settings, its secret and what the simulations answer. What the ledger has is not paid for
again, so a run that was killed goes on where it stopped and tells the same history.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from designer.arm import Arm, Progress
from designer.build import build
from designer.estimate import VALIDATED_BASELINES, in_words, most_simulations
from designer.evaluations import Evaluator, Job, scores_by_seed
from designer.executor import Executor, LocalExecutor, Runner
from designer.explanation import Extent, explained
from designer.finalists import subject_of, verified
from designer.going_on import going_on
from designer.ledger import EvaluationRecord, FrozenRecord, Ledger, RunRecord, Split, seed_of
from designer.offered import left_out
from designer.proposers.llm.proposer import LlmProposer
from designer.proposers.protocol import Proposer, log_ratio
from designer.proposers.roster import CONTROLS, PROPOSERS, Brief, TargetError, parse_target
from designer.proposers.vocabulary import QUANTITIES
from designer.sandbox import Sandbox
from designer.sealed import Judge, Protocol, Verdict
from designer.simulator.scenario import Scenario
from designer.subject import Subject
from designer.targets import BASELINES, REFERENCES
from designer.why import SEEDS


class SearchError(Exception):
    """A run that cannot be done; one line."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that determines a run but its secret; stored with it."""

    proposer: str = "evolve"
    target: str = "routing"
    """One part or several, by comma: ``designer.proposers.roster.parse_target``."""
    budget: int = 100
    """Simulations of one policy on one seed that the proposer may spend; the control gets the same."""
    seed: int = 1
    control: bool = True
    """The same budget for random samples, and again for tuned baselines."""
    baselines: tuple[str, ...] = BASELINES
    references: tuple[str, ...] = REFERENCES
    protocol: Protocol = field(default_factory=Protocol)
    deadline_seconds: float = 300.0
    """Wall clock of one simulation."""
    ablation_seeds: int = 16
    """For the worth of each component of the winner; 0: no ablation."""
    regime_seeds: int = 4
    """Seeds in each regime of the certificate; 0: no certificate."""
    why_seeds: int = SEEDS
    """Of each intervention that tells why the winner wins; 0: none."""
    llm: Mapping[str, Any] | None = None
    """Of the proposer ``llm``: its ``LlmSettings`` as JSON; never a key."""

    def check(self) -> Settings:
        """Itself.

        Raises:
            SearchError: a value is out of range.
        """
        if self.proposer not in PROPOSER_NAMES:
            raise SearchError(f"no proposer {self.proposer!r}; one of {', '.join(PROPOSER_NAMES)}")
        if (self.llm is not None) != (self.proposer == "llm"):
            raise SearchError("models are for --proposer llm, which needs them: --model NAME --base-url URL --price 0")
        try:
            parse_target(self.target)
        except TargetError as error:
            raise SearchError(str(error)) from None
        if self.budget < 1 or not self.baselines:
            raise SearchError("the budget must be at least 1, and there must be a baseline")
        if problem := self.protocol.problem():
            raise SearchError(problem)
        return self

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run has found."""

    folder: Path
    verdict: Verdict
    winner: str | None
    """Digest of the frozen policy; None: nothing better was found."""
    policy: Path | None
    """The winner's source, as a file beside the ledger."""
    simulations: Mapping[str, int]
    """By what they were for."""
    wall_seconds: float


@dataclass(frozen=True, slots=True)
class Watcher:
    """What a run tells while it goes on."""

    say: Callable[[str], None] = lambda line: None
    on_search: Callable[[Progress], None] = lambda progress: None
    on_judge: Callable[[str, int], None] = lambda split, total: None
    """One simulation of so many in a split is done."""


def new_ledger(folder: Path, scenario: Scenario, settings: Settings, secret: str | None = None) -> Ledger:
    """A ledger for a new run.

    Raises:
        LedgerError: there is one already.
        SearchError: the settings cannot work.
    """
    record = RunRecord(
        run=folder.name,
        at=time.time(),
        scenario_name=scenario.name,
        scenario=scenario.model_dump_json(),
        scenario_hash=scenario.digest,
        settings=settings.check().to_json(),
        secret=secret or secrets.token_hex(32),
    )
    return Ledger.create(folder, record)


def settings_of(record: RunRecord) -> Settings:
    """The settings a run was started with."""
    values = dict(record.settings)
    protocol = Protocol(**values.pop("protocol"))
    for name in ("baselines", "references"):
        values[name] = tuple(values[name])
    return Settings(**values, protocol=protocol)


class Search:
    """One run, from the start or from where it stopped."""

    def __init__(
        self, ledger: Ledger, *, jobs: int = 2, watcher: Watcher | None = None, executor: Executor | None = None
    ) -> None:
        """
        Args:
            jobs: simulations at a time on this machine, where no executor is given.
            executor: who is to simulate; it is not closed.
        """
        self._ledger = ledger
        self._record = ledger.run()
        self._settings = settings_of(self._record)
        self._scenario = Scenario.model_validate_json(self._record.scenario)
        if self._scenario.digest != self._record.scenario_hash:
            raise SearchError(f"{ledger.path}: a file the scenario names has changed since the run began")
        self._executor = executor or LocalExecutor(jobs)
        self._watcher = watcher or Watcher()
        self.arms: dict[str, Arm] = {}
        self._failed_baselines: list[dict[str, str]] = []
        """On the train seeds."""

    def run(self) -> RunOutcome:
        """To the verdict.

        Raises:
            SearchError, LedgerError, SandboxError, ExecutorError, PolicyLoadError: it cannot be done.
        """
        with going_on(self._ledger.path.parent):
            return self._to_the_verdict()

    def _to_the_verdict(self) -> RunOutcome:
        started = time.monotonic()
        with self._executor.at(self._scenario, self._settings.deadline_seconds) as runner, self._own(runner) as sandbox:
            self._announce(sandbox)
            for text in (*self._settings.baselines, *self._settings.references):
                self._ledger.named(text)
            evaluator = Evaluator(self._ledger, runner, self._record.scenario_hash)
            baselines = self._train_baselines(evaluator)
            reference = baselines[self._settings.baselines[0]]
            brief = self._brief()
            for name in self._arm_names():
                with self._proposer(name, brief, sandbox) as proposer:
                    self._run_arm(name, proposer, reference, evaluator)
            verdict = self._judge(sandbox, evaluator, baselines)
        return self._conclude(verdict, time.monotonic() - started)

    def _own(self, runner: Runner) -> AbstractContextManager[Sandbox]:
        """For what is asked once and no evaluation: it stays on this machine."""
        if isinstance(runner, Sandbox):
            return nullcontext(runner)
        return Sandbox(self._scenario, jobs=1, deadline_seconds=self._settings.deadline_seconds)

    def _announce(self, sandbox: Sandbox) -> None:
        """What confines candidates, wherever they are going to run; kept are the layers that all places have."""
        layers, places = list(sandbox.layers()), self._executor.places()
        common = [layer for layer in layers if all(layer in place.layers for place in places)]
        told = {"places": [str(place) for place in places]} if places else {}
        self._ledger.add_event(
            "started", {"layers": common, "jobs": self._executor.jobs, "build": dict(build()), **told}
        )
        for line in (f"sandbox: {', '.join(layers)}", *map(str, places)):
            self._watcher.say(line)

    def _train_seeds(self) -> list[int]:
        """Of the run's seed, not of its secret: the same ``--seed`` is the same search."""
        return [seed_of(f"{self._settings.seed}", "train", n) for n in range(self._settings.protocol.train_seeds)]

    def _train_baselines(self, evaluator: Evaluator) -> dict[str, dict[int, float]]:
        """Every baseline on the train seeds, outside the budget; one that fails is left out."""
        subjects = {text: self._ledger.named(text) for text in self._settings.baselines}
        seeds = self._train_seeds()
        jobs = [Job(subject, seed) for subject in subjects.values() for seed in seeds]
        records = evaluator.run("train", jobs, lambda: self._watcher.on_judge("baselines", len(jobs)))
        self._estimate(records)
        found: dict[str, dict[int, float]] = {}
        for n, text in enumerate(subjects):
            mine = records[n * len(seeds) : (n + 1) * len(seeds)]
            failed = [record.reason for record in mine if record.status == "failed"]
            if failed and n == 0:
                raise SearchError(f"the reference {text} cannot be simulated: {failed[0]}")
            if failed:
                self._failed_baselines.append({"label": text, "digest": subjects[text].digest, "failure": failed[0]})
                self._watcher.say(f"baseline {text} failed and will not be compared: {failed[0]}")
            else:
                found[text] = dict(scores_by_seed(mine))
        return found

    def _estimate(self, records: Sequence[EvaluationRecord]) -> None:
        seconds = sum(record.wall_seconds for record in records) / len(records)
        most = most_simulations(self._settings, len(self._arm_names()))
        self._watcher.say(in_words(most, seconds, self._executor.jobs))

    def _arm_names(self) -> list[str]:
        controls = [arm for arm, name in CONTROLS.items() if self._settings.control and self._settings.proposer != name]
        return ["search", *controls]

    def _brief(self) -> Brief:
        """What proposers are told; which quantities tell nothing in this scenario is found out once a run."""
        known = self._ledger.result("left out")
        if known is None:
            known = dict(left_out(self._scenario, self._train_seeds()[0]))
            self._ledger.add_result("left out", known)
            self._watcher.say(f"not offered, as they tell nothing here: {', '.join(known) or 'none'}")
        offered = frozenset(QUANTITIES) - known.keys()
        return Brief(self._settings.seed, self._settings.budget, offered, self._settings.target)

    def _proposer(self, name: str, brief: Brief, sandbox: Sandbox) -> AbstractContextManager[Proposer]:
        settings = self._settings
        if name == "search" and settings.llm is not None:
            return LlmProposer(settings.llm, self._ledger, sandbox, settings.budget, self._watcher.say)
        return nullcontext(PROPOSERS[CONTROLS.get(name, settings.proposer)](brief))

    def _run_arm(self, name: str, proposer: Proposer, reference: Mapping[int, float], evaluator: Evaluator) -> None:
        stopped = name != "search" and self._settings.llm is not None
        arm = Arm(
            name,
            proposer,
            self.arms["search"].spent if stopped else self._settings.budget,
            self._train_seeds(),
            reference,
            evaluator,
            self._ledger,
            self._watcher.on_search,
        )
        self.arms[name] = arm
        arm.run()
        self._ledger.add_result(f"curve {name}", {"points": arm.curve})

    def _judge(self, sandbox: Sandbox, evaluator: Evaluator, baselines: Mapping[str, Mapping[int, float]]) -> Verdict:
        judge = Judge(
            self._settings.protocol,
            self._scenario.objective.metric,
            self._record.secret,
            self._ledger,
            evaluator,
            self._watcher.on_judge,
        )
        reference = baselines[self._settings.baselines[0]]
        bar = min(log_ratio(scores, reference) for scores in baselines.values())
        best = self.arms["search"].finalists(self._settings.protocol.finalists, bar)
        finalists = verified(best, self._ledger, sandbox, evaluator, self._watcher.say)
        controls = {
            name: replace(subject_of(outcome), label=f"{text} {outcome.proposal.candidate_hash[:12]}")
            for name, text in CONTROLS.items()
            if name in self.arms
            for outcome in self.arms[name].finalists(1)
        }
        if not finalists:
            self._ledger.add_result("validation", {"winner": None, "finalists": [], "failed": []})
            return "nothing better"
        tuned = [controls[name] for name in ("tuned",) if name in controls]
        best_baselines = [*self._best_baselines(baselines), *tuned]
        frozen = judge.validate(finalists, best_baselines, controls, failed_before=self._failed_baselines)
        if frozen is None:
            return "nothing better"
        others = [self._ledger.named(text) for text in self._shown_beside(frozen.comparator)] + [*controls.values()]
        distinct = {other.digest: other for other in others if other.digest not in (frozen.digest, frozen.comparator)}
        verdict = judge.seal(frozen, list(distinct.values()))
        self._explain(judge, frozen)
        return verdict

    def _explain(self, judge: Judge, frozen: FrozenRecord) -> None:
        """After the verdict, and without a part in it."""
        settings = self._settings
        explained(
            self._ledger,
            judge,
            self._executor,
            frozen,
            Extent(settings.ablation_seeds, settings.regime_seeds, settings.why_seeds),
            program=self._program(self._ledger.subject(frozen.digest)),
            rivals=(*settings.references, settings.baselines[0]),
            deadline_seconds=settings.deadline_seconds,
            say=self._watcher.say,
        )

    def _program(self, winner: Subject) -> Mapping[str, Any] | None:
        found = (o.proposal for o in self.arms["search"].history.outcomes if subject_of(o).digest == winner.digest)
        return next((proposal.program for proposal in found), None)

    def _shown_beside(self, comparator: str) -> list[str]:
        names = (self._settings.baselines[0], *self._settings.references)
        return [text for text in dict.fromkeys(names) if self._ledger.named(text).digest != comparator]

    def _best_baselines(self, baselines: Mapping[str, Mapping[int, float]]) -> list[Subject]:
        reference = baselines[self._settings.baselines[0]]
        ranked = sorted(baselines, key=lambda text: log_ratio(baselines[text], reference))
        return [self._ledger.named(text) for text in ranked[:VALIDATED_BASELINES]]

    def _conclude(self, verdict: Verdict, wall: float) -> RunOutcome:
        frozen = self._ledger.frozen()
        folder = self._ledger.path.parent
        policy = None
        if frozen is not None:
            policy = folder / f"designed-{frozen.digest[:12]}.py"
            policy.write_bytes(self._ledger.subject(frozen.digest).parts[0].source.encode())
        self._ledger.add_result("verdict", {"verdict": verdict, "winner": None if frozen is None else frozen.digest})
        self._ledger.add_event("finished", {"wall_seconds": wall})
        digest = None if frozen is None else frozen.digest
        return RunOutcome(folder, verdict, digest, policy, self._simulations(), wall)

    def _simulations(self) -> dict[str, int]:
        """Proposers' budgets, and what was spent besides."""
        spent = {name: arm.spent for name, arm in self.arms.items()}
        every = dict.fromkeys(get_args(Split), 0)
        for record in self._ledger.evaluations():
            every[record.split] += record.simulations
        others = every.pop("train") - sum(spent.values())
        return {**spent, "baselines and checks": max(0, others), **every}


PROPOSER_NAMES = (*PROPOSERS, "llm")
"""``llm`` needs an endpoint besides, and may stop before its budget is spent; the controls then get what it spent."""
