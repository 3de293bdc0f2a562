"""A simulation host on a machine whose kernel has no fence of ours: neither seccomp nor landlock."""

from __future__ import annotations

from designer import confinement, work_simulation
from designer.sandbox import Sandbox

WORK = work_simulation.WORK


def prepare() -> None:
    confinement._linux_layers = list
    work_simulation.prepare()


class WeakSandbox(Sandbox):
    simulation_role = "tests.support.weak_simulation"
