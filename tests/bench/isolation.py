"""``python -m tests.bench.isolation``: what each tier of isolation costs, measured side by side.

One policy on one seed, tier by tier, the tiers taking turns; of each the least processor time of so many, children
included: what it costs when nothing else happens. The first tier's layers are also given up one by one by a child that
does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable

from designer import confinement
from designer.confinement import Limits, bubblewrap
from designer.sandbox import Sandbox, Task
from designer.simulator.scenario import Scenario, load_scenario
from designer.simulator.world import simulate
from designer.subject import Subject, subject_of_specs

SEED = 1


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


def in_process(scenario: Scenario, policy: str) -> float:
    """CPU seconds of the simulation, in this process."""
    started = cpu_seconds()
    simulate(scenario, policy, SEED)
    return cpu_seconds() - started


def forked(scenario: Scenario, policy: str) -> float:
    """CPU seconds of a child that is forked for it, and gives nothing up."""
    pid = os.fork()
    if pid == 0:
        simulate(scenario, policy, SEED)
        os._exit(0)
    _, _, usage = os.wait4(pid, 0)
    return usage.ru_utime + usage.ru_stime


def confined(sandbox: Sandbox, subject: Subject) -> float:
    """CPU seconds of the first tier's child."""
    answer = sandbox._ask("designer.work_simulation", sandbox._job("together", Task(subject, SEED)))
    return float(answer["cpu_seconds"])


def lockstep(sandbox: Sandbox, subject: Subject) -> float:
    """CPU seconds of the second tier's two children."""
    return float(sandbox._in_lockstep(sandbox._job("lockstep", Task(subject, SEED)))["cpu_seconds"])


def tiers(scenario: Scenario, policy: str, bare: Sandbox, wrapped: Sandbox | None) -> dict[str, Callable[[], float]]:
    """What is measured, by name; with bubblewrap where there is one."""
    subject = subject_of_specs(policy)
    found = {
        "in this process": lambda: in_process(scenario, policy),
        "a forked child": lambda: forked(scenario, policy),
        "first tier: forked and confined": lambda: confined(bare, subject),
        "second tier: two processes in lockstep": lambda: lockstep(bare, subject),
    }
    if wrapped is not None:
        found["first tier behind bubblewrap"] = lambda: confined(wrapped, subject)
        found["second tier behind bubblewrap"] = lambda: lockstep(wrapped, subject)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What each tier of isolation costs.")
    parser.add_argument("--scenario", default="glia")
    parser.add_argument("--policy", default="joint/head_room", help="a built-in or a file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    scenario = load_scenario(options.scenario)
    least: dict[str, float] = {}
    with Sandbox(scenario, jobs=1) as first, Sandbox(scenario, jobs=1) as second:
        wrapped = second if bubblewrap() else None
        for role in first._parents.values():
            for parent in role:
                parent._wrapper = ()
        layers = second.layers()
        for _ in range(options.rounds):
            for name, measure in tiers(scenario, options.policy, first, wrapped).items():
                least[name] = min(measure(), least.get(name, float("inf")))
    ratios = {name: seconds / least["in this process"] for name, seconds in least.items()}
    told = {"layers": layers, "cpu_seconds": least, "ratio": ratios, "child_milliseconds": layer_costs(50)}
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
