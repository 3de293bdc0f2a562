"""Where a winner won, on two regimes of a small scenario."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from designer.certificate import LEVEL, MEASURES, REGIMES, _is_within, _judged, certify
from designer.claim import of_cells
from designer.executor import LocalExecutor
from designer.grid import Regime
from designer.ledger import Ledger, RunRecord
from designer.simulator.scenario import Scenario
from designer.subject import subject_of_source, subject_of_specs
from tests.support.small_scenario import small_scenario

WINNER, BASE, ROUND = (subject_of_specs(text) for text in ("joint/head_room", "least_loaded+fcfs", "round_robin+fcfs"))


def certificate(folder: Path, cells: tuple[Regime, ...], scenario: Scenario | None = None) -> dict:  # type: ignore[type-arg]
    with Ledger.create(folder, RunRecord("r", 0.0, "small", "{}", "hash", {}, "secret")) as ledger:
        return certify(
            ledger,
            scenario or small_scenario(),
            WINNER,
            [BASE, ROUND],
            3,
            executor=LocalExecutor(1),
            deadline_seconds=60.0,
            cells=cells,
        )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:  # type: ignore[type-arg]
    return certificate(tmp_path_factory.mktemp("certificate"), (Regime(), Regime(load=0.02, kv=4.0)))


def test_every_cell_says_what_a_gateway_would_measure_there(found: dict) -> None:  # type: ignore[type-arg]
    tight, easy = (cell["measured"] for cell in found["cells"])
    assert easy["arrival_rate"] == pytest.approx(0.02 * tight["arrival_rate"], rel=0.5)
    assert easy["kv_tokens"] == 4 * tight["kv_tokens"]
    assert tight["prompt_p50"] < tight["prompt_p90"] < tight["prompt_p99"]
    assert tight["preemptions_per_request"] > easy["preemptions_per_request"] == 0.0
    assert tight.keys() == easy.keys() == MEASURES.keys() == found["measures"].keys()


def test_the_worst_cell_is_named_whoever_the_rival(found: dict) -> None:  # type: ignore[type-arg]
    rows = [(row["ratio"], row["label"]) for cell in found["cells"] for row in cell["against"]]
    assert (found["worst"]["ratio"], found["worst"]["label"]) == max(rows)


def test_the_envelope_covers_the_cells_that_were_won_and_no_other(found: dict) -> None:  # type: ignore[type-arg]
    won = [cell["measured"] for cell in found["cells"] if cell["won"]]
    assert len(won) < 2, "with hardly any load there is nothing to win"
    assert bool(found["won_in"]) == bool(won)
    assert all(
        low <= m[name] * 1.001 and m[name] <= high * 1.001 for m in won for name, (low, high) in found["won_in"].items()
    )


@pytest.mark.parametrize(("rivals", "left"), [(["broken", "base"], []), (["base", "broken"], ["least_loaded+fcfs"])])
def test_a_comparator_that_fails_leaves_the_cell_out_and_another_rival_itself(
    tmp_path: Path, rivals: list[str], left: list[str]
) -> None:
    broken = subject_of_source("def create(rng):\n    raise ValueError('no')\n", "broken")
    with Ledger.create(tmp_path, RunRecord("r", 0.0, "small", "{}", "hash", {}, "secret")) as ledger:
        content = certify(
            ledger,
            small_scenario(),
            WINNER,
            [broken if rival == "broken" else BASE for rival in rivals],
            2,
            executor=LocalExecutor(1),
            deadline_seconds=60.0,
            cells=(Regime(),),
        )
    assert [row["label"] for cell in content["cells"] for row in cell["against"]] == left
    assert bool(content["worst"]) == bool(left)
    told = content["failed"][0]["failure"] if not left else " ".join(of_cells(content))
    assert "no" in told
    assert not left or "Without broken in " in told


def test_the_regimes_were_written_down_before() -> None:
    assert len(REGIMES) == len(set(REGIMES)) == 12
    assert Regime() in REGIMES


def cell(better: float, worse: float) -> dict:  # type: ignore[type-arg]
    return {"regime": "r", "p": {"better": better, "worse": worse}}


def test_won_is_said_at_a_level_for_all_cells_together() -> None:
    cells = [cell(0.04, 0.96), cell(0.001, 0.999), cell(0.9, 0.1), cell(0.99, 0.002)]
    judged = _judged(cells, 0)
    assert [c["won"] for c in judged] == [False, True, False, False], "0.04 is no win among four"
    assert [c["lost"] for c in judged] == [False, False, False, True]
    assert judged[1]["adjusted_p"] == pytest.approx(0.004)
    assert _judged(cells[:1], 0)[0]["won"]
    assert not _judged(cells[:1], 1)[0]["won"], "a cell that could not be scored counts"


def test_cells_without_a_difference_are_seldom_won() -> None:
    """Of many certificates of twelve cells in which nothing is better, at most a share of LEVEL calls any cell won."""
    rng = np.random.default_rng(4)
    tables = rng.normal(0.0, 0.1, (1000, 12, 4))
    p_values = stats.ttest_1samp(tables, 0.0, axis=2, alternative="less").pvalue
    any_won = sum(any(c["won"] for c in _judged([cell(p, 1 - p) for p in row], 0)) for row in p_values)
    assert any_won / 1000 < LEVEL + 0.02


def test_a_cell_that_was_not_won_may_lie_within_the_ranges_and_is_named() -> None:
    ranges = {"arrival_rate": [1.0, 3.0], "gap_cv": [1.0, 2.0]}
    assert _is_within({"arrival_rate": 2.0, "gap_cv": 2.0}, ranges)
    assert not _is_within({"arrival_rate": 3.5, "gap_cv": 2.0}, ranges)
    assert not _is_within({"arrival_rate": 2.0, "gap_cv": 2.0}, {})
