"""Drawn workloads: a function of scenario and seed, and of nothing else."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from designer.simulator.scenario import Scenario, ScenarioError, load_scenario, parse_scenario
from designer.simulator.workload import RequestColumns, draw_workload, shown_chunks


def scenario(**workload: Any) -> Scenario:
    table: dict[str, Any] = {
        "kind": "synthetic",
        "arrivals": {"rate": 5.0},
        "prompt_tokens": {"median": 100.0, "sigma": 1.0, "max": 4000},
        "output_tokens": {"median": 200.0, "sigma": 0.5},
    }
    if "duration_seconds" not in workload:
        table["num_requests"] = 500
    content = {"name": "w", "workload": table | workload, "workers": [{"profile": "a10-llama3-8b"}]}
    return parse_scenario(content, Path("w.toml"))


def columns_of(drawn: RequestColumns) -> tuple[list[int], ...]:
    return (
        drawn.arrival_ps.tolist(),
        drawn.num_prompt_tokens.tolist(),
        drawn.num_output_tokens.tolist(),
        drawn.num_prompt_bytes.tolist(),
    )


def test_the_same_seed_gives_the_same_requests() -> None:
    assert columns_of(draw_workload(scenario(), 3)) == columns_of(draw_workload(scenario(), 3))
    assert columns_of(draw_workload(scenario(), 3)) != columns_of(draw_workload(scenario(), 4))


def test_one_parameter_moves_nothing_but_its_own_column() -> None:
    plain = draw_workload(scenario(), 1)
    other = draw_workload(scenario(output_tokens={"median": 20.0}, bytes={"sigma": 0.3}, stream_fraction=0.5), 1)
    assert plain.arrival_ps.tolist() == other.arrival_ps.tolist()
    assert plain.num_prompt_tokens.tolist() == other.num_prompt_tokens.tolist()
    assert plain.num_output_tokens.tolist() != other.num_output_tokens.tolist()


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    short, long = draw_workload(scenario(duration_seconds=50.0), 1), draw_workload(scenario(duration_seconds=5000.0), 1)
    assert long.arrival_ps[: len(short)].tolist() == short.arrival_ps.tolist()
    assert short.arrival_ps[-1] <= 50 * 10**12 < long.arrival_ps[len(short)]


def test_arrival_rate() -> None:
    drawn = draw_workload(scenario(num_requests=20_000), 1)
    assert 20_000 / (drawn.arrival_ps[-1] / 1e12) == pytest.approx(5.0, rel=0.03)


def test_lengths_are_clipped_after_the_outliers() -> None:
    lengths = {"median": 100.0, "sigma": 0.0, "max": 900, "outlier_fraction": 0.25, "outlier_factor": 10.0}
    drawn = draw_workload(scenario(prompt_tokens=lengths), 1)
    assert set(drawn.num_prompt_tokens.tolist()) == {100, 900}
    assert np.mean(drawn.num_prompt_tokens == 900) == pytest.approx(0.25, abs=0.06)


def test_max_tokens_cut_the_truth_and_know_nothing_of_it() -> None:
    drawn = draw_workload(scenario(num_requests=4000, max_tokens={"values": [100, 10_000], "unset_fraction": 0.2}), 1)
    uncut = draw_workload(scenario(num_requests=4000), 1).num_output_tokens
    tight = drawn.max_tokens == 100
    assert drawn.num_output_tokens[tight].max() == 100
    assert drawn.num_output_tokens[~tight].tolist() == uncut[~tight].tolist()
    assert uncut[tight].mean() == pytest.approx(uncut.mean(), rel=0.05)
    assert np.mean(drawn.max_tokens == 0) == pytest.approx(0.2, abs=0.03)


def test_tenants_share_by_weight() -> None:
    drawn = draw_workload(scenario(tenants=[{"name": "a", "weight": 3.0}, {"name": "b"}]), 1)
    assert np.mean(drawn.tenant == 0) == pytest.approx(0.75, abs=0.06)


def test_shared_prefixes_lengthen_prompts_and_name_their_chunks() -> None:
    prefixes = {"groups": 3, "fraction": 0.5, "tokens": {"median": 1000.0}}
    drawn, plain = draw_workload(scenario(prefixes=prefixes), 1), draw_workload(scenario(), 1)
    added = drawn.num_prompt_tokens - plain.num_prompt_tokens
    assert set(added.tolist()) == {0, 1000}
    assert {len(chunks) for chunks in drawn.prefix_chunks} == {0, 3}
    assert len({chunks for chunks in drawn.prefix_chunks if chunks}) == 3
    assert all(bool(chunks) == (more > 0) for chunks, more in zip(drawn.prefix_chunks, added, strict=True))


def test_at_most_64_chunks_are_shown_at_places_that_do_not_depend_on_the_prompt() -> None:
    chunks = tuple((key, key * 512) for key in range(1, 300))
    long, short = shown_chunks(chunks, 1.0), shown_chunks(chunks[:50], 1.0)
    assert len(long) == 64
    assert long[: len(short)] == short
    assert short[-1] == (50, 50 * 512)
    assert all(before < after for (_, before), (_, after) in itertools.pairwise(long))


def test_shown_counts_grow_strictly_even_when_believed_to_be_tiny() -> None:
    tokens = [count for _, count in shown_chunks(((1, 256), (2, 512), (3, 768)), 0.0001)]
    assert tokens == [1, 2, 3]


def test_the_glia_workload_is_the_documented_one() -> None:
    glia = load_scenario("glia")
    drawn = [draw_workload(glia, seed) for seed in range(20)]
    assert np.mean([len(columns) for columns in drawn]) == pytest.approx(7500, rel=0.05)
    assert np.mean([columns.num_prompt_tokens.mean() for columns in drawn]) == pytest.approx(210, rel=0.02)
    assert np.mean([columns.num_output_tokens.mean() for columns in drawn]) == pytest.approx(379, rel=0.02)
    assert max(int(columns.num_prompt_tokens.max()) for columns in drawn) == 4096


def test_a_trace_is_sliced_scaled_and_thinned(tmp_path: Path) -> None:
    lines = [{"timestamp": 100 * n, "input_length": n + 1, "output_length": 50} for n in range(1000)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    workload = {"kind": "trace", "path": "t.jsonl", "start_seconds": 10.0, "first_seconds": 20.0, "time_scale": 0.5}
    table = {"name": "t", "workload": workload, "workers": [{"profile": "a10-llama3-8b"}]}
    drawn = draw_workload(parse_scenario(table, tmp_path / "t.toml"), 1)
    assert drawn.num_prompt_tokens.tolist() == list(range(101, 301))
    assert drawn.arrival_ps[:2].tolist() == [0, 50 * 10**9]
    workload["keep_fraction"] = 0.5
    kept = draw_workload(parse_scenario(table, tmp_path / "t.toml"), 1)
    assert 70 <= len(kept) <= 130


def test_a_day_is_quietest_at_its_ends_and_brings_as_many_requests() -> None:
    arrivals = {"rate": 20.0, "day_seconds": 1000.0, "day_amplitude": 0.8}
    steady = draw_workload(scenario(arrivals={"rate": 20.0}, duration_seconds=1000.0), 1)
    daily = draw_workload(scenario(arrivals=arrivals, duration_seconds=1000.0), 1)
    assert len(daily) == len(steady)
    assert np.all(np.diff(daily.arrival_ps) >= 0)
    hundreds = np.histogram(daily.arrival_ps / 1e12, bins=10, range=(0, 1000))[0] / 100
    middles = np.arange(50, 1000, 100)
    assert hundreds == pytest.approx(20 * (1 - 0.8 * np.cos(2 * np.pi * middles / 1000)), abs=1.5)


def test_a_tenant_comes_between_its_times_and_moves_nobody_else() -> None:
    prefixes = {"groups": 2, "fraction": 0.5, "tokens": {"median": 600.0}}
    always = [{"name": "a"}, {"name": "b"}]
    sometimes = [{"name": "a"}, {"name": "b", "from_seconds": 20.0, "to_seconds": 40.0}]
    whole, cut = (
        draw_workload(scenario(tenants=tenants, duration_seconds=100.0, prefixes=prefixes), 1)
        for tenants in (always, sometimes)
    )
    assert cut.arrival_ps[cut.tenant == 0].tolist() == whole.arrival_ps[whole.tenant == 0].tolist()
    seconds = cut.arrival_ps[cut.tenant == 1] / 1e12
    assert len(seconds) > 20
    assert 20 <= seconds.min() < seconds.max() < 40
    assert len({len(column) for column in columns_of(cut)} | {len(cut.prefix_chunks), len(cut.stream)}) == 1
    kept = np.isin(whole.arrival_ps, cut.arrival_ps)
    assert cut.prefix_chunks == tuple(itertools.compress(whole.prefix_chunks, kept))


def test_turns_grow_by_answer_and_new_text_and_share_their_chunks() -> None:
    sessions = {"turns": {"median": 4.0, "sigma": 0.5}, "think_seconds": 5.0, "max_prompt_tokens": 4000}
    drawn, alone = draw_workload(scenario(sessions=sessions), 1), draw_workload(scenario(), 1)
    assert drawn.turn_after is not None
    assert drawn.think_ps is not None
    first = drawn.turn_after < 0
    assert drawn.num_prompt_tokens[first].tolist() == alone.num_prompt_tokens.tolist()
    later = np.flatnonzero(~first)
    before = drawn.turn_after[later]
    assert np.all(before < later)
    assert np.all(drawn.num_prompt_tokens[later] > drawn.num_prompt_tokens[before] + drawn.num_output_tokens[before])
    assert drawn.num_prompt_tokens[later].max() <= 4000
    assert np.all(drawn.arrival_ps[later] == drawn.arrival_ps[before] + drawn.think_ps[later])
    for row, previous in zip(later.tolist(), before.tolist(), strict=True):
        assert drawn.session_ids[row] == drawn.session_ids[previous]
        chunks, shared = drawn.prefix_chunks[row], drawn.prefix_chunks[previous]
        assert chunks[: len(shared)] == shared
        assert len(chunks) == drawn.num_prompt_tokens[row] // 256
        through = shared + drawn.answer_chunks[previous]
        assert chunks[: len(through)] == through
        assert len(through) == (drawn.num_prompt_tokens[previous] + drawn.num_output_tokens[previous]) // 256
    assert len({chunks[0] for chunks in drawn.prefix_chunks if chunks}) > 100


def test_sessions_begin_with_a_common_prefix() -> None:
    sessions = {"turns": {"median": 2.0}, "think_seconds": 5.0, "max_prompt_tokens": 9000}
    prefixes = {"groups": 1, "tokens": {"median": 600.0}}
    drawn = draw_workload(scenario(sessions=sessions, prefixes=prefixes), 1)
    assert len(drawn) == 1000
    assert len({chunks[:2] for chunks in drawn.prefix_chunks}) == 1


@pytest.mark.parametrize(
    "arrivals",
    [
        {"rate": 5.0, "process": "lognormal", "sigma": 1e300},
        {"rate": 1e300},
        {"rate": 5.0, "process": "gamma", "cv": 1e300},
    ],
)
def test_numbers_no_workload_has_are_refused(arrivals: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=r"workload.arrivals.\w+: Input should be less than or equal to"):
        scenario(arrivals=arrivals)


def test_more_requests_or_time_than_a_simulation_holds_is_an_error_before_it_begins() -> None:
    with pytest.raises(ScenarioError, match="over 10,000,000 requests in duration_seconds = 1000; lower it or"):
        draw_workload(scenario(duration_seconds=1000.0, arrivals={"rate": 1e8}), 1)
    with pytest.raises(ScenarioError, match=r"over 2.592e\+06; raise arrivals.rate"):
        draw_workload(scenario(arrivals={"rate": 1e-6}), 1)
