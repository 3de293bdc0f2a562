"""By which layer each planted candidate is caught: what docs/audit.md says, and what ``designer audit`` must find.

Where a machine lacks a layer of the kernel another one catches it, so this is asked only where all are in force.
"""

from __future__ import annotations

from collections.abc import Mapping

STATIC = "static rules"

_SUBMITTED: Mapping[str, str] = {
    "a field of the truth": "guard",
    "max_tokens as the length": "fresh seeds",
    "drops the long": "fresh seeds",
    "holds for ever": "fresh seeds",
    "foreign object": "guard",
    "lookalike": "guard",
    "behaves on known seeds only": "fresh seeds",
}
"""As it is; the static rules, where not said."""

_BEHIND: Mapping[str, str] = {
    "a field of the truth": "guard",
    "frame walk": "contract trial",
    "gc walk": "two processes",
    "gc referrers": "two processes",
    "inspect": "kernel fence",
    "draws the workload": "contract trial",
    "max_tokens as the length": "fresh seeds",
    "drops the long": "fresh seeds",
    "holds for ever": "fresh seeds",
    "duplicates": "invariants",
    "keeps the clock": "contract trial",
    "writes a file": "kernel fence",
    "reads a file": "kernel fence",
    "reads the environment": "empty environment",
    "connects": "kernel fence",
    "listens": "kernel fence",
    "starts a program": "kernel fence",
    "starts a thread": "kernel fence",
    "signals": "kernel fence",
    "crashes in C": "result check",
    "class walk": "kernel fence",
    "patches the score": "two processes",
    "patches the worker": "invariants",
    "forges its result": "result check",
    "leaves": "result check",
    "changes the workers": "contract trial",
    "foreign object": "guard",
    "lookalike": "guard",
    "keys on id()": "contract trial",
    "hash order": "two processes",
    "behaves when watched": "two processes",
    "keeps its arguments": "two processes",
    "evaluates text": "kernel fence",
    "well-formed result": "two processes",
    "result by frames": "two processes",
    "result by gc": "two processes",
    "result by ctypes": "two processes",
    "result and trial": "two processes",
    "score in the encoder": "two processes",
    "score under an honest digest": "two processes",
    "shorter workload": "two processes",
    "no invariants": "two processes",
    "answers ahead": "contract trial",
    "another's identity": "promotion",
    "behaves on known seeds only": "fresh seeds",
}
"""Without the static rules."""
_BEHIND_MACHINE_CODE: Mapping[str, str] = {
    "duplicates": "contract trial",  # finds no frame of the world to reach into, and is left with what it kept
    "no invariants": "fresh seeds",  # machine code calls its own functions, whatever a module's names are set to
}
"""Where the simulator runs as machine code and the layer is another one."""
_BURNS = "rlimits or deadline"
"""Whichever comes first: a busy machine takes long for its processor time."""
_HOSTILE: Mapping[str, tuple[str, str]] = {
    "endless loop": (_BURNS, _BURNS),
    "endless at import": (_BURNS, _BURNS),
    "sleeps": ("kernel fence", "kernel fence"),
    "sleeps by poll": ("kernel fence", "kernel fence"),
    "waits for itself": ("deadline", "deadline"),
    "endless in C": (_BURNS, _BURNS),
    "long sum in C": (_BURNS, _BURNS),
    "huge power": (_BURNS, _BURNS),
    "regular expression": (_BURNS, _BURNS),
    "swallows all": (_BURNS, _BURNS),
    "deaf to the limit": (_BURNS, _BURNS),
    "100 GB": ("rlimits", "rlimits"),
    "bit by bit": (_BURNS, _BURNS),
    "long text": ("rlimits", "rlimits"),
    "deep recursion": ("guard", "guard"),
    "deep recursion in C": ("result check", "result check"),
    "floods the output": ("nothing to stop", "nothing to stop"),
    "floods the answer": ("result check", "result check"),
    "nested answer": ("result check", "result check"),
    "raises SystemExit": ("guard", "result check"),
    "raises KeyboardInterrupt": ("result check", "result check"),
    "raises GeneratorExit": ("guard", "result check"),
    "raises StopIteration": ("guard", "guard"),
    "exception without a text": ("guard", "result check"),
    "exception without a name": ("guard", "result check"),
    "unspeakable text": ("guard", "guard"),
    "equal to anything": ("guard", "guard"),
    "cannot be compared": ("guard", "guard"),
    "cannot be compared, in a tuple": ("guard", "guard"),
    "NaN": ("guard", "guard"),
    "huge key": ("guard", "guard"),
    "forks": ("kernel fence", "kernel fence"),
    "double fork": ("kernel fence", "kernel fence"),
    "leaves its group": ("kernel fence", "kernel fence"),
    "many threads": ("kernel fence", "kernel fence"),
    "signals its parent": ("kernel fence", "kernel fence"),
    "abstract socket": ("kernel fence", "kernel fence"),
    "netlink": ("kernel fence", "kernel fence"),
    "userfaultfd": ("kernel fence", "kernel fence"),
    "io_uring_setup": ("kernel fence", "kernel fence"),
    "ptrace": ("kernel fence", "kernel fence"),
    "process_vm_writev": ("kernel fence", "kernel fence"),
    "memfd_create": ("kernel fence", "kernel fence"),
    "its own memory": ("kernel fence", "kernel fence"),
    "others' memory": ("kernel fence", "kernel fence"),
    "file in /tmp": ("kernel fence", "kernel fence"),
    "file in /dev/shm": ("kernel fence", "kernel fence"),
    "file in /var/tmp": ("kernel fence", "kernel fence"),
    "raises its limits": ("kernel fence", "kernel fence"),
    "uses up descriptors": ("kernel fence", "kernel fence"),
    "an alarm": ("nothing to stop", "nothing to stop"),
    "closes everything": ("result check", "result check"),
}
"""In the first tier, and in the second."""


def layer_behind(name: str, compiled: bool) -> str:
    """What is to catch a cheat without the static rules; ``compiled``: where the simulator is. Empty: unknown."""
    behind = _BEHIND.get(name, "")
    return _BEHIND_MACHINE_CODE.get(name, behind) if compiled else behind


def as_pinned(name: str, submitted: str, without_static: str, compiled: bool) -> bool:
    """Whether these are the layers that a cheat is to be caught by."""
    return submitted == _SUBMITTED.get(name, STATIC) and without_static == layer_behind(name, compiled)


def endured_as_pinned(name: str, beside: str, apart: str) -> bool:
    """Whether these are the layers that stop a hostile candidate, in the first tier and in the second."""
    pinned = _HOSTILE.get(name, ("", ""))
    return beside in pinned[0].split(" or ") and apart in pinned[1].split(" or ")
