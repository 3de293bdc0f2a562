"""``designer fidelity``: what is printed, and the exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from designer.cli import app
from designer.commands.fidelity import _print, to_dict
from designer.fidelity import Comparison, Fidelity, FidelityError, Side, Times
from designer.heard import Differences

SIDE = Side(10, 10, Times(0.2, 0.9), Times(2.0, 7.5))
FASTER = Side(10, 10, Times(0.1, 0.9), Times(1.9, 7.5))


def told() -> Fidelity:
    late = Comparison("head_room", SIDE, FASTER, "invalid: the client was late", 0.5)
    heard = Differences(10, {"RequestArrived.max_tokens": 3}, 0.9, 0.004)
    return Fidelity("demo", 1, 1.0, (Comparison("least_loaded", SIDE, FASTER, "valid", 0.001, heard), late))


def test_the_table_flags_invalid_runs_and_says_why() -> None:
    console = Console(record=True, width=132, file=io.StringIO())
    _print(told(), console)
    text = console.export_text()
    assert "-5.0%" in text
    assert "head_room: invalid: the client was late" in text
    assert "valid runs: 1 of 2" in text
    assert "least_loaded: told otherwise: RequestArrived.max_tokens (3); same worker: 90.0%; +4.0 ms" in text
    assert "absolute error of response_time: of means 5.0%, at worst 5.0%" in text


def test_json_has_both_sides_and_errors() -> None:
    content = json.loads(json.dumps(to_dict(told())))
    assert content["num_valid"] == 1
    assert content["policies"][0]["heard"]["same_worker"] == 0.9
    assert content["policies"][0]["errors"]["mean_ttft"] == pytest.approx(-0.5)
    assert content["policies"][1]["verdict"] == "invalid: the client was late"
    assert content["rank_correlations"] == {"ttft": None, "response_time": None}


def test_bad_speed_is_wrong_usage() -> None:
    assert CliRunner().invoke(app, ["fidelity", "--speed", "0"]).exit_code == 2


def test_a_policy_that_does_not_exist_is_an_error_before_anything_is_started(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["fidelity", "no_such_policy", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "no_such_policy" in str(result.exception)
    assert not isinstance(result.exception, FidelityError)
    assert not list(tmp_path.glob("*.log"))
