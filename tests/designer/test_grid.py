"""Regimes: what each changes of a scenario, and what a grid says of its cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from designer.evaluate import EvaluationError, PolicyScore, Scorecard
from designer.grid import Cell, Grid, Regime, apply, regimes, run_grid, to_json, to_markdown
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario, parse_scenario
from designer.simulator.world import simulate
from tests.support.contended_scenario import contended_scenario


def test_a_regime_changes_what_it_names_and_nothing_else() -> None:
    origin = contended_scenario()
    assert apply(origin, Regime()).digest == origin.digest
    there: Any = apply(origin, Regime(2.0, 0.5, 4.0, 0.25, "poisson"), 30.0)
    assert [plan.config.num_gpu_blocks for plan in plan_workers(there)] == [200, 200]
    assert there.workers[0].engine["watermark"] == 0.01
    assert (there.workload.arrivals.process, there.workload.arrivals.rate) == ("poisson", 10.0)
    assert (there.workload.prompt_tokens.median, there.workload.output_tokens.median) == (240.0, 10.0)
    assert there.workload.prompt_tokens.sigma == 1.2
    assert (there.workload.duration_seconds, there.workload.num_requests) == (30.0, None)
    assert Scenario.model_validate(there.model_dump()) == there


def test_burstiness_is_the_sigma_of_the_gaps() -> None:
    there: Any = apply(contended_scenario(), Regime(burstiness="0.5"))
    assert (there.workload.arrivals.process, there.workload.arrivals.sigma) == ("lognormal", 0.5)


def test_groups_of_workers_keep_their_own_sizes() -> None:
    groups = [
        {"profile": "a10-llama3-8b", "count": 2, "engine": {"num_gpu_blocks": 100}},
        {"profile": "a10-llama3-8b", "variant": "big", "engine": {"num_gpu_blocks": 301}},
    ]
    there = apply(contended_scenario(workers=groups), Regime(kv=0.5))
    assert [plan.config.num_gpu_blocks for plan in plan_workers(there)] == [50, 50, 150]


def test_a_trace_has_its_own_lengths(tmp_path: Path) -> None:
    lines = [f'{{"timestamp": {1000 * n}, "input_length": 20, "output_length": 5}}' for n in range(40)]
    (tmp_path / "trace.jsonl").write_text("\n".join(lines))
    trace = parse_scenario(
        {
            "name": "traced",
            "workload": {"kind": "trace", "path": "trace.jsonl"},
            "workers": [{"profile": "a10-llama3-8b"}],
        },
        tmp_path / "traced.toml",
    )
    there = apply(trace, Regime(load=4.0), 20.0)
    assert simulate(there, "random", 1).arrival[-1] == pytest.approx(5.0, abs=0.3)
    with pytest.raises(EvaluationError, match="--lengths"):
        apply(trace, Regime(prompts=2.0))


def test_every_combination_once() -> None:
    cells = regimes([1.0, 2.0], [0.5], [(1.0, 1.0), (4.0, 0.5)], ["as it is", "poisson"])
    assert len(set(cells)) == 8
    assert cells[0].name == "KV x1, load x0.5"
    assert cells[-1].name == "KV x2, load x0.5, lengths 4x0.5, gaps poisson"


def made_up() -> Grid:
    def card(fast: list[float]) -> Scorecard:
        scores = [("fast", fast), ("slow", [10.0, 20.0]), ("other", [5.0, 10.0])]
        made = tuple(
            PolicyScore(name, (), tuple({"objective": v, "preempted_share": 0.1} for v in values))
            for name, values in scores
        )
        return Scorecard("made up", "0" * 64, "mean_response_time", (1, 2), "slow", made)

    cells = [Cell(Regime(kv=1.0), card([5.0, 10.0])), Cell(Regime(kv=8.0), card([11.0, 22.0]))]
    return Grid("made up", (1, 2), ("fast",), ("slow", "other"), tuple(cells))


def test_the_worst_cell_is_named() -> None:
    grid = made_up()
    assert list(grid.pairs()) == [("fast", "slow"), ("other", "slow"), ("fast", "other")]
    assert grid.worst("fast", "slow").regime.kv == 8.0
    assert grid.worst("fast", "slow").ratio == pytest.approx(1.1)
    text = to_markdown(grid)
    assert "| x1 | 0.500 |" in text
    assert "| x8 | 1.100 |" in text
    assert "Worst cell: KV x8, load x1, ratio 1.100." in text
    assert "Worst cell: KV x8, load x1, ratio 2.200." in text


def test_json_has_values_and_intervals() -> None:
    content = orjson.loads(to_json(made_up()))
    assert content["cells"][1]["values"]["fast"] == [11.0, 22.0]
    assert content["cells"][1]["ratios"][0]["ratio"] == pytest.approx(1.1)
    assert len(content["cells"][0]["ratios"][0]["t_95"]) == 2
    assert content["worst"][0] == {
        "policy": "fast",
        "comparator": "slow",
        "cell": "KV x8, load x1",
        "ratio": pytest.approx(1.1),
    }


def test_holding_pays_where_kv_is_scarce_and_costs_next_to_nothing_where_it_is_ample() -> None:
    origin = contended_scenario(workload={"num_requests": 150})
    cells = regimes([1.0, 20.0], [2.0], [(1.0, 1.0)], ["as it is"])
    done: list[None] = []
    grid = run_grid(
        ["head_room"], origin, cells, [1, 2], comparators=["least_loaded"], on_done=lambda: done.append(None)
    )
    scarce, ample = (cell.card.effect("head_room").ratio for cell in grid.cells)
    assert scarce < 0.95
    assert ample == pytest.approx(1.0, abs=0.05)
    assert len(done) == 8


def test_a_day_stays_a_day_in_every_regime() -> None:
    day = {"process": "gamma", "cv": 2.0, "rate": 3.0, "day_seconds": 60.0, "day_amplitude": 0.5}
    scenario: Any = contended_scenario()
    arrivals = scenario.workload.arrivals.model_validate(day)
    scenario = scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"arrivals": arrivals})})
    busier: Any = apply(scenario, Regime(load=2.0)).workload
    assert busier.arrivals == arrivals.model_copy(update={"rate": 6.0})
    poisson: Any = apply(scenario, Regime(burstiness="poisson")).workload
    calm = poisson.arrivals
    assert (calm.process, calm.cv, calm.day_seconds, calm.day_amplitude) == ("poisson", None, 60.0, 0.5)
