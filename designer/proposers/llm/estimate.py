"""What a run is likely to cost, said before anything is spent. A guess from sizes; the caps are what holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from designer.proposers.llm.settings import LlmSettings, Role, RoleName

_TOKENS_A_BYTE = 0.28
_SIMULATIONS_AN_EXPERIMENT = 1.5
"""Most candidates end after one seed, few after three, very few after eight."""
_REPLIES = {"researcher": 2.0, "supervisor": 1.0, "analyst": 1.5}
"""An experiment."""
_REPLY_TOKENS = {"researcher": 1200, "supervisor": 150, "analyst": 250}
_ADDED_TOKENS = {"researcher": 1800, "supervisor": 250, "analyst": 600}
"""By which a conversation grows with every reply."""
_QUESTION_REPLIES = 4.0
"""Of an Analyst; then a new conversation begins."""


@dataclass(frozen=True, slots=True)
class Estimate:
    experiments: float
    requests: float
    tokens: float
    dollars: float

    def text(self, settings: LlmSettings) -> str:
        caps = settings.caps
        return (
            f"llm: estimate, not a bound: {self.experiments:.0f} experiments, {self.requests:.0f} requests, "
            f"{self.tokens / 1e6:.2f} million tokens, ${self.dollars:.2f}; the bound: never more "
            f"than ${caps.dollars:g}, {caps.tokens / 1e6:g} million tokens, {caps.requests} requests, "
            f"{caps.seconds / 60:.0f} min"
        )


def estimate(settings: LlmSettings, budget: int, briefing: dict[str, str]) -> Estimate:
    """For a budget of simulations.

    Args:
        briefing: the texts the prompts are filled with.
    """
    experiments = max(1.0, budget / _SIMULATIONS_AN_EXPERIMENT)
    contexts = 1 if settings.mode == "single" else settings.contexts
    if settings.mode == "sequential":
        experiments = min(experiments, float(contexts * settings.experiments_per_context))
    each = experiments / contexts
    start = _start_tokens(settings, briefing)
    requests = tokens = dollars = 0.0
    for name in ("researcher", "supervisor"):
        prompt, reply, count = _conversation(settings.role(name), name, start[name], each * _REPLIES[name])
        requests, tokens = requests + contexts * count, tokens + contexts * (prompt + reply)
        dollars += contexts * settings.role(name).cost(prompt, reply)
    questions = experiments * _REPLIES["analyst"] / _QUESTION_REPLIES
    prompt, reply, count = _conversation(settings.analyst, "analyst", start["analyst"], _QUESTION_REPLIES)
    requests, tokens = requests + questions * count, tokens + questions * (prompt + reply)
    return Estimate(experiments, requests, tokens, dollars + questions * settings.analyst.cost(prompt, reply))


def _conversation(role: Role, name: RoleName, start: float, replies: float) -> tuple[float, float, float]:
    """Prompt tokens, reply tokens and replies of one conversation; every reply sends all that came before."""
    count = max(1.0, replies)
    reply = min(_REPLY_TOKENS[name], role.max_tokens)
    room = float(role.context_tokens - role.max_tokens)
    prompts = sum(min(room, start + n * _ADDED_TOKENS[name]) for n in range(round(count)))
    return prompts, count * reply, count


def _start_tokens(settings: LlmSettings, briefing: dict[str, Any]) -> dict[str, float]:
    """Of the first prompt of each role."""
    filled = {name: len(text) for name, text in settings.prompts.items()}
    named = {
        name: sum(len(str(value)) for mark, value in briefing.items() if f"{{{{{mark}}}}}" in text)
        for name, text in settings.prompts.items()
    }
    size = {name: (filled[name] + named[name]) * _TOKENS_A_BYTE for name in filled}
    return {**size, "researcher": size["researcher"] + size["researcher-start"]}
