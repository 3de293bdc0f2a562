"""A runner that does at random what runners, workers and clients do, and checks the dispatcher's books at each step."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from gateway.core.checkpoints import STATE_SHARE
from gateway.core.commands import Cancel, Command, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.dispatcher import Dispatcher
from gateway.core.event_log import Gap, Recorder, encode_header, replay
from gateway.core.events import (
    ClientLeft,
    Event,
    FirstTokenSeen,
    MetricsScraped,
    PolicySetReplaced,
    QueueRekeyed,
    RequestArrived,
    RequestEnded,
    Ticked,
    WorkerDraining,
    WorkerHealthChanged,
    WorkerJoined,
    WorkerLeft,
    WorkerMetrics,
)
from gateway.core.guard import PolicyInterrupted
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig

LIMIT_SECONDS = 20.0
ATTEMPTS = 3
TURNED_AWAY = 4


class FakeWatch:
    """Every 23rd call overruns; every 211th is interrupted."""

    def __init__(self) -> None:
        self._number = 0

    def enter(self) -> None:
        self._number += 1
        if self._number % 211 == 0:
            raise PolicyInterrupted

    def exit(self) -> bool:
        return self._number % 23 == 0


class Misbehaving:
    """All slots at once; what it does in each call is drawn."""

    def __init__(self, seed: int, faults: Sequence[str]) -> None:
        self._rng = random.Random(seed)
        self._faults = faults

    def _fault(self) -> str:
        return self._rng.choice(self._faults)

    def _raise(self, fault: str) -> None:
        if fault == "raise":
            raise self._rng.choice([ValueError("x"), RecursionError(), MemoryError(), SystemExit(), GeneratorExit()])

    def route(self, request: Any, candidates: Any, pool: Any) -> Any:
        fault = self._fault()
        self._raise(fault)
        if fault == "wrong":
            return self._rng.choice([object(), 0, candidates[0].worker, list(candidates)])
        if fault == "hold":
            return None
        if fault == "mutate":
            request.request_id, request.num_prompt_tokens, request.tenant = "?", -5, None
            candidates[-1].worker.num_inflight_requests = -(10**9)
            candidates[-1].worker.worker_id = "?"
            pool.workers, pool.now, pool.variants = (), float("nan"), {}
        return self._rng.choice(candidates)

    def admit(self, request: Any, pool: Any) -> Any:
        fault = self._fault()
        self._raise(fault)
        return self._rng.choice([1, None, "yes"]) if fault == "wrong" else self._rng.random() < 0.9

    def key(self, request: Any) -> Any:
        fault = self._fault()
        self._raise(fault)
        odd = [None, 10**400, float("nan"), (1, None), [3], (float("nan"),), object()]
        fine = [3, 2.5, ("a", 1), (1, "a"), ((1, 2), 3), True, (), 10**300, float("inf")]
        return self._rng.choice(odd if fault == "wrong" else fine)

    def desired_replicas(self, pool: Any) -> Any:
        fault = self._fault()
        self._raise(fault)
        wrong = [{"default": float("nan")}, {"default": -1}, {"?": 1}, None, {"default": True}, 3]
        return self._rng.choice(wrong) if fault == "wrong" else {"default": self._rng.randrange(9)}

    def observe(self, event: Any) -> None:
        self._raise(self._fault())


FAULTS = ("raise", "wrong", "hold", "mutate", "none")


def misbehaving_set(generation: int) -> PolicySet:
    """What it is follows from its generation alone, so that a replay makes the same."""
    if generation % 5 == 0:
        return PolicySet.builtin(generation)
    faults = ("none",) * (generation % 4) * 3 + FAULTS[: 1 + generation % 5] if generation % 3 else ("none", "hold")
    policy = Misbehaving(generation, faults)
    return PolicySet(generation, policy, policy, policy, None, (policy,))


class World:
    """Events of its own making; ``do`` one after another, then ``finish``."""

    def __init__(self, generation: int, state_share: int = STATE_SHARE, **config: Any) -> None:
        self.counts: dict[str, int] = {}
        first = misbehaving_set(generation)
        self.pools = [
            PoolConfig(
                "p",
                policy_set=first,
                max_queue_seconds=LIMIT_SECONDS,
                max_attempts=ATTEMPTS,
                max_turned_away=TURNED_AWAY,
                max_queue_requests=5,
                replicas={"default": (0, 4)},
                scaling_interval_seconds=3.0,
                prefix_index_chunks=20,
                **config,
            )
        ]
        self.header = json.loads(json.dumps(encode_header(self.pools)))
        self.dispatcher = Dispatcher(self.pools, output_tokens=self.counts, watch=FakeWatch())
        self.recorder = Recorder(self.dispatcher, 7, state_share)
        self.log: list[tuple[Event, list[Command]]] = []
        self.records: list[Any] = []
        self.now = 0.0
        self.generation = generation
        self.num_arrived = 0
        self.held: dict[str, float] = {}
        """Since when."""
        self.running: dict[str, str] = {}
        self.prompts: dict[str, int] = {}
        self.deadlines: dict[str, float] = {}
        self.num_dispatched: dict[str, int] = {}
        self.ended: dict[str, str] = {}
        self.workers: list[str] = []
        self.gone: set[str] = set()
        """Requests whose worker left, whose end is still to be reported."""
        self.latest: float = 0.0

    # --- what may happen ---

    def do(self, kind: int, pick: int) -> None:
        self.now += (pick % 7) * 0.25
        often = (self.arrive, self.arrive, self.arrive, self.end, self.end, self.fail, self.fail, self.tick, self.tick)
        rare = (
            self.first_token,
            self.leave,
            self.scrape,
            self.join,
            self.part,
            self.drain,
            self.health,
            self.swap,
            self.rekey,
        )
        actions = (*often, *rare, self.stray)
        actions[kind % len(actions)](pick)
        self.check()

    def arrive(self, pick: int) -> None:
        self.num_arrived += 1
        request_id = f"r{self.num_arrived}"
        tokens = 1 + pick % 50
        self.prompts[request_id] = tokens
        self.held[request_id] = self.now
        if pick % 4 == 0:
            self.deadlines[request_id] = self.now + pick % 11
        self.hear(
            RequestArrived(
                self.now,
                request_id,
                "m" if pick % 5 else "lora",
                f"t{pick % 3}",
                num_prompt_tokens=tokens,
                priority=pick % 2,
                deadline=self.deadlines.get(request_id),
                prefix_keys=tuple((pick % 4 * 100 + n, 5 * n + 5) for n in range(pick % 3)),
                stream=pick % 3 > 0,
            )
        )

    def first_token(self, pick: int) -> None:
        if request_id := self._pick(self.running, pick):
            self.counts[self.running[request_id]] = self.counts.get(self.running[request_id], 0) + pick % 9
            self.hear(FirstTokenSeen(self.now, request_id))

    def end(self, pick: int) -> None:
        if request_id := self._pick(self.running, pick):
            self._ends(request_id)
            self.hear(RequestEnded(self.now, request_id, "completed", pick % 20, self.prompts[request_id]))

    def fail(self, pick: int) -> None:
        if request_id := self._pick(self.running, pick):
            retriable = pick % 3 > 0
            self._stops(request_id, retriable)
            outcome = "rejected" if pick % 2 else "failed"
            self.hear(RequestEnded(self.now, request_id, outcome, pick % 3, retriable=retriable))

    def leave(self, pick: int) -> None:
        if request_id := self._pick({**self.held, **self.running}, pick):
            self.hear(ClientLeft(self.now, request_id, pick % 4))

    def scrape(self, pick: int) -> None:
        if worker_id := self._pick(self.workers, pick):
            values = WorkerMetrics(pick % 5, pick % 3, pick % 10 / 10, 200, 16, 8)
            self.hear(MetricsScraped(self.now, worker_id, values, max(0.0, self.now - pick % 3 * 0.5)))

    def join(self, pick: int) -> None:
        """A new worker, or one that is there and serves another model now."""
        worker_id = f"w{pick % 4}"
        is_new = worker_id not in self.workers
        if is_new:
            self.workers.append(worker_id)
        models = () if pick % 3 else ("m",)
        self.hear(WorkerJoined(self.now, worker_id, "p", models=models, replica=is_new and pick % 2 == 0))

    def part(self, pick: int) -> None:
        if worker_id := self._pick(self.workers, pick):
            self.workers.remove(worker_id)
            self.hear(WorkerLeft(self.now, worker_id))
            for request_id in [r for r, w in self.running.items() if w == worker_id]:
                self._stops(request_id, pick % 2 == 0)
                self.hear(RequestEnded(self.now, request_id, "failed", 0, retriable=pick % 2 == 0))

    def drain(self, pick: int) -> None:
        if pick % 3 == 0 and (worker_id := self._pick(self.workers, pick)):
            self.hear(WorkerDraining(self.now, worker_id))

    def health(self, pick: int) -> None:
        if worker_id := self._pick(self.workers, pick):
            self.hear(WorkerHealthChanged(self.now, worker_id, pick % 2 == 0))

    def swap(self, pick: int) -> None:
        self.generation += 1 + pick % 3
        self.hear(PolicySetReplaced(self.now, "p", misbehaving_set(self.generation)))

    def rekey(self, pick: int) -> None:
        self.hear(QueueRekeyed(self.now, "p"))

    def tick(self, pick: int) -> None:
        self.hear(Ticked(self.now))

    def stray(self, pick: int) -> None:
        """What comes too late, or of nothing that is known."""
        over = self._pick(self.ended, pick) or "never"
        self.hear(
            (
                RequestEnded(self.now, over, "failed", 3, retriable=True),
                FirstTokenSeen(self.now, over),
                ClientLeft(self.now, over),
                WorkerLeft(self.now, "nobody"),
                FirstTokenSeen(self.now, self._pick(self.held, pick) or "never"),
            )[pick % 5]
        )

    def finish(self) -> None:
        """All that is in flight ends, and time passes beyond every limit."""
        while self.running:
            self.end(0)
        self.now += LIMIT_SECONDS + 1
        self.tick(0)
        while self.running:
            self.end(0)
        self.check()

    # --- the books ---

    def hear(self, event: Event) -> None:
        commands = self.dispatcher.handle(event)
        if isinstance(event, ClientLeft) and event.request_id not in self.ended and event.request_id in self.prompts:
            was_running = event.request_id in self.running
            assert [c for c in commands if isinstance(c, Cancel)] == (
                [Cancel(event.request_id, self.running[event.request_id])] if was_running else []
            ) or event.request_id in {c.request_id for c in commands if isinstance(c, Reject | Dispatch)}
            if event.request_id not in {c.request_id for c in commands if isinstance(c, Reject)}:
                self._over(event.request_id, "left")
        for command in commands:
            self._obey(command)
        self.log.append((event, commands))
        self.records += [json.loads(json.dumps(record)) for record in self.recorder.records(event, commands)]
        self.latest = self.now

    def _obey(self, command: Command) -> None:
        if isinstance(command, Dispatch):
            assert self.now < self.held.pop(command.request_id) + LIMIT_SECONDS + 1e-9
            assert command.worker_id in self.workers
            assert self.now < self.deadlines.get(command.request_id, self.now + 1)
            self.running[command.request_id] = command.worker_id
            self.num_dispatched[command.request_id] = self.num_dispatched.get(command.request_id, 0) + 1
        elif isinstance(command, Reject):
            assert command.request_id in self.held
            self._over(command.request_id, command.reason)
        else:
            assert isinstance(command, Cancel | SetReplicas | PolicySetRetired)

    def _ends(self, request_id: str) -> None:
        del self.running[request_id]
        assert request_id not in self.ended
        self.ended[request_id] = "completed"

    def _stops(self, request_id: str, retriable: bool) -> None:
        if retriable:
            del self.running[request_id]
            self.held[request_id] = self.now
        else:
            self._ends(request_id)

    def _over(self, request_id: str, why: str) -> None:
        assert request_id not in self.ended, f"{request_id} ended twice: {self.ended[request_id]}, then {why}"
        self.ended[request_id] = why
        self.held.pop(request_id, None)
        self.running.pop(request_id, None)

    def check(self) -> None:
        pool = self.dispatcher.pools["p"]
        assert set(pool.in_flight) == set(self.running)
        assert {request.request_id for request in pool.queue} == set(self.held)
        assert len(pool.queue) == len(self.held)
        assert pool.queue.num_prompt_tokens == sum(self.prompts[request] for request in self.held)
        assert self.dispatcher.num_requests == len(self.held) + len(self.running)
        assert max(self.num_dispatched.values(), default=0) < ATTEMPTS + TURNED_AWAY
        assert all(since + LIMIT_SECONDS > self.latest - 1e-9 for since in self.held.values())
        assert len(pool.prefix_index) <= 20
        for worker_id, state in pool.workers.items():
            mine = [request for request, worker in self.running.items() if worker == worker_id]
            assert state.num_inflight_requests == len(mine)
            assert state.prompt_tokens == sum(self.prompts[request] for request in mine)
            assert 0 <= state.prefill_tokens <= state.prompt_tokens
            assert state.num_inflight_tokens >= state.prompt_tokens
            assert state.expected_tokens >= -1e-6
            assert bool(mine) or state.prefill_tokens == state.expected_tokens == 0

    def check_replay(self) -> None:
        replayed = list(replay(self.header, self.records, _load))
        assert [_plain(commands) for _, commands in replayed] == [_plain(commands) for _, commands in self.log]

    def check_resumed(self, first: int, num_lost: int) -> Gap | None:
        """Replays without ``num_lost`` records from index ``first`` on; the gap, if these make one."""
        gaps: list[Gap] = []
        records = self.records[:first] + self.records[first + num_lost :]
        replayed = list(replay(self.header, records, _load, gaps.append))
        lost = [record for record in self.records[first : first + num_lost] if record[1] != "checkpoint"]
        if not lost:
            assert not gaps
            return None
        if first + num_lost >= len(self.records):
            assert not gaps  # an end that is missing leaves no mark
            return None
        (gap,) = gaps
        assert gap.first == lost[0][0]
        after = len(self.log) if gap.resumed_after is None else gap.resumed_after
        expected = self.log[: gap.first - 1] + self.log[after:]
        assert [_plain(commands) for _, commands in replayed] == [_plain(commands) for _, commands in expected]
        return gap

    def _pick(self, among: Any, pick: int) -> str | None:
        choices = list(among)
        return choices[pick % len(choices)] if choices else None


def _load(pool: str, generation: int, sources: object) -> PolicySet:
    return misbehaving_set(generation)


def _plain(commands: Sequence[Command]) -> list[Command]:
    return [
        c if not isinstance(c, PolicySetRetired) else PolicySetRetired(c.pool, c.generation, c.restored, "")
        for c in commands
    ]
