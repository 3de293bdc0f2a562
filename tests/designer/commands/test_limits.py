"""A number that is a slip of the hand is an error that names its option, before anything is simulated."""

import pytest
from typer.testing import CliRunner

from designer.cli import app
from designer.commands.limits import LAST_SEED, MOST_JOBS, MOST_SEEDS

HUGE = "99999999999999999999"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("evaluate", "--seeds"),
        ("evaluate", "--first-seed"),
        ("evaluate", "--jobs"),
        ("run", "--budget"),
        ("run", "--seed"),
        ("run", "--train-seeds"),
        ("run", "--validation-seeds"),
        ("run", "--sealed-seeds"),
        ("run", "--regime-seeds"),
        ("run", "--why-seeds"),
        ("replay", "--pairs"),
        ("grid", "--seeds"),
        ("why", "--seeds"),
    ],
)
def test_a_huge_number_is_refused_by_name(command: str, option: str) -> None:
    operand = [] if command in ("run", "evaluate") else ["x"]
    done = CliRunner().invoke(app, [command, *operand, option, HUGE])
    assert done.exit_code == 2
    assert option in done.stderr


def test_what_people_ask_for_is_far_below() -> None:
    assert MOST_SEEDS >= 10_000
    assert MOST_JOBS >= 1024
    assert float(LAST_SEED) == LAST_SEED
