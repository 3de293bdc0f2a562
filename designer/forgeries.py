"""Planted candidates that answer in the name of the simulator: well-formed results, scores, decisions and trials.

Each plays the honest policy where it thinks that it is watched, so that nothing but the forgery gives it away.
"""

from __future__ import annotations

import textwrap

from designer.cheats import BASE, Cheat

_MODULES = """
def modules():
    for kind in ().__class__.__base__.__subclasses__():
        if kind.__name__ == "_wrap_close":
            return kind.__init__.__globals__["sys"].modules
    return {}
"""
"""Every loaded module, found without an import."""

RESULT_TEXT = """
RESULT = (
    '{"result": {"score": 0.001, "summary": {"num_policy_failures": 0}, "decisions": "' + "0" * 64
    + '", "num_requests": 100, "identities": [{"name": "base", "policy_hash": "' + "0" * 64
    + '"}]}, "layers": ["seccomp"]}'
).encode()
TRIAL = b'{"result": [], "layers": ["seccomp"]}'
"""

_BY_DESCRIPTOR = """
def forge(text):
    import os
    for fd in range(3, 64):
        try:
            os.write(fd, text)
        except OSError:
            pass
    os._exit(0)
"""
_BY_FRAME = """
def forge(text):
    import os, sys
    frame = sys._getframe()
    while frame is not None and "writing" not in frame.f_locals:
        frame = frame.f_back
    if frame is not None:
        os.write(frame.f_locals["writing"], text)
        os._exit(0)
"""
_BY_GC = """
def forge(text):
    import gc, os
    for thing in gc.get_objects():
        if getattr(thing, "__name__", "") == "fence" and hasattr(thing, "__closure__"):
            for cell in thing.__closure__:
                if isinstance(cell.cell_contents, int):
                    os.write(cell.cell_contents, text)
                    os._exit(0)
"""
_BY_CTYPES = """
def forge(text):
    import ctypes
    libc = ctypes.CDLL(None)
    for fd in range(3, 64):
        libc.write(fd, text, len(text))
    libc._exit(0)
"""
_SCORE_IN_THE_ENCODER = """
def forge():
    found = modules()
    if "designer.work_simulation" not in found or hasattr(found["designer.warm"], "honest"):
        return
    warm = found["designer.warm"]
    warm.honest = found["json"].dumps

    def dumps(thing):
        if isinstance(thing, dict) and "result" in thing:
            thing["result"]["score"] = thing["result"]["score"] / 1000
        return warm.honest(thing)

    warm.json = type(found["json"])("json")
    warm.json.dumps = dumps
"""
_DIGEST_KEPT = """
def forge():
    found = modules()
    work = found.get("designer.work_simulation")
    if work is None or hasattr(work, "honest"):
        return
    result, work.honest = found["designer.simulator.results"].SimulationResult, work.decisions_digest
    true = result.objective_value

    def digest(it):
        result.objective_value = true
        return work.honest(it)

    work.decisions_digest = digest
    result.objective_value = property(lambda self: true.__get__(self) / 1000)
"""
_SHORT_WORKLOAD = """
def forge():
    import gc
    if "designer.work_simulation" not in modules() or hasattr(Policy, "shortened"):
        return
    Policy.shortened = True
    for thing in gc.get_objects():
        if type(thing).__name__ == "RequestRecord":
            true = thing.truth
            thing.truth = type(true)(true.request_id, true.num_prompt_tokens, 1, true.priority)
        elif type(thing).__name__ == "RequestColumns":
            thing.num_output_tokens[:] = 1
"""
_NO_INVARIANTS = """
def forge():
    found = modules()
    ending = found.get("designer.simulator.ending")
    if ending is None or hasattr(ending, "honest"):
        return
    ending.honest = True
    for name in ("designer.simulator.ending", "designer.simulator.invariants", "designer.simulator.world"):
        for key, value in list(vars(found[name]).items()):
            if key.startswith("check_") or key in ("require", "broken"):
                setattr(found[name], key, lambda *args, **kwargs: None)
    worker = found["designer.simulator.worker"].SimulatedWorker
    add = worker.add

    def small(self, record, now):
        true = record.truth
        record.truth = type(true)(true.request_id, true.num_prompt_tokens, 1, true.priority)
        add(self, record, now)

    worker.add = small
"""
_AHEAD = """
def forge():
    import os
    found = modules()
    if "designer.work_policy" in found and not hasattr(Policy, "ahead"):
        Policy.ahead = True
        for fd in range(3, 64):
            try:
                os.write(fd, b"\\x00\\x00\\x00\\x0d" + b'{"answer": 0}')
            except OSError:
                pass
"""
_IDENTITY = """
def forge():
    found = modules()
    if "designer.work_policy" in found:
        found["policies.loader"].identity = lambda source, params: "0" * 64


forge()
"""


def _forger(name: str, wants: str, code: str, call: str, where: str = "route") -> Cheat:
    """Calls ``call`` at the start of every ``route``, or when it is made."""
    source = BASE
    if where == "route":
        source = source.replace("        room = [", textwrap.indent(f"{call}\n", " " * 8) + "        room = [", 1)
    else:
        source = source.replace(
            "    return Policy()\n", textwrap.indent(f"{call}\n", " " * 4) + "    return Policy()\n"
        )
    return Cheat(name, wants, f"{_MODULES}\n{code}\n\n{source}")


_IN_THE_SIMULATION = 'if "designer.work_simulation" in modules():\n    forge(RESULT)'
_ANYWHERE = 'forge(RESULT if "designer.work_simulation" in modules() else TRIAL)'

FORGERIES: tuple[Cheat, ...] = (
    _forger(
        "well-formed result",
        "writes a whole result to every descriptor",
        RESULT_TEXT + _BY_DESCRIPTOR,
        _IN_THE_SIMULATION,
    ),
    _forger("result by frames", "finds the pipe in a caller's frame", RESULT_TEXT + _BY_FRAME, _IN_THE_SIMULATION),
    _forger("result by gc", "finds the pipe in a closure among all objects", RESULT_TEXT + _BY_GC, _IN_THE_SIMULATION),
    _forger("result by ctypes", "writes it with the C library", RESULT_TEXT + _BY_CTYPES, _IN_THE_SIMULATION),
    _forger("result and trial", "passes its contract trial as well", RESULT_TEXT + _BY_DESCRIPTOR, _ANYWHERE),
    _forger("score in the encoder", "divides the score by 1000 as it is sent", _SCORE_IN_THE_ENCODER, "forge()"),
    _forger("score under an honest digest", "the same, and keeps the digest of decisions", _DIGEST_KEPT, "forge()"),
    _forger("shorter workload", "cuts every answer it finds to a token", _SHORT_WORKLOAD, "forge()"),
    _forger("no invariants", "takes the checks out, then cuts every answer", _NO_INVARIANTS, "forge()", "create"),
    _forger("answers ahead", "fills the way back with answers when it is alone", _AHEAD, "forge()"),
    _forger("another's identity", "says when it is alone that it is another policy", _IDENTITY, "pass"),
)
"""``designer.cheats`` has the clumsy ones."""
