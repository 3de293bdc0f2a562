"""The top of a report: every point that a reader asks for, in their order, and none that is not known."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from designer.findings import Findings, read_findings
from designer.ledger import Ledger
from designer.proposers.parts import PARTS, Joint, emit_joint
from designer.report import to_text
from designer.report_summary import in_short
from designer.search import RunOutcome, new_ledger
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


@pytest.fixture(scope="module")
def findings(outcome: RunOutcome) -> Findings:
    with Ledger.open(outcome.folder) as ledger:
        return read_findings(ledger)


def headings(text: str) -> list[str]:
    return re.findall(r"<b>([^<]*?)\.?:?</b>", text)


def test_a_winner_is_told_in_the_order_in_which_one_asks(findings: Findings) -> None:
    told = headings(in_short(findings))
    asked = ["What it does", "How much better", "How sure", "Through the real gateway", "Against chance", "Put it in"]
    assert [heading for heading in told if heading in asked] == asked
    text = in_short(findings)
    assert "has not been replayed" in text
    assert f"{findings.sealed[-1]['mean']:.4g}" in text
    assert f"{findings.selection_bias:.3f}" in text
    assert f"designer promote {findings.folder} --gateway" in text
    assert "designer rollback --gateway" in text


def test_what_it_does_is_its_rules_and_no_cut_headline(findings: Findings) -> None:
    (does,) = re.findall(r"What it does\.</b> ([^<]*)", in_short(findings))
    assert "…" not in does
    assert does.startswith(("Admission:", "Choice:"))
    other = dataclasses.replace(findings, winner_source='"""By hand:\none line.\n\nMore."""\n')
    assert "What it does.</b> By hand: one line.<" in in_short(other)


def test_what_it_does_has_the_rules_of_every_part(findings: Findings) -> None:
    program = Joint(tuple((name, kind.founders[0][1]) for name, kind in PARTS.items() if name != "scheduling"))
    text = in_short(dataclasses.replace(findings, winner_source=emit_joint(program)))
    (does,) = re.findall(r"What it does\.</b> ([^<]*)", text)
    assert all(rule in does for rule in ("Choice: ", "Queue order: ", "Replicas wanted: ", "Engine: "))


def test_a_regime_that_was_not_scored_was_not_won(findings: Findings) -> None:
    cells, failed = [{"regime": "KV x1", "won": True}], [{"regime": "KV x0.8", "failure": "too slow"}]
    worst = {"regime": "KV x1", "ratio": 0.9, "label": "joint/expert"}
    certificate = {"cells": cells, "failed": failed, "worst": worst}
    text = in_short(dataclasses.replace(findings, results={"certificate": certificate}))
    assert "Of 2 regimes it won 1, and not KV x0.8." in text


def test_regimes_that_were_not_won_are_named(findings: Findings) -> None:
    cells = [{"regime": f"KV x{n}", "won": n > 5} for n in range(8)]
    certificate = {"cells": cells, "worst": {"regime": "KV x3", "ratio": 1.25, "label": "joint/expert"}}
    text = in_short(dataclasses.replace(findings, results={"certificate": certificate}))
    assert "Of 8 regimes it won 2, and not KV x0; KV x1; KV x2; KV x3 and 2 more." in text
    assert "At its worst, KV x3, its metric is 1.250 of joint/expert." in text


def test_what_was_not_better_is_not_left_unsaid(findings: Findings) -> None:
    look = {**findings.sealed[-1]}
    row = {**look["against"][0], "label": "a published design", "digest": "ab", "ratio": 1.1}
    alike = {**row, "label": "another", "ratio": 1.0, "t_interval": [0.95, 1.05]}
    look["against"] = [look["against"][0], {**row, "t_interval": [1.05, 1.15]}, alike]
    seen = dataclasses.replace(findings, sealed=(look,))
    text = in_short(seen)
    assert "Worse than</b> these, which were shown beside it and not tested: a published design 1.100 [1.050" in text
    assert "Not better than</b> these, which were shown beside it and not tested: another 1.000 [0.950" in text
    assert "  worse than a published design 1.100 [1.050, 1.150]" in to_text(seen)


def test_a_run_that_has_just_begun_says_what_to_do_and_nothing_else(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "a run's folder", small_scenario(), SETTINGS) as ledger:
        text = in_short(read_findings(ledger))
    assert headings(text) == ["Next"]
    assert "designer resume &#x27;" in text, "quoted for a shell, and escaped for the page"


@pytest.mark.parametrize(("worst", "told"), [(2.63, True), (1.1, False)])
def test_a_seed_on_which_it_goes_astray_is_told(findings: Findings, worst: float, told: bool) -> None:
    look = {**findings.sealed[-1]}
    look["against"] = [{**look["against"][0], "label": "a rule", "digest": "ab", "worst_ratio": worst}]
    look["against"][0].update(num_worse=3, num_seeds=64)
    text = in_short(dataclasses.replace(findings, sealed=(look,)))
    assert (f"{worst:.2f} times a rule at its worst, worse on 3 of 64" in text) is told
