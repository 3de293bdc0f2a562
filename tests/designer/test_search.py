"""Whole runs on a scenario that takes hundredths of a second: what they find, write and cost."""

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from designer.ledger import LEDGER_FILE, Ledger
from designer.sealed import Protocol
from designer.search import RunOutcome, Search, SearchError, Settings, Watcher, new_ledger, settings_of
from designer.subject import subject_of_specs
from policies.loader import resolve
from tests.support.finished_run import PROTOCOL, SETTINGS, finished_run
from tests.support.small_scenario import small_scenario


def test_a_run_finds_a_better_policy_and_proves_it_on_sealed_seeds(outcome: RunOutcome) -> None:
    assert outcome.verdict == "better"
    with Ledger.open(outcome.folder) as ledger:
        frozen = ledger.frozen()
        assert frozen is not None
        assert frozen.digest == outcome.winner
        sealed = ledger.result("sealed 2") or ledger.result("sealed 1")
        assert sealed["verdict"] == "better"
        assert sealed["num_seeds"] in (PROTOCOL.sealed_seeds, 2 * PROTOCOL.sealed_seeds)
        ratios = {row["label"]: row["ratio"] for row in sealed["against"]}
        assert ratios["least_loaded+fcfs"] < 0.9
        assert outcome.policy.read_bytes() == ledger.subject(frozen.digest).parts[0].source.encode()


def test_the_arms_get_the_same_budget(outcome: RunOutcome) -> None:
    spent = [outcome.simulations[arm] for arm in ("search", "control", "tuned")]
    assert spent == [SETTINGS.budget] * 3


def test_the_best_tuned_baseline_stands_among_the_comparators(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        validation = ledger.result("validation")
        assert validation["controls"].keys() == {"control", "tuned"}
        tuned = validation["controls"]["tuned"]
        assert validation["comparator_label"].startswith("tuned-baseline ") == (tuned["ratio"] == 1.0)


def test_splits_share_no_seed(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        seeds = {split: {e.seed for e in ledger.evaluations(split)} for split in ("train", "validation", "sealed")}
    sizes = [len(found) for found in seeds.values()]
    assert sizes[:2] == [3, 8]
    assert len(set().union(*seeds.values())) == sum(sizes)


def test_every_score_that_counts_comes_from_two_processes(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        baselines = {subject_of_specs(text).digest for text in (*SETTINGS.baselines, *SETTINGS.references)}
        for evaluation in (*ledger.evaluations("validation"), *ledger.evaluations("sealed")):
            assert evaluation.tier == ("together" if evaluation.digest in baselines else "lockstep")


def test_the_freeze_comes_before_the_first_sealed_simulation(outcome: RunOutcome) -> None:
    db = sqlite3.connect(outcome.folder / LEDGER_FILE)
    ((frozen_at,),) = db.execute("SELECT at FROM frozen").fetchall()
    ((first_sealed,),) = db.execute("SELECT min(at) FROM evaluations WHERE split = 'sealed'").fetchall()
    db.close()
    assert frozen_at <= first_sealed


def test_resuming_a_finished_run_simulates_nothing_and_says_the_same(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        before = len(list(ledger.evaluations()))
        again = Search(ledger).run()
        assert len(list(ledger.evaluations())) == before
    assert dataclasses.replace(again, wall_seconds=0.0) == dataclasses.replace(outcome, wall_seconds=0.0)


class Killed(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_to_the_same_history(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, budget=12, control=False)
    left = [2]

    def stop(_: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    with pytest.raises(Killed):
        finished_run(tmp_path / "stopped", settings, Watcher(on_search=stop))
    whole = finished_run(tmp_path / "whole", settings)
    with Ledger.open(tmp_path / "stopped") as ledger:
        known = len(list(ledger.evaluations()))
        again = Search(ledger).run()
        assert len(list(ledger.evaluations())) > known > 0
    assert (again.verdict, again.winner) == (whole.verdict, whole.winner)
    assert _history(tmp_path / "stopped") == _history(tmp_path / "whole")


def test_files_named_as_baseline_and_reference_are_what_they_were_at_the_start(tmp_path: Path) -> None:
    mine = {name: tmp_path / f"my_{name}.py" for name in ("least_loaded", "round_robin")}
    for name, path in mine.items():
        path.write_bytes(resolve(name)[0].read_bytes() + b"\n# mine\n")
    baseline, reference = (f"{path}+fcfs" for path in mine.values())
    settings = dataclasses.replace(
        SETTINGS, budget=12, control=False, baselines=(baseline,), references=(reference,), ablation_seeds=0
    )

    def stop(_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        finished_run(tmp_path / "run", settings, Watcher(on_search=stop))
    mine["least_loaded"].write_text("changed since")
    mine["round_robin"].unlink()
    with Ledger.open(tmp_path / "run") as ledger:
        assert Search(ledger).run().verdict != "nothing better"
        frozen = ledger.frozen()
        assert frozen is not None
        assert ledger.subject(frozen.comparator).parts[0].source.endswith("# mine\n")
        assert ledger.named(reference).label == reference


def _history(folder: Path) -> tuple[list[object], list[object]]:
    with Ledger.open(folder) as ledger:
        candidates: list[object] = [(c.arm, c.number, c.proposal) for c in ledger.candidates()]
        evaluations: list[object] = [(e.digest, e.split, e.seed, e.tier, e.score) for e in ledger.evaluations()]
    return candidates, sorted(evaluations, key=repr)


def test_a_run_that_finds_nothing_says_so(tmp_path: Path) -> None:
    """One simulation buys one founder, which never holds and so cannot be much better than the reference."""
    settings = dataclasses.replace(SETTINGS, budget=1, control=False)
    outcome = finished_run(tmp_path / "short", settings)
    assert outcome.verdict == "nothing better"
    assert (outcome.winner, outcome.policy) == (None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(proposer="oracle"), "no proposer 'oracle'; one of evolve, random"),
        (Settings(budget=0), "budget must be at least 1"),
        (Settings(protocol=Protocol(sealed_seeds=3)), "3 sealed seeds can never show"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, settings: Settings, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        new_ledger(tmp_path / "run", small_scenario(), settings)


def test_settings_come_back_from_the_ledger(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger:
        assert settings_of(ledger.run()) == SETTINGS


def test_every_run_has_a_secret_of_its_own(tmp_path: Path) -> None:
    secrets = set()
    for name in ("a", "b"):
        with new_ledger(tmp_path / name, small_scenario(), SETTINGS) as ledger:
            secrets.add(ledger.run().secret)
    assert len(secrets) == 2
    assert all(len(secret) == 64 for secret in secrets)
