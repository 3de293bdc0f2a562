"""What a child of the policy host can do. Nothing here, nor in anything it imports, knows simulator or workload."""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping

from designer.lockstep_host import serve
from designer.subject import subject_from_json
from designer.warm import Fence, Job, Work
from policies.allowed import ALLOWED_MODULES
from policies.conformance import Effort, check_policy, check_source
from policies.loader import PolicySpec, load_source


def prepare() -> None:
    """Import all that a policy may import: behind the fence no file can be opened."""
    for module in sorted(ALLOWED_MODULES):
        importlib.import_module(module)


def host(job: Job, fence: Fence, fds: list[int]) -> None:
    """Answer a simulation's calls until it hangs up."""
    fence()
    serve(fds, subject_from_json(job["subject"]), int(job["seed"]))


def check(job: Job, fence: Fence, fds: list[int]) -> list[str]:
    """Violations of the contract, one line each; the static rules alone when they find any."""
    fence()
    effort = Effort(num_situations=200, num_steps=200, subprocess=False)
    found: list[str] = []
    for part in subject_from_json(job["subject"]).parts:
        violations = check_source(part.source) if job.get("static", True) else []
        if not violations:
            spec = PolicySpec(f"{part.name}.py", part.slots, dict(part.params))
            loaded = load_source(part.source.encode(), spec, random.Random(0), path=f"{part.name}.py", name=part.name)
            violations = check_policy(loaded, effort)
        found += [f"{part.name}:{violation}" for violation in violations]
    return found


WORK: Mapping[str, Work] = {"host": host, "check": check}
