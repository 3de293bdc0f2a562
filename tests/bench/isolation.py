"""``python -m tests.bench.isolation``: what each tier of isolation costs, measured side by side.

One policy on one seed, tier by tier, the tiers taking turns; of each the least of so many, which is what it costs when
nothing else happens. The first tier's layers are also given up one by one by a child that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable

from designer import confinement
from designer.confinement import Limits
from designer.sandbox import Sandbox
from designer.simulator.scenario import load_scenario
from designer.simulator.world import simulate
from designer.subject import subject_of_specs

POLICY = "joint/head_room"


def child_milliseconds(layers: Callable[[], object], rounds: int) -> float:
    """Least milliseconds of a fork whose child does ``layers`` and leaves."""
    least = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            layers()
            os._exit(0)
        os.waitpid(pid, 0)
        least = min(least, time.perf_counter() - started)
    return 1000 * least


def layer_costs(rounds: int) -> dict[str, float]:
    """Milliseconds of a child by what it gives up, one layer more each time."""

    def limited() -> None:
        confinement._close_all_but([])
        confinement._limit_resources(Limits())

    def all_of_it() -> None:
        limited()
        confinement._linux_layers()

    steps = {"fork": lambda: None, "fork, rlimits, descriptors": limited, "fork, all layers": all_of_it}
    return {name: child_milliseconds(step, rounds) for name, step in steps.items()}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="What each tier of isolation costs.")
    parser.add_argument("--scenario", default="glia")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    scenario, subject = load_scenario(options.scenario), subject_of_specs(POLICY)
    least: dict[str, float] = {}

    def note(name: str, seconds: float) -> None:
        least[name] = min(seconds, least.get(name, seconds))

    calls = 0
    with Sandbox(scenario, jobs=1) as sandbox:
        layers = sandbox.layers()
        for _ in range(options.rounds):
            started = cpu_seconds()
            result = simulate(scenario, POLICY, 1)
            note("in this process (CPU)", cpu_seconds() - started)
            calls = int(result.counters["num_events"])
            note("first tier", sandbox.evaluate(subject, 1).wall_seconds)
            note("second tier, lockstep", sandbox.verify(subject, 1).wall_seconds)
    costs = layer_costs(50)
    print(json.dumps({"layers": layers, "seconds": least, "events": calls, "child_milliseconds": costs}, indent=2))


if __name__ == "__main__":
    main()
