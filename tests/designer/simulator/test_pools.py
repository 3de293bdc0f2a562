"""Several pools in one scenario: who serves what, with whose policies, and what is refused as a scenario."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from designer.simulator.policies import make_policy_set
from designer.simulator.pools import evaluated_pools, make_policy_sets, pool_configs
from designer.simulator.results import OUTCOMES
from designer.simulator.scenario import Scenario, ScenarioError
from designer.simulator.workload import draw_workload
from designer.simulator.world import World, simulate
from gateway.core.commands import SetReplicas
from gateway.core.event_log import Recorder, encode_header, replay
from gateway.core.events import PolicySetReplaced, RequestArrived
from gateway.telemetry.event_log import loader_of
from tests.support.contended_scenario import contended_scenario

ENGINE = {"num_gpu_blocks": 100, "watermark": 0.01, "enable_prefix_caching": False}
WORKERS = [
    {"profile": "a10-llama3-8b", "count": 2, "engine": ENGINE, "pool": "chat"},
    {"profile": "a10-llama3-8b", "count": 1, "engine": ENGINE, "pool": "code", "variant": "small"},
    {"profile": "a100-llama3-8b", "count": 1, "engine": ENGINE, "pool": "code", "variant": "large"},
]
POOLS = [{"name": "chat", "models": ["chat-8b"]}, {"name": "code", "models": ["code-8b", "code-8b-lora"]}]
MODELS = [{"name": "chat-8b", "weight": 2.0}, {"name": "code-8b"}, {"name": "code-8b-lora"}]


def scenario(**tables: Any) -> Scenario:
    """Two pools, the second of two variants."""
    workload = {"models": MODELS} | tables.pop("workload", {})
    return contended_scenario(**{"pools": POOLS, "workers": WORKERS, "workload": workload} | tables)


def test_a_request_is_served_in_the_pool_that_names_its_model() -> None:
    small = scenario(queue={"max_seconds": 6000.0})
    columns = draw_workload(small, 1)
    result = simulate(small, "head_room", 1)
    assert set(columns.models) == {"chat-8b", "code-8b", "code-8b-lora"}
    assert result.completed.all()
    assert {(model, int(worker)) for model, worker in zip(columns.models, result.worker, strict=True)} == {
        ("chat-8b", 0),
        ("chat-8b", 1),
        *((model, worker) for model in ("code-8b", "code-8b-lora") for worker in (2, 3)),
    }


def test_one_declared_pool_is_the_undeclared_one() -> None:
    tables = [{key: value for key, value in table.items() if key != "pool"} for table in WORKERS]
    plain = contended_scenario(workers=tables)
    declared = contended_scenario(pools=[{"name": "one"}], workers=[table | {"pool": "one"} for table in tables])
    for policy in ("head_room", "power_of_two"):
        one, other = simulate(plain, policy, 3), simulate(declared, policy, 3)
        assert np.array_equal(one.finished, other.finished)
        assert np.array_equal(one.worker, other.worker)


def test_models_are_drawn_by_weight_and_sessions_keep_theirs() -> None:
    sessions = {"turns": {"median": 3.0, "max": 4}, "think_seconds": 1.0, "max_prompt_tokens": 900}
    columns = draw_workload(scenario(workload={"num_requests": 400, "sessions": sessions}), 1)
    by_session: dict[str | None, set[str]] = {}
    for session, model in zip(columns.session_ids, columns.models, strict=True):
        by_session.setdefault(session, set()).add(model)
    assert len(columns) > 600
    assert all(len(models) == 1 for models in by_session.values())
    assert 0.4 < sum(models == {"chat-8b"} for models in by_session.values()) / 400 < 0.6


def test_models_do_not_change_what_else_is_drawn() -> None:
    tenants = [{"name": "a", "to_seconds": 2.0}, {"name": "b"}]
    workload = {"num_requests": None, "duration_seconds": 5.0, "tenants": tenants}
    without = draw_workload(contended_scenario(workload=workload), 1)
    columns = draw_workload(scenario(workload=workload), 1)
    assert np.array_equal(without.num_prompt_tokens, columns.num_prompt_tokens)
    assert len(columns.models) == len(columns)


def test_pools_with_their_own_policies_keep_them() -> None:
    both = scenario(pools=[POOLS[0], POOLS[1] | {"policies": "least_tokens+fcfs"}])
    sets = make_policy_sets(both, "head_room", 1)
    assert sets["chat"].identities["routing"].name == "joint/head_room"
    assert {slot: one.name for slot, one in sets["code"].identities.items()} == {
        "routing": "routing/least_tokens",
        "scheduling": "scheduling/fcfs",
    }
    assert evaluated_pools(both) == ("chat",)
    replaced: list[str] = []
    simulate(
        both,
        "round_robin",
        1,
        sink=lambda event, _: replaced.append(event.pool) if isinstance(event, PolicySetReplaced) else None,
        swaps=[(1.0, "head_room")],
    )
    assert replaced == ["chat"]


def test_pools_that_are_evaluated_do_not_share_a_policy() -> None:
    sets = make_policy_sets(scenario(), "round_robin", 1)
    assert sets["chat"].routing is not sets["code"].routing
    assert evaluated_pools(scenario()) == ("chat", "code")


def test_the_log_of_two_pools_one_of_them_scaled_replays_bit_exactly() -> None:
    bounds = {"min_replicas": 1, "max_replicas": 3, "cold_start_seconds": 2.0}
    scaling = {"interval_seconds": 1.0, "up_delay_seconds": 1.0, "down_delay_seconds": 4.0}
    scaled = scenario(workers=[WORKERS[0], WORKERS[1] | bounds, WORKERS[2]], autoscaling=scaling)
    sets = make_policy_sets(scaled, "power_of_two+fcfs+target_tracking:target=2", 5)
    world = World(scaled, draw_workload(scaled, 5), sets)
    log, records, commands = Recorder(world.dispatcher, checkpoint_every=20), [], []
    world.sink = lambda event, made: (records.extend(log.records(event, made)), commands.extend(made))
    header = encode_header(pool_configs(scaled, sets), seed=5)
    world.run()
    assert {command.pool for command in commands if isinstance(command, SetReplicas)} == {"code"}
    assert world.result(5).counters["num_policy_failures"] == 0
    written = orjson.loads(orjson.dumps([header, *records]))
    assert [c for _, made in replay(written[0], written[1:], loader_of(5)) for c in made] == commands


def test_a_model_that_no_pool_names_goes_to_the_pool_that_names_none_or_nowhere() -> None:
    open_ = scenario(pools=[POOLS[0], {"name": "code"}], workload={"models": [*MODELS, {"name": "other"}]})
    result, columns = simulate(open_, "least_loaded", 1), draw_workload(open_, 1)
    served = {model for model, worker in zip(columns.models, result.worker, strict=True) if worker >= 2}
    assert served == {"code-8b", "code-8b-lora", "other"}
    arrivals: list[str] = []
    closed, strangers = scenario(), draw_workload(open_, 1)
    lost = simulate(
        closed,
        "least_loaded",
        1,
        workload=strangers,
        sink=lambda event, _: arrivals.append(event.model) if isinstance(event, RequestArrived) else None,
    )
    assert int((lost.outcome == OUTCOMES.index("unknown_model")).sum()) == arrivals.count("other") > 0


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pools": [POOLS[0], POOLS[0]]}, "two pools have the same name"),
    ({"pools": [POOLS[0]]}, r"workers\[1\].pool is 'code': name one of chat"),
    ({"pools": []}, r"workers\[0\].pool is 'chat': leave it out, or declare"),
    ({"pools": [*POOLS, {"name": "third", "models": ["x"]}]}, "pool 'third' has no workers"),
    ({"pools": [POOLS[0], {"name": "code", "models": ["chat-8b"]}]}, "a model is named by two pools"),
    ({"pools": [{"name": "chat"}, {"name": "code"}]}, "pools chat, code name no models; at most one may"),
    ({"workload": {"models": []}}, "workload.models is missing"),
    ({"workload": {"models": [*MODELS, {"name": "x"}]}}, "workload.models: no pool names 'x'"),
    ({"workload": {"models": [*MODELS, MODELS[0]]}}, "two models have the same name"),
    ({"pools": [POOLS[0] | {"policies": "./mine.py"}, POOLS[1]]}, r"pools\[0\]: policies: '\./mine.py' is no built-in"),
    ({"pools": [POOLS[0] | {"policies": "head_room:"}, POOLS[1]]}, r"pools\[0\]: policies: "),
    ({"pools": [POOLS[0] | {"color": "red"}, POOLS[1]]}, r"pools\[0\].color: unknown key"),
]


@pytest.mark.parametrize(("tables", "message"), WRONG)
def test_what_does_not_fit_together_is_an_error(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        scenario(**tables)


def test_a_set_for_all_pools_is_what_make_policy_set_makes_for_one() -> None:
    plain = contended_scenario()
    [only] = make_policy_sets(plain, "head_room", 1).values()
    assert only.identities == make_policy_set("head_room", 1).identities
