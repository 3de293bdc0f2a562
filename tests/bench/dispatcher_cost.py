"""CPU microseconds of the dispatcher for each kind of event: ``python -m tests.bench.dispatcher_cost``.

The budget is 15 us for an arrival with four workers and a built-in policy, and for an end. Each figure is the
median of rounds of 2,000 events, the events made beforehand; 40 requests are in flight.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from gateway.core.dispatcher import Dispatcher
from gateway.core.event_log import Recorder
from gateway.core.events import Event, FirstTokenSeen, RequestArrived, RequestEnded, WorkerJoined, WorkerMetrics
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from policies.loader import load_policies, parse_specs

ROUNDS, EVENTS, IN_FLIGHT = 7, 2_000, 40
CASES = (
    ("", 4, 0),
    ("least_loaded+fcfs", 4, 0),
    ("least_loaded+fcfs", 4, 4),
    ("least_tokens", 4, 0),
    ("prefix_affinity", 4, 4),
    ("prefix_affinity", 4, 32),
    ("joint/head_room", 4, 0),
    ("least_loaded", 32, 0),
    ("joint/head_room", 32, 0),
)


def main() -> None:
    print(f"{'policies':20} workers chunks  arrival  first token    end    log   us an event")
    for specs, workers, chunks in CASES:
        arrival, first, end, log = (
            statistics.median(column) for column in zip(*_rounds(specs, workers, chunks), strict=True)
        )
        print(f"{specs or 'built-in':20} {workers:7} {chunks:6} {arrival:8.2f} {first:12.2f} {end:6.2f} {log:6.2f}")


def _rounds(specs: str, workers: int, chunks: int) -> list[tuple[float, float, float, float]]:
    policy_set = PolicySet.of(load_policies(parse_specs(specs), 1), 1) if specs else None
    counts = {f"w{n}": 1000 for n in range(workers)}
    dispatcher = Dispatcher([PoolConfig("p", policy_set=policy_set)], output_tokens=counts)
    recorder = Recorder(dispatcher, 10**9)
    metrics = WorkerMetrics(kv_capacity_tokens=400_000, block_size=16, max_num_seqs=256)
    for worker_id in counts:
        dispatcher.handle(WorkerJoined(0.0, worker_id, "p", metrics=metrics))
    return [_round(dispatcher, recorder, counts, number, chunks) for number in range(ROUNDS)]


def _round(
    dispatcher: Dispatcher, recorder: Recorder, counts: dict[str, int], number: int, chunks: int
) -> tuple[float, float, float, float]:
    costs = [0, 0, 0, 0]
    open_: list[str] = []
    for n in range(EVENTS):
        now, request_id = number * 100.0 + n * 0.01, f"{number}/{n}"
        keys = tuple((n % 50 * 1000 + chunk, 64 * (chunk + 1)) for chunk in range(chunks))
        counts[f"w{n % len(counts)}"] += 3
        events: list[tuple[int, Event]] = [
            (0, RequestArrived(now, request_id, "m", num_prompt_bytes=900, max_tokens=512, prefix_keys=keys)),
            (1, FirstTokenSeen(now, request_id)),
        ]
        open_.append(request_id)
        if len(open_) > IN_FLIGHT or n >= EVENTS - IN_FLIGHT:
            events.append((2, RequestEnded(now, open_.pop(0), "completed", 100, 250)))
        _time(dispatcher, recorder, events, costs)
    return costs[0] / EVENTS / 1e3, costs[1] / EVENTS / 1e3, costs[2] / EVENTS / 1e3, costs[3] / EVENTS / 3e3


def _time(dispatcher: Dispatcher, recorder: Recorder, events: Sequence[tuple[int, Event]], costs: list[int]) -> None:
    clock = time.thread_time_ns
    for kind, event in events:
        started = clock()
        commands = dispatcher.handle(event)
        handled = clock()
        recorder.records(event, commands)
        costs[kind] += handled - started
        costs[3] += clock() - handled


if __name__ == "__main__":
    main()
