"""What a run was told to cost at most, beside what it cost."""

from __future__ import annotations

from dataclasses import replace

from designer.certificate import REGIMES
from designer.estimate import in_words, most_simulations
from designer.ledger import Ledger
from designer.proposers.llm.settings import Caps, make_settings
from designer.sealed import Protocol
from designer.search import RunOutcome, Settings, settings_of
from designer.why import stored
from tests.support.finished_run import SETTINGS


def test_no_phase_of_a_real_run_costs_more_than_it_was_told_to(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        settings, why = settings_of(ledger.run()), stored(ledger)
    assert why is not None
    cost, most = outcome.simulations, most_simulations(settings, num_arms=3)
    assert cost["search"] <= most["search"]
    assert cost["control"] + cost["tuned"] <= most["controls"]
    assert 0 < cost["baselines and checks"] <= most["baselines"] + most["checks"]
    assert 0 < cost["validation"] <= most["validation"]
    assert 0 < cost["sealed"] <= most["sealed"]
    assert 0 < cost["ablation"] <= most["ablation"]
    assert 0 < cost["why"] + why["winnable"]["simulations"] <= most["why"]
    assert cost["regime"] == most["regimes"] == 0
    assert sum(cost.values()) <= sum(most.values()) < 3 * sum(cost.values()), "a bound, and not without use"


def test_every_look_and_every_cell_is_counted() -> None:
    protocol = Protocol(train_seeds=3, validation_seeds=10, finalists=2, sealed_seeds=20, max_looks=2)
    settings = Settings(
        protocol=protocol, baselines=("a", "b"), references=("r",), ablation_seeds=0, regime_seeds=4, why_seeds=0
    )
    most = most_simulations(settings, num_arms=3)
    assert most["sealed"] == 2 * 20 * (2 + 2 + 2), "winner, comparator, a, r, and two controls, at both looks"
    assert most["validation"] == 10 * (2 + 2 + 2)
    assert most["regimes"] == len(REGIMES) * 4 * 4, "winner, comparator, a, r"
    assert most["ablation"] == most["why"] == 0
    one_look = replace(settings, protocol=replace(protocol, max_looks=1))
    assert most_simulations(one_look, num_arms=3)["sealed"] == most["sealed"] // 2


def test_what_models_may_have_repeated_is_counted() -> None:
    llm = make_settings(model="m", base_url="http://127.0.0.1:1/v1", price="0").model_dump(mode="json")
    most = most_simulations(replace(SETTINGS, proposer="llm", llm=llm), num_arms=3)
    assert most["analysis"] == Caps().analysis_simulations > 0
    assert most_simulations(SETTINGS, num_arms=3)["analysis"] == 0


def test_it_is_told_in_a_line() -> None:
    line = in_words(most_simulations(SETTINGS, num_arms=1), 0.5, 2)
    assert line.startswith("at most ")
    assert "search 36" in line
    assert "why" not in line, "what costs nothing is not told"
    assert "0.50 s each up to about" in line
