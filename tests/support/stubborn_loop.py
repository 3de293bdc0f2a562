"""Least in flight, until the tenant "loop" sends a request: then it goes round for longer than anyone waits.

What a check cannot know: every range is bounded, and no situation it was tried on has such a tenant.

Source: written for the tests of the guard.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng


class StubbornLoop:
    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        if request.tenant == "loop":
            total = 0
            for _ in range(100_000):
                for _ in range(100_000):
                    total += 1
        return min(candidates, key=lambda candidate: candidate.worker.num_inflight_requests)


def create(rng: Rng) -> StubbornLoop:
    return StubbornLoop()
