"""Every built-in conforms; every kind of misbehaviour, planted, is caught."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from policies.conformance import Effort, check, check_policy, check_source, main
from policies.loader import PolicyLoadError, PolicySpec, builtin_names, load_policy

QUICK = Effort(num_situations=60, num_steps=200, subprocess=False)


@pytest.mark.parametrize("name", builtin_names())
def test_every_builtin_conforms(name):
    assert check(name, Effort(num_situations=400, num_steps=400)) == []


@pytest.mark.parametrize("spec", ["head_room:oversize=false,ageing=0,partial_blocks=0", "prefix_affinity:slack=0"])
def test_parameters_keep_conformance(spec):
    assert check(spec, QUICK) == []


ROUTE = """
class P:
    def __init__(self, rng):
        self.rng = rng
        self.kept = []

    def route(self, request, candidates, pool):
        {body}

def create(rng):
    return P(rng)
"""
HOLD = """
class P:
    def route(self, request, candidates, pool):
        return next((c for c in candidates if c.worker.num_inflight_requests < 2), None)

    def may_go(self, request, worker):
        {body}

def create(rng):
    return P()
"""
SCHEDULE = """
class P:
    def admit(self, request, pool):
        {admit}

    def key(self, request):
        {key}

def create(rng):
    return P()
"""
SCALE = """
class P:
    def desired_replicas(self, pool):
        {body}

def create(rng):
    return P()
"""
BATCH = """
class P:
    kept = []

    def waiting_key(self, request):
        return {waiting}

    def victim_key(self, request):
        return {victim}

    def prefill_budget(self, engine):
        return {budget}

def create(rng):
    return P()
"""
OBSERVE = """
class P:
    def __init__(self):
        self.known = {{}}

    def route(self, request, candidates, pool):
        return candidates[-1]

    def observe(self, event):
        {body}

def create(rng):
    return P()
"""


def schedule(admit: str = "return True", key: str = "return request.arrival_time") -> str:
    return SCHEDULE.format(admit=admit, key=key)


def batch(waiting: str = "1", victim: str = "2", budget: str = "10") -> str:
    return BATCH.format(waiting=waiting, victim=victim, budget=budget)


VIOLATORS = {
    "a worker instead of a candidate": (ROUTE.format(body="return candidates[0].worker"), "must return one of the"),
    "a copy": (ROUTE.format(body="return type(candidates[0])(candidates[0].worker)"), "must return one of the"),
    "an index": (ROUTE.format(body="return 0"), "must return one of the candidates it was given, or None, not 0"),
    "raises on one candidate": (ROUTE.format(body="return candidates[1]"), "raised IndexError"),
    "divides by capacity": (
        ROUTE.format(body="return min(candidates, key=lambda c: 1 / c.worker.kv_capacity_tokens)"),
        "raised ZeroDivisionError",
    ),
    "chokes on infinite age": (
        ROUTE.format(body="return candidates[int(candidates[0].worker.metrics_age) * 0]"),
        "raised OverflowError",
    ),
    "fails on an idle pool": (SCALE.format(body="return {'a': 10 // pool.num_inflight_requests}"), "raised ZeroDiv"),
    "sorts the candidates": (
        ROUTE.format(body="candidates.reverse(); return candidates[0]"),
        "changed a list it was given",
    ),
    "adds a candidate": (ROUTE.format(body="candidates += candidates; return None"), "changed a list it was given"),
    "writes to a worker": (
        ROUTE.format(body="candidates[0].worker.num_inflight_requests += 1; return candidates[0]"),
        "changed a Worker it was given",
    ),
    "writes to the request": (schedule(key="request.priority = 9; return 1"), "changed a Request it was given"),
    "writes to the pool": (schedule(admit="pool.now += 1; return True"), "changed a Pool it was given"),
    "drops a variant": (SCALE.format(body="pool.variants.clear(); return {}"), "changed a dict it was given"),
    "keeps a candidate": (
        ROUTE.format(body="self.kept.append(candidates[0]); return candidates[0]"),
        "keeps a Candidate it was given",
    ),
    "keeps the list": (ROUTE.format(body="self.kept = candidates; return candidates[0]"), "keeps a list it was given"),
    "keeps a worker in a closure": (
        ROUTE.format(body="w = candidates[0].worker; self.kept = lambda: w; return candidates[0]"),
        "keeps a Worker it was given",
    ),
    "keeps the request in the module": (
        "KEPT = []\n" + schedule(admit="KEPT.append(request); return True"),
        "keeps a Request it was given",
    ),
    "keeps a variant": (
        "KEPT = {}\n" + SCALE.format(body="KEPT.update(pool.variants); return {}"),
        "keeps a Variant it was given",
    ),
    "may_go without an answer": (HOLD.format(body="pass"), "must return True or False, not None"),
    "may_go that raises": (HOLD.format(body="return worker.num_inflight_requests // 0"), "raised ZeroDivisionError"),
    "may_go that is wrong": (HOLD.format(body="return False"), "was False of every worker for a held request"),
    "may_go that keeps a worker": (HOLD.format(body="self.kept = worker; return True"), "keeps a Worker it was given"),
    "admits with a number": (schedule(admit="return 1"), "must return True or False, not 1"),
    "admits with nothing": (schedule(admit="pass"), "must return True or False, not None"),
    "key of NaN": (schedule(key="return float('nan')"), "a key must be a number or a tuple, without NaN"),
    "key of text": (schedule(key="return request.tenant"), "a key must be a number or a tuple"),
    "key with None in it": (schedule(key="return (request.ttft_slo,)"), "a key must be a number or a tuple"),
    "keys of two kinds": (
        schedule(key="return 1.0 if request.num_attempts else (1.0,)"),
        "its keys cannot be compared with each other",
    ),
    "replicas of an unknown variant": (SCALE.format(body="return {'gpu': 1}"), "named 'gpu', which is no variant"),
    "a float of replicas": (SCALE.format(body="return dict.fromkeys(pool.variants, 1.5)"), "wants 1.5 replicas of"),
    "negative replicas": (SCALE.format(body="return dict.fromkeys(pool.variants, -1)"), "wants -1 replicas of"),
    "True replicas": (SCALE.format(body="return dict.fromkeys(pool.variants, True)"), "wants True replicas of"),
    "a number of replicas": (SCALE.format(body="return 3"), "must return a mapping from variant to replicas, not 3"),
    "a list of replicas": (
        SCALE.format(body="return []"),
        "must return a mapping from variant to replicas, not a list",
    ),
    "waiting key of None": (batch(waiting="None"), "a key must be"),
    "victim key of text": (batch(victim="'x'"), "a key must be"),
    "budget of a float": (batch(budget="1.5"), "must return an int of at least 0, not 1.5"),
    "budget below 0": (batch(budget="engine.num_running - 10_000"), "must return an int of at least 0"),
    "keeps an engine": (batch(budget="self.kept.append(engine) or 1"), "keeps a EngineView it was given"),
    "observes with an answer": (OBSERVE.format(body="return 1"), "must return None, not 1"),
    "forgets that it may not have seen": (OBSERVE.format(body="self.known[event.request_id]"), "raised KeyError"),
    "goes on after a swap": (OBSERVE.format(body="del self.known[event.tenant]"), "raised"),
}


def test_a_may_go_that_keeps_its_word_conforms(tmp_path):
    path = tmp_path / "good.py"
    path.write_text(HOLD.format(body="return worker.num_inflight_requests < 2"))
    assert check_policy(PolicySpec(str(path)), QUICK) == []


@pytest.mark.parametrize(("text", "says"), VIOLATORS.values(), ids=VIOLATORS)
def test_misbehaviour_is_caught(tmp_path, text, says):
    path = tmp_path / "bad.py"
    path.write_text(text)
    messages = [violation.message for violation in check_policy(PolicySpec(str(path)), QUICK)]
    assert any(message.startswith(says) for message in messages), messages


def test_an_exception_is_reported_at_its_line(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(ROUTE.format(body="return candidates[1]"))
    (violation,) = check_policy(PolicySpec(str(path)), QUICK)
    assert (violation.line, violation.rule) == (8, "route")


NONDETERMINISM = {
    "a generator of its own": "import random\n" + ROUTE.format(body="return random.choice(candidates)"),
    "the clock": "import time\n" + ROUTE.format(body="return candidates[time.perf_counter_ns() % len(candidates)]"),
    "addresses": ROUTE.format(body="return min(candidates, key=lambda c: (id(c) >> 4) % 7)"),
}


@pytest.mark.parametrize("text", NONDETERMINISM.values(), ids=NONDETERMINISM)
def test_decisions_that_differ_from_run_to_run_are_caught(tmp_path, text):
    path = tmp_path / "bad.py"
    path.write_text(text)
    (violation,) = check_policy(PolicySpec(str(path)), QUICK)
    assert violation.rule == "determinism"


@pytest.mark.parametrize(
    "body",
    [
        "return min(candidates, key=lambda c: hash(c.worker.worker_id))",
        "return candidates[next(iter({c.worker.worker_id: n for n, c in enumerate(candidates)}[w]"
        " for w in {c.worker.worker_id for c in candidates}))]",
    ],
    ids=["hash", "set order"],
)
def test_dependence_on_the_hash_seed_is_caught(tmp_path, body):
    path = tmp_path / "bad.py"
    path.write_text(ROUTE.format(body=body))
    assert check_policy(PolicySpec(str(path)), QUICK) == []
    effort = Effort(num_situations=60, num_steps=100, subprocess=True)
    (violation,) = check_policy(PolicySpec(str(path)), effort)
    assert "hash seed" in violation.message


def test_a_loaded_policy_is_checked_without_being_touched():
    (spec,) = [PolicySpec("least_loaded")]
    loaded = load_policy(spec, random.Random(1))
    state = dict(vars(loaded.policy))
    assert check_policy(loaded, QUICK) == []
    assert vars(loaded.policy) == state


def test_a_file_that_does_not_load_is_a_violation(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def create(rng): return 3\n")
    (violation,) = check_policy(PolicySpec(str(path)))
    assert violation.rule == "load"
    assert "fills no slot" in violation.message


def test_only_builtins_must_cite(tmp_path):
    text = Path(check_source.__code__.co_filename).with_name("scheduling").joinpath("fcfs.py").read_text()
    path = tmp_path / "fcfs.py"
    path.write_text(text.replace("Source:", "From:"))
    assert check_source(path) == check_source(path.read_text()) == []


def test_source_forms(tmp_path):
    assert [v.rule for v in check_source("import os\ndef create(rng): ...")] == ["import"]
    assert [v.rule for v in check_source(b"import os\ndef create(rng): ...")] == ["import"]
    with pytest.raises(PolicyLoadError, match=r"none\.py: No such file"):
        check_source(tmp_path / "none.py")


def test_check_takes_one_policy():
    with pytest.raises(PolicyLoadError, match="check one policy at a time"):
        check("fcfs+least_loaded")


def test_static_violations_keep_the_policy_from_running(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + ROUTE.format(body="return candidates[0]"))
    assert [violation.rule for violation in check(str(path))] == ["name"]
    assert not (tmp_path / "ran").exists()


def test_command_line(tmp_path, capsys):
    bad = tmp_path / "bad.py"
    bad.write_text("import os\n")
    assert main(["--static", "fcfs", "least_loaded"]) == 0
    assert capsys.readouterr().out == ""
    assert main([str(bad), "nope", "fcfs:x=1", "fcfs+random"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"{bad}:1: ") for line in lines] == [True, True, False, False, False]
    assert lines[2].startswith("nope: no such policy")
    assert "no parameter 'x'" in lines[3]


def test_command_line_as_a_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "policies.conformance", "--static", "fcfs", str(tmp_path / "none.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "none.py: No such file or directory" in done.stdout
