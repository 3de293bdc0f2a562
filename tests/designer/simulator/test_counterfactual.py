"""Simulations that leave out what costs time: each leaves out that, and nothing else."""

import pytest

from designer.simulator.counterfactual import Counterfactual
from designer.simulator.fleet import plan_workers
from designer.simulator.results import SimulationResult
from designer.simulator.scenario import Scenario
from designer.simulator.world import simulate
from tests.support.small_scenario import small_scenario


def run(policies: str, scenario: Scenario) -> SimulationResult:
    return simulate(scenario, policies, seed=3)


def there(**changes: bool) -> Scenario:
    return small_scenario(counterfactual=changes)


def test_the_default_changes_neither_runs_nor_digest() -> None:
    assert there().digest == there(holding=True).digest == small_scenario().digest
    assert len({there(**{name: name != "holding"}).digest for name in Counterfactual.model_fields}) == 2
    assert there(holding=False).digest != small_scenario().digest


@pytest.mark.parametrize("policies", ["joint/head_room", "head_room@routing+fcfs"])
def test_without_holding_everything_goes_at_once(policies: str) -> None:
    held, sent = run(policies, small_scenario()), run(policies, there(holding=False))
    assert held.summary()["held_share"] > 0.2
    assert sent.summary()["held_share"] == 0.0
    assert sent.summary()["num_policy_failures"] == 0


def test_a_policy_that_never_holds_is_not_changed() -> None:
    as_it_is, changed = run("least_loaded", small_scenario()), run("least_loaded", there(holding=False))
    assert as_it_is.finished.tolist() == changed.finished.tolist()


def test_free_prefill_takes_a_step_and_decoding_costs_what_it_did() -> None:
    (plan, _), (free, _) = plan_workers(small_scenario()), plan_workers(there(free_prefill=True))
    assert (free.profile.token_ps, free.profile.prefill_context_ps) == (0, 0)
    assert free.profile.weights_ps == plan.profile.weights_ps
    assert free.profile.decode_context_ps == plan.profile.decode_context_ps
    assert free.config.num_gpu_blocks == plan.config.num_gpu_blocks
    with_cost = run("least_loaded", small_scenario()).mean_parts["prefill"]
    without = run("least_loaded", there(free_prefill=True)).mean_parts["prefill"]
    step = (free.profile.weights_ps + free.profile.host_step_ps) / 1e12
    assert step <= without < 2 * step < with_cost


def test_free_recomputation_leaves_preemptions_and_takes_their_cost() -> None:
    engine = {"num_gpu_blocks": 120, "restore_preempted": True}
    free = small_scenario(workers=[{"profile": "a10-llama3-8b", "count": 2, "engine": engine}])
    before, after = run("least_loaded", small_scenario()).summary(), run("least_loaded", free).summary()
    assert before["num_recomputed_tokens"] > 0 == after["num_recomputed_tokens"]
    assert after["num_preemptions"] > 0
