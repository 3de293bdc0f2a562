"""The work of a replay's simulations, in this process, with the winner at the other end of a socket."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from designer.export import as_sent, as_traced, write_trace
from designer.lockstep_host import serve
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate
from designer.subject import Subject, subject_of_specs
from designer.work_replay import WORK, WrongAnswersError
from gateway.core.policy_set import PolicySet
from tests.support.small_scenario import small_scenario


def done(work: str, subject: Subject, **job: Any) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    host = threading.Thread(target=_served, args=(theirs, subject, job["seed"]), daemon=True)
    host.start()
    try:
        with ours:
            content = {**job, "subject": subject.to_json()}
            found: dict[str, Any] = WORK[work](content, lambda: (), [ours.fileno()])
    finally:
        host.join()
    return found


def _served(sock: socket.socket, subject: Subject, seed: int) -> None:
    with sock:
        try:
            serve([sock.fileno()], subject, seed)
        except OSError:
            return  # nobody asked


def test_a_trace_is_simulated_as_the_load_generator_sends_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    write_trace(small_scenario(40), 3, trace)
    scenario = as_traced(small_scenario(40), trace)
    subject = subject_of_specs("joint/head_room")
    told = done("replayed", subject, scenario=scenario.model_dump_json(), seed=3)
    expected = simulate(scenario, "joint/head_room", 3, workload=as_sent(draw_workload(scenario, 3)))
    assert told["num_requests"] == 40
    assert told["response_times"] == expected.response_times.tolist()
    assert told["ttfts"] == expected.ttfts.tolist()


def test_a_swap_is_the_gateway_s_own(tmp_path: Path) -> None:
    """Until the swap nothing differs, and then it is what ``simulate`` makes of the same swap."""
    scenario, text = small_scenario(60), small_scenario(60).model_dump_json()
    winner, before = subject_of_specs("joint/head_room"), subject_of_specs("least_loaded+fcfs")
    job = {"scenario": text, "seed": 3, "comparator": before.to_json()}
    stayed = done("swapped", winner, **job, way="comparator", moment=0.0)
    moment = float(np.quantile(stayed["ends"], 0.25))
    swapped = done("swapped", winner, **job, way="swap", moment=moment)
    alone = done("swapped", winner, **job, way="winner", moment=moment)
    expected = simulate(scenario, "least_loaded+fcfs", 3, swaps=[(moment, "joint/head_room")])
    assert swapped["response_times"] == expected.response_times.tolist()
    assert alone["response_times"] == simulate(scenario, "joint/head_room", 3).response_times.tolist()
    over = np.array(stayed["ends"]) <= moment
    assert 0 < over.sum() < 60
    assert (np.array(stayed["ends"])[over] == np.array(swapped["ends"])[over]).all()
    assert stayed["response_times"] != swapped["response_times"]


def test_answers_that_had_to_be_replaced_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(
        "class Wrong:\n    def route(self, request, candidates, pool):\n        raise ValueError('no')\n\n"
        "def create(rng):\n    return Wrong()\n"
    )
    with pytest.raises(WrongAnswersError, match="wrong and had to be replaced"):
        done(
            "swapped",
            subject_of_specs(str(path)),
            scenario=small_scenario(20).model_dump_json(),
            seed=1,
            comparator=subject_of_specs("least_loaded").to_json(),
            way="winner",
            moment=0.0,
        )
    assert PolicySet.builtin().generation == 0
