"""The ``llm`` proposer: contexts one after the other, or side by side, behind the interface every proposer has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from designer.ledger import Ledger
from designer.proposers.llm.account import ESTIMATE_EVENT
from designer.proposers.llm.baselines import read_baselines
from designer.proposers.llm.briefing import briefing
from designer.proposers.llm.conversation import Desk
from designer.proposers.llm.endpoint import Endpoint
from designer.proposers.llm.estimate import estimate
from designer.proposers.llm.keys import check_keys
from designer.proposers.llm.message_log import MessageLog
from designer.proposers.llm.meter import CAP, Meter
from designer.proposers.llm.playground import SimulatorPlayground
from designer.proposers.llm.preflight import preflight
from designer.proposers.llm.researcher import Context, Start
from designer.proposers.llm.settings import ROLES, stored_settings
from designer.proposers.protocol import History, NoProposalError, Proposal
from designer.proposers.roster import parse_target
from designer.sandbox import Sandbox
from designer.simulator.scenario import Scenario


class LlmProposer:
    """Use it as a context manager; what it says and spends is in the ledger of the run."""

    name = "llm"

    def __init__(
        self,
        settings: Mapping[str, Any],
        ledger: Ledger,
        sandbox: Sandbox,
        budget: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._settings = stored_settings(settings)
        check_keys(self._settings)
        self._ledger = ledger
        record = ledger.run()
        self._scenario = Scenario.model_validate_json(record.scenario)
        self._baselines = [str(name) for name in record.settings["baselines"]]
        self._parts = parse_target(str(record.settings.get("target", "routing")))
        self._budget = budget
        self._say = say
        self._playground = SimulatorPlayground(ledger, sandbox, self._baselines[0], budget, self._settings.caps)
        self._log = MessageLog(ledger.path)
        self._runner = asyncio.Runner()
        self._desk: Desk | None = None
        self._values: dict[str, str] = {}
        self._contexts: list[Context] = []
        self._ready: list[tuple[Context, Proposal]] = []

    @property
    def batch(self) -> int:
        """As many as there are contexts at the same time."""
        return self._settings.contexts if self._settings.mode == "parallel" else 1

    def __enter__(self) -> LlmProposer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and the log."""
        self._runner.run(self._hang_up())
        self._runner.close()
        self._log.close()

    def propose(self, history: History) -> Proposal:
        """The next experiment of a Researcher.

        Raises:
            NoProposalError: all wait for outcomes, or all are over.
            LlmError: an endpoint cannot be used; the run can be resumed.
        """
        if not self._ready and not self._waiting(history):
            self._ready = self._runner.run(self._advance(history))
        if not self._ready:
            raise NoProposalError
        context, proposal = self._ready.pop(0)
        context.own.append(len(history.outcomes))
        return proposal

    def _waiting(self, history: History) -> bool:
        latest = [context.own[-1] for context in self._contexts if context.own and not context.over]
        return any(history.outcomes[number].status == "proposed" for number in latest)

    async def _advance(self, history: History) -> list[tuple[Context, Proposal]]:
        """Every context at work goes on to its next experiment; the order is that of the contexts."""
        desk = self._desk or await self._open(history)
        while True:
            contexts = self._at_work(desk)
            if not contexts:
                return []
            # What others have asked for is heard to the end even where one fails: it is paid for.
            results = await asyncio.gather(*(c.advance(history) for c in contexts), return_exceptions=True)
            if failed := [result for result in results if isinstance(result, BaseException)]:
                raise failed[0]
            found = zip(contexts, results, strict=True)
            ready = [(context, proposal) for context, proposal in found if isinstance(proposal, Proposal)]
            if ready:
                return ready

    async def _open(self, history: History) -> Desk:
        """Before the first request: what to tell, what it may cost, and whether anybody is there to be asked."""
        seeds = list(history.reference)
        baselines = read_baselines(self._ledger, self._baselines, history.reference)
        self._values = briefing(self._scenario, baselines, seeds, self._parts, self._settings.prompts)
        guess = estimate(self._settings, self._budget, self._values)
        self._say(guess.text(self._settings))
        self._ledger.add_event(ESTIMATE_EVENT, asdict(guess), once=True)
        spent = self._log.spent()
        if spent.requests:
            self._say(f"llm: {spent.requests} requests, {spent.tokens} tokens, ${spent.dollars:.4f} are spent already")
        endpoints = {name: Endpoint(self._settings.role(name)) for name in ROLES}
        meter = Meter(self._settings.caps, spent)
        self._desk = Desk(self._settings, self._log, meter, endpoints, say=self._say)
        await preflight(self._desk)
        return self._desk

    def _at_work(self, desk: Desk) -> list[Context]:
        settings, contexts = self._settings, self._contexts
        if settings.mode == "parallel" and not contexts:
            contexts += [
                Context(str(n), desk, self._playground, Start(self._values, self._parts))
                for n in range(settings.contexts)
            ]
        working = [context for context in contexts if not context.over]
        allowed = settings.contexts if settings.mode == "sequential" else 1
        spent = any(context.over.startswith(CAP) for context in contexts)
        if working or spent or settings.mode == "parallel" or len(contexts) >= allowed:
            return working
        contexts.append(Context(str(len(contexts)), desk, self._playground, self._next_start()))
        return contexts[-1:]

    def _next_start(self) -> Start:
        """With what the contexts before have learned."""
        limit = self._settings.experiments_per_context if self._settings.mode == "sequential" else None
        known = tuple(number for context in self._contexts for number in context.own)
        findings = tuple(self._contexts[-1].findings) if self._contexts else ()
        return Start(self._values, self._parts, known, findings, limit)

    async def _hang_up(self) -> None:
        if self._desk is not None:
            for endpoint in self._desk.endpoints.values():
                await endpoint.close()
