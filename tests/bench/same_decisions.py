"""The same simulations as Python and as machine code, compared record for record.

    python -m tests.bench.same_decisions

A record is an event with the commands that the dispatcher answered and the counts it read; every so many of them there
is a digest of its whole state, and at the end what became of each request, to the last bit. With nothing compiled, or
with machine code of other sources, there is nothing to compare: that is an error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from itertools import zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CASES = (
    ("glia", "least_loaded+fcfs", 1),
    ("glia", "joint/head_room", 2),
    ("glia", "prefix_affinity", 3),
    ("failures", "head_room", 2),
    ("diurnal", "least_loaded+target_tracking:target=8", 2),
)
CHECKPOINT_EVERY = 500


def forbid_machine_code() -> None:
    """From here on the sources of this tree are imported, whatever lies beside them."""

    def finder(path: str) -> FileFinder:
        if not any(Path(path).is_relative_to(ROOT / package) for package in ("gateway", "designer")):
            raise ImportError
        return FileFinder(path, (SourceFileLoader, SOURCE_SUFFIXES))

    sys.path_hooks.insert(0, finder)
    sys.path_importer_cache.clear()


def decisions(scenario_name: str, specs: str, seed: int) -> Iterator[bytes]:
    """The records of one simulation, each as a line, and then its columns."""
    import orjson

    from designer.simulator.failures import draw_failures
    from designer.simulator.policies import make_policy_set
    from designer.simulator.scenario import load_scenario
    from designer.simulator.workload import draw_workload
    from designer.simulator.world import World
    from gateway.core.event_log import Recorder

    scenario = load_scenario(scenario_name)
    columns = draw_workload(scenario, seed)
    failures = draw_failures(scenario, seed, int(columns.arrival_ps.max()))
    world = World(scenario, columns, make_policy_set(specs, seed), None, None, failures, seed)
    recorder, records = Recorder(world.dispatcher, CHECKPOINT_EVERY), list[Any]()
    world.sink = lambda event, commands: records.extend(recorder.records(event, commands))
    before = time.process_time()
    world.run()
    sys.stderr.write(f"{scenario_name} {specs}: {time.process_time() - before:.2f} s of CPU with its records\n")
    yield from (orjson.dumps(record) for record in records)
    result = world.result(seed)
    for name in ("dispatched", "first_token", "finished", "worker", "outcome", "cached", "preemptions"):
        yield f"{name} {getattr(result, name).tobytes().hex()}".encode()


def of_form(form: str) -> list[bytes]:
    """All lines, made by another process that has what it is to have."""
    command = [sys.executable, "-m", "tests.bench.same_decisions", "--form", form]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.splitlines()


def write(form: str) -> None:
    if form == "pure":
        forbid_machine_code()
    from gateway.core import dispatcher

    if dispatcher.__file__.endswith(".py") is not (form == "pure"):
        sys.exit(f"error: this is not the {form} form: {dispatcher.__file__}")
    for case in CASES:
        sys.stdout.buffer.writelines(line + b"\n" for line in decisions(*case))


def compare(pure: list[bytes], compiled: list[bytes]) -> int:
    """The number of lines. SystemExit names the first that differs."""
    for number, (one, other) in enumerate(zip_longest(pure, compiled), 1):
        if one != other:
            sys.exit(f"error: line {number} differs:\npure     {one!r:.300}\ncompiled {other!r:.300}")
    return len(pure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=("pure", "compiled"), help="only writes the lines of this one")
    form = parser.parse_args().form
    if form:
        write(form)
        return
    from gateway.machine_code import machine_code

    code = machine_code()
    if code.state != "true":
        sys.exit(f"error: this tree {code.line}")
    num_lines = compare(of_form("pure"), of_form("compiled"))
    print(f"identical: {num_lines} records of {len(CASES)} simulations, pure and compiled")


if __name__ == "__main__":
    main()
