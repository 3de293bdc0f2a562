"""Head-room admission against the paper's rule written out, and what is added to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

import pytest

from policies.contract import Pool, Worker
from policies.loader import PolicyLoadError
from tests.support.policy_calls import load, request, route, workers

BLOCK, BLOCKS, R, M = 16, 2240, 0.6, 0.03
PAPER = "head_room:oversize=false,ageing=0,partial_blocks=0"


@dataclass
class Sequence:
    number: int
    prompt: int
    arrival: float
    output: int = 0
    active: bool = False


@dataclass
class Replica:
    """One of the paper's replicas, with its engine's own requests."""

    sequences: list[Sequence] = field(default_factory=list)

    @property
    def alloc(self) -> int:
        return sum(math.ceil((s.prompt + s.output) / BLOCK) for s in self.sequences if s.active)

    @property
    def resv(self) -> int:
        return math.ceil(sum(s.prompt * (1 + R) for s in self.sequences if not s.active) / BLOCK)

    def worker(self, number: int) -> Worker:
        """The same replica, in the counts a gateway has."""
        pending = sum(s.prompt for s in self.sequences if not s.active)
        return Worker(
            f"w{number}",
            kv_capacity_tokens=BLOCKS * BLOCK,
            block_size=BLOCK,
            num_inflight_requests=len(self.sequences),
            num_inflight_prefill_tokens=pending,
            num_inflight_prompt_tokens=sum(s.prompt for s in self.sequences),
            num_inflight_tokens=sum(s.prompt + s.output for s in self.sequences),
        )


def papers_ranks(head: Sequence, replicas: list[Replica]) -> list[tuple[int, int] | None]:
    """Steps 2 to 6 of the rule for the queue's head: (alloc + resv, qlen) of each replica, None: not admissible."""
    min_free = int(BLOCKS * M)
    need = math.ceil(head.prompt * (1 + R) / BLOCK)
    return [
        (replica.alloc + replica.resv, len(replica.sequences))
        if BLOCKS - (replica.alloc + replica.resv + need) >= min_free
        else None
        for replica in replicas
    ]


def asked(policy, head: Sequence, replicas: list[Replica]) -> int | None:
    some = [replica.worker(number) for number, replica in enumerate(replicas)]
    chosen = route(policy, some, request(head.prompt, arrival_time=head.arrival))
    return None if chosen is None else int(chosen[1:])


@pytest.mark.parametrize("seed", range(6))
def test_without_bypass_and_ageing_it_is_the_papers_rule(seed):
    """A run of arrivals, steps and endings; at each the queue is served as the paper says, and every decision is
    compared. Lengths are whole blocks, as a gateway knows tokens and the paper's engine counts blocks."""
    rng, policy = Random(seed), load(PAPER)
    replicas, held, decisions = [Replica() for _ in range(4)], list[Sequence](), {True: 0, False: 0}
    for number in range(600):
        held.append(Sequence(number, BLOCK * max(1, round(rng.lognormvariate(2.5, 1.5))), float(number)))
        for replica in replicas:
            run_engine(rng, replica)
        held.sort(key=lambda s: (s.prompt, s.arrival))
        assert held == sorted(held, key=lambda s: policy.key(request(s.prompt, arrival_time=s.arrival)))
        while held:
            ranks = papers_ranks(held[0], replicas)
            place = asked(policy, held[0], replicas)
            best = min((rank for rank in ranks if rank is not None), default=None)
            assert (None if place is None else ranks[place]) == best
            decisions[place is not None] += 1
            if place is None:
                break
            replicas[place].sequences.append(held.pop(0))
    assert min(decisions.values()) > 50


def run_engine(rng: Random, replica: Replica) -> None:
    for sequence in list(replica.sequences):
        if not sequence.active:
            sequence.active = rng.random() < 0.7
        elif rng.random() < 0.012:
            replica.sequences.remove(sequence)
        else:
            sequence.output += BLOCK


def test_in_tokens_it_is_off_by_less_than_a_block_a_request():
    """Of any length, alloc differs from the paper's by the unfilled ends of the active requests' last blocks."""
    rng, paper, ours = Random(1), load(PAPER), load("head_room")
    for _ in range(200):
        active = [Sequence(n, rng.randint(1, 900), 0.0, rng.randint(1, 900), True) for n in range(25)]
        replica = Replica([*active, *(Sequence(n, rng.randint(1, 900), 0.0) for n in range(5))])
        worker, exact = replica.worker(0), replica.alloc + replica.resv
        assert 0 <= exact - paper._committed(worker) < len(active)
        assert abs(exact - ours._committed(worker)) < len(active) / 2


@pytest.mark.parametrize(
    ("free", "prompt", "chosen"),
    [
        pytest.param([67 + 10], 100, "w0", id="ten blocks needed, ten over the margin of 67"),
        pytest.param([67 + 9], 100, None, id="nine are not enough"),
        pytest.param([500, 600, 550], 100, "w1", id="the one with least committed"),
        pytest.param([60, 60], 10, None, id="less than the margin"),
    ],
)
def test_admission(free, prompt, chosen):
    some = workers(
        kv_capacity_tokens=[BLOCKS * BLOCK] * len(free),
        num_inflight_tokens=[(BLOCKS - blocks) * BLOCK for blocks in free],
    )
    assert route(load(PAPER), some, request(prompt)) == chosen


def test_pending_requests_are_reserved_with_their_output():
    pending = workers(
        kv_capacity_tokens=[BLOCKS * BLOCK], num_inflight_tokens=[21_600], num_inflight_prefill_tokens=[21_600]
    )
    active = workers(kv_capacity_tokens=[BLOCKS * BLOCK], num_inflight_tokens=[21_600], num_inflight_prefill_tokens=[0])
    assert route(load(PAPER), pending, request(160)) is None
    assert route(load(PAPER), active, request(160)) == "w0"


def test_oversize_goes_to_the_most_free_blocks_at_once_or_is_held_for_ever():
    some = workers(kv_capacity_tokens=[BLOCKS * BLOCK] * 2, num_inflight_tokens=[30_000, 20_000])
    assert route(load("head_room"), some, request(30_000)) == "w1"
    assert route(load("head_room:oversize=false"), some, request(30_000)) is None


def test_what_an_empty_worker_would_admit_is_not_oversize():
    some = workers(kv_capacity_tokens=[16_000, 64_000], num_inflight_tokens=[0, 60_000])
    assert route(load("head_room"), some, request(20_000)) is None


def test_unknown_capacity_always_may_take_a_request():
    some = workers(kv_capacity_tokens=[0, 16], num_inflight_tokens=[10**7, 0])
    assert route(load("head_room"), some, request(10**6)) == "w0"


def test_without_holding_the_least_committed_takes_it_whatever_there_is():
    some = workers(kv_capacity_tokens=[BLOCKS * BLOCK] * 2, num_inflight_tokens=[35_800, 35_700])
    assert route(load("head_room"), some, request(1000)) is None
    assert route(load("head_room:hold=false"), some, request(1000)) == "w1"


def test_idle_workers_take_turns():
    policy, some = load("head_room"), workers(kv_capacity_tokens=[BLOCKS * BLOCK] * 3)
    assert [route(policy, some) for _ in range(6)] == ["w0", "w1", "w2"] * 2


def test_ageing_lets_a_long_prompt_overtake():
    key, old = load("head_room").key, request(900, arrival_time=0.0)
    assert key(request(100, arrival_time=799.0)) < key(old) < key(request(100, arrival_time=801.0))


@pytest.mark.parametrize("params", ["margin=1", "margin=-0.1", "r=-1", "ageing=-1", "partial_blocks=-1"])
def test_parameters(params):
    with pytest.raises(PolicyLoadError, match="margin must be at least 0 and below 1"):
        load(f"head_room:{params}")


def test_nothing_is_shed():
    assert load("head_room").admit(request(), Pool("p")) is True
