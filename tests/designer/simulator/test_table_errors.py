"""A mistyped key is what a scenario's error begins with, and the key that was meant ends it."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from designer.simulator.scenario import ScenarioError, parse_scenario

SMALL = """
name = "small"
[workload]
kind = "synthetic"
num_requests = 10
arrivals = { rate = 2.0 }
prompt_tokens = { median = 30.0 }
output_tokens = { median = 30.0 }
[[workers]]
profile = "a10-llama3-8b"
"""


def said(text: str) -> str:
    table: dict[str, Any] = tomllib.loads(text)
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(table, origin=Path("s.toml"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rate = 2.0", "rat = 2.0"), "workload.arrivals.rat: unknown key; did you mean rate? (and 1 more)"),
        (("profile =", "profil ="), "workers[0].profil: unknown key; did you mean profile? (and 2 more)"),
        (("num_requests", "num_request"), "workload.num_request: unknown key; did you mean num_requests?"),
        (("[[workers]]", "[quee]\n[[workers]]"), "quee: unknown key; did you mean queue?"),
        (("rate = 2.0", "rate = 2.0, zzz = 1"), "workload.arrivals.zzz: unknown key; remove it (known here: cv, "),
        (
            ("median = 30.0 }", "median = 30.0, maxx = 1 }"),
            "workload.prompt_tokens.maxx: unknown key; did you mean max?",
        ),
        (("rate = 2.0", ""), "workload.arrivals.rate: missing"),
    ],
)
def test_the_first_problem(change: tuple[str, str], message: str) -> None:
    assert said(SMALL.replace(*change, 1)).startswith(f"s.toml: {message}")
