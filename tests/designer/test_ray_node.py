"""A node as a cluster would run it, without a cluster: the same answers as here, and no belief in what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from designer.build import build
from designer.ray_node import Node, NodeError, task_to_json
from designer.sandbox import Sandbox, Task
from designer.simulator.scenario import load_scenario
from designer.subject import subject_of_specs
from tests.support.small_scenario import small_scenario

SCENARIO = small_scenario(40)
POLICY = subject_of_specs("joint/head_room")


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


def test_it_answers_as_a_sandbox_does(node: Node) -> None:
    tasks = [Task(POLICY, 1), Task(POLICY, 2), Task(subject_of_specs("round_robin+fcfs"), 1, "lockstep")]
    there = node.run(SCENARIO.model_dump_json(), SCENARIO.digest, 60.0, [task_to_json(task) for task in tasks])
    with Sandbox(SCENARIO, jobs=1) as sandbox:
        here = [asdict(evaluation) for evaluation in sandbox.run(tasks)]
    for ours, theirs in zip(here, there, strict=True):
        assert ours["status"] == "scored"
        for name in ("status", "score", "summary", "decisions", "policy_hashes", "reason"):
            assert ours[name] == theirs[name]


def test_another_scenario_and_another_deadline_are_gone_along_with(node: Node) -> None:
    other = small_scenario(30)
    task = [task_to_json(Task(POLICY, 1))]
    scores = [
        node.run(scenario.model_dump_json(), scenario.digest, deadline, task)[0]["score"]
        for scenario, deadline in ((SCENARIO, 60.0), (other, 60.0), (SCENARIO, 60.0), (other, 50.0))
    ]
    assert scores[0] == scores[2] != scores[1] == scores[3]


def test_it_tells_its_layers_and_its_build(node: Node) -> None:
    told = node.describe()
    assert {"process group", "rlimits", "empty environment"} <= set(told["layers"])
    assert told["build"] == build()
    assert len(told["build"]["sources"]) == 16


def test_other_bytes_than_the_digest_says_are_not_run(node: Node) -> None:
    task = task_to_json(Task(POLICY, 1))
    task["subject"]["parts"][0]["source"] += "\n# changed on the way\n"
    with pytest.raises(NodeError, match="the bytes of joint/head_room are not those of"):
        node.run(SCENARIO.model_dump_json(), SCENARIO.digest, 60.0, [task])


def test_another_scenario_than_the_digest_says_is_not_run(node: Node, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="is another one there"):
        node.run(small_scenario(41).model_dump_json(), SCENARIO.digest, 60.0, [])
    text = load_scenario("demo").model_copy(update={"workload": {"kind": "trace", "path": str(tmp_path / "no.jsonl")}})
    with pytest.raises(NodeError, match="must be at the same paths"):
        node.run(text.model_dump_json(warnings=False), SCENARIO.digest, 60.0, [])
