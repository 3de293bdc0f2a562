"""The block that says how to come to the same figures again: its command is understood by the program itself."""

from __future__ import annotations

import dataclasses
import html
import re
import shlex
from pathlib import Path

import typer.testing

from designer.cli import app
from designer.findings import read_findings
from designer.ledger import Ledger
from designer.proposers.llm.settings import make_settings
from designer.report_origin import command, origin_section
from designer.search import RunOutcome, new_ledger, settings_of
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


def test_it_names_hashes_versions_and_settings(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        findings = read_findings(ledger)
    text = "".join(origin_section(findings))
    for told in (findings.run.scenario_hash, outcome.winner, findings.frozen.comparator, *findings.builds.values()):
        assert told in text
    assert findings.builds.keys() == {"python", "numpy", "ranvier", "sources"}
    assert "budget 36" in text
    assert findings.run.secret not in text


def test_its_command_makes_a_run_of_the_same_settings(tmp_path: Path) -> None:
    """Up to where it begins: the scenario is one that cannot be had, so nothing is simulated."""
    settings = dataclasses.replace(SETTINGS, control=False, target="autoscaling", deadline_seconds=7.5)
    with new_ledger(tmp_path / "run", small_scenario(), settings) as ledger:
        stored = ledger.run().settings
        assert settings_of(ledger.run()) == settings
    words = shlex.split(command("no such scenario", stored))
    assert words[:4] == ["designer", "run", "--scenario", "no such scenario"]
    done = typer.testing.CliRunner().invoke(app, words[1:])
    assert "No such option" not in done.output
    assert "no scenario named" in str(done.exception)
    for option in ("--no-control", "--deadline", "--looks", "--baseline", "--reference"):
        assert option in words


def test_it_is_written_for_a_page(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        findings = read_findings(ledger)
    run = dataclasses.replace(findings.run, scenario_name="<b>bold")
    text = "".join(origin_section(dataclasses.replace(findings, run=run)))
    assert "<b>bold" not in text
    (found,) = re.findall(r"<code>(.*?)</code>", text)
    assert "<b>bold" in shlex.split(html.unescape(found))


def test_of_a_run_with_models_the_prompts_are_a_hash_and_the_command_names_their_file(outcome: RunOutcome) -> None:
    llm = make_settings(model="m", base_url="http://127.0.0.1:1/v1", price="0").model_dump(mode="json")
    with Ledger.open(outcome.folder) as ledger:
        findings = read_findings(ledger)
    run = dataclasses.replace(findings.run, settings={**findings.run.settings, "proposer": "llm", "llm": llm})
    text = html.unescape("".join(origin_section(dataclasses.replace(findings, run=run))))
    assert "--llm MODELS.toml" in text
    assert "base_url http://127.0.0.1:1/v1" in text
    assert "prompts SHA-256 " in text
    assert all(prompt[:100] not in text for prompt in llm["prompts"].values())
