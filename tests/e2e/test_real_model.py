"""The ``llm`` proposer with a real model, however small: it need not design well, and nothing may break.

    RANVIER_LLM_URL=http://127.0.0.1:8000/v1 RANVIER_LLM_MODEL=smollm2-135m pytest tests/e2e/test_real_model.py -s

The settings are for a model of a hundred million parameters on a processor: short prompts, tools called in text, few
and short replies. The server is told the form of a reply; RANVIER_LLM_STRUCTURED=none leaves that out.
RANVIER_LLM_TOOLS=native has tools called by the protocol.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from designer.cli import app
from designer.proposers.llm.settings import LlmSettings, make_settings
from designer.sealed import Protocol
from designer.search import Search, Settings, Watcher, new_ledger
from tests.support.small_scenario import small_scenario

URL = os.environ.get("RANVIER_LLM_URL", "")
MODEL = os.environ.get("RANVIER_LLM_MODEL", "")
STRUCTURED = os.environ.get("RANVIER_LLM_STRUCTURED", "json_schema")
TOOLS = os.environ.get("RANVIER_LLM_TOOLS", "text")
REQUESTS = int(os.environ.get("RANVIER_LLM_REQUESTS", "12"))
pytestmark = pytest.mark.skipif(
    not (URL and MODEL), reason="RANVIER_LLM_URL and RANVIER_LLM_MODEL name no served model"
)

SETTINGS = Settings(
    proposer="llm",
    budget=16,
    control=False,
    baselines=("least_loaded+fcfs",),
    references=(),
    protocol=Protocol(train_seeds=2, validation_seeds=7, finalists=1, sealed_seeds=9),
    ablation_seeds=0,
    regime_seeds=0,
    why_seeds=0,
)


def settings() -> LlmSettings:
    made = make_settings(model=MODEL, base_url=URL, price="0", prompts="small")
    role = {"tools": TOOLS, "structured": STRUCTURED, "max_tokens": 320, "context_tokens": 4096, "temperature": 0.7}
    roles = {name: {**getattr(made, name).model_dump(), **role} for name in ("researcher", "analyst", "supervisor")}
    caps = {"requests": REQUESTS, "seconds": 900.0, "dollars": 0.0}
    limits = {"mode": "sequential", "contexts": 8, "experiments_per_context": 3, "analyst_turns": 2, "caps": caps}
    return LlmSettings.model_validate({**made.model_dump(), **roles, **limits})


def test_a_small_model_breaks_nothing(tmp_path: Path) -> None:
    given = replace(SETTINGS, llm=settings().model_dump(mode="json"))
    said: list[str] = []
    with new_ledger(tmp_path / "run", small_scenario(60), given) as ledger:
        outcome = Search(ledger, jobs=1, watcher=Watcher(say=said.append)).run()
        candidates = list(ledger.candidates("search"))
        failures = [record.reason for record in ledger.evaluations("train") if record.status == "failed"]
    assert outcome.verdict in ("better", "nothing better", "undecided", "worse")
    shown = CliRunner().invoke(app, ["messages", str(tmp_path / "run"), "--json"])
    assert shown.exit_code == 0, shown.stderr
    told = json.loads(shown.stdout)
    assert sum(role["replies"] for role in told["usable"].values()) > 0
    assert len(told["messages"]) <= REQUESTS
    print(json.dumps({"usable": told["usable"], "spent": told["spent"], "ends": told["ends"]}, indent=1))
    print(f"{len(candidates)} candidates, {len(failures)} failed:", *failures, sep="\n  ")
    print(outcome.verdict, *said, sep="\n")
    again = CliRunner().invoke(app, ["messages", str(tmp_path / "run")])
    print(again.stdout)
