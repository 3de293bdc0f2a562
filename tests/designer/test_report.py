import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from designer.findings import Findings, read_findings
from designer.ledger import Ledger
from designer.report import to_html, to_json, to_text, verdict_line, write_html
from designer.search import RunOutcome, new_ledger
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


@pytest.fixture(scope="module")
def findings(outcome: RunOutcome) -> Findings:
    with Ledger.open(outcome.folder) as ledger:
        return read_findings(ledger)


def test_findings_are_those_of_the_run(findings: Findings, outcome: RunOutcome) -> None:
    assert findings.verdict == outcome.verdict
    assert findings.winner_source == outcome.policy.read_text()
    assert findings.simulations["search"] >= SETTINGS.budget
    assert sum(findings.simulations.values()) == sum(outcome.simulations.values())
    assert 0.0 < findings.share_beating_reference("control") < 1.0
    assert findings.curves["search"][-1][0] == SETTINGS.budget
    assert findings.selection_bias == pytest.approx(findings.sealed[-1]["ratio"] / findings.winner_train_ratio)


def test_the_lineage_leads_from_the_winner_to_one_without_parents(findings: Findings) -> None:
    chain = findings.lineage()
    assert chain[0].record.proposal.candidate_hash == findings.frozen.digest
    assert chain[-1].record.proposal.parents == ()
    for child, parent in itertools.pairwise(chain):
        assert child.record.proposal.parents[0] == parent.record.proposal.candidate_hash


def test_the_text_says_the_verdict_and_the_policy(findings: Findings) -> None:
    text = to_text(findings)
    assert verdict_line(findings) in text
    assert text.splitlines()[1].startswith("Better than ")
    assert "joint/head_room" in text
    assert "Why it should work:" in text


def test_the_page_stands_alone_and_shows_everything(findings: Findings, tmp_path: Path) -> None:
    write_html(findings, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for heading in ("Best so far", "Sealed result", "Validation", "The policy", "Lineage", "random control"):
        assert heading in page
    assert "class DesignedPolicy" in page
    assert 'src="http' not in page
    assert 'href="http' not in page.split("</style>")[0]
    assert "<script" not in page
    assert page.count("<svg") >= 3
    for text in ("In short", "designer promote", "designer rollback", "How sure.", "Hypotheses", "<span class='add'>"):
        assert text in page


def test_components_of_unknown_worth_are_named(findings: Findings) -> None:
    rows = findings.results["ablation"]["rows"]
    more = {"component": "the <limit>", "kind": "limit", "digest": "d", "failure": "ran out of memory"}
    ablation = {**findings.results["ablation"], "rows": [*rows, more], "not_tried": ["the order"]}
    page = to_html(dataclasses.replace(findings, results={**findings.results, "ablation": ablation}))
    assert "Not known: what these are worth: the &lt;limit&gt; (failed); the order." in page
    assert "Not known: what these" not in to_html(findings)


def test_a_certificate_of_an_earlier_version_can_be_shown(findings: Findings) -> None:
    row = {"label": "joint/expert", "ratio": 0.9}
    cell = {"regime": "KV x1", "won": True, "measured": {"preempted_share": 0.1}, "against": [row]}
    worst = {"regime": "KV x1", "label": "joint/expert", "ratio": 0.9}
    ranges = {"preempted_share": [0.1, 0.1]}
    certificate = {"seeds": 4, "cells": [cell], "worst": worst, "won_in": ranges, "failed": []}
    page = to_html(dataclasses.replace(findings, results={**findings.results, "certificate": certificate}))
    assert "Won in 1 of 1 regimes, each by a 95 % interval of its own" in page
    assert "preempted_share" in page


def test_json_can_be_read_by_a_program(findings: Findings) -> None:
    data = json.loads(json.dumps(to_json(findings)))
    assert data["verdict"] == "better"
    assert data["comparator"] in SETTINGS.baselines or data["comparator"].startswith("tuned-baseline ")
    assert data["sealed"][0]["against"][0]["ratio"] == data["sealed"][0]["ratio"]


def test_a_run_that_has_not_ended_can_be_reported(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger:
        findings = read_findings(ledger)
    assert "has not ended" in verdict_line(findings)
    assert "has not ended" in to_text(findings)
    write_html(findings, tmp_path / "report.html")


def test_the_tail_is_shown_beside_the_mean(findings: Findings) -> None:
    assert findings.frozen is not None
    tail = findings.tails[findings.frozen.digest]
    assert tail["mean_response_time"] == pytest.approx(findings.sealed[-1]["mean"])
    assert tail["p50_response_time"] < tail["p99_response_time"] <= tail["max_response_time"]
    shown = to_html(findings)
    assert ">max response time</th>" in shown
    assert f"{tail['max_response_time']:.4g}" in shown


def test_every_interval_says_its_level(findings: Findings) -> None:
    look = findings.sealed[-1]
    said = f"{100 * (1 - look['alpha']):g} %"
    page = to_html(findings)
    assert f"({said} interval)" in verdict_line(findings)
    assert f"with {said} intervals):" in to_text(findings)
    for words in (
        f"ratio, {said} t interval",
        f"{said} BCa interval",
        "ratio, 95 % t interval",
        "ratio without it, 95 %",
    ):
        assert words in page, words


def test_an_undecided_run_says_what_was_not_reached(findings: Findings) -> None:
    look = {**findings.sealed[-1], "t_interval": [0.90, 0.97], "bca_interval": [0.90, 0.985]}
    unclear = dataclasses.replace(findings, verdict="undecided", sealed=(look,))
    assert "the intervals are not clear of the margin" in verdict_line(unclear)
    clear = dataclasses.replace(unclear, sealed=({**look, "bca_interval": [0.90, 0.97]},))
    assert f"p is not below {look['alpha']:g}," in verdict_line(clear)


def test_the_comparator_has_one_name_wherever_it_is_shown(findings: Findings) -> None:
    found = dataclasses.replace(findings, labels={**findings.labels, findings.frozen.comparator: "the name it has"})
    row = {"label": "candidate-0", "digest": findings.frozen.comparator, "ratio": 0.9}
    cell = {"regime": "KV x1", "won": True, "against": [row]}
    certificate = {"seeds": 4, "cells": [cell], "worst": {**row, "regime": "KV x1"}, "failed": [], "level": 0.05}
    page = to_html(dataclasses.replace(found, results={**findings.results, "certificate": certificate}))
    assert "candidate-0" not in page
    assert "its metric is 0.900 of the name it has." in page
