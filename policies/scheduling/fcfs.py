"""First come, first served; nothing is shed.

Source: the default order of vLLM's own scheduler (``--scheduling-policy fcfs``).
"""

from __future__ import annotations

from policies.contract import Pool, Request, Rng


class FirstComeFirstServed:
    def admit(self, request: Request, pool: Pool) -> bool:
        return True

    def key(self, request: Request) -> float:
        return request.arrival_time


def create(rng: Rng) -> FirstComeFirstServed:
    return FirstComeFirstServed()
