"""The Supervisor: asks, recalls, decides how to go on. No code ever reaches it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from designer.proposers.llm.conversation import Conversation, Desk
from designer.proposers.llm.digest import Finding, digest_of, findings_text
from designer.proposers.llm.prompts import fill
from designer.proposers.llm.prose import prose
from designer.proposers.llm.tools import Arguments, read_json

Decision = Literal["deeper", "branch", "stop"]
_LONGEST_QUOTE = 2000


class Judgement(Arguments):
    """What the Supervisor answers."""

    decision: Decision
    message: str
    recall: list[str] = Field(default_factory=list)


UNUSABLE = Judgement(decision="deeper", message="Go on: what does the last result say about your hypothesis?")
"""What stands in for a Supervisor that gives no usable answer."""


@dataclass(frozen=True, slots=True)
class View:
    """All a Supervisor is shown at a time."""

    experiments: Sequence[tuple[Any, ...]]
    """Rows of ``experiment_rows``."""
    findings: Sequence[Finding]
    said: str
    """By the Researcher, since the last time."""
    simulations_left: int
    sources: Collection[str] = ()
    """All code that was written so far; no line of it is shown, nor what looks like code in any of the above."""


class Supervisor:
    """One for each context of a Researcher."""

    def __init__(self, name: str, desk: Desk, values: Mapping[str, str]) -> None:
        self._repairs = desk.settings.repairs
        self._chat = Conversation(name, "supervisor", desk, fill(desk.settings.prompts["supervisor"], values))

    async def judge(self, view: View) -> Judgement:
        """
        Raises:
            ConversationEndedError: a cap, or the endpoint has no more replies.
        """
        self._chat.tell(_shown(view))
        for _ in range(self._repairs + 1):
            reply = await self._chat.ask(Judgement.model_json_schema())
            judgement, problem = read_json(str(reply.get("content") or ""), Judgement)
            if isinstance(judgement, Judgement):
                return judgement
            self._chat.unusable(problem)
            self._chat.tell(f"That cannot be used: {problem}. Answer with the one JSON object described above.")
        return UNUSABLE


def recalled(judgement: Judgement, findings: Sequence[Finding]) -> str:
    """The message for the Researcher, with the findings it should read again."""
    again = [finding for finding in findings if finding.identity in judgement.recall]
    extra = f"\n\nRecall:\n{findings_text(again)}" if again else ""
    return f"The Supervisor: {judgement.message}{extra}"


def _shown(view: View) -> str:
    """Each part is cleaned by itself, so that code in one takes nothing from the next."""
    rows = [(*row[:1], _words(row[1], view), *row[2:-1], _words(row[-1], view)) for row in view.experiments]
    findings = [Finding(f.identity, _words(f.question, view), _words(f.text, view)) for f in view.findings]
    said = _words(view.said, view).strip()[:_LONGEST_QUOTE]
    return "\n\n".join(
        (
            f"Experiments:\n{digest_of(rows)}",
            f"Findings:\n{findings_text(findings)}",
            f"The Researcher said:\n{said or '(nothing)'}",
            f"Simulations left: {view.simulations_left}. What next?",
        )
    )


def _words(text: str, view: View) -> str:
    return prose(text, view.sources)
