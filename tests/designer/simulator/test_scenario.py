"""Scenario files: what is refused, and in which words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from designer.simulator.scenario import (
    Failure,
    Scenario,
    ScenarioError,
    TraceWorkload,
    Workers,
    load_scenario,
    parse_scenario,
    scenario_names,
)
from gateway.mockworker.profile import ProfileError, load_profile

MINIMAL = """
name = "small"
[workload]
kind = "synthetic"
num_requests = 10
[workload.arrivals]
rate = 2.0
[workload.prompt_tokens]
median = 30.0
[workload.output_tokens]
median = 40
[[workers]]
profile = "a10-llama3-8b"
"""


def load(tmp_path: Path, text: str) -> Scenario:
    path = tmp_path / "small.toml"
    path.write_text(text)
    return load_scenario(path)


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_of_the_package_loads(name: str) -> None:
    assert load_scenario(name).name == name


def test_defaults(tmp_path: Path) -> None:
    scenario = load(tmp_path, MINIMAL)
    assert scenario.workers[0].count == 1
    assert scenario.objective.metric == "mean_response_time"
    assert scenario.workload.kind == "synthetic"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_requests = 10", 'num_requests = "10"'), "workload.num_requests: Input should be a valid integer"),
        (("rate = 2.0", "rate = 0.0"), "workload.arrivals.rate: Input should be greater than 0"),
        (("rate = 2.0", "rate = nan"), "workload.arrivals.rate: Input should be"),
        (("rate = 2.0", "rate = 2.0\nburst = 3"), "workload.arrivals.burst: unknown key"),
        (("rate = 2.0", "rate = 2.0\ncv = 3.0"), 'workload.arrivals: cv goes with process = "gamma", which needs it'),
        (("rate = 2.0", "rate = 2.0\nday_seconds = 9.0"), "workload.arrivals: day_seconds and day_amplitude go"),
        (
            ("num_requests = 10", "num_requests = 10\ntenants = [{ name = 'a', to_seconds = 1.0 }]"),
            "workload: from_seconds and to_seconds of a tenant go with duration_seconds",
        ),
        (("rate = 2.0", 'rate = 2.0\nprocess = "lognormal"'), "workload.arrivals: sigma goes with"),
        (("median = 30.0", "median = 30.0\nmin = 9\nmax = 3"), "workload.prompt_tokens: min is larger than max"),
        (("num_requests = 10", ""), "workload: give either duration_seconds or num_requests"),
        (('kind = "synthetic"', 'kind = "replay"'), "workload: Input tag 'replay'"),
        (('profile = "a10-llama3-8b"', "count = 2"), "workers[0].profile: missing"),
        (('profile = "a10-llama3-8b"', 'profile = "a10-llama3-8b"\ncount = 0'), "workers[0].count: Input should be"),
        (('profile = "a10-llama3-8b"', 'profile = "x"\nmax_replicas = 3\nmin_replicas = 2'), "count is not between"),
        (('name = "small"', 'name = "small"\nfailures = [{ down_seconds = 1.0 }]'), "failures[0]: give either"),
        (('name = "small"', 'name = "small"\nworker = 3'), "worker: unknown key"),
        (('name = "small"', 'name = "small'), "not valid TOML"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, MINIMAL.replace(*change))
    assert message in str(caught.value)
    assert str(tmp_path / "small.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_must_fit_each_other(tmp_path: Path) -> None:
    failure = "failures = [{ at_seconds = 1.0, down_seconds = 1.0, worker = 1 }]\n"
    with pytest.raises(ScenarioError, match="failures name worker 1, and there are fewer"):
        load(tmp_path, failure + MINIMAL)
    with pytest.raises(ScenarioError, match="variant 'default' is scaled and stands in two tables"):
        load(tmp_path, MINIMAL + 'max_replicas = 2\n[[workers]]\nprofile = "a100-llama3-8b"\n')


def test_several_problems_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"\(and 1 more\)"):
        load(tmp_path, MINIMAL.replace("rate = 2.0", "rate = -1\nburst = 3"))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ScenarioError, match=r"no scenario named 'gila': one of .*glia"):
        load_scenario("gila")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        load_scenario(tmp_path / "none.toml")


def test_a_trace_lies_beside_its_scenario_and_counts_by_its_bytes(tmp_path: Path) -> None:
    text = 'name = "t"\n[workload]\nkind = "trace"\npath = "t.jsonl"\n[[workers]]\nprofile = "a10-llama3-8b"\n'
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}\n')
    scenario = load(tmp_path, text)
    assert isinstance(scenario.workload, TraceWorkload)
    assert scenario.workload.path == str(tmp_path / "t.jsonl")
    before = scenario.digest
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 2, "output_length": 1}\n')
    assert scenario.digest != before


def test_the_digest_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    one, other = load(tmp_path, MINIMAL), load(tmp_path, MINIMAL.replace('"small"', '"renamed"'))
    assert one.digest == other.digest
    assert one.digest != load(tmp_path, MINIMAL.replace("2.0", "2.5")).digest


def documented(kind: str) -> dict[str, Any]:
    """The example of docs/simulator.md whose workload is of this kind."""
    text = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()
    tables = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    return next(table for table in tables if table["workload"]["kind"] == kind)


def test_the_documented_example_uses_every_key_and_loads() -> None:
    table = documented("synthetic")
    scenario = parse_scenario(table, Path("example.toml"))
    for section in ("network", "scrape", "queue", "clients", "autoscaling", "objective", "counterfactual"):
        assert set(table[section]) == set(type(getattr(scenario, section)).model_fields)
    assert set(table) == set(Scenario.model_fields)
    assert set(table["failures"][0]) | {"mean_seconds_between"} == set(Failure.model_fields)
    assert set(table["workers"][0]) == set(Workers.model_fields)


def test_the_documented_trace_loads() -> None:
    table = documented("trace")
    scenario = parse_scenario(table | {"name": "t", "workers": [{"profile": "a100-llama3-8b"}]}, Path("example.toml"))
    assert set(table["workload"]) == set(TraceWorkload.model_fields)
    assert scenario.workload.kind == "trace"


def test_a_device_is_no_scenario_and_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="/dev/zero: cannot be read: Not a regular file"):
        load_scenario("/dev/zero")
    with pytest.raises(ProfileError, match="/dev/zero: not a regular file"):
        load_profile("/dev/zero")
