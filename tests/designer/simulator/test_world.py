"""Whole simulations: times by hand, every outcome, and the rules that hold whatever a policy does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from designer.simulator.failures import draw_failures
from designer.simulator.fleet import plan_workers
from designer.simulator.policies import make_policy_set
from designer.simulator.pools import pool_config
from designer.simulator.results import OUTCOMES, SimulationResult
from designer.simulator.scenario import Scenario, ScenarioError, SyntheticWorkload, load_scenario
from designer.simulator.workload import draw_workload
from designer.simulator.world import World, simulate
from gateway.core.commands import Cancel, Command, Dispatch, SetReplicas
from gateway.core.event_log import DivergenceError, encode_header, replay
from gateway.core.event_log import Recorder as Log
from gateway.core.events import (
    ClientLeft,
    Event,
    MetricsScraped,
    PolicySetReplaced,
    RequestArrived,
    RequestEnded,
    Ticked,
    WorkerDraining,
    WorkerHealthChanged,
    WorkerJoined,
    WorkerLeft,
)
from gateway.telemetry.event_log import loader_of
from policies.loader import builtin_names
from tests.support.contended_scenario import by_hand, contended_scenario

HOLD_ALL = """
class HoldAll:
    def route(self, request, candidates, pool):
        return None

def create(rng):
    return HoldAll()
"""
SHED_ODD = """
class ShedOdd:
    def admit(self, request, pool):
        return int(request.request_id[1:]) % 2 == 0

    def key(self, request):
        return 0.0

def create(rng):
    return ShedOdd()
"""
RAISES = """
class Raises:
    def route(self, request, candidates, pool):
        raise RuntimeError("no idea")

def create(rng):
    return Raises()
"""


def policy(tmp_path: Path, source: str) -> str:
    path = tmp_path / "policy.py"
    path.write_text(source)
    return str(path)


def outcomes(result: SimulationResult) -> set[str]:
    return {OUTCOMES[index] for index in result.outcome}


class Recorder:
    """Keeps every event with its commands."""

    def __init__(self) -> None:
        self.heard: list[tuple[Event, list[Command]]] = []

    def __call__(self, event: Event, commands: Sequence[Command]) -> None:
        self.heard.append((event, list(commands)))

    def events(self, kind: type) -> list[Any]:
        return [event for event, _ in self.heard if isinstance(event, kind)]

    def commands(self, kind: type) -> list[Any]:
        return [command for _, commands in self.heard for command in commands if isinstance(command, kind)]


def test_times_of_one_request_by_hand(tmp_path: Path) -> None:
    result = simulate(by_hand(tmp_path), "least_loaded", 1)
    since = result.arrival[0]
    assert result.dispatched[0] == since
    # 1 ms to the worker, 2 ms until the scheduler sees it, a step of 10 ms, 1 ms back; then two more steps
    assert result.first_token[0] - since == pytest.approx(0.014, abs=1e-9)
    assert result.finished[0] - since == pytest.approx(0.034, abs=1e-9)
    assert result.tpots.tolist() == pytest.approx([0.010], abs=1e-9)


@pytest.mark.parametrize("name", [name for name in builtin_names() if not name.startswith("autoscaling")])
def test_every_built_in_serves_everything(name: str) -> None:
    result = simulate(contended_scenario(), name, 1)
    assert outcomes(result) == {"completed"}
    assert result.counters["num_policy_failures"] == 0


def test_the_same_seed_gives_the_same_bytes() -> None:
    runs = [simulate(contended_scenario(), "random", seed).to_json(columns=True) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_kv_is_contended_and_head_room_prevents_it() -> None:
    loaded, room = (simulate(contended_scenario(), name, 1) for name in ("least_loaded", "head_room:ageing=0"))
    assert loaded.preemptions.sum() > room.preemptions.sum()
    assert np.nanmax(loaded.held) == 0.0
    assert np.nanmax(room.held) > 0.0


def test_common_random_numbers() -> None:
    one, other = (simulate(contended_scenario(), name, 3) for name in ("random", "head_room"))
    assert one.arrival.tolist() == other.arrival.tolist()
    assert one.output.tolist() == other.output.tolist()


def test_the_dispatcher_is_told_nothing_of_the_output() -> None:
    short, long = Recorder(), Recorder()
    simulate(contended_scenario(workload={"output_tokens": {"median": 2.0}}), "round_robin", 1, sink=short)
    simulate(contended_scenario(workload={"output_tokens": {"median": 99.0}}), "round_robin", 1, sink=long)
    assert short.events(RequestArrived) == long.events(RequestArrived)


def test_bytes_stand_for_tokens_unless_told_otherwise() -> None:
    told, untold = Recorder(), Recorder()
    simulate(contended_scenario(workload={"bytes": {"exact": True}}), "random", 1, sink=told)
    simulate(contended_scenario(), "random", 1, sink=untold)
    assert all(event.num_prompt_tokens for event in told.events(RequestArrived))
    assert all(event.num_prompt_tokens is None for event in untold.events(RequestArrived))


def test_scrapes_come_about_an_interval_apart_and_late_by_the_delay(tmp_path: Path) -> None:
    recorder = Recorder()
    scenario = contended_scenario(scrape={"interval_seconds": 0.5, "delay_seconds": 0.1})
    simulate(scenario, "random", 1, sink=recorder)
    scrapes = recorder.events(MetricsScraped)
    for worker in {event.worker_id for event in scrapes}:
        times = [event.taken_at for event in scrapes if event.worker_id == worker]
        assert np.all(np.abs(np.diff(times) - 0.6) <= 0.05 + 1e-9)  # up to a tenth of the interval, after the delay
        assert len(set(np.diff(times).round(6))) > 1
    assert all(event.time - event.taken_at == pytest.approx(0.1) for event in scrapes)
    assert any(event.values.num_requests_running for event in scrapes)


def test_a_swap_takes_over_what_was_learned_and_what_is_in_flight() -> None:
    recorder = Recorder()
    scenario = contended_scenario()
    swapped = simulate(scenario, "round_robin", 1, sink=recorder, swaps=[(1.0, "head_room")])
    plain, held = simulate(scenario, "round_robin", 1), simulate(scenario, "head_room", 1)
    assert [event.time for event in recorder.events(PolicySetReplaced)] == [1.0]
    before = plain.arrival < 1.0
    assert np.array_equal(swapped.dispatched[before], plain.dispatched[before])
    assert (swapped.held[~before] > 0).any() and not (plain.held > 0).any()
    assert not np.array_equal(swapped.dispatched, held.dispatched)


def test_held_past_the_limit_is_rejected_in_time(tmp_path: Path) -> None:
    recorder = Recorder()
    scenario = contended_scenario(queue={"max_seconds": 3.0, "tick_seconds": 0.5})
    result = simulate(scenario, policy(tmp_path, HOLD_ALL), 1, sink=recorder)
    assert outcomes(result) == {"queue_timeout"}
    assert (result.finished - result.arrival).max() <= 3.5 + 1e-9
    assert recorder.events(Ticked)
    assert result.mean_response_time == scenario.objective.penalty_seconds


def test_deadlines_and_full_queues(tmp_path: Path) -> None:
    hold = policy(tmp_path, HOLD_ALL)
    assert outcomes(simulate(contended_scenario(clients={"deadline_seconds": 1.0}), hold, 1)) == {"deadline"}
    full = simulate(contended_scenario(queue={"max_requests": 10, "max_seconds": 5.0}), hold, 1)
    assert outcomes(full) == {"queue_timeout", "queue_full"}


def test_shed_requests_are_scored_at_the_penalty(tmp_path: Path) -> None:
    scenario = contended_scenario(objective={"penalty_seconds": 500.0})
    result = simulate(scenario, policy(tmp_path, SHED_ODD), 1)
    odd = np.arange(len(result)) % 2 == 1
    assert np.all(result.outcome[odd] == OUTCOMES.index("shed"))
    assert result.response_times[odd].tolist() == [500.0] * 40
    assert result.response_times[~odd].max() < 500.0


def test_a_failing_policy_costs_no_request(tmp_path: Path) -> None:
    result = simulate(contended_scenario(), policy(tmp_path, RAISES), 1)
    assert outcomes(result) == {"completed"}
    assert result.counters["num_policy_failures"] > 0
    assert result.counters["num_sets_retired"] == 1


def test_clients_that_leave_free_their_blocks_and_their_tokens_are_counted() -> None:
    recorder = Recorder()
    result = simulate(contended_scenario(clients={"timeout_seconds": 3.0}), "least_loaded", 1, sink=recorder)
    left = result.outcome == OUTCOMES.index("left")
    assert 0 < left.sum() < len(result)
    assert len(recorder.commands(Cancel)) == len(recorder.events(ClientLeft)) == left.sum()
    assert sum(event.num_output_tokens for event in recorder.events(ClientLeft)) > 0
    assert np.all(result.finished[left] - result.arrival[left] == pytest.approx(3.0))
    assert np.all(result.made[left] <= result.output[left])


def test_a_prompt_too_long_for_any_worker_is_refused() -> None:
    lengths = {"median": 60.0, "outlier_fraction": 0.1, "outlier_factor": 100.0}
    result = simulate(contended_scenario(workload={"prompt_tokens": lengths}), "least_loaded", 1)
    assert outcomes(result) == {"completed", "refused"}
    assert np.all(result.prompt[result.outcome == OUTCOMES.index("refused")] >= 1600)


def test_answers_that_do_not_stream_show_no_token_before_the_end() -> None:
    recorder = Recorder()
    result = simulate(contended_scenario(workload={"stream_fraction": 0.0}), "least_tokens", 1, sink=recorder)
    assert outcomes(result) == {"completed"}
    assert {type(event).__name__ for event, _ in recorder.heard}.isdisjoint({"FirstTokenSeen"})
    assert np.all(result.first_token < result.finished)


def test_keys_of_prefixes_are_made_while_a_policy_reads_what_is_cached() -> None:
    recorder = Recorder()
    workload = {"prefixes": {"groups": 2, "tokens": {"median": 512.0}}, "bytes": {"per_token": 8.0}}
    scenario = contended_scenario(workload=workload)
    half = float(np.median(draw_workload(scenario, 1).arrival_ps)) / 1e12
    simulate(scenario, "round_robin", 1, sink=recorder, swaps=[(half, "prefix_affinity")])
    arrivals = recorder.events(RequestArrived)
    before = [event.prefix_keys for event in arrivals if event.time < half]
    after = [event.prefix_keys for event in arrivals if event.time > half]
    assert before
    assert set(before) == {()}
    assert after
    assert {tuple(tokens for _, tokens in keys) for keys in after} == {(512, 1024)}


def test_tenants_and_shared_prefixes_reach_the_policy() -> None:
    recorder = Recorder()
    workload = {
        "tenants": [{"name": "a", "priority": 1, "ttft_slo_seconds": 2.0}, {"name": "b"}],
        "prefixes": {"groups": 2, "tokens": {"median": 512.0}},
    }
    workers = [{"profile": "a10-llama3-8b", "count": 2, "engine": {"enable_prefix_caching": True}}]
    result = simulate(contended_scenario(workload=workload, workers=workers), "prefix_affinity", 1, sink=recorder)
    arrivals = recorder.events(RequestArrived)
    assert {(event.tenant, event.priority, event.ttft_slo) for event in arrivals} == {("a", 1, 2.0), ("b", 0, None)}
    assert {len(event.prefix_keys) for event in arrivals} == {2}
    assert any(command.num_cached_tokens for command in recorder.commands(Dispatch))
    assert result.cached.sum() > 0


def test_what_the_worker_reports_is_the_truth() -> None:
    recorder = Recorder()
    result = simulate(contended_scenario(), "round_robin", 1, sink=recorder)
    for event in recorder.events(RequestEnded):
        index = int(event.request_id[1:])
        assert (event.num_prompt_tokens, event.num_output_tokens) == (result.prompt[index], result.output[index])


@pytest.mark.parametrize("spec", ["random", "joint/head_room", "expert", "power_of_two", "prefix_affinity"])
def test_the_event_log_of_a_run_replays_to_the_same_commands(spec: str) -> None:
    scenario = contended_scenario(clients={"timeout_seconds": 8.0})
    policy_set = make_policy_set(spec, 5)
    world = World(scenario, draw_workload(scenario, 5), policy_set)
    log, records = Log(world.dispatcher, checkpoint_every=50), []
    world.sink = lambda event, commands: records.extend(log.records(event, commands))
    header = encode_header([pool_config(scenario, policy_set)], seed=5)
    world.run()
    written = orjson.loads(orjson.dumps([header, *records]))
    replayed = [command for _, commands in replay(written[0], written[1:], loader_of(5)) for command in commands]
    assert sum(isinstance(command, Dispatch) for command in replayed) >= 70
    assert sum(record[1] == "checkpoint" for record in written[1:]) >= 5


@pytest.mark.parametrize(
    ("name", "spec", "seen"),
    [
        ("failures", "head_room", WorkerHealthChanged),
        ("diurnal", "least_loaded+target_tracking:target=8", WorkerLeft),
    ],
)
def test_a_log_with_failures_cold_starts_and_draining_workers_replays(name: str, spec: str, seen: type) -> None:
    scenario = load_scenario(name)
    assert isinstance(scenario.workload, SyntheticWorkload)
    arrivals = scenario.workload.arrivals.model_copy(update={"rate": scenario.workload.arrivals.rate / 4})
    scenario = scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"arrivals": arrivals})})
    columns = draw_workload(scenario, 2)
    policy_set = make_policy_set(spec, 2)
    failures = draw_failures(scenario, 2, int(columns.arrival_ps.max()))
    world = World(scenario, columns, policy_set, None, None, failures, 2)
    log, records, commands = Log(world.dispatcher, checkpoint_every=200), [], []
    world.sink = lambda event, made: (records.extend(log.records(event, made)), commands.extend(made))
    header = encode_header([pool_config(scenario, policy_set)], seed=2)
    world.run()
    written = orjson.loads(orjson.dumps([header, *records]))
    replayed = list(replay(written[0], written[1:], loader_of(2)))
    assert [command for _, made in replayed for command in made] == commands
    assert any(isinstance(event, seen) for event, _ in replayed)
    assert sum(record[1] == "checkpoint" for record in records) >= 10


def test_a_changed_decision_does_not_replay() -> None:
    scenario = contended_scenario()
    policy_set = make_policy_set("round_robin", 5)
    world = World(scenario, draw_workload(scenario, 5), policy_set)
    log, records = Log(world.dispatcher), []
    world.sink = lambda event, commands: records.extend(log.records(event, commands))
    world.run()
    header = encode_header([pool_config(scenario, make_policy_set("random", 5))], seed=5)
    with pytest.raises(DivergenceError):
        list(replay(header, records, loader_of(5)))


def test_an_empty_run_is_an_error() -> None:
    scenario = contended_scenario(workload={"num_requests": None, "duration_seconds": 1e-9})
    with pytest.raises(ScenarioError, match="no request arrives"):
        simulate(scenario, "random", 1)


@pytest.mark.parametrize("kind", ["crash", "hang"])
@pytest.mark.parametrize("stream", [0.0, 1.0])
def test_a_broken_workers_requests_are_tried_elsewhere_or_fail(kind: str, stream: float) -> None:
    recorder = Recorder()
    failure = {"at_seconds": 2.0, "worker": 0, "kind": kind, "down_seconds": 3.0, "detection_seconds": 0.5}
    scenario = contended_scenario(failures=[failure], workload={"stream_fraction": stream})
    result = simulate(scenario, "least_loaded", 1, sink=recorder)
    failed = [event for event in recorder.events(RequestEnded) if event.outcome == "failed"]
    heard = 5.0005 if kind == "hang" else 2.0005
    assert len(failed) == result.counters["num_failed_dispatches"] > 0
    assert min(event.time for event in failed) == pytest.approx(heard)
    assert result.counters["num_retries"] == sum(event.retriable for event in failed) > 0
    ended = result.outcome == OUTCOMES.index("failed")
    assert ended.sum() == sum(not event.retriable for event in failed)
    assert bool(ended.any()) == (stream == 1.0)
    assert np.all(result.first_token[ended] < heard)
    health = [(event.time, event.healthy) for event in recorder.events(WorkerHealthChanged)]
    assert health == [(2.5, False), (5.5, True)]


def test_nothing_is_lost_whatever_breaks_and_whoever_leaves() -> None:
    failures = [
        {"mean_seconds_between": 1.0, "down_seconds": 1.0, "detection_seconds": 0.2},
        {"mean_seconds_between": 2.0, "down_seconds": 0.5, "kind": "hang"},
    ]
    tables: dict[str, Any] = {"failures": failures, "clients": {"timeout_seconds": 6.0}}
    for spec in ("head_room", "least_tokens", "random"):
        result = simulate(contended_scenario(workload={"stream_fraction": 0.5}, **tables), spec, 4)
        assert {"completed", "failed", "left"} <= outcomes(result)
        assert result.num_dispatches.max() > 1
        assert result.counters["num_failed_dispatches"] > 10


def test_requests_give_up_after_the_last_attempt() -> None:
    failure = {"at_seconds": 0.0, "down_seconds": 9.0, "detection_seconds": 9.0}
    tables: dict[str, Any] = {"failures": [{**failure, "worker": 0}, {**failure, "worker": 1}]}
    result = simulate(contended_scenario(queue={"max_attempts": 2}, **tables), "round_robin", 1)
    given_up = result.outcome == OUTCOMES.index("attempts")
    assert given_up.any()
    assert result.num_dispatches[given_up].max() == 2  # fewer where the dispatcher has no retry left to give


def scaled(**autoscaling: float) -> Scenario:
    return contended_scenario(
        workload={"num_requests": 300, "arrivals": {"process": "poisson", "rate": 20.0}},
        workers=[
            {
                "profile": "a10-llama3-8b",
                "variant": "v",
                "min_replicas": 1,
                "max_replicas": 4,
                "cold_start_seconds": 2.0,
            }
        ],
        autoscaling={"interval_seconds": 0.5, "up_delay_seconds": 0.0, "down_delay_seconds": 1.0} | autoscaling,
    )


TRACKING = "least_loaded+target_tracking:target=4,stabilization_seconds=1"


def test_replicas_start_cold_and_drain_before_they_leave() -> None:
    recorder = Recorder()
    result = simulate(scaled(), TRACKING, 1, sink=recorder)
    assert outcomes(result) == {"completed"}
    asked = [(event.time, command) for event, commands in recorder.heard for command in commands]
    first = next(time for time, command in asked if isinstance(command, SetReplicas))
    started = [event for event in recorder.events(WorkerJoined) if event.replica]
    assert len(started) == 3
    assert started[0].time == pytest.approx(first + 2.0)
    assert len(result.workers) == 4
    drained, gone = (
        {event.worker_id: event.time for event in recorder.events(kind)} for kind in (WorkerDraining, WorkerLeft)
    )
    assert gone
    assert set(gone) <= set(drained)
    assert all(gone[name] >= drained[name] for name in gone)
    assert not any(
        isinstance(command, Dispatch) and time > drained.get(command.worker_id, time) for time, command in asked
    )
    makespan = float(result.finished.max())
    assert makespan < result.counters["worker_seconds"] < 4 * makespan


def test_bounds_are_kept_and_without_a_policy_nothing_moves() -> None:
    still = simulate(scaled(), "least_loaded", 1)
    assert still.workers == ("a10-llama3-8b-0",)
    assert still.counters["worker_seconds"] == pytest.approx(float(still.finished.max()))
    wild = simulate(scaled(), "least_loaded+target_tracking:target=0.01", 1)
    assert len(wild.workers) == 4


def test_replicas_may_break_too() -> None:
    failures = [{"mean_seconds_between": 2.0, "down_seconds": 1.0, "detection_seconds": 0.1}]
    scenario = scaled().model_copy(update={"failures": contended_scenario(failures=failures).failures})
    result = simulate(scenario, TRACKING, 2)
    assert result.counters["num_failed_dispatches"] > 0
    assert simulate(scenario, TRACKING, 2).to_json(columns=True) == result.to_json(columns=True)


@pytest.mark.parametrize("name", ["bursty", "diurnal", "multi-tenant", "mixed-variants", "failures"])
def test_a_scenario_of_the_package_runs_clean(name: str) -> None:
    scenario = load_scenario(name)
    assert isinstance(scenario.workload, SyntheticWorkload)
    shorter = scenario.workload.model_copy(update={"duration_seconds": 75.0})
    cut = scenario.model_copy(update={"workload": shorter})
    result = simulate(cut, "least_loaded+target_tracking:target=8", 1)
    assert len(result) > 200
    assert {"completed"} <= outcomes(result) <= {"completed", "failed"}
    assert {workers.variant for workers in scenario.workers} == {
        plan.variant for plan in plan_workers(scenario) if plan.worker_id in result.workers
    }
    assert (len(result.workers) > len(plan_workers(scenario))) == (name == "diurnal")
    assert bool(result.counters["num_failed_dispatches"]) == (name == "failures")
    assert (set(result.tenant[result.arrival < 60]) < set(result.tenant)) == (name == "multi-tenant")


SESSIONS: dict[str, Any] = {
    "num_requests": 30,
    "prompt_tokens": {"median": 300.0},
    "sessions": {"turns": {"median": 3.0, "sigma": 0.5, "max": 6}, "think_seconds": 2.0, "max_prompt_tokens": 2000},
}
CACHING = [{"profile": "a10-llama3-8b", "count": 2, "engine": {"num_gpu_blocks": 400, "enable_prefix_caching": True}}]


def test_a_turn_follows_the_answer_before_it_and_finds_its_prompt_cached() -> None:
    scenario = contended_scenario(workload=SESSIONS, workers=CACHING)
    drawn = draw_workload(scenario, 1)
    assert drawn.turn_after is not None
    result = simulate(scenario, "prefix_affinity", 1)
    assert outcomes(result) == {"completed"}
    later = np.flatnonzero(drawn.turn_after >= 0)
    assert len(later) > 30
    before = drawn.turn_after[later]
    assert result.arrival[later] - result.finished[before] == pytest.approx(2.0)
    assert np.all(result.prompt[later] == result.prompt[before] + result.output[before] + 300)
    assert result.cached[later].sum() > 0


def test_lengths_of_turns_do_not_depend_on_the_policy() -> None:
    scenario = contended_scenario(workload=SESSIONS, workers=CACHING)
    one, other = (simulate(scenario, spec, 2) for spec in ("random", "round_robin"))
    assert one.arrival.tolist() != other.arrival.tolist()
    assert (one.prompt.tolist(), one.output.tolist()) == (other.prompt.tolist(), other.output.tolist())


def test_a_session_ends_with_a_turn_that_gets_no_full_answer(tmp_path: Path) -> None:
    scenario = contended_scenario(workload=SESSIONS, workers=CACHING, clients={"deadline_seconds": 60.0})
    drawn = draw_workload(scenario, 1)
    assert drawn.turn_after is not None
    result = simulate(scenario, policy(tmp_path, SHED_ODD), 1)
    assert outcomes(result) == {"completed", "shed", "abandoned"}
    for row in np.flatnonzero(result.outcome == OUTCOMES.index("abandoned")):
        before = drawn.turn_after[row]
        assert OUTCOMES[result.outcome[before]] in ("shed", "abandoned")
        assert result.arrival[row] == result.finished[row] == result.finished[before]
