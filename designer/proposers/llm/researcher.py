"""One context: a Researcher at work, with an Analyst to ask and a Supervisor who asks.

The search is what runs experiments: ``advance`` goes on until the Researcher wants one, gives it as a proposal, and
is called again when its outcome is in the history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field

from designer.proposers.llm.analyst import Analyst
from designer.proposers.llm.conversation import Conversation, ConversationEndedError, Desk
from designer.proposers.llm.digest import Finding, experiment_result, experiment_rows, findings_text, ledger_digest
from designer.proposers.llm.prompts import fill
from designer.proposers.llm.prose import written
from designer.proposers.llm.records import Records, RecordsError
from designer.proposers.llm.slots import problem as slot_problem
from designer.proposers.llm.supervisor import Supervisor, View, recalled
from designer.proposers.llm.tools import Arguments, Call, Tool, read_calls
from designer.proposers.parts import PartName
from designer.proposers.protocol import History, Outcome, Proposal

_TO_THE_POINT = (
    "You have replied {turns} times without an experiment. The next reply must call run_experiment, or finish."
)
_UNUSABLE_IN_A_ROW = 3


class RunExperiment(Arguments):
    """Measure a policy module. The result is its ratio to the reference, by seed, beside your prediction."""

    hypothesis: Annotated[str, Field(min_length=1)]
    predicted_ratio: Annotated[float, Field(gt=0, lt=1000)] | None = None
    source: Annotated[str, Field(min_length=1)]
    based_on: list[int] = Field(default_factory=list)
    """Numbers of the candidates it was made from."""


class AskAnalyst(Arguments):
    """Have a question answered from the records of every request, of the reference and of one of your candidates."""

    question: Annotated[str, Field(min_length=1)]
    candidate: int | None = None


class ShowCandidate(Arguments):
    """The module of a candidate."""

    number: int


class Finish(Arguments):
    """Say that nothing more can be won, and why."""

    reason: str


TOOLS = (
    Tool("run_experiment", RunExperiment),
    Tool("ask_analyst", AskAnalyst),
    Tool("show_candidate", ShowCandidate),
    Tool("finish", Finish),
)


class Playground(Protocol):
    """What a context may know of simulations."""

    def simulations_left(self, history: History) -> int: ...

    def summaries(self, outcome: Outcome) -> Mapping[str, Mapping[str, Any]]:
        """Of a simulation on one train seed: the candidate's and the reference's."""
        ...

    async def records(self, outcome: Outcome | None, name: str) -> Records:
        """Of the reference and, if given, of a candidate under a name, on one train seed it was simulated on.

        Raises:
            RecordsError: they cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """What a context begins with."""

    values: Mapping[str, str]
    """For the prompts."""
    parts: tuple[PartName, ...] = ("routing",)
    """Of the run's target."""
    known: tuple[int, ...] = ()
    """Candidates of earlier contexts."""
    findings: tuple[Finding, ...] = ()
    limit: int | None = None
    """Experiments, after which it ends."""


class Context:
    """One Researcher with its Analyst and Supervisor."""

    def __init__(self, name: str, desk: Desk, playground: Playground, start: Start) -> None:
        self.name = name
        self.own: list[int] = []
        """Numbers of its candidates."""
        self.findings: list[Finding] = list(start.findings)
        self.over = ""
        """Why it has ended; empty while it has not."""
        self._desk = desk
        self._playground = playground
        self._start = start
        self._parts = start.parts
        self._chat = Conversation(
            f"{name}/researcher", "researcher", desk, fill(desk.settings.prompts["researcher"], start.values), TOOLS
        )
        self._supervisor = Supervisor(f"{name}/supervisor", desk, start.values)
        self._calls: list[tuple[int, Call]] = []
        """Of the latest reply, still to be done."""
        self._running: tuple[int, Call] | None = None
        self._said = ""
        self._written: set[str] = set()
        """Code in its replies, whether it could be run or not."""
        self._turns = 0
        """Replies since the last experiment."""
        self._unusable = 0
        self._questions = 0
        self._to_judge = False
        """An experiment is done, or the Researcher wants to stop: the Supervisor is heard before the next reply."""
        self._begun = False

    async def advance(self, history: History) -> Proposal | None:
        """The next experiment; None when the context is over."""
        try:
            return await self._advance(history)
        except ConversationEndedError as error:
            self._end(str(error))
            return None

    async def _advance(self, history: History) -> Proposal | None:
        self._open(history)
        self._hear(history)
        while not self.over:
            while self._calls:
                position, call = self._calls.pop(0)
                proposal = await self._do(position, call, history)
                if proposal is not None:
                    self._running, self._turns, self._to_judge = (position, call), 0, True
                    return proposal
            if self._to_judge:
                await self._judge(history)
            if not self.over:
                await self._reply()
        return None

    # -- talking --------------------------------------------------------------------------------------------------

    def _open(self, history: History) -> None:
        if self._begun:
            return
        self._begun = True
        known = self._start.known
        values = {
            **self._start.values,
            "digest": ledger_digest(history, known),
            "findings": findings_text(self.findings),
            "best": _best(history, known),
            "budget": str(self._playground.simulations_left(history)),
        }
        self._chat.tell(fill(self._desk.settings.prompts["researcher-start"], values))

    def _hear(self, history: History) -> None:
        """The outcome of the experiment that was asked for."""
        if self._running is None:
            return
        position, call = self._running
        self._running = None
        outcome = history.outcomes[self.own[-1]]
        text = experiment_result(history, self.own[-1], self._playground.summaries(outcome))
        text += f"\nsimulations left: {self._playground.simulations_left(history)}"
        self._chat.keep(call, position, text)
        self._chat.answer(call, text)

    async def _reply(self) -> None:
        """Hear the Researcher once."""
        settings = self._desk.settings
        if self._turns == settings.turns_per_experiment:
            self._chat.tell(_TO_THE_POINT.format(turns=self._turns))
        if self._turns > settings.turns_per_experiment:
            self._end(f"{self._turns} replies without an experiment")
            return
        reply = await self._chat.ask()
        self._turns += 1
        self._said += f"\n{reply.get('content') or ''}"
        self._written.update(written(reply))
        self._calls = list(enumerate(read_calls(reply, TOOLS)))
        if any(not call.problem for _, call in self._calls):
            self._unusable = 0
        else:
            self._repair(reply)

    def _repair(self, reply: Mapping[str, Any]) -> None:
        """Nothing in the reply can be done: say why, a few times."""
        problem = "; ".join(call.problem for _, call in self._calls) or _silence(reply)
        self._chat.unusable(problem)
        self._unusable += 1
        if self._unusable >= self._desk.settings.repairs + _UNUSABLE_IN_A_ROW:
            self._end(f"{self._unusable} unusable replies in a row, the last: {problem}")
        elif not self._calls and self._unusable > self._desk.settings.repairs:
            self._to_judge = True
        elif not self._calls:
            self._chat.tell(f"That cannot be used: {problem}. Call one of your tools.")

    async def _judge(self, history: History) -> None:
        """Hear the Supervisor, and act on it."""
        self._to_judge = False
        if self._start.limit is not None and len(self.own) >= self._start.limit:
            self._end(f"{len(self.own)} experiments done")
            return
        left = self._playground.simulations_left(history)
        visible = [*self._start.known, *self.own]
        sources = self._written | {history.outcomes[number].proposal.source for number in visible}
        view = View(experiment_rows(history, visible), self.findings, self._said, left, sources)
        judgement = await self._supervisor.judge(view)
        self._said = ""
        self._desk.say(f"llm: {self.name}: {judgement.decision}: {' '.join(judgement.message.split())[:160]}")
        may_stop = len(self.own) >= self._desk.settings.min_experiments
        if judgement.decision == "stop" and may_stop:
            self._end("the Supervisor stopped it")
        elif judgement.decision == "branch" and self._desk.settings.mode == "sequential" and may_stop:
            self._end("the Supervisor wants another start")
        else:
            self._chat.tell(recalled(judgement, self.findings))

    def _end(self, reason: str) -> None:
        self.over = reason
        self._desk.say(f"llm: {self.name} is over: {reason}")

    # -- doing ----------------------------------------------------------------------------------------------------

    async def _do(self, position: int, call: Call, history: History) -> Proposal | None:
        """Carry out one call; an experiment is given back to be run."""
        match call.arguments:
            case RunExperiment() as wanted:
                proposal = self._proposal(wanted, history)
                if not (refusal := self._refusal(proposal, history)):
                    return proposal
                text = f"error: {refusal}; nothing was run"
            case AskAnalyst() as asked:
                text = await self._ask(position, call, asked, history)
            case ShowCandidate(number=number):
                text = self._source(number, history)
            case Finish() if len(self.own) < self._desk.settings.min_experiments:
                least = self._desk.settings.min_experiments
                text = f"error: {len(self.own)} experiments done, {least} at least come first; call run_experiment"
            case Finish(reason=reason):
                self._said += f"\nI want to finish: {reason}"
                self._to_judge = True
                text = "The Supervisor decides."
            case _:
                text = f"error: {call.problem}"
        self._chat.keep(call, position, text)
        self._chat.answer(call, text)
        return None

    def _proposal(self, wanted: RunExperiment, history: History) -> Proposal:
        visible = [*self._start.known, *self.own]
        parents = [history.outcomes[n].proposal.candidate_hash for n in wanted.based_on if n in visible]
        source = wanted.source if wanted.source.endswith("\n") else f"{wanted.source}\n"
        source = source.encode("utf-8", "replace").decode()
        return Proposal(source, wanted.hypothesis, wanted.predicted_ratio, tuple(parents))

    def _refusal(self, proposal: Proposal, history: History) -> str:
        """Why it is not worth a simulation: it is known, or is not of this run's target; empty: it is."""
        same = (n for n in self.own if history.outcomes[n].proposal.candidate_hash == proposal.candidate_hash)
        twin = next(same, None)
        return (
            f"this is candidate {twin} to the byte" if twin is not None else slot_problem(proposal.source, self._parts)
        )

    def _source(self, number: int, history: History) -> str:
        if number not in (*self._start.known, *self.own):
            return f"error: no candidate {number} of yours"
        return f"```python\n{history.outcomes[number].proposal.source}```"

    async def _ask(self, position: int, call: Call, asked: AskAnalyst, history: History) -> str:
        """Have the Analyst answer; its findings are kept."""
        if asked.candidate is not None and asked.candidate not in (*self._start.known, *self.own):
            return f"error: no candidate {asked.candidate} of yours"
        self._questions += 1
        name = f"{self.name}/analyst/{self._questions}"
        text, _ = await self._chat.tool_result(call, position, lambda: self._answered(name, asked, history))
        self.findings.append(Finding(f"F{len(self.findings) + 1}", " ".join(asked.question.split()), text))
        return text

    async def _answered(self, name: str, asked: AskAnalyst, history: History) -> tuple[str, str]:
        number = asked.candidate
        outcome = None if number is None else history.outcomes[number]
        try:
            records = await self._playground.records(outcome, f"candidate {number}")
        except RecordsError as error:
            return f"error: {error}", ""
        try:
            records.add_experiments(experiment_rows(history, [*self._start.known, *self.own]))
            return await Analyst(name, self._desk, records).answer(asked.question), ""
        finally:
            records.close()


def _best(history: History, known: Sequence[int]) -> str:
    """The best module of earlier contexts, for the start of the next."""
    scored = [history.outcomes[n] for n in known if history.outcomes[n].status == "scored"]
    if not scored:
        return ""
    best = min(scored, key=lambda outcome: (-len(outcome.scores), history.effect(outcome)))
    return f"## The best module so far\n\n```python\n{best.proposal.source}```\n\n"


def _silence(reply: Mapping[str, Any]) -> str:
    if reply.get("refusal"):
        return "you declined, and nothing was done"
    if reply.get("finish_reason") == "length":
        return "the reply was cut off at its limit of tokens; be shorter"
    return "no tool was called"
