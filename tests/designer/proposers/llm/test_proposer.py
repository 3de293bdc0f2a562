"""A whole run with scripted models over HTTP: real sandbox, real ledger, every misbehaviour, and resuming."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from designer.arm import Arm
from designer.evaluations import Evaluator, Job, scores_by_seed
from designer.ledger import Ledger
from designer.proposers.llm.conversation import LlmError
from designer.proposers.llm.message_log import MessageLog
from designer.proposers.llm.proposer import LlmProposer
from designer.sandbox import Sandbox
from designer.sealed import Protocol
from designer.search import Search, SearchError, Settings, Watcher, new_ledger, settings_of
from designer.subject import subject_of_specs
from tests.support.fake_vllm import error
from tests.support.scripted_models import (
    GOOD,
    IMPORTS_OS,
    READS_FUTURE,
    Cast,
    cast_settings,
    cut_stream,
    experiment,
    judges,
    says,
)
from tests.support.small_scenario import small_scenario
from tests.support.threaded import threaded_vllm

PROTOCOL = Protocol(train_seeds=2, validation_seeds=7, finalists=1, sealed_seeds=9)
SETTINGS = Settings(
    proposer="llm",
    budget=12,
    control=False,
    baselines=("least_loaded+fcfs",),
    references=(),
    protocol=PROTOCOL,
    ablation_seeds=0,
    regime_seeds=0,
    why_seeds=0,
)
TRAIN = (5, 6)
VARIANTS = [GOOD.replace("Shortest", f"Variant {n}: shortest") for n in range(40)]


@contextmanager
def run_of(cast: Cast, folder: Path, control: bool = False, **llm: Any) -> Iterator[Ledger]:
    """A run's ledger with its servers up; the run has not begun."""
    with threaded_vllm(cast.script()) as server:
        given = replace(SETTINGS, control=control, llm=cast_settings(server.url, **llm).model_dump(mode="json"))
        with new_ledger(folder, small_scenario(60), given, secret="not so secret") as ledger:
            yield ledger


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(small_scenario(60), jobs=1) as made:
        yield made


def go(ledger: Ledger, sandbox: Sandbox) -> Arm:
    """The search alone, without what follows it."""
    settings, evaluator = settings_of(ledger.run()), Evaluator(ledger, sandbox, ledger.run().scenario_hash)
    reference = evaluator.run("train", [Job(subject_of_specs("least_loaded+fcfs"), seed) for seed in TRAIN])
    assert settings.llm is not None
    with LlmProposer(settings.llm, ledger, sandbox, settings.budget) as proposer:
        arm = Arm("search", proposer, settings.budget, TRAIN, scores_by_seed(reference), evaluator, ledger)
        arm.run()
    return arm


def candidates(ledger: Ledger) -> list[tuple[str, str]]:
    return [(c.proposal.source, c.proposal.hypothesis) for c in ledger.candidates("search")]


def test_everything_at_once_and_the_best_is_tested_on_sealed_seeds(tmp_path: Path) -> None:
    cast = Cast(
        researcher=[
            error(429, headers={"retry-after": "0"}),
            says("I think first."),
            says(calls=[("run_experiment", '{"hypothesis": "cut')]),
            experiment(IMPORTS_OS, "the environment knows"),
            experiment(READS_FUTURE, "the length is known"),
            cut_stream(),
            says(calls=[("ask_analyst", {"question": "Who waits?"})]),
            says(refusal="I cannot help with that."),
            experiment(GOOD, "short prompts first", 0.8),
            says(calls=[("ask_analyst", {"question": "And with it?", "candidate": 2})]),
            says(calls=[("finish", {"reason": "it is good"})]),
        ],
        analyst=[
            says(calls=[("sql", {"query": "SELECT policy, count(*) FROM requests GROUP BY policy"})]),
            says(calls=[("report", {"findings": ["long ones block short ones"]})]),
        ],
        supervisor=[judges(message="What is held?"), judges(), judges(recall=["F1"]), judges("stop", "Enough.")],
    )
    said: list[str] = []
    with run_of(cast, tmp_path, control=True) as ledger:
        search = Search(ledger, jobs=1, watcher=Watcher(say=said.append))
        search.run()
        assert search.arms["control"].spent == search.arms["search"].spent < SETTINGS.budget
        assert [hypothesis for _, hypothesis in candidates(ledger)] == [
            *("the environment knows", "the length is known", "short prompts first"),
        ]
        failures = [e.reason for e in ledger.evaluations("train") if e.status == "failed"]
        assert "import" in failures[0]
        assert len(failures) == 2
        told = cast.texts("researcher")
        assert "candidate 0 failed and counts as spent: breaks the contract" in told
        assert "candidate 1 failed and counts as spent" in told
        assert "long ones block short ones" in told
        assert "candidate 2  60" in cast.texts("analyst").replace("\\n", "\n")
        assert "def route" not in cast.texts("supervisor")
        assert ledger.result("validation") is not None
        assert ledger.result("verdict") is not None
    assert any(line.startswith("llm: estimate, not a bound: ") for line in said)
    assert any("llm: 0 is over: the Supervisor stopped it" in line for line in said)


def test_a_second_run_of_the_same_ledger_buys_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    cast = Cast(
        researcher=[experiment(VARIANTS[0]), says(calls=[("ask_analyst", {"question": "Who?"})]), experiment(GOOD)],
        analyst=[says(calls=[("report", {"findings": ["all"]})])],
        supervisor=[judges()],
    )
    with run_of(cast, tmp_path, caps={"requests": 8}) as ledger:
        go(ledger, sandbox)
        bought = {role: len(heard) for role, heard in cast.heard.items()}
        before = candidates(ledger)
        go(ledger, sandbox)
        assert {role: len(heard) for role, heard in cast.heard.items()} == bought
        assert candidates(ledger) == before
    assert sum(bought.values()) == 8


def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path, sandbox: Sandbox) -> None:
    """Killed in a request: what had been said is not asked again, what is said then is what would have been said."""

    def lines() -> Cast:
        return Cast(researcher=[experiment(text) for text in VARIANTS[:4]], supervisor=[judges()])

    with run_of(lines(), tmp_path / "whole", caps={"requests": 6}) as ledger:
        go(ledger, sandbox)
        whole = candidates(ledger)
    cast = lines()
    with run_of(cast, tmp_path / "killed", caps={"requests": 6}) as ledger:
        cast.lines["supervisor"] = [judges(), error(401)]
        with pytest.raises(LlmError):
            go(ledger, sandbox)
        heard = len(cast.heard["researcher"])
        cast.lines["supervisor"] = [judges()]
        go(ledger, sandbox)
        # The refused request was sent, so it counts: one experiment less fits below the cap.
        assert candidates(ledger) == whole[: len(candidates(ledger))]
        assert len(cast.heard["researcher"]) > heard
        log = MessageLog(ledger.path, write=False)
        turns = [(m.conversation, m.turn) for m in log.messages() if m.reply is not None]
        log.close()
    assert len(turns) == len(set(turns))


def test_overspending_is_refused_before_the_first_request(tmp_path: Path, sandbox: Sandbox) -> None:
    cast = Cast(researcher=[experiment(GOOD)], supervisor=[judges()])
    with run_of(cast, tmp_path, caps={"dollars": 0.001}) as ledger:
        arm = go(ledger, sandbox)
    assert cast.heard["researcher"] == []
    assert arm.spent == 0


def test_contexts_after_each_other_know_what_was_learned(tmp_path: Path, sandbox: Sandbox) -> None:
    cast = Cast(researcher=[experiment(text) for text in VARIANTS], supervisor=[judges()])
    with run_of(cast, tmp_path, mode="sequential", contexts=3, experiments_per_context=1) as ledger:
        go(ledger, sandbox)
        assert len(candidates(ledger)) == 3
    starts = [body["messages"][1]["content"] for body in cast.heard["researcher"]]
    assert ["candidate 0" in text for text in starts] == [False, True, True]
    assert ["candidate 1" in text for text in starts] == [False, False, True]


def test_contexts_side_by_side_know_nothing_of_each_other(tmp_path: Path, sandbox: Sandbox) -> None:
    cast = Cast(researcher=[experiment(text) for text in VARIANTS], supervisor=[judges("stop", "Enough.")])
    with run_of(cast, tmp_path, mode="parallel", contexts=3, min_experiments=2) as ledger:
        go(ledger, sandbox)
        assert len(candidates(ledger)) == 6
        generations = [record.generation for record in ledger.candidates("search")]
    assert generations == [0, 0, 0, 1, 1, 1]
    second = [body["messages"] for body in cast.heard["researcher"][3:]]
    assert all(str(messages).count("times the reference's metric") == 1 for messages in second)


def test_no_key_and_no_line_of_the_servers_is_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    monkeypatch.setenv("RANVIER_LLM_KEY", "sk-very-secret")
    cast = Cast(researcher=[experiment(GOOD)], supervisor=[judges("stop", "sk-very-secret")])
    with run_of(cast, tmp_path, min_experiments=1) as ledger:
        go(ledger, sandbox)
        db = sqlite3.connect(ledger.path)
        assert "sk-very-secret" not in "\n".join(db.iterdump())
        db.close()


@pytest.mark.parametrize("settings", [replace(SETTINGS, llm=None), replace(SETTINGS, proposer="evolve", llm={})])
def test_models_and_the_llm_proposer_go_together(settings: Settings) -> None:
    with pytest.raises(SearchError, match="models are for --proposer llm"):
        settings.check()
