"""Planted candidates: whatever they do, the answer is an evaluation and the pool goes on."""

import re
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

from designer.proposers.emit import emit
from designer.sandbox import Evaluation, Sandbox, SandboxError, Task
from designer.subject import Subject, subject_of_source, subject_of_specs
from tests.support.leaking_simulation import KNOWS_LENGTHS, LeakingSandbox
from tests.support.programs import EXPERT, HEAD_ROOM
from tests.support.small_scenario import small_scenario

GOOD = subject_of_specs("least_loaded+fcfs")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(small_scenario(60), jobs=2, deadline_seconds=1.0, memory_bytes=256 << 20) as made:
        yield made


def policy(body: str, before: str = "") -> Subject:
    """A module whose ``route`` is ``body``; it is never checked, as a check is not what stops it here."""
    source = (
        f"{textwrap.dedent(before)}\n\nclass Policy:\n    calls = 0\n\n"
        f"    def route(self, request, candidates, pool):\n{textwrap.indent(textwrap.dedent(body), ' ' * 8)}\n\n\n"
        "def create(rng):\n    return Policy()\n"
    )
    return subject_of_source(source, "planted")


FORGE = """
import os
for fd in range(3, 64):
    try:
        os.write(fd, b'{"result": {"score": 1}}')
    except OSError:
        pass
os._exit(0)
"""

PLANTED: list[tuple[str, Subject, str]] = [
    ("endless loop", policy("while True:\n    pass"), "deadline|processor time"),
    ("endless loop in C", policy("sum(iter(int, 1))"), "deadline|processor time"),
    ("fork bomb", policy("import os\nwhile True:\n    os.fork()"), "wrong|deadline|without a result"),
    ("memory", policy("return [bytearray(64 << 20) for _ in range(1000)]"), "memory|wrong|deadline"),
    ("exit", policy("import os\nos._exit(0)"), "without a result|gone"),
    ("killed", policy("import os\nos.abort()"), "killed|gone|without a result"),
    ("write a file", policy("open('/tmp/ranvier-planted', 'w').write('x')"), "wrong"),
    ("open a socket", policy("import socket\nsocket.create_connection(('127.0.0.1', 9))"), "wrong"),
    ("start a process", policy("import os\nos.system('true') == 0 or 1 / 0"), "wrong"),
    ("exception", policy("raise ValueError('no')"), "wrong"),
    ("foreign object", policy("return object()"), "wrong"),
    ("at import", policy("return None", before="while True:\n    pass"), "deadline|processor time"),
    ("too deep to load", policy("return None", before="x = " + "(" * 5000), "does not parse"),
    ("forged result", policy(FORGE), "form"),
]


@pytest.mark.parametrize(("what", "subject", "reason"), PLANTED, ids=[what for what, _, _ in PLANTED])
def test_a_planted_candidate_is_a_failed_evaluation(sandbox: Sandbox, what: str, subject: Subject, reason: str) -> None:
    evaluation = sandbox.evaluate(subject, 1)
    assert evaluation.status == "failed"
    assert re.search(reason, evaluation.reason), evaluation.reason


def test_the_pool_goes_on_beside_and_after_planted_candidates(sandbox: Sandbox) -> None:
    tasks = [Task(subject, 1) for _, subject, _ in PLANTED[2:7]]
    mixed = [task for planted in tasks for task in (planted, Task(GOOD, 1))]
    done = sandbox.run(mixed)
    assert [evaluation.status for evaluation in done] == ["failed", "scored"] * len(tasks)
    assert len({evaluation.score for evaluation in done if evaluation.status == "scored"}) == 1


@pytest.mark.parametrize("name", ["endless loop", "exit", "forged result", "exception"])
def test_a_planted_candidate_fails_in_lockstep_too(sandbox: Sandbox, name: str) -> None:
    subject = next(subject for what, subject, _ in PLANTED if what == name)
    evaluation = sandbox.verify(subject, 1)
    assert evaluation.status == "failed"
    assert evaluation.reason
    assert sandbox.verify(GOOD, 1).status == "scored"


@pytest.mark.parametrize(
    "subject",
    [
        GOOD,
        subject_of_specs("head_room"),
        subject_of_specs("power_of_two+shortest_prompt_first:ageing=2.5"),
        subject_of_specs("prefix_affinity+fcfs"),
        subject_of_source(emit(HEAD_ROOM), "hra"),
        subject_of_source(emit(EXPERT), "expert"),
    ],
    ids=lambda subject: subject.label,
)
def test_both_tiers_decide_alike(sandbox: Sandbox, subject: Subject) -> None:
    together = sandbox.evaluate(subject, 3)
    apart = sandbox.verify(subject, 3, together.decisions)
    assert together.status == apart.status == "scored", apart.reason
    assert apart.score == together.score
    assert apart.summary == together.summary
    assert apart.policy_hashes == together.policy_hashes


def test_a_policy_that_knows_the_simulation_decides_otherwise_in_lockstep(sandbox: Sandbox) -> None:
    """It looks for the simulator's modules, which are not there when it is alone."""
    peeking = policy(
        """
        import sys
        there = "designer.simulator.world" in sys.modules
        return candidates[0] if there else candidates[-1]
        """
    )
    together = sandbox.evaluate(peeking, 2)
    apart = sandbox.verify(peeking, 2, together.decisions)
    assert together.status == "scored"
    assert apart.status == "failed"
    assert "decided otherwise" in apart.reason


def test_a_policy_that_keeps_its_arguments_decides_otherwise_in_lockstep(sandbox: Sandbox) -> None:
    """A worker kept from the first call is live beside the simulation, and a copy apart from it."""
    keeping = policy(
        """
        if not self.calls:
            Policy.calls, Policy.kept = 1, pool.workers
            Policy.pool = pool
        same = Policy.kept[0] is pool.workers[0] and Policy.kept is pool.workers
        return candidates[0] if same else candidates[-1]
        """
    )
    together = sandbox.evaluate(keeping, 2)
    assert sandbox.verify(keeping, 2, together.decisions).status == "failed"


def test_a_child_starts_with_no_trace_of_the_one_before(sandbox: Sandbox) -> None:
    leaving = policy("import math\nmath.pi = 3\nreturn candidates[0]")
    seeing = policy("import math\nreturn candidates[0] if math.pi > 3.1 else 1 / 0")
    for _ in range(2):
        assert sandbox.evaluate(leaving, 1).status == "scored"
        assert sandbox.evaluate(seeing, 1).status == "scored"


FORGED_SCORE = """
def forge():
    for kind in ().__class__.__base__.__subclasses__():
        if kind.__name__ == "_wrap_close":
            modules = kind.__init__.__globals__["sys"].modules
            if "designer.work_simulation" in modules and not hasattr(modules["designer.warm"], "forged"):
                warm = modules["designer.warm"]
                warm.forged = modules["json"].dumps

                def dumps(thing):
                    if isinstance(thing, dict) and "result" in thing:
                        thing["result"]["score"] = thing["result"]["score"] / 1000
                    return warm.forged(thing)

                warm.json = type(modules["json"])("json")
                warm.json.dumps = dumps


forge()
"""


def test_a_score_forged_beside_honest_decisions_is_found_out_in_lockstep(sandbox: Sandbox) -> None:
    """The digest of decisions is the honest one, so that only the score tells."""
    honest, forging = policy("return candidates[0]"), policy("return candidates[0]", FORGED_SCORE)
    true, forged = sandbox.evaluate(honest, 2), sandbox.evaluate(forging, 2)
    assert true.score is not None
    assert forged.score == true.score / 1000
    assert forged.decisions == true.decisions
    apart = sandbox.run([Task(forging, 2, "lockstep", forged.decisions, forged.score)])[0]
    assert apart.status == "failed"
    assert "in a process of its own" in apart.reason
    assert sandbox.run([Task(honest, 2, "lockstep", true.decisions, true.score)])[0].status == "scored"


def test_an_answer_that_nobody_read_is_not_taken_for_the_next_ones(sandbox: Sandbox) -> None:
    """A simulation that cannot be started leaves the policy's side with an answer to give."""
    with Sandbox(small_scenario(60), jobs=1, deadline_seconds=5.0) as alone:
        scored = alone.verify(GOOD, 1)
        (simulation,) = alone._parents["designer.work_simulation"]
        start, simulation.start = simulation.start, _no_start  # type: ignore[method-assign]
        simulation.stop()
        with pytest.raises(SandboxError, match="not today"):
            alone.verify(policy("return None"), 1)
        simulation.start = start  # type: ignore[method-assign]
        assert alone.check(subject_of_source(emit(EXPERT), "expert")) == []
        again = alone.verify(GOOD, 1)
        assert (again.status, again.decisions) == ("scored", scored.decisions)


def _no_start() -> None:
    raise SandboxError("not today")


def test_a_reason_with_characters_that_nothing_can_store_is_a_reason(sandbox: Sandbox) -> None:
    evaluation = sandbox.evaluate(policy("raise ValueError('\\ud800\\x1b]0;owned\\x07')"), 1)
    assert evaluation.status == "failed"
    assert evaluation.reason.isprintable()
    evaluation.reason.encode()


def test_a_future_that_is_told_is_found_out_in_lockstep_too() -> None:
    subject = subject_of_source(KNOWS_LENGTHS, "knows")
    with LeakingSandbox(small_scenario(80), jobs=1) as leaking:
        assert "decided otherwise before second" in leaking.foresight(subject, 1)
        assert leaking.foresight(GOOD, 1) == ""
    with Sandbox(small_scenario(80), jobs=1) as sandbox:
        assert sandbox.foresight(subject, 1) == ""
        assert "of its own" not in sandbox.foresight(subject, 1, "together")


def test_the_layers_are_reported(sandbox: Sandbox) -> None:
    assert {"process group", "rlimits", "empty environment"} <= set(sandbox.layers())


def test_a_check_behind_the_fence_names_the_violation(sandbox: Sandbox) -> None:
    assert sandbox.check(subject_of_source(emit(EXPERT), "expert")) == []
    (violation, *_) = sandbox.check(policy("import os\nreturn None"))
    assert "os" in violation
    assert sandbox.check(policy("return candidates[len(candidates)]"))


def test_the_same_seed_gives_the_same_evaluation(sandbox: Sandbox) -> None:
    first, second = sandbox.evaluate(GOOD, 5), sandbox.evaluate(GOOD, 5)
    assert isinstance(first, Evaluation)
    assert (first.score, first.decisions) == (second.score, second.decisions)
    assert sandbox.evaluate(GOOD, 6).score != first.score


def test_the_same_processes_work_on_another_scenario(sandbox: Sandbox) -> None:
    other = small_scenario(num_requests=30)
    with sandbox.elsewhere(other) as there:
        moved = there.evaluate(subject_of_specs("least_loaded"), 5)
    assert moved.summary["num_requests"] == 30
    assert sandbox.evaluate(subject_of_specs("least_loaded"), 5).summary["num_requests"] == 60
    with Sandbox(other, jobs=1) as own:
        assert own.evaluate(subject_of_specs("least_loaded"), 5).decisions == moved.decisions


def test_closing_ends_what_is_running() -> None:
    """A run that is interrupted leaves no process behind and does not wait for deadlines."""
    sandbox = Sandbox(small_scenario(60), jobs=1, deadline_seconds=600.0)
    assert sandbox.evaluate(GOOD, 1).status == "scored"
    endless = next(subject for what, subject, _ in PLANTED if what == "endless loop")
    answers: list[Evaluation] = []
    thread = threading.Thread(target=lambda: answers.append(sandbox.evaluate(endless, 1)))
    thread.start()
    time.sleep(0.2)
    sandbox.close()
    thread.join(30.0)
    assert not thread.is_alive()
    assert answers[0].status == "failed"
    assert all(parent._process is None for parents in sandbox._parents.values() for parent in parents)
