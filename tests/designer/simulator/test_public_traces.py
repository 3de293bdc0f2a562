"""The scenarios of public traces: where the traces are looked for, what is said without them, and the samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from designer.simulator.scenario import TRACES_VARIABLE, Scenario, ScenarioError, TraceWorkload, load_scenario
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate

PUBLIC = ("azure-conv", "mooncake")
SAMPLES = Path("designer/scenarios/samples").absolute()


def with_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    monkeypatch.setenv(TRACES_VARIABLE, str(SAMPLES))
    return load_scenario(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_missing_trace_says_where_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(TRACES_VARIABLE, str(tmp_path))
    scenario = load_scenario(name)
    with pytest.raises(ScenarioError) as error:
        simulate(scenario, "round_robin", 1)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / name}.jsonl: no such trace; get ")
    assert "github.com/" in text
    assert "RANVIER_TRACES" in text
    assert "\n" not in text
    with pytest.raises(ScenarioError, match="no such trace"):
        _ = scenario.digest


def test_traces_are_looked_for_in_the_working_directory_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(TRACES_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    workload = load_scenario("mooncake").workload
    assert isinstance(workload, TraceWorkload)
    assert workload.path == str(tmp_path / "traces" / "mooncake.jsonl")


def test_the_hint_is_no_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = with_samples("azure-conv", monkeypatch)
    other = scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"obtain": "elsewhere"})})
    assert other.digest == scenario.digest


@pytest.mark.parametrize("name", PUBLIC)
def test_seeds_keep_other_requests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = with_samples(name, monkeypatch)
    first, second = draw_workload(scenario, 1), draw_workload(scenario, 2)
    assert first.arrival_ps.tolist() != second.arrival_ps.tolist()
    assert len(first) < len((SAMPLES / f"{name}.jsonl").read_bytes().splitlines())


@pytest.mark.parametrize("policy", ["round_robin", "prefix_affinity"])
def test_the_mooncake_sample_hits_the_prefix_cache(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = simulate(with_samples("mooncake", monkeypatch), policy, 1)
    assert result.completed.all()
    assert 0.05 < result.summary()["cached_share"] < 0.4


def test_the_azure_sample_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    result = simulate(with_samples("azure-conv", monkeypatch), "head_room", 1)
    assert result.completed.all()
    assert result.cached.sum() == 0
