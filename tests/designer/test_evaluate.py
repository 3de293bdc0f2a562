"""Scorecards: the same whatever the number of processes, and honest about what ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from designer.evaluate import EvaluationError, PolicyScore, Scorecard, evaluate
from designer.scorecard import to_json
from designer.simulator.world import simulate
from policies.loader import PolicyLoadError
from tests.support.contended_scenario import contended_scenario


def card(**values: list[float]) -> Scorecard:
    """A scorecard of made-up objectives, seed by seed."""
    scores = tuple(
        PolicyScore(name, (), tuple({"objective": value, "num_requests": 10} for value in of_seed))
        for name, of_seed in values.items()
    )
    seeds = tuple(range(len(scores[0].values)))
    return Scorecard("made up", "0" * 64, "mean_response_time", seeds, "least_loaded", scores)


def test_every_policy_runs_on_every_seed_and_the_comparator_is_added() -> None:
    done: list[None] = []
    made = evaluate(["random", "head_room", "random"], contended_scenario(), [3, 5], on_done=lambda: done.append(None))
    assert [score.spec for score in made.scores] == ["random", "head_room", "least_loaded"]
    assert [summary["seed"] for summary in made.score("head_room").summaries] == [3, 5]
    assert len(done) == 6
    assert made.num_requests == 480
    assert made.cpu_seconds > 0


def test_a_score_is_the_simulations_own() -> None:
    made = evaluate(["random"], contended_scenario(), [3])
    assert made.score("random").values == (simulate(contended_scenario(), "random", 3).mean_response_time,)


def test_the_number_of_processes_changes_nothing() -> None:
    one, two = (evaluate(["random", "expert"], contended_scenario(), [1, 2], jobs=jobs) for jobs in (1, 2))
    assert one == two
    assert to_json(one) == to_json(two)


def test_effects_are_paired() -> None:
    made = card(fast=[1.0, 10.0, 100.0], least_loaded=[2.0, 20.0, 200.0])
    assert made.effect("fast").ratio == pytest.approx(0.5)
    assert made.effect("least_loaded", "fast").ratio == pytest.approx(2.0)
    assert made.effect("fast").t_interval.high == pytest.approx(0.5)
    assert made.interval("fast").low >= 1.0


def test_p_values_are_adjusted_over_all_but_the_comparator() -> None:
    made = card(a=[1.0] * 4, b=[1.0, 1.0, 1.0, 8.0], least_loaded=[2.0] * 4)
    assert made.adjusted_p_values() == {"a": 0.25, "b": pytest.approx(made.effect("b").p_value)}


def test_a_mean_over_seeds_needs_every_seed() -> None:
    score = PolicyScore("x", (), ({"p99_tpot": 1.0, "held": 2.0}, {"p99_tpot": None, "held": 4.0}))
    assert score.mean("p99_tpot") is None
    assert score.mean("held") == 3.0


def test_identities_say_what_ran() -> None:
    (identity,) = evaluate(["head_room@routing:r=0.5"], contended_scenario(), [1]).scores[0].identities
    assert identity["name"] == "joint/head_room"
    assert identity["params"]["r"] == 0.5
    assert identity["slots"] == ["routing"]
    assert len(identity["policy_hash"]) == 64


def test_the_reference_runs_on_the_same_seeds_and_shares_are_of_what_it_wins() -> None:
    made = evaluate(["head_room"], contended_scenario(), [1, 2], reference=True)
    assert made.reference is not None
    best, base = (sum(score.values) / 2 for score in (made.reference, made.score("least_loaded")))
    value = sum(made.score("head_room").values) / 2
    bound = made.bound("head_room")
    assert bound is not None
    assert 0 < bound < min(best, value, base)
    assert made.share_won("head_room") == pytest.approx((base - value) / (base - best))
    assert made.share_of_bound("head_room") == pytest.approx((base - value) / (base - bound))
    assert made.share_won("least_loaded") == 0.0
    assert made.num_requests == 480
    assert made.score("head_room").mean("max_held")
    assert 0 < (made.score("head_room").mean("mean_kv_usage") or 0) < 1


def test_without_a_reference_nothing_is_claimed() -> None:
    made = card(fast=[1.0], least_loaded=[2.0])
    assert (made.share_won("fast"), made.bound("fast"), made.share_of_bound("fast")) == (None, None, None)


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_seeds_are_needed_once_each(seeds: list[int]) -> None:
    with pytest.raises(EvaluationError, match="each once"):
        evaluate(["random"], contended_scenario(), seeds)


def test_a_policy_that_does_not_load_stops_it_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def create(rng:\n")
    done: list[None] = []
    with pytest.raises(PolicyLoadError, match=r"broken.py:1"):
        evaluate(["random", str(tmp_path / "broken.py")], contended_scenario(), [1], on_done=lambda: done.append(None))
    assert not done


PICKS_ONE = """
class PicksOne:
    def route(self, request, candidates, pool):
        return candidates[{index}]

def create(rng):
    return PicksOne()
"""


def test_a_file_changed_half_way_is_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PICKS_ONE.format(index=0))

    def edit() -> None:
        path.write_text(PICKS_ONE.format(index=-1))

    with pytest.raises(PolicyLoadError, match=r"mine\.py"):
        evaluate([str(path)], contended_scenario(), [1, 2], on_done=edit)
