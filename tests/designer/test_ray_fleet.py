"""Ray itself, on this machine: the same history as without it, also when an actor is killed in the middle."""

from __future__ import annotations

import dataclasses
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from designer.batches import Batch, BatchExecutor
from designer.build import build
from designer.executor import ExecutorError, LocalExecutor, Placement
from designer.history import history_digest
from designer.ledger import LEDGER_FILE
from designer.ray_fleet import RayFleet
from designer.sandbox import Task
from designer.search import Search, Watcher, new_ledger
from designer.subject import subject_of_specs
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ranvier[ray]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
POLICY = subject_of_specs("joint/head_room")


@pytest.fixture(scope="module")
def fleet() -> Iterator[RayFleet]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = RayFleet(Placement("ray", jobs=2))
        yield made
        made.close()


def test_the_places_tell_what_confines_a_candidate_there(fleet: RayFleet) -> None:
    (place,) = fleet.places()
    assert place.jobs == fleet.size == 2
    assert {"process group", "rlimits", "empty environment"} <= set(place.layers)


def test_the_history_is_that_of_a_run_without_ray_though_an_actor_is_killed(fleet: RayFleet, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, budget=16, ablation_seeds=0)
    killed: list[int] = []

    def kill_once(_: object) -> None:
        if not killed:
            killed.append(fleet.processes()[0])
            os.kill(killed[0], signal.SIGKILL)

    for name, executor, watcher in (
        ("local", LocalExecutor(2), Watcher()),
        ("ray", BatchExecutor(fleet), Watcher(on_search=kill_once)),
    ):
        with new_ledger(tmp_path / name, small_scenario(), settings, secret="not so secret") as ledger:
            Search(ledger, executor=executor, watcher=watcher).run()
    assert killed
    assert killed[0] not in fleet.processes()
    assert len(fleet.processes()) == 2
    local, ray = (tmp_path / name / LEDGER_FILE for name in ("local", "ray"))
    assert history_digest(local) == history_digest(ray)


def test_an_actor_that_is_killed_while_it_simulates_is_replaced(fleet: RayFleet) -> None:
    scenario = small_scenario(20_000)
    fleet.begin(0, Batch(scenario, scenario.digest, 60.0, (Task(POLICY, 1),)))
    os.kill(fleet.processes()[0], signal.SIGKILL)
    assert fleet.wait(60.0) == {0: None}
    assert fleet.replace(0)
    small = small_scenario(40)
    fleet.begin(0, Batch(small, small.digest, 60.0, (Task(POLICY, 1),)))
    ((answer,),) = fleet.wait(60.0).values()  # type: ignore[misc]
    assert answer["status"] == "scored"


def test_what_a_node_refuses_ends_the_run_with_its_reason(fleet: RayFleet) -> None:
    scenario = small_scenario(40)
    fleet.begin(0, Batch(scenario, "another digest", 60.0, (Task(POLICY, 1),)))
    with pytest.raises(ExecutorError, match="a file that the scenario names is another one there"):
        fleet.wait(60.0)


@pytest.mark.parametrize("key", ["python", "numpy", "ranvier", "sources"])
def test_a_node_of_another_build_is_refused(fleet: RayFleet, key: str) -> None:
    told: dict[str, Any] = {"host": "far", "layers": ["seccomp"], "build": {**build(), key: "0.0"}}
    with pytest.raises(ExecutorError, match=r"node far has .* 0\.0 and this machine .*: results could differ"):
        fleet._refuse(told)


def test_a_node_that_cannot_confine_is_refused_unless_it_is_allowed(fleet: RayFleet) -> None:
    told = {"host": "far", "layers": ["process group", "rlimits"], "build": build()}
    with pytest.raises(ExecutorError, match="--allow-unconfined-nodes"):
        fleet._refuse(told)
    fleet._allow_unconfined = True
    fleet._refuse(told)
    fleet._allow_unconfined = False


def test_a_cluster_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(ExecutorError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        RayFleet(Placement("ray", ray_address="127.0.0.1:1"))
