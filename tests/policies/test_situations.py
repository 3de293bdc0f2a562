from __future__ import annotations

from policies.contract import Finished, Request
from policies.situations import World, empty_pools, engine_views, situations


def test_the_same_seed_gives_the_same_situations():
    def shown(seed):
        return [
            (s.request, s.pool.now, [(c.worker, c.num_cached_tokens) for c in s.candidates])
            for s in situations(seed, 50)
        ]

    assert repr(shown(1)) == repr(shown(1)) != repr(shown(2))


def test_edges_are_met():
    seen = list(situations(0, 60))
    workers = [candidate.worker for situation in seen for candidate in situation.candidates]
    assert all(situation.candidates for situation in seen)
    assert {len(situation.candidates) for situation in seen} >= {1}
    assert any(worker.kv_capacity_tokens == 0 for worker in workers)
    assert any(worker.metrics_age == float("inf") for worker in workers)
    assert any(worker.num_inflight_requests == 0 for worker in workers)
    assert {1, 10_000_000} <= {situation.request.num_prompt_tokens for situation in seen}
    assert any(not pool.variants for pool in empty_pools())
    assert next(iter(engine_views(0, 1)))[0].num_running == 0


def test_the_worlds_counts_follow_from_its_events():
    world, inflight, ended = World(3), dict[str, Request](), 0
    for _ in range(500):
        for event in world.move_on():
            if isinstance(event, Finished):
                del inflight[event.request_id]
                ended += 1
        request = world.arrive()
        if len(inflight) < 30:
            world.dispatch(request, world.workers[len(inflight) % len(world.workers)].worker_id)
            inflight[request.request_id] = request
        workers = world.situation(request).pool.workers
        assert sum(worker.num_inflight_requests for worker in workers) == len(inflight)
        prompts = sum(request.num_prompt_tokens for request in inflight.values())
        assert sum(worker.num_inflight_prompt_tokens for worker in workers) == prompts
        for worker in workers:
            assert (
                0
                <= worker.num_inflight_prefill_tokens
                <= worker.num_inflight_prompt_tokens
                <= worker.num_inflight_tokens
            )
    assert ended > 100
