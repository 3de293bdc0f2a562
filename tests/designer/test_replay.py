"""Pairs of real runs beside the simulator: what is kept of each, where candidates run, what promotion makes of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from designer.fidelity import Comparison, Fidelity, Hosting, Side, Times, compare
from designer.findings import read_findings
from designer.going_on import going_on
from designer.ledger import Ledger, LedgerError
from designer.processes import ProcessError, running_mock_workers
from designer.promote import PromotionError, promote
from designer.promotion_evidence import evidence_of
from designer.replay import Conditions, ReplayError, replay, state_of
from designer.replay_evidence import MAX_ABORTED, judged, pair_result, pairs_in
from designer.search import RunOutcome, new_ledger
from designer.simulator.scenario import Scenario
from tests.support.batch_winner import with_batch_winner
from tests.support.finished_run import SETTINGS
from tests.support.ledger_copy import copied
from tests.support.replay_pairs import aborted, pairs, write
from tests.support.small_scenario import small_scenario

WORSE = [1.05, 1.04, 1.06, 1.05, 1.05, 1.06, 1.04]


def comparison(real: float, simulated: float, verdict: str = "valid") -> Comparison:
    def side(mean: float) -> Side:
        return Side(10, 10, Times(mean / 10, mean / 2), Times(mean, mean * 3))

    return Comparison("p", side(real), side(simulated), verdict, 0.001)


def runner(seen: list[tuple[list[str], int]], verdict: str = "valid") -> Callable[..., Fidelity]:
    """In place of the real runs of a pair."""

    def run_pair(scenario: Scenario, policies: Sequence[str], seed: int, folder: Path, **rest: object) -> Fidelity:
        assert isinstance(rest["hosting"], Hosting)
        seen.append((list(policies), seed))
        made = [replace(comparison(n + 1.0, 1.0, verdict), policy=policy) for n, policy in enumerate(sorted(policies))]
        return Fidelity(scenario.name, seed, 1.0, tuple(made))

    return run_pair


def test_a_run_without_a_winner_has_nothing_to_replay(tmp_path: Path) -> None:
    with (
        new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger,
        pytest.raises(ReplayError, match="no winner"),
    ):
        replay(ledger, pairs=3)


def test_code_that_was_not_shown_to_be_better_is_not_run(outcome: RunOutcome, tmp_path: Path) -> None:
    change = "UPDATE results SET content = '{\"verdict\": \"undecided\"}' WHERE kind = 'verdict'"
    seen: list[tuple[list[str], int]] = []
    with copied(outcome.folder, tmp_path / "run", change) as ledger:
        with pytest.raises(ReplayError, match="'undecided', not 'better'; see --force"):
            replay(ledger, pairs=1, run_pair=runner(seen))
        assert not seen
        replay(ledger, pairs=1, force=True, run_pair=runner(seen))
    assert len(seen) == 1


def test_a_winner_with_batch_rules_is_not_replayed_without_them(outcome: RunOutcome, tmp_path: Path) -> None:
    with with_batch_winner(outcome, tmp_path / "run", "routing", "batch") as ledger:
        with pytest.raises(ReplayError, match="has batch rules, and neither mock workers nor a gateway run these"):
            replay(ledger, pairs=1, run_pair=runner([]))
        assert not list(pairs_in(ledger))


def test_pairs_alternate_and_every_one_has_a_seed_of_its_own(outcome: RunOutcome, tmp_path: Path) -> None:
    """Over replays too. The bytes that a gateway is given are those that were evaluated."""
    shutil.copytree(outcome.folder, tmp_path / "run")
    seen: list[tuple[list[str], int]] = []
    with Ledger.open(tmp_path / "run") as ledger:
        frozen = ledger.frozen()
        told = [replay(ledger, pairs=n, run_pair=runner(seen)) for n in (3, 2)]
        assert [one["pairs"] for one in told] == [3, 5]
        assert ledger.result(pair_result(5))["state"] == "valid"
        assert ledger.result(pair_result(6)) is None
    orders = [order for order, _ in seen]
    assert orders[0] == orders[1][::-1] == orders[2] == orders[3][::-1]
    assert len({seed for _, seed in seen}) == 5
    (mine,) = [policy for policy in orders[0] if policy.endswith(".py") and frozen.digest[:12] in policy]
    assert hashlib.sha256(Path(mine).read_bytes()).hexdigest() == frozen.digest


def test_two_replays_at_once_do_not_write_the_same_pair(outcome: RunOutcome, tmp_path: Path) -> None:
    shutil.copytree(outcome.folder, tmp_path / "run")
    seen: list[tuple[list[str], int]] = []
    with Ledger.open(tmp_path / "run") as ledger:
        with going_on(tmp_path / "run"), pytest.raises(LedgerError, match="is going on with this run"):
            replay(ledger, pairs=1, run_pair=runner(seen))
        assert not seen
        assert judged(list(pairs_in(ledger))) is None


def test_invalid_and_aborted_pairs_are_kept(outcome: RunOutcome, tmp_path: Path) -> None:
    shutil.copytree(outcome.folder, tmp_path / "run")

    def broken(*_: object, **__: object) -> Fidelity:
        raise ProcessError("the gateway did not become ready")

    with Ledger.open(tmp_path / "run") as ledger:
        told = replay(ledger, pairs=2, run_pair=runner([], "invalid: the client fell behind"))
        assert (told["pairs"], told["invalid"], told["aborted"]) == (0, 2, 0)
        with pytest.raises(ProcessError):
            replay(ledger, pairs=1, run_pair=broken)
        told = judged(list(pairs_in(ledger)))
        assert (told["pairs"], told["invalid"], told["aborted"]) == (0, 2, 1)
        assert ledger.result(pair_result(1))["winner"]["verdict"] == "invalid: the client fell behind"


def stopped(scenario: Scenario, policies: Sequence[str], seed: int, folder: Path, **rest: object) -> Fidelity:
    """The first policy of the pair is measured, and then somebody presses Ctrl-C."""
    on_policy = rest["on_policy"]
    assert callable(on_policy)
    on_policy(replace(comparison(9.0, 4.0), policy=policies[0]))
    raise KeyboardInterrupt


def test_a_pair_that_is_stopped_leaves_what_was_measured(outcome: RunOutcome, tmp_path: Path) -> None:
    shutil.copytree(outcome.folder, tmp_path / "run")
    with Ledger.open(tmp_path / "run") as ledger:
        with pytest.raises(KeyboardInterrupt):
            replay(ledger, pairs=1, run_pair=stopped)
        told = replay(ledger, pairs=1, run_pair=runner([]))
        gate = evidence_of(ledger, forced=False)["gates"]["replay"]
        shown = read_findings(ledger).replays
    said = "1 pair was begun and not ended (mean response times until then: pair 1: winner 9.000 s, simulated 4.000 s)."
    for one in (told, gate, shown):
        assert one["aborted"] == 1
        assert one["aborted_pairs"][0]["measured"] == {"winner": {"real": 9.0, "simulated": 4.0}}
        assert said in one["sentence"]


def test_more_aborted_pairs_than_a_few_are_no_evidence(outcome: RunOutcome, tmp_path: Path) -> None:
    shutil.copytree(outcome.folder, tmp_path / "run")
    with Ledger.open(tmp_path / "run") as ledger:
        write(ledger, [*pairs([0.81, 0.79, 0.80, 0.82, 0.80], 0.8), *(aborted(6 + n) for n in range(MAX_ABORTED))])
        assert not promote(ledger, tmp_path / "few.py").forced
        assert evidence_of(ledger, forced=False)["gates"]["replay"]["passed"]
        write(ledger, [aborted(6 + MAX_ABORTED)])
        with pytest.raises(PromotionError, match="3 replay pairs were begun and not ended, and at most 2 may be"):
            promote(ledger, tmp_path / "many.py")
        assert not evidence_of(ledger, forced=False)["gates"]["replay"]["passed"]
        assert promote(ledger, tmp_path / "many.py", force=True).forced


@pytest.mark.parametrize(
    ("first", "second", "comparator", "state"),
    [
        ("", "valid", "valid", "valid"),
        ("invalid: 3 requests lost", "valid", "valid", "valid"),
        ("invalid: 3 requests lost", "invalid: 1 requests lost", "valid", "lost"),
        ("invalid: the client fell behind", "invalid: 1 requests lost", "valid", "invalid"),
        ("invalid: 3 requests lost", "invalid: 3 requests lost", "invalid: 2 requests lost", "invalid"),
        ("", "valid", "invalid: 2 requests lost", "invalid"),
        ("invalid: the client fell behind", "invalid: the client fell behind", "valid", "invalid"),
    ],
)
def test_what_a_pair_is(first: str, second: str, comparator: str, state: str) -> None:
    winner = replace(comparison(1, 1, second), first_verdict=first)
    assert state_of(winner, comparison(1, 1, comparator)) == state


def test_times_that_are_not_there_are_null(outcome: RunOutcome, tmp_path: Path) -> None:
    shutil.copytree(outcome.folder, tmp_path / "run")

    def silent(scenario: Scenario, policies: Sequence[str], seed: int, folder: Path, **_: object) -> Fidelity:
        side = Side(10, 0, Times.of([]), Times.of([]))
        made = [Comparison(policy, side, side, "invalid: nothing answered", float("nan")) for policy in policies]
        return Fidelity(scenario.name, seed, 1.0, tuple(made))

    with Ledger.open(tmp_path / "run") as ledger:
        replay(ledger, pairs=1, run_pair=silent)
        pair = ledger.result(pair_result(1))
    assert pair["winner"]["lag_p99"] is None
    assert pair["winner"]["real"]["ttft"] == {"mean": None, "p99": None}


def test_promotion_heeds_all_replays_and_carries_them(outcome: RunOutcome, tmp_path: Path) -> None:
    shutil.copytree(outcome.folder, tmp_path / "run")
    target = tmp_path / "live" / "designed.py"
    target.parent.mkdir()
    with Ledger.open(tmp_path / "run") as ledger:
        write(ledger, pairs(WORSE, 0.8))
        with pytest.raises(PromotionError, match="contradicts the simulator"):
            promote(ledger, target)
        assert promote(ledger, target, force=True).forced
        write(ledger, pairs([0.81, 0.79, 0.80], 0.8, first=8))
        with pytest.raises(PromotionError, match="10 valid pairs"):
            promote(ledger, target)
        write(ledger, pairs([0.75, 0.76, 0.74, 0.77] * 6, 0.8, first=11))
        version = promote(ledger, target)
        said = read_findings(ledger).replays["sentence"]
    assert version.replay == said
    assert not version.forced
    assert said in target.read_text()
    assert said in (target.parent / ".promoted" / f"{version.file_sha256}.json").read_text()


def small_and_brief(folder: Path, outcome: RunOutcome) -> Ledger:
    """The finished run, with a scenario of a dozen requests in its place: real time is what a real replay takes."""
    scenario = small_scenario(12)
    arrivals = {"process": "lognormal", "rate": 30.0, "sigma": 0.5}
    workload = {**json.loads(scenario.model_dump_json())["workload"], "arrivals": arrivals}
    text = scenario.model_copy(update={"workload": type(scenario.workload).model_validate(workload)}).model_dump_json()
    quoted = text.replace("'", "''")
    return copied(outcome.folder, folder, f"UPDATE run SET scenario = '{quoted}'")


def test_a_real_pair_in_cages_over_workers_that_run_elsewhere(outcome: RunOutcome, tmp_path: Path) -> None:
    """``--worker``: mock workers that were started apart, by another name for loopback; answers of a given length."""
    with (
        running_mock_workers(["--count", "2", "--profile", "a10-llama3-8b", "--speed", "4"]) as urls,
        small_and_brief(tmp_path / "run", outcome) as ledger,
    ):
        named = tuple(url.replace("127.0.0.1", "localhost") for url in urls)
        told = replay(ledger, pairs=1, conditions=Conditions(speed=4.0, workers=named), run_pair=compare)
        pair = ledger.result(pair_result(1))
    (one,) = told["conditions"]
    assert one["workers"] == f"workers at {', '.join(named)}"
    for policy in ("winner", "comparator"):
        assert pair[policy]["real"]["num_requests"] == pair[policy]["real"]["num_completed"] == 12
        assert pair[policy]["simulated"]["num_completed"] == 12
    assert "rlimits" in pair["layers"]
    records = sorted((tmp_path / "run" / "replay" / "pair-1").glob("*.records.jsonl"))
    trace = (tmp_path / "run" / "replay" / "pair-1" / "trace.jsonl").read_text().splitlines()
    lengths = {record["request_id"]: record["output_length"] for record in map(json.loads, trace)}
    assert len(records) == 2
    for record in (json.loads(line) for path in records for line in path.read_text().splitlines()):
        assert record["num_output_tokens"] == lengths[record["request_id"]]


def test_a_worker_that_cannot_be_reached_from_a_cage_is_refused(outcome: RunOutcome, tmp_path: Path) -> None:
    shutil.copytree(outcome.folder, tmp_path / "run")
    for url, why in (("https://localhost:1", "look none up"), ("ftp://x", "http://HOST:PORT")):
        with Ledger.open(tmp_path / "run") as ledger, pytest.raises(ReplayError, match=why):
            replay(ledger, pairs=1, conditions=Conditions(workers=(url,)), run_pair=runner([]))
    with Ledger.open(tmp_path / "run") as ledger:
        assert not list(pairs_in(ledger))
