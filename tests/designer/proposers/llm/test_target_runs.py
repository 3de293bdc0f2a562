"""Runs of every kind of target with scripted models over HTTP: told of it, held to it, measured in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from designer.proposers.llm.example import example
from designer.proposers.roster import parse_target
from designer.sealed import Protocol
from designer.search import Search, Settings, new_ledger
from designer.simulator.scenario import Scenario
from designer.subject import load_subject
from designer.targets import baselines_of
from tests.support.scripted_models import Cast, cast_settings, experiment, judges, says
from tests.support.small_scenario import small_scenario
from tests.support.threaded import threaded_vllm

SCALED = small_scenario(
    60,
    workers=[
        {
            "profile": "a10-llama3-8b",
            "count": 1,
            "variant": "a10",
            "max_replicas": 3,
            "cold_start_seconds": 0.5,
            "engine": {"num_gpu_blocks": 120},
        }
    ],
    autoscaling={"interval_seconds": 0.5, "up_delay_seconds": 0.0, "down_delay_seconds": 0.0},
    objective={"metric": "worker_seconds", "penalty_seconds": 100.0, "ttft_slo_seconds": 20.0},
)
FIXED = small_scenario(60)


def settings(target: str, scenario: Scenario, llm: dict[str, Any]) -> Settings:
    return Settings(
        proposer="llm",
        target=target,
        budget=2,
        control=False,
        baselines=baselines_of(target, scenario)[:3],
        references=(),
        protocol=Protocol(train_seeds=1, validation_seeds=7, finalists=1, sealed_seeds=9),
        ablation_seeds=0,
        regime_seeds=0,
        why_seeds=0,
        llm=llm,
    )


def run(target: str, scenario: Scenario, folder: Path, *sources: str) -> tuple[Cast, list[tuple[str, str, Any]]]:
    """Every module is submitted in turn; of those that were run: source, status, slots filled."""
    lines = [experiment(source) for source in sources]
    cast = Cast(
        researcher=[*lines, says(calls=[("finish", {"reason": "done"})])], supervisor=[judges("stop", "Enough.")]
    )
    with threaded_vllm(cast.script()) as server:
        llm = cast_settings(server.url, min_experiments=1).model_dump(mode="json")
        with new_ledger(folder, scenario, settings(target, scenario, llm), secret="of this test") as ledger:
            Search(ledger, jobs=1).run()
            found = []
            for candidate in ledger.candidates("search"):
                digest = candidate.proposal.candidate_hash
                status = {record.status for record in ledger.evaluations("train") if record.digest == digest}
                slots = load_subject(ledger.subject(digest), 1)[0].slots
                found.append((candidate.proposal.source, "/".join(status), slots))
            assert ledger.result("verdict") is not None
    return cast, found


def answers(cast: Cast) -> list[str]:
    """Of the tool, in order."""
    last = cast.heard["researcher"][-1]["messages"]
    return [message["content"] for message in last if message["role"] == "tool"]


@pytest.mark.parametrize(
    ("target", "scenario", "outside", "slots", "method"),
    [
        ("autoscaling", SCALED, "routing", ("autoscaling",), "`desired_replicas`"),
        ("batch", FIXED, "autoscaling", ("batch",), "`waiting_key`, `victim_key` and `prefill_budget`"),
        ("routing,autoscaling", SCALED, "batch", ("routing", "scheduling", "autoscaling"), "`route`"),
        ("scheduling", FIXED, "batch", ("routing", "scheduling"), "`admit` and `key`"),
    ],
)
def test_a_target_is_told_held_to_and_measured(
    tmp_path: Path, target: str, scenario: Scenario, outside: str, slots: tuple[str, ...], method: str
) -> None:
    mine, other = example(parse_target(target)), example(parse_target(outside))
    both = f"{mine.split('def create')[0].rstrip()}\n\n{_methods(other)}\n\ndef create(rng):\n    return Policy()\n"
    empty = "class Policy:\n    pass\n\n\ndef create(rng):\n    return Policy()\n"
    cast, tried = run(target, scenario, tmp_path, empty, other, both, mine)
    assert [(status, filled) for _, status, filled in tried] == [("scored", slots)]
    assert tried[0][0].rstrip() == mine.rstrip()
    refused = answers(cast)[:3]
    assert all(text.startswith("error: ") and text.endswith("; nothing was run") for text in refused)
    assert f"the class that create(rng) returns needs {method}" in refused[0]
    assert all("take out" in text and f"the slot {outside} outside" in text for text in refused[1:])
    system = cast.heard["researcher"][0]["messages"][0]["content"]
    assert method in system
    assert mine in system
    for name in baselines_of(target, scenario)[:3]:
        shown = name.replace("joint/head_room", "a published design")
        assert f"- {shown}: " in system
    assert scenario.objective.metric.replace("_", " ") in system
    assert "def " not in json.dumps(cast.heard["supervisor"])


def _methods(source: str) -> str:
    """Of its class."""
    return source.split("class Policy:\n")[1].split("\n\n\ndef create")[0]
