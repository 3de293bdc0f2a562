"""Both sides of the lockstep over a socket pair: what the policy is shown, and what it may answer."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from designer.lockstep import LockstepError, RemotePolicy, admits_all
from designer.lockstep_host import serve
from designer.proposers.behaviour import situations
from designer.simulator.world import simulate
from designer.subject import Subject, fields_read, load_subject, subject_of_source, subject_of_specs
from gateway.mockworker.engine_types import BatchEngineView, BatchRequestView
from policies.contract import Candidate, Dispatched, Pool, Request, Variant, Worker
from tests.support.contended_scenario import contended_scenario
from tests.support.programs import load

Connect = Callable[[Subject], RemotePolicy]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Serve subjects in threads of this process; the fence is tried elsewhere."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def make(subject: Subject) -> RemotePolicy:
        ours, theirs = socket.socketpair()
        sockets.append(ours)

        def run() -> None:
            with closing(theirs), suppress(SystemExit):
                serve([theirs.fileno()], subject, 3)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return RemotePolicy([ours.fileno()], subject)

    yield make
    for one in sockets:
        one.close()
    for thread in threads:
        thread.join(10.0)


def module(methods: str) -> Subject:
    return subject_of_source(f"class Policy:\n{methods}\n\ndef create(rng):\n    return Policy()\n", "planted")


FULL = module(
    """
    def __init__(self):
        self.seen = 0
    def route(self, request, candidates, pool):
        if pool.num_queued_requests > 100:
            return None
        return min(candidates, key=lambda c: (c.worker.num_inflight_tokens - c.num_cached_tokens, c.worker.worker_id))
    def admit(self, request, pool):
        return request.num_prompt_tokens < 500 and len(pool.workers) > 0
    def key(self, request):
        return (request.tenant, -request.num_prompt_tokens, request.arrival_time)
    def desired_replicas(self, pool):
        return {name: variant.num_ready + self.seen for name, variant in pool.variants.items()}
    def observe(self, event):
        self.seen += event.num_prompt_tokens
"""
)


def test_every_call_answers_as_the_policy_itself_would(connect: Connect) -> None:
    remote, local = connect(FULL), load(FULL.parts[0].source)
    for state in situations(1, 60):
        chosen = remote.route(state.request, state.candidates, state.pool)
        assert chosen is local.route(state.request, state.candidates, state.pool)
        assert remote.admit(state.request, state.pool) == local.admit(state.request, state.pool)
        assert remote.key(state.request) == local.key(state.request)
    event = Dispatched(1.0, "r", "w", "t", 7, 0)
    remote.observe(event)
    pool = Pool("p", variants={"a": Variant("a", num_ready=2), "b": Variant("b", num_ready=3)})
    assert remote.desired_replicas(pool) == {"a": 9, "b": 10}


def test_the_set_has_the_slots_and_reads_of_the_sources(connect: Connect) -> None:
    policy_set = connect(FULL).policy_set()
    assert policy_set.routing is policy_set.scheduling is policy_set.autoscaling is policy_set.observers[0]
    assert policy_set.reads == fields_read(FULL) >= {"num_inflight_tokens", "num_cached_tokens", "workers", "tenant"}
    only = connect(subject_of_specs("least_loaded")).policy_set()
    assert only.routing is not None
    assert (only.scheduling, only.autoscaling, only.observers) == (None, None, ())


def test_only_fields_that_the_source_names_are_shown(connect: Connect) -> None:
    """``vars`` would be a way round the names; it finds the defaults."""
    peeking = module(
        "    def route(self, request, candidates, pool):\n"
        "        return candidates[int(getattr(request, 'num_' + 'prompt_tokens'))]\n"
    )
    remote = connect(peeking)
    state = situations(1, 1)[0]
    state.request.num_prompt_tokens = 3
    assert remote.route(state.request, state.candidates, state.pool) is state.candidates[0]


SHOWS = module(
    """
    def route(self, request, candidates, pool):
        return None
    def key(self, request):
        return (request.tenant, request.num_prompt_tokens)
    def admit(self, request, pool):
        return True if pool.now else [(repr(w.kv_cache_usage), repr(w.num_inflight_tokens)) for w in pool.workers]
    def desired_replicas(self, pool):
        return {w.worker_id: repr((w.kv_cache_usage, w.num_inflight_tokens)) for w in pool.workers}
"""
)


def test_what_has_not_changed_is_not_told_again_and_yet_shown(connect: Connect) -> None:
    """By whatever call it was told, and however alike the values are: 0 is not 0.0, nor 0.0 the same as -0.0."""
    remote: Any = connect(SHOWS)
    a, b, request = Worker("a"), Worker("b"), Request("r", "m")
    values: list[Any] = [0, 0.0, -0.0, False, 1, 1.0, True, float("nan"), float("inf"), 1 << 80, 0, 0]
    for n, value in enumerate(values):
        a.kv_cache_usage, b.num_inflight_tokens = value, n // 3
        members = [a, b] if n % 4 else [b, a]
        asked = Pool("p", now=0.0, workers=members[: 1 + n % 2])
        remote.route(request, [Candidate(w) for w in members], asked)
        shown = [[repr(w.kv_cache_usage), repr(w.num_inflight_tokens)] for w in asked.workers]
        assert remote.admit(request, asked) == shown
        a.kv_cache_usage = 7.5
        expected = {w.worker_id: repr((w.kv_cache_usage, w.num_inflight_tokens)) for w in members}
        assert remote.desired_replicas(Pool("p", workers=tuple(members))) == expected


def test_a_request_is_told_anew_when_it_is_another_or_has_changed(connect: Connect) -> None:
    remote = connect(SHOWS)
    one, other = Request("1", "m", num_prompt_tokens=5), Request("2", "m", num_prompt_tokens=6)
    assert remote.key(one) == remote.key(one) == ("default", 5)
    assert (remote.key(other), remote.key(one)) == (("default", 6), ("default", 5))
    one.tenant = "t"
    assert remote.key(one) == ("t", 5)


def test_the_same_candidates_are_chosen_by_their_place(connect: Connect) -> None:
    remote = connect(subject_of_specs("least_loaded"))
    workers = [Worker(f"w{n}") for n in range(4)]
    all_of_them = tuple(Candidate(worker) for worker in workers)
    for n, among in enumerate([all_of_them, all_of_them, all_of_them[2:], all_of_them, all_of_them[::-1]]):
        for worker in workers:
            worker.num_inflight_requests = 3
        workers[2 + n % 2].num_inflight_requests = 0
        chosen = remote.route(Request(f"r{n}", "m"), among, Pool("p"))
        assert chosen is all_of_them[2 + n % 2]


def test_what_is_shown_is_made_anew_for_every_call(connect: Connect) -> None:
    """So that whoever keeps it decides otherwise than beside the simulation, where it stays the same."""
    remote = connect(
        module(
            """
    kept = None
    def route(self, request, candidates, pool):
        before, self.kept = self.kept, (request, candidates, candidates[0], pool.workers)
        new = before is None or not any(a is b for a, b in zip(before, self.kept, strict=True))
        return candidates[1 if new else 0]
"""
        )
    )
    workers = (Worker("a"), Worker("b"))
    candidates, pool, request = tuple(map(Candidate, workers)), Pool("p", workers=workers), Request("r", "m")
    for _ in range(3):
        assert remote.route(request, candidates, pool) is candidates[1]


def word(number: int) -> bytes:
    return number.to_bytes(4, "big")


HELLO = b'{"answer": {"slots": ["scheduling"], "identities": []}}'


@pytest.mark.parametrize(
    "written",
    [
        word(3) + word(3),
        word(3) + b"x",
        word(0x7FFFFF00 + 3),
        word(0x7FFFFFFF),
        word(0x80000000 + 5) + b"[1,2]{}",
        word(0x80000000 + 5) + b"[1,2]",
        word(0x80000000 + 2) + b"{}",
        word(0x80000000 + 3) + b"\xff{}",
        word(0x80000000 + (1 << 20) + 1) + b"1",
        word(0xFFFFFFFF),
        word(0x80000000 + 5000) + b"[" * 5000,
        b"\0\0",
        b"",
    ],
)
def test_whatever_the_policys_side_writes_can_only_be_an_error_here(written: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(word(0x80000000 + len(HELLO)) + HELLO)
        remote = RemotePolicy([ours.fileno()], SHOWS)
        theirs.sendall(written)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(LockstepError):
            remote.key(Request("r", "m"))


def test_an_answer_may_come_in_pieces() -> None:
    (reading, answers), (calls, writing) = os.pipe(), os.pipe()
    text = b'{"answer": [1, "' + b"x" * 9000 + b'"]}'
    whole = word(0x80000000 + len(text)) + text

    def drip() -> None:
        for piece in (whole[:3], whole[3:9], whole[9:5000], whole[5000:]):
            os.write(answers, piece)

    try:
        os.write(answers, word(0x80000000 + len(HELLO)) + HELLO)
        remote = RemotePolicy([reading, writing], SHOWS)
        thread = threading.Thread(target=drip)
        thread.start()
        assert remote.key(Request("r", "m")) == (1, "x" * 9000)
        thread.join()
    finally:
        for fd in (reading, answers, calls, writing):
            os.close(fd)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("return pool", "was not given"),
        ("return 0", "was not given"),
        ("raise SystemExit", "gone"),
    ],
)
def test_a_wrong_answer_is_an_error_here(connect: Connect, body: str, message: str) -> None:
    remote = connect(module(f"    def route(self, request, candidates, pool):\n        {body}\n"))
    state = situations(1, 1)[0]
    with pytest.raises(LockstepError, match=message):
        remote.route(state.request, state.candidates, state.pool)


def test_an_answer_that_is_no_json_is_an_error_here(connect: Connect) -> None:
    remote = connect(
        module("    def admit(self, r, p):\n        return object()\n    def key(self, r):\n        return {1}\n")
    )
    state = situations(1, 1)[0]
    for call in (lambda: remote.admit(state.request, state.pool), lambda: remote.key(state.request)):
        with pytest.raises(LockstepError, match="TypeError"):
            call()


def test_a_batch_policy_is_asked_from_afar_as_it_would_be_inside_the_engine(connect: Connect) -> None:
    subject = subject_of_specs("batch/shortest_prompt:ageing=0.1,prefill_share=0.3")
    remote, (near,) = connect(subject).policy_set().batch, load_subject(subject, 1)
    near_batch: Any = near.policy
    assert remote is not None
    for n in range(20):
        request = BatchRequestView(f"r{n}", 10 + n, n, 2 * n, 0.1 * n, n % 3, n % 2)
        assert remote.waiting_key(request) == near_batch.waiting_key(request)
        assert remote.victim_key(request) == near_batch.victim_key(request)
        engine = BatchEngineView(n, 2 * n, 100 - n, 100, 2048)
        assert remote.prefill_budget(engine) == near_batch.prefill_budget(engine)


def test_a_run_with_a_batch_policy_elsewhere_is_the_same_run(connect: Connect) -> None:
    subject = subject_of_specs("least_loaded+batch/shortest_prompt")
    remote = connect(subject)
    far, near = (simulate(contended_scenario(), source, 1) for source in (remote.policy_set, subject.label))
    assert near.preemptions.sum() > 0, "victims are chosen"
    assert far.to_json(columns=True) == near.to_json(columns=True)


def test_admit_is_not_asked_only_where_it_can_be_nothing_but_true() -> None:
    assert admits_all(subject_of_specs("least_loaded+fcfs"))
    assert not admits_all(FULL)
    assert not admits_all(subject_of_specs("least_loaded"))
    sometimes = "class A:\n    def admit(self, r, p):\n        self.n = 1\n        return True\n"
    assert not admits_all(subject_of_source(sometimes, "x"))
