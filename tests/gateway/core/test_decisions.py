"""The built-in policy files, unchanged, in the dispatcher: random events, and the log replays to the same commands."""

from __future__ import annotations

import json
import random

import pytest

from gateway.core.commands import Dispatch, Reject
from gateway.core.dispatcher import Dispatcher
from gateway.core.event_log import Recorder, encode_header, replay
from gateway.core.events import ClientLeft, FirstTokenSeen, MetricsScraped, RequestEnded, Ticked, WorkerMetrics
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from policies.loader import PolicySpec, builtin_names, load_policies, load_source
from tests.support.core_policies import arrived, joined

SEED = 11


def reload(pool, generation, sources):
    """As a replay does: from the text in the log, with the generator the policy had."""
    return PolicySet.of(
        [
            load_source(
                source.source.encode(),
                PolicySpec(source.name, source.slots, source.params, source.policy_hash),
                random.Random(f"{SEED}/{generation}/{index}"),
                path=source.name,
                name=source.name,
            )
            for index, source in enumerate(sources)
        ],
        generation,
    )


@pytest.mark.parametrize("name", builtin_names())
def test_a_built_in_policy_serves_and_replays(name):
    rng = random.Random(name)
    policy_set = PolicySet.of(load_policies((PolicySpec(name),), SEED, 1), 1)
    pools = [PoolConfig("p", policy_set=policy_set, replicas={"default": (1, 6)}, max_queue_seconds=30.0)]
    header = json.loads(json.dumps(encode_header(pools, SEED)))
    counts = {f"w{n}": 0 for n in range(4)}
    dispatcher = Dispatcher(pools, output_tokens=counts)
    recorder = Recorder(dispatcher, 50)
    log, records, running, over = [], [], {}, 0

    def hear(event):
        nonlocal over
        commands = dispatcher.handle(event)
        log.append(commands)
        records.extend(json.loads(json.dumps(record)) for record in recorder.records(event, commands))
        for command in commands:
            if isinstance(command, Dispatch):
                running[command.request_id] = command.worker_id
            over += isinstance(command, Reject)

    for n in range(4):
        hear(joined(f"w{n}", metrics=WorkerMetrics(kv_capacity_tokens=2000, block_size=16, max_num_seqs=8)))
    num, now = 300, 0.0
    for n in range(num):
        now += rng.random() * 0.2
        prompt = rng.randrange(1, 900)
        keys = tuple((rng.randrange(3) * 10 + i, 64 * (i + 1)) for i in range(prompt // 200))
        hear(arrived(now, f"r{n}", tokens=prompt, tenant=f"t{n % 2}", prefix_keys=keys, max_tokens=200))
        if running and rng.random() < 0.8:
            first = rng.choice(list(running))
            counts[running[first]] += rng.randrange(30)
            hear(FirstTokenSeen(now, first))
        if running and rng.random() < 0.9:
            done = next(iter(running))
            del running[done]
            over += 1
            hear(RequestEnded(now, done, "completed", rng.randrange(1, 60)))
        if n % 20 == 0:
            hear(MetricsScraped(now, f"w{n % 4}", WorkerMetrics(1, rng.randrange(3), rng.random()), now))
            hear(Ticked(now))
    while running:
        now += 0.1
        done = next(iter(running))
        del running[done]
        over += 1
        hear(RequestEnded(now, done, "completed", 10))
    hear(Ticked(now + 31))
    while running:
        done, _ = running.popitem()
        over += 1
        hear(ClientLeft(now + 31, done))

    assert over == num
    assert dispatcher.num_requests == 0
    assert dispatcher.pools["p"].guard.num_failures == {}
    assert [commands for _, commands in replay(header, records, reload)] == log
