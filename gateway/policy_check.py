"""Runs a policy set's conformance check inside limits that are set before any code of the set runs.

``python -m gateway.policy_check CPU_SECONDS MEMORY_BYTES ARGUMENTS…``; the arguments and the exit status are
those of ``policies.conformance``. The limits: CPU time, address space, no file written, no core dump.
"""

from __future__ import annotations

import os
import resource
import runpy
import sys
from io import TextIOWrapper


def main() -> None:
    os.nice(5)  # the gateway's own work first
    seconds, memory = int(sys.argv[1]), int(sys.argv[2])
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a policy's error may hold half a surrogate pair
    sys.argv[:] = ["policies.conformance", *sys.argv[3:]]
    runpy.run_module("policies.conformance", run_name="__main__", alter_sys=True)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main()
