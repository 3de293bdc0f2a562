"""``designer run --proposer llm`` as a user runs it, against scripted models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from designer.cli import app, main
from tests.designer.commands.test_search import SCENARIO
from tests.support.scripted_models import GOOD, Cast, experiment, judges
from tests.support.threaded import threaded_vllm

SMALL = ["--budget", "4", "--train-seeds", "2", "--validation-seeds", "8", "--sealed-seeds", "9", "--finalists", "1"]
ALONE = [
    "--no-control",
    "--ablation-seeds",
    "0",
    "--regime-seeds",
    "0",
    "--why-seeds",
    "0",
    "--baseline",
    "least_loaded+fcfs",
    "--reference",
    "head_room",
    "--jobs",
    "1",
]
ROLES = '[default]\nbase_url = "URL/v1"\nprice = { input = 1, output = 1 }\n' + "".join(
    f'[{role}]\nmodel = "{role}"\n' for role in ("researcher", "analyst", "supervisor")
)


def test_roles_from_a_file_an_estimate_first_and_the_conversation_after(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SCENARIO)
    cast = Cast(researcher=[experiment(GOOD)], supervisor=[judges("stop", "Enough.")])
    with threaded_vllm(cast.script()) as server:
        (tmp_path / "llm.toml").write_text("min_experiments = 1\n" + ROLES.replace("URL", server.url))
        given = ["run", "--proposer", "llm", "--llm", str(tmp_path / "llm.toml"), "--max-dollars", "2"]
        scenario = ["--scenario", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run")]
        done = CliRunner().invoke(app, [*given, *scenario, *SMALL, *ALONE, "--json"])
    assert done.exit_code == 0, done.stderr
    assert "llm: estimate, not a bound: 3 experiments" in done.stderr
    assert "never more than $2" in done.stderr
    assert json.loads(done.stdout)["verdict"]
    shown = CliRunner().invoke(app, ["messages", str(tmp_path / "run"), "--costs"])
    assert "researcher   1 " in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--proposer", "llm"], "no model; give --model NAME"),
        (["--proposer", "llm", "--model", "m"], "no endpoint; give --base-url"),
        (["--proposer", "llm", "--model", "m", "--base-url", "http://h/v1"], "the price of m is not known"),
        (["--model", "m"], "go with --proposer llm"),
        (["--proposer", "llm", "--llm", "/nowhere.toml"], "/nowhere.toml: No such file"),
        (
            ["--proposer", "llm", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--price", "0"],
            "http://127.0.0.1:9/v1: nobody listens there",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tiny.toml").write_text(SCENARIO)
    (tmp_path / "llm.toml").write_text("outage_seconds = 0.1\n")
    if "127.0.0.1:9" in message:
        arguments = [*arguments, "--llm", str(tmp_path / "llm.toml")]
    given = ["run", "--scenario", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run"), *SMALL, *ALONE]
    monkeypatch.setattr("sys.argv", ["designer", *given, *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
