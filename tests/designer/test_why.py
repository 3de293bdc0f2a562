"""What a gain consists of: the parts add up, and an intervention that takes the reason away takes the gain."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from designer.findings import read_findings
from designer.ledger import Ledger
from designer.report import to_html
from designer.search import RunOutcome, new_ledger
from designer.why import WhyError, explain, sentence, traffic
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


@pytest.fixture(scope="module")
def run(outcome: RunOutcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained") / "run"
    shutil.copytree(outcome.folder, folder)
    with Ledger.open(folder) as ledger:
        explain(ledger, num_seeds=2)
    return folder


def test_parts_and_interventions_are_in_the_ledger_and_the_report(run: Path) -> None:
    with Ledger.open(run) as ledger:
        findings = read_findings(ledger)
        assert explain(ledger, num_seeds=2) == findings.results["why"]
    why = findings.results["why"]
    whole = why["interventions"][0]
    assert whole["share"] == 1.0
    for n, column in enumerate(("comparator", "winner")):
        assert sum(why["policies"][n]["parts"].values()) == pytest.approx(whole[column], rel=1e-6)
    by_name = {row["without"]: row for row in why["interventions"]}
    assert by_name["the shortage of KV memory"]["winner"] < whole["winner"]
    assert why["winnable"]["bound"] <= why["winnable"]["clairvoyant"]
    page = to_html(findings)
    assert "Why it wins" in page
    assert "The traffic" in page


def test_the_sentence_names_what_was_saved_and_what_it_cost() -> None:
    before, after = {"held": 0.0, "queued": 5.0, "decode": 1.0}, {"held": 1.0, "queued": 2.0, "decode": 1.0}
    rows = [
        {"without": "nothing", "gain": 2.0, "share": 1.0},
        {"without": "half of the load", "gain": 0.2, "share": 0.1},
    ]
    said = sentence(before, after, rows)
    assert "saves 3.00 s from waiting in the engines" in said
    assert "spends 1.00 s more for waiting in the gateway" in said
    assert "Without half of the load, 10% of its gain is left" in said


def test_traffic_is_told_in_figures() -> None:
    lines = list(traffic(small_scenario(), 1))
    assert lines[0].startswith("120 requests; the longest tenth")
    assert len(lines) == 5


def test_without_a_winner_there_is_nothing_to_explain(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger, pytest.raises(WhyError, match="no winner"):
        explain(ledger)
