"""``designer run`` and ``designer resume`` as a user runs them."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from designer.cli import app, main
from designer.search import RunOutcome

SCENARIO = """
name = "tiny"
[workload]
kind = "synthetic"
num_requests = 100
arrivals = { process = "lognormal", rate = 30.0, sigma = 1.0 }
prompt_tokens = { median = 60.0, sigma = 1.5, max = 1000 }
output_tokens = { median = 40.0, sigma = 0.6, max = 200 }
[[workers]]
profile = "a10-llama3-8b"
count = 2
engine = { num_gpu_blocks = 120 }
[queue]
max_seconds = 1000.0
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    (tmp_path / "tiny.toml").write_text(SCENARIO)
    return str(tmp_path / "tiny.toml")


def test_a_run_prints_json_and_leaves_policy_and_page(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "one"
    small = ["--budget", "10", "--train-seeds", "2", "--validation-seeds", "8", "--sealed-seeds", "9"]
    limits = ["--finalists", "1", "--no-control", "--why-seeds", "0", "--baseline", "least_loaded+fcfs"]
    limits += ["--reference", "head_room"]
    done = CliRunner().invoke(app, ["run", "--scenario", scenario, "--out", str(out), *small, *limits, "--json"])
    assert done.exit_code == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["verdict"] in ("better", "nothing better", "undecided", "worse")
    assert (outcome["policy"] is None) == (outcome["verdict"] == "nothing better")
    assert Path(outcome["report"]).is_file()
    assert outcome["simulations"]["search"] == 10
    assert "sandbox: process group" in done.stderr
    assert "search: 8 candidates" in done.stderr


def test_resuming_a_finished_run_prints_its_outcome(outcome: RunOutcome) -> None:
    done = CliRunner().invoke(app, ["resume", str(outcome.folder)])
    assert done.exit_code == 0, done.stderr
    assert "Better than" in done.stdout


@pytest.mark.parametrize(
    ("option", "spec", "message"),
    [
        ("--baseline", "nobody", "--baseline: nobody: no such policy"),
        ("--reference", "nobody", "--reference: nobody: no such policy"),
        ("--reference", "head_room:agein=1", "no parameter 'agein'"),
    ],
)
def test_a_policy_that_does_not_exist_is_refused_before_there_is_a_run(
    option: str, spec: str, message: str, scenario: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", "--scenario", scenario, "--out", str(out), option, spec])
    assert message in str(done.exception)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--out", "OUT", "--scenario", "nowhere"], "no scenario named 'nowhere'"),
        (["run", "--out", "OUT", "--proposer", "oracle"], "no proposer 'oracle'"),
        (["run", "--out", "OUT", "--baseline", "nobody"], "nobody: no such policy"),
        (["run", "--out", "OUT", "--sealed-seeds", "4"], "4 sealed seeds can never show"),
        (["resume", "OUT"], "no run there"),
        (["run", "--out", "OUT", "--executor", "cloud"], "--executor cloud: must be one of local, ray"),
        (["run", "--out", "OUT", "--ray-address", "auto"], "need --executor ray"),
        (["report", "OUT"], "no run there"),
        (["promote", "OUT"], "no run there"),
        (["rollback"], "name a promoted file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.replace("OUT", str(tmp_path / "out")) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["designer", *given])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("designer: ")
    assert message in lines[-1]


def test_the_manual_names_every_key_of_the_outcome(outcome: RunOutcome) -> None:
    done = CliRunner().invoke(app, ["resume", str(outcome.folder), "--json"])
    manual = (Path(__file__).parents[3] / "docs" / "designer.md").read_text()
    table = manual.partition("`--json` prints one object:")[2].partition("\n## ")[0]
    named = {
        key
        for line in table.splitlines()
        if line.startswith("| `")
        for key in re.findall("`(.*?)`", line[: line.index(" | ")])
    }
    assert json.loads(done.stdout).keys() == named


def test_an_interrupted_run_says_how_to_go_on_and_does(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "a run"
    small = ["--budget", "4", "--train-seeds", "1", "--validation-seeds", "8", "--sealed-seeds", "9", "--no-control"]
    words = ["run", "--scenario", scenario, "--out", str(out), *small, "--baseline", "least_loaded+fcfs"]
    command = [sys.executable, "-m", "designer.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if line.startswith("sandbox:"):
                process.send_signal(signal.SIGINT)
                break
        printed, said = process.communicate()
    assert process.returncode == 130
    assert printed == ""
    assert said.splitlines()[-1] == f"stopped; designer resume '{out}' goes on where it was"
    assert CliRunner().invoke(app, ["resume", str(out)]).exit_code == 0
