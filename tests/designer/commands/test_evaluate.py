"""``designer evaluate`` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from designer.cli import app, main

SCENARIO = """
name = "tiny"
[workload]
kind = "synthetic"
num_requests = 30
arrivals = { rate = 20.0 }
prompt_tokens = { median = 50.0, sigma = 1.0, max = 500 }
output_tokens = { median = 20.0, sigma = 1.0, max = 100 }
[[workers]]
profile = "a10-llama3-8b"
count = 2
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    (tmp_path / "tiny.toml").write_text(SCENARIO)
    return str(tmp_path / "tiny.toml")


def test_json_beside_the_baselines(scenario: str) -> None:
    arguments = ["evaluate", "head_room", "--scenario", scenario, "--seeds", "2", "--jobs", "1", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    content = orjson.loads(done.stdout)
    names = [policy["policy"] for policy in content["policies"]]
    assert names == ["random", "round_robin", "least_waiting", "least_loaded", "head_room"]
    assert content["seeds"] == [1, 2]
    assert len(content["clairvoyant"]["seeds"]) == 2
    assert content["policies"][4]["lower_bound"] > 0
    assert done.stderr == ""


def test_a_table_and_a_report(scenario: str, tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    arguments = ["evaluate", "expert", "--scenario", scenario, "--seeds", "1", "--first-seed", "7", "--jobs", "1"]
    done = CliRunner().invoke(app, [*arguments, "--no-baselines", "--comparator", "fcfs", "--report", str(report)])
    assert done.exit_code == 0
    assert "seed 7" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("| exp", "| fcfs"))] == [
        "expert",
        "fcfs",
    ]
    assert report.read_text().strip() == done.stdout.strip()


def test_a_report_named_html_is_a_page(scenario: str, tmp_path: Path) -> None:
    report = tmp_path / "page.html"
    arguments = ["evaluate", "--scenario", scenario, "--seeds", "1", "--jobs", "1", "--no-baselines", "--no-reference"]
    done = CliRunner().invoke(app, [*arguments, "fcfs", "--report", str(report)])
    assert done.exit_code == 0, done.output
    assert "won" not in done.stdout
    assert report.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["head_rom", "--jobs", "1"], "head_rom"),
        (["random", "--scenario", "nowhere"], "no scenario named 'nowhere'"),
        (["--no-baselines"], "name a policy"),
        (["random", "--report", "/nowhere/at/all.md"], "/nowhere/at/all.md: cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    scenario: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = [] if "--scenario" in arguments else ["--scenario", scenario]
    command = ["designer", "evaluate", *arguments, *chosen, "--seeds", "1", "--jobs", "1"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("designer: ")
    assert message in error
    assert error.count("\n") == 1
