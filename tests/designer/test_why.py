"""What a gain hangs on: figures of pairs of runs, whatever slots the winner fills."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from designer.executor import LocalExecutor
from designer.findings import read_findings
from designer.ledger import FrozenRecord, Ledger, RunRecord, seed_of
from designer.report import to_html
from designer.sandbox import Sandbox
from designer.search import RunOutcome, new_ledger
from designer.simulator.scenario import Scenario
from designer.subject import Subject, subject_of_specs
from designer.why import WhyError, explain, most_simulations, sentence, stored
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario

BASE = "least_loaded+fcfs"


class OneSandbox(LocalExecutor):
    """Every scenario in the processes of one sandbox, so that tests do not start them anew."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(1)
        self._sandbox = sandbox

    def at(self, scenario: Scenario, deadline_seconds: float) -> Sandbox:
        return self._sandbox.elsewhere(scenario)


@pytest.fixture(scope="module")
def executor() -> Iterator[OneSandbox]:
    with Sandbox(small_scenario(), jobs=1) as sandbox:
        yield OneSandbox(sandbox)


@pytest.fixture(scope="module")
def run(outcome: RunOutcome, executor: OneSandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained") / "run"
    shutil.copytree(outcome.folder, folder)
    with Ledger.open(folder) as ledger:
        explain(ledger, executor, num_seeds=2)
    return folder


@pytest.fixture(scope="module")
def clear(executor: OneSandbox, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """A gain that is large, and told from none on few seeds."""
    return explained(executor, tmp_path_factory.mktemp("clear"), "joint/head_room", BASE, small_scenario(), 4)


def by_name(why: Mapping[str, Any]) -> dict[str, Any]:
    return {row["without"]: row for row in why["interventions"]}


def test_every_figure_can_be_computed_again_from_the_ledger(run: Path) -> None:
    with Ledger.open(run) as ledger:
        why, frozen, record = stored(ledger), ledger.frozen(), ledger.run()
        assert why is not None
        assert frozen is not None
        scenario = Scenario.model_validate_json(record.scenario)
        seeds = [seed_of(record.secret, "why", n, frozen.digest) for n in range(2)]
        evaluations = list(ledger.evaluations("why"))
        others = {e.seed for e in ledger.evaluations() if e.split != "why"}
        scores = {
            digest: [ledger.evaluation(digest, "why", seed, tier, scenario.digest).score for seed in seeds]  # type: ignore[union-attr]
            for digest, tier in ((frozen.digest, "lockstep"), (frozen.comparator, "lockstep"))
            if any(e.digest == digest and e.tier == tier for e in evaluations)
        }
    assert {e.seed for e in evaluations} == set(seeds)
    assert not others & set(seeds)
    assert len(evaluations) + why["winnable"]["simulations"] <= most_simulations(2)
    whole = why["interventions"][0]
    assert sum(scores[frozen.digest]) / 2 == pytest.approx(whole["winner"])
    assert all(e.tier == "lockstep" for e in evaluations if e.digest == frozen.digest)


def test_the_gain_goes_with_what_it_hangs_on(clear: Mapping[str, Any]) -> None:
    """On this scenario, tight in memory, it is memory that is won."""
    rows = by_name(clear)
    assert rows["the shortage of KV memory and seats"]["taken"] > 0.8
    assert rows["holding in the gateway"]["taken"] > 0.3
    assert rows["all of these"]["kind"] == "all"
    assert {row["without"] for row in clear["not_applicable"]} == {"prefix-cache hits", "cold starts"}
    overlap = clear["overlap"]
    taken = sum(row["taken"] for row in clear["interventions"] if row["kind"] == "mechanism")
    assert overlap["one_by_one"] == pytest.approx(taken)
    assert overlap["one_by_one"] + overlap["interaction"] == pytest.approx(overlap["together"])
    assert overlap["left"] == pytest.approx(1.0 - rows["all of these"]["taken"])


def test_the_parts_add_up_to_the_score(clear: Mapping[str, Any]) -> None:
    whole = clear["interventions"][0]
    for policy in ("winner", "comparator"):
        assert sum(row[policy] for row in clear["parts"]) == pytest.approx(whole[policy], rel=1e-6)
    for row in clear["parts"]:
        assert row["saved"] == pytest.approx(row["comparator"] - row["winner"])


def test_what_could_be_won_has_a_reference_above_a_bound(clear: Mapping[str, Any]) -> None:
    won, whole = clear["winnable"], clear["interventions"][0]
    assert won["bound"] <= won["clairvoyant"] < whole["comparator"]
    assert won["bound"] <= whole["winner"]
    before, after = whole["comparator"], whole["winner"]
    assert won["share"] == pytest.approx((before - after) / (before - won["clairvoyant"]))
    assert won["share_of_bound"] == pytest.approx((before - after) / (before - won["bound"]))
    assert won["bound_is_for"] == "policies that answer every request"


def test_it_is_asked_once_for_a_number_of_seeds_and_more_seeds_cost_only_what_is_new(
    run: Path, executor: OneSandbox, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    with Ledger.open(folder) as ledger:
        before = [e.seed for e in ledger.evaluations("why")]
        assert explain(ledger, executor, num_seeds=2) == stored(ledger)
        assert [e.seed for e in ledger.evaluations("why")] == before
        more = explain(ledger, executor, num_seeds=3)
        after = [e.seed for e in ledger.evaluations("why")]
        findings = read_findings(ledger)
    assert len(after) == len(before) * 3 // 2
    assert more["seeds"] == 3
    assert findings.results["why"] == more, "the report shows the one on the most seeds"
    page = to_html(findings)
    assert "Why it wins" in page
    assert "proven lower bound" in page


def explained(
    executor: OneSandbox, folder: Path, winner: str, comparator: str, scenario: Scenario, num_seeds: int = 2
) -> Mapping[str, Any]:
    """Of two policies in a ledger of their own."""
    subjects: list[Subject] = [subject_of_specs(text) for text in (winner, comparator)]
    record = RunRecord("r", 0.0, scenario.name, scenario.model_dump_json(), scenario.digest, {}, "secret")
    with Ledger.create(folder, record) as ledger:
        for subject in subjects:
            ledger.add_subject(subject)
        metric = scenario.objective.metric
        ledger.freeze(FrozenRecord(subjects[0].digest, subjects[1].digest, metric, 0.02, 0.01, 8, 1))
        return explain(ledger, executor, num_seeds=num_seeds)


WORKERS = {"profile": "a10-llama3-8b", "count": 2, "engine": {"num_gpu_blocks": 120}}
SCALED = {
    "workers": [{**WORKERS, "min_replicas": 1, "max_replicas": 4, "cold_start_seconds": 2.0}],
    "autoscaling": {"interval_seconds": 1.0, "up_delay_seconds": 1.0, "down_delay_seconds": 5.0},
}


@pytest.mark.parametrize(
    ("winner", "comparator", "changes", "slots"),
    [
        ("least_tokens", "random+fcfs", {}, set()),
        ("shortest_prompt_first", BASE, {}, set()),
        ("target_tracking:target=4", "target_tracking:target=32", SCALED, set()),
        ("shortest_prompt", BASE, {}, set()),
        ("least_loaded+shortest_prompt", BASE, {}, {"routing", "batch"}),
        ("joint/head_room+target_tracking:target=4", BASE, SCALED, {"routing", "scheduling", "autoscaling"}),
    ],
)
def test_any_kind_of_winner_is_explained(
    executor: OneSandbox, tmp_path: Path, winner: str, comparator: str, changes: dict[str, Any], slots: set[str]
) -> None:
    why = explained(executor, tmp_path / "run", winner, comparator, small_scenario(num_requests=40, **changes))
    found = {row["without"] for row in why["interventions"] if row["kind"] == "slot"}
    assert found == {f"the winner's {slot} rule" for slot in slots}
    assert not any("failure" in row for row in why["interventions"])
    rows = by_name(why)
    assert ("cold starts" in rows) == (changes == SCALED)
    for row in rows.values():
        assert math.isfinite(row["ratio"])


def test_a_gain_that_is_none_is_not_divided_into_shares(executor: OneSandbox, tmp_path: Path) -> None:
    why = explained(executor, tmp_path / "run", "least_loaded", BASE, small_scenario(num_requests=40))
    assert why["interventions"][0]["ratio"] == 1.0
    assert {row["taken"] for row in why["interventions"]} == {None}
    assert why["overlap"] is None
    assert "no part of it can be assigned" in why["sentence"]


def test_another_metric_has_no_reference_and_says_so(executor: OneSandbox, tmp_path: Path) -> None:
    scenario = small_scenario(num_requests=40, objective={"metric": "p99_ttft", "penalty_seconds": 100.0})
    why = explained(executor, tmp_path / "run", "joint/head_room", BASE, scenario)
    assert "about the mean response time, and about nothing else" in why["winnable"]["reason"]


def test_the_sentence_has_figures_with_intervals() -> None:
    rows = [
        {"without": "nothing", "kind": "none", "ratio": 0.5, "t_interval": [0.4, 0.6]},
        {"without": "bursts", "kind": "traffic", "taken": 0.25, "taken_interval": [0.1, 0.4]},
        {"without": "everything", "kind": "all", "taken": 1.0, "taken_interval": [0.9, 1.1]},
    ]
    parts = [
        {"part": "queued", "saved": 3.0, "interval": [2.0, 4.0]},
        {"part": "held", "saved": -1.0, "interval": [-1.5, -0.5]},
        {"part": "decode", "saved": 2.0, "interval": [-1.0, 5.0]},
    ]
    said = sentence(rows, parts)
    assert "0.500 [0.400, 0.600]" in said
    assert "spends 3.00 s queued in the engines less, and 1.00 s more held in the gateway" in said
    assert "Without bursts 25% [10%, 40%] of the gain is gone" in said
    assert "decoding" not in said, "what may be none is not told"


def test_without_a_winner_there_is_nothing_to_explain(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger, pytest.raises(WhyError, match="no winner"):
        explain(ledger, LocalExecutor(1))


def test_a_winner_that_fails_is_not_explained(executor: OneSandbox, tmp_path: Path) -> None:
    with pytest.raises(WhyError, match="no policy"):
        explained(executor, tmp_path / "run", str(_broken(tmp_path)), BASE, small_scenario(num_requests=40))


def _broken(folder: Path) -> Path:
    path = folder / "broken.py"
    path.write_text('def create(rng):\n    raise ValueError("no policy")\n')
    return path
