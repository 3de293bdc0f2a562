"""kill -9 in the middle of conversations, in every mode: what goes on tells the same history and buys nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from designer.ledger import Ledger
from designer.proposers.llm.account import account, conversation
from designer.proposers.llm.message_log import MessageLog
from tests.support.fake_connection import Behaviour, Exchange, Recorded
from tests.support.fake_vllm import choose
from tests.support.killed_llm_run import MODES
from tests.support.killed_run import ROOT
from tests.support.scripted_models import GOOD, experiment, judges, says
from tests.support.threaded import threaded_vllm

KILLS = int(os.environ.get("RANVIER_KILLS", "1"))
"""Of each mode; of conversations side by side twice as many."""


def thoughtful(heard: list[str]) -> Behaviour:
    """Models that answer to what they were sent and to nothing else, each at its own pace."""

    def pick(request: Recorded) -> Behaviour:
        messages = request.json["messages"]
        digest = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
        heard.append(digest)
        return _after(int(digest[:2], 16) / 25_600, _reply(str(request.json["model"]), messages, digest))

    return choose(pick)


def _reply(role: str, messages: list[dict[str, Any]], digest: str) -> Behaviour:
    if role == "supervisor":
        return judges(message=f"Why {digest[:6]}?")
    if role == "analyst":
        return says("", [("report", {"findings": [f"found {digest[:6]}"]})])
    if sum(message["role"] == "assistant" for message in messages) % 3 == 1:
        return says("", [("ask_analyst", {"question": f"Who waits, {digest[:6]}?"})])
    return experiment(GOOD.replace("Shortest", f"Variant {digest[:6]}: shortest"), f"because of {digest[:6]}")


def _after(seconds: float, behaviour: Behaviour) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await behaviour(exchange)

    return behave


def run(folder: Path, url: str, mode: str, last: int = 0) -> int:
    """Its exit status."""
    command = [sys.executable, "-m", "tests.support.killed_llm_run", str(folder), url, mode, str(last)]
    return subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, timeout=60).returncode


def history(folder: Path) -> dict[str, Any]:
    """What was said in each conversation and what was tried, without times."""
    with Ledger.open(folder) as ledger:
        names = sorted({row.conversation for row in conversation(ledger)})
        said = {
            name: [
                (row.turn, row.kind, row.text, row.tool, row.result)
                for row in conversation(ledger)
                if row.conversation == name and row.kind != "failed"
            ]
            for name in names
        }
        tried = [(c.proposal.candidate_hash, c.proposal.hypothesis) for c in ledger.candidates("search")]
        scores = {(e.digest, e.seed): e.score for e in ledger.evaluations("train")}
    return {"said": said, "tried": tried, "scores": scores}


@pytest.mark.parametrize("mode", list(MODES))
def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path: Path, mode: str) -> None:
    heard: list[str] = []
    moments = random.Random(mode)
    with threaded_vllm(thoughtful(heard)) as server:
        assert run(tmp_path / "whole", server.url, mode) == 0
        whole, asked = history(tmp_path / "whole"), len(heard)
        assert len(whole["tried"]) > 3
        assert len(heard) == len(set(heard)) or mode == "parallel"
        heard.clear()
        kills = 0
        for _ in range(KILLS * (1 + (mode == "parallel"))):
            kills += run(tmp_path / "killed", server.url, mode, moments.randrange(5, 30)) == -signal.SIGKILL
        assert run(tmp_path / "killed", server.url, mode) == 0
        assert kills > 0
    assert history(tmp_path / "killed") == whole
    with Ledger.open(tmp_path / "killed") as ledger:
        found = account(ledger)
    log = MessageLog(tmp_path / "killed" / "ledger.sqlite", write=False)
    turns = [(m.conversation, m.turn) for m in log.messages() if m.reply is not None]
    log.close()
    assert len(turns) == len(set(turns)) == asked
    # Only what was under way when it died is asked again, and that is in the account as a failure.
    at_once = MODES[mode].get("contexts", 1) if mode == "parallel" else 1
    assert len(heard) <= asked + kills * at_once
    assert found.total.calls == asked + found.total.failures
    assert found.total.failures <= kills * at_once
