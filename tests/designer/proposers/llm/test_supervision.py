"""In a whole run of every mode: what the Supervisor's model was ever sent, how far caps and budgets hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from designer.ledger import Ledger
from designer.proposers.llm.account import account
from designer.proposers.llm.message_log import MessageLog
from designer.sandbox import Sandbox
from designer.simulator.workload import draw_workload
from tests.designer.proposers.llm.test_proposer import SETTINGS, TRAIN, VARIANTS, go, run_of
from tests.support.fake_connection import Behaviour, Exchange
from tests.support.scripted_models import GOOD, READS_FUTURE, Cast, experiment, judges, says, wanted
from tests.support.small_scenario import small_scenario

MODES: tuple[dict[str, Any], ...] = (
    {"mode": "single"},
    {"mode": "sequential", "contexts": 2, "experiments_per_context": 2},
    {"mode": "parallel", "contexts": 4, "min_experiments": 2},
)
MARK = "zq_marker"
"""Is in every line of code below, and in nothing else."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(small_scenario(60), jobs=1) as made:
        yield made


def marked(number: int, source: str = GOOD) -> str:
    """A policy that works, with the mark in every line of code."""
    lines = source.replace("Shortest", f"Variant {number}: shortest").replace("    def ", "    # zq\n    def ")
    return "\n".join(f"{line}  # {MARK}" if _is_code(line) else line for line in lines.split("\n"))


def _is_code(line: str) -> bool:
    return bool(line.strip()) and '"""' not in line and not line.strip().startswith("#")


def talkative(native: bool) -> list[Behaviour]:
    """Code in every place a Researcher can write something."""
    line = f"{MARK} = min(candidates, key=len)"

    def call(name: str, arguments: dict[str, Any], said: str = "") -> Behaviour:
        if native:
            return says(said, [(name, arguments)])
        return says(f"{said}\n{json.dumps({'tool': name, 'arguments': arguments})}\nAs I said.")

    return [
        says(f"I would do this:\n{marked(0)}\nor `{MARK}(x)`"),
        call("run_experiment", wanted(marked(1), f"{line}\nis better"), f"```python\n{marked(1)}```"),
        says(f'{{"tool": "run_experiment", "arguments": {{"source": {json.dumps(marked(2))[:-9]}'),
        call("run_experiment", {**wanted(marked(3)), "unknown": 1}, f"class {MARK}: pass"),
        call("ask_analyst", {"question": f"Is this slow: {line}", "candidate": 0}),
        call("run_experiment", wanted(marked(4, READS_FUTURE), marked(4))),
        call("run_experiment", wanted(marked(5), f"def {MARK}(x): return x")),
        call("finish", {"reason": f"as\n\n    return {MARK}\n\nis good"}),
        call("run_experiment", wanted(marked(6), "short prompts first")),
    ]


@pytest.mark.parametrize("llm", MODES, ids=lambda llm: llm["mode"])
@pytest.mark.parametrize("tools", ["native", "text"])
def test_no_code_reaches_the_supervisor(tmp_path: Path, sandbox: Sandbox, llm: dict[str, Any], tools: str) -> None:
    native = tools == "native"
    report = {"findings": [f"the line {MARK} = min(candidates, key=len) is slow", f"```\n{marked(1)}```"]}
    said = says("", [("report", report)]) if native else says(json.dumps({"tool": "report", "arguments": report}))
    lines = talkative(native)
    cast = Cast(
        researcher=[line for line in lines for _ in range(llm.get("contexts", 1) if llm["mode"] == "parallel" else 1)],
        analyst=[said],
        supervisor=[judges(), judges(recall=["F1"])],
    )
    roles = {role: {"tools": tools} for role in ("researcher", "analyst")}
    with run_of(cast, tmp_path, caps={"requests": 60}, **llm, **roles) as ledger:
        go(ledger, sandbox)
        assert len(list(ledger.candidates("search"))) > 2
    asked = [message for body in cast.heard["supervisor"] for message in body["messages"]]
    shown = [message["content"] for message in asked if message["role"] != "assistant"]
    assert len(shown) > 3
    assert [line for text in shown for line in text.split("\n") if MARK in line] == []
    assert not any("def route" in text or "def admit" in text for text in shown)
    if llm["mode"] == "single":
        assert any("I want to finish" in text for text in shown)
        assert any("short prompts first" in text for text in shown)
    assert MARK in cast.texts("researcher")


def slowly(behaviour: Behaviour) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        await behaviour(exchange)

    return behave


def used_and_set_aside(ledger: Ledger) -> list[tuple[int, int]]:
    """Tokens of every request."""
    query = (
        "SELECT m.prompt_tokens + m.completion_tokens, a.reserved_tokens FROM llm_attempts a"
        " JOIN llm_messages m USING (conversation, turn, attempt)"
    )
    with contextlib.closing(sqlite3.connect(ledger.path)) as db:
        return list(db.execute(query))


@pytest.mark.parametrize(
    ("caps", "least"),
    [({"requests": 7}, 7), ({"dollars": 0.075}, 2), ({"tokens": 75_000}, 2), ({"analysis_simulations": 2}, 9)],
)
def test_caps_hold_for_four_conversations_at_once(
    tmp_path: Path, sandbox: Sandbox, caps: dict[str, Any], least: int
) -> None:
    """The server counts what it was sent, a token for two bytes, and is slow: all four are under way together."""

    def counted(*calls: tuple[str, Any]) -> Behaviour:
        async def behave(exchange: Exchange) -> None:
            usage = (len(exchange.request.body) // 2, 400)
            await slowly(says("", calls, usage=usage))(exchange)

        return behave

    runs = [counted(("run_experiment", wanted(text))) for text in VARIANTS]
    asks = [counted(("ask_analyst", {"question": "Who?", "candidate": n})) for n in (0, 1, 2, 3)]
    cast = Cast(
        researcher=[*runs[:4], *asks, *runs[4:]],
        analyst=[counted(("report", {"findings": ["all"]}))],
        supervisor=[slowly(judges())],
    )
    with run_of(cast, tmp_path, mode="parallel", contexts=4, caps=caps) as ledger:
        arm = go(ledger, sandbox)
        found = account(ledger)
        log = MessageLog(ledger.path, write=False)
        spent = log.spent()
        log.close()
        assert all(used <= aside for used, aside in used_and_set_aside(ledger))
    heard = sum(map(len, cast.heard.values()))
    assert found.total.calls == spent.requests == heard >= least
    assert heard <= caps.get("requests", heard)
    assert spent.dollars <= caps.get("dollars", 5.0)
    assert spent.tokens <= caps.get("tokens", 5_000_000)
    if "analysis_simulations" in caps:
        assert found.roles["analyst"].simulations == 2
        assert "the cap of 2 analysis simulations is reached" in cast.texts("researcher")
    assert arm.spent <= SETTINGS.budget


BETTER = GOOD.replace("min(candidates", "min((c for c in candidates if c.worker.num_inflight_requests < 12)").replace(
    "num_inflight_prompt_tokens)", "num_inflight_prompt_tokens, default=None)"
)
"""It wins a tenth, by holding."""


def lengths(seed: int) -> set[int]:
    return set(draw_workload(small_scenario(60), seed).num_prompt_tokens.tolist())


def test_the_researcher_is_told_exactly_what_is_left(tmp_path: Path, sandbox: Sandbox) -> None:
    """Also after policies that fail on one of the seeds only: what failed later was paid for as well."""
    first, second = (lengths(seed) for seed in TRAIN)
    picky = [
        BETTER.replace("return True", f"return 1 // (request.num_prompt_tokens != {min(only)}) > 0")
        for only in (first - second, second - first)
    ]
    cast = Cast(researcher=[experiment(text) for text in [*picky, *VARIANTS]], supervisor=[judges()])
    with run_of(cast, tmp_path) as ledger:
        arm = go(ledger, sandbox)
        found = account(ledger)
        log = MessageLog(ledger.path, write=False)
        results = [call.result for call in log.tool_calls() if call.name == "run_experiment"]
        log.close()
        cost = Counter(record.digest for record in ledger.evaluations("train"))
        made = [cost[candidate.proposal.candidate_hash] for candidate in ledger.candidates("search")]
        failed = Counter(record.digest for record in ledger.evaluations("train") if record.status == "failed")
    assert 2 in [cost[digest] for digest in failed]
    told = [int(result.rpartition("simulations left: ")[2]) for result in results]
    assert len(told) > 4
    assert told == [SETTINGS.budget - sum(made[: n + 1]) for n in range(len(told))]
    assert found.roles["researcher"].simulations == sum(made) == arm.spent


@pytest.mark.parametrize("llm", MODES, ids=lambda llm: llm["mode"])
def test_the_estimate_is_of_the_size_of_what_a_run_spends(
    tmp_path: Path, sandbox: Sandbox, llm: dict[str, Any]
) -> None:
    """Models that think before each experiment, by a server that counts a token for four bytes."""

    def counted(behaviour: Callable[..., Behaviour], *given: Any, tokens: int) -> Behaviour:
        async def behave(exchange: Exchange) -> None:
            await behaviour(*given, usage=(len(exchange.request.body) // 4, tokens))(exchange)

        return behave

    thinks = counted(says, "x" * 2000, [("show_candidate", {"number": 0})], tokens=600)
    tries = [counted(says, "x" * 2000, [("run_experiment", wanted(text))], tokens=1200) for text in VARIANTS]
    judgement = json.dumps({"decision": "deeper", "message": "Why? " * 60})
    cast = Cast(
        researcher=[line for pair in zip([thinks] * 40, tries, strict=True) for line in pair],
        analyst=[says("", [("report", {"findings": ["all"]})])],
        supervisor=[counted(says, judgement, tokens=100)],
    )
    with run_of(cast, tmp_path, **{**llm, "experiments_per_context": 6, "min_experiments": 99}) as ledger:
        go(ledger, sandbox)
        found = account(ledger)
    assert found.estimate is not None
    assert 1 / 3 < found.estimate["tokens"] / (found.total.tokens_in + found.total.tokens_out) < 3
    assert 1 / 3 < found.estimate["dollars"] / found.total.dollars < 3
