"""``designer grid`` as a user runs it."""

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
num_requests = 20
arrivals = { rate = 20.0 }
prompt_tokens = { median = 50.0, sigma = 1.0, max = 500 }
output_tokens = { median = 20.0, sigma = 1.0, max = 100 }
[[workers]]
profile = "a10-llama3-8b"
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    (tmp_path / "tiny.toml").write_text(SCENARIO)
    return str(tmp_path / "tiny.toml")


def test_json_and_a_page(scenario: str, tmp_path: Path) -> None:
    report = tmp_path / "grid.html"
    axes = ["--kv", "0.5,2", "--load", "1", "--lengths", "1x1,2x0.5", "--burstiness", "poisson", "--seeds", "1"]
    done = CliRunner().invoke(app, ["grid", "expert", "--scenario", scenario, *axes, "--json", "--report", str(report)])
    assert done.exit_code == 0, done.output
    content = orjson.loads(done.stdout)
    assert [(cell["kv"], cell["prompts"]) for cell in content["cells"]] == [
        (0.5, 1.0),
        (0.5, 2.0),
        (2.0, 1.0),
        (2.0, 2.0),
    ]
    assert set(content["cells"][0]["values"]) == {"expert", "least_loaded"}
    assert "Lengths 2x0.5, gaps poisson" in report.read_text()


def test_the_table_names_the_worst_cell(scenario: str) -> None:
    axes = ["--kv", "1", "--load", "1,2", "--seeds", "1", "--comparator", "fcfs"]
    done = CliRunner().invoke(app, ["grid", "random", "--scenario", scenario, *axes])
    assert done.exit_code == 0, done.output
    assert "## random / fcfs" in done.stdout
    assert "Worst cell: KV x1, load x" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kv", "0"], "--kv 0: write positive numbers"),
        (["--load", "a"], "--load a: write positive numbers"),
        (["--lengths", "2"], "--lengths 2: "),
        (["--burstiness", "none"], "--burstiness none: "),
        (["--burstiness", "9"], "--burstiness 9: "),
        (["--kv", "1", "--load", "1", "--report", "/nowhere/at/all.html"], "/nowhere/at/all.html: cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    scenario: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["designer", "grid", "random", "--scenario", scenario, "--seeds", "1", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("designer: ")
    assert message in error
    assert error.count("\n") == 1
