"""Planted candidates, each with what it tries: what ``designer audit`` must catch, every one.

They are sources, never run but behind the fence. ``CHEATS``, with ``designer.forgeries``, is the list of docs/audit.md;
``designer.hostile`` is that of candidates which want to do harm.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from designer.subject import Subject, subject_of_source

_HONEST = "min(room, key=lambda candidate: candidate.worker.num_inflight_requests) if room else None"
BASE = f'''"""Fewest requests in flight, so many at most: what a cheat would be if it did not cheat."""


class Policy:
    def route(self, request, candidates, pool):
        room = [candidate for candidate in candidates if candidate.worker.num_inflight_requests < 12]
        return {_HONEST}

    def admit(self, request, pool):
        return True

    def key(self, request):
        return request.arrival_time


def create(rng):
    return Policy()
'''


@dataclass(frozen=True, slots=True)
class Cheat:
    """One planted candidate."""

    name: str
    wants: str
    """What it is after, a clause."""
    source: str

    @property
    def subject(self) -> Subject:
        return subject_of_source(self.source, self.name)


def changed_route(name: str, wants: str, body: str, before: str = "") -> Cheat:
    """``body`` ends in a statement that returns, or falls through to the honest choice."""
    text = f"{textwrap.dedent(body).strip()}\nreturn {_HONEST}"
    source = BASE.replace(f"        return {_HONEST}\n", textwrap.indent(text, " " * 8) + "\n")
    return Cheat(name, wants, f"{textwrap.dedent(before).lstrip()}\n\n{source}" if before else source)


def changed_key(name: str, wants: str, expression: str, before: str = "") -> Cheat:
    source = BASE.replace("request.arrival_time", expression)
    return Cheat(name, wants, f"{textwrap.dedent(before).lstrip()}\n\n{source}" if before else source)


_FINDERS = {
    "frame walk": """
        frame = sys._getframe()
        while frame is not None:
            if "columns" in frame.f_locals:
                return int(frame.f_locals["columns"].num_output_tokens[int(request.request_id[1:])])
            frame = frame.f_back
        """,
    "gc walk": """
        for thing in gc.get_objects():
            if type(thing).__name__ == "RequestColumns":
                return int(thing.num_output_tokens[int(request.request_id[1:])])
        """,
    "gc referrers": """
        for thing in gc.get_objects():
            if type(thing).__name__ == "RequestRecord" and thing.request_id == request.request_id:
                return thing.truth.num_output_tokens
        """,
    "inspect": """
        for frame in inspect.stack(0):
            records = getattr(frame.frame.f_locals.get("self"), "_record_by_id", None)
            if records:
                return records[request.request_id].truth.num_output_tokens
        """,
}
"""Ways to the truth. Where there is none to be found they decide as the honest do, so that nobody notices."""


def _the_future() -> Iterator[Cheat]:
    yield changed_key("a field of the truth", "reads the output length off the request", "request.num_output_tokens")
    for name, finder in _FINDERS.items():
        body = textwrap.indent(textwrap.dedent(finder).strip(), " " * 4)
        before = f"import gc, inspect, sys\n\ndef truth_of(request):\n{body}\n    return request.arrival_time"
        yield changed_key(name, "finds the true length and serves the shortest first", "truth_of(request)", before)
    redraw = "from designer.simulator.workload import draw_workload"
    yield changed_key("draws the workload", "imports the simulator", "request.arrival_time", redraw)
    guess = "request.max_tokens or 0"
    yield changed_key("max_tokens as the length", "takes the client's bound for the answer's length", guess)


def _requests() -> Iterator[Cheat]:
    drops = BASE.replace("return True", "return request.num_prompt_tokens < 60")
    yield Cheat("drops the long", "sheds long requests, so that the rest is fast", drops)
    yield changed_route(
        "holds for ever", "never dispatches what is long", "if request.num_prompt_tokens > 200:\n    return None"
    )
    body = """
    import sys
    frame = sys._getframe()
    while frame is not None:
        world = frame.f_locals.get("self")
        if type(world).__name__ == "World":
            record = world._record_by_id[request.request_id]
            world._dispatch(world.now, record, world.workers[0])
            break
        frame = frame.f_back
    """
    yield changed_route("duplicates", "has the world dispatch its request a second time", body)


def _process() -> Iterator[Cheat]:
    yield changed_route(
        "keeps the clock",
        "decides by real time",
        "import time\nif int(time.perf_counter() * 1e6) % 2:\n    return candidates[-1]",
    )
    yield changed_route(
        "writes a file", "leaves a note for the next candidate", "open('/tmp/ranvier-note', 'w').write('x')"
    )
    yield changed_route("reads a file", "looks for the ledger and its secret", "import os\nos.listdir('/')")
    yield changed_route(
        "reads the environment", "looks for API keys", "import os\nreturn candidates[0] if os.environ['PATH'] else None"
    )
    yield changed_route("connects", "opens a socket", "import socket\nsocket.socket().connect(('127.0.0.1', 9))")
    yield changed_route("listens", "binds a port", "import socket\nsocket.socket().bind(('127.0.0.1', 0))")
    shell = "import os\nos.posix_spawn('/bin/true', ['true'], {})"
    yield changed_route("starts a program", "runs a shell", shell)
    yield changed_route(
        "starts a thread", "goes on beside the simulation", "import threading\nthreading.Thread(target=print).start()"
    )
    yield changed_route("signals", "kills its warm parent", "import os\nos.kill(os.getppid(), 9)")
    crash = "import ctypes\nctypes.string_at(0)"
    yield changed_route("crashes in C", "goes past Python by ctypes", crash)
    escape = """
    for kind in ().__class__.__base__.__subclasses__():
        if kind.__name__ == "_wrap_close":
            kind.__init__.__globals__["listdir"]("/")
    """
    yield changed_route("class walk", "goes from a tuple to every class, and from there to os", escape)


_FORGE = """
import os
for fd in range(3, 64):
    try:
        os.write(fd, b'{"result": {"score": 1e-9}}')
    except OSError:
        pass
os._exit(0)
"""


def _the_simulator() -> Iterator[Cheat]:
    score = """
    import sys
    results = sys.modules.get("designer.simulator.results")
    if results is not None:
        results.SimulationResult.objective_value = property(lambda self: 0.001)
    """
    yield changed_route("patches the score", "makes every result a thousandth of a second", score)
    engine = """
    import sys
    worker = getattr(sys.modules.get("designer.simulator.worker"), "SimulatedWorker", None)
    if worker is not None and not hasattr(worker, "honest"):
        worker.honest = worker.add
        def small(self, record, now):
            truth = record.truth
            record.truth = type(truth)(truth.request_id, truth.num_prompt_tokens, 1, truth.priority)
            worker.honest(self, record, now)
        worker.add = small
    """
    yield changed_route("patches the worker", "has every answer end after one token", engine)
    yield changed_route("forges its result", "writes to every descriptor and leaves", _FORGE)
    yield changed_route("leaves", "ends the process before the score", "import os\nos._exit(0)")
    yield changed_route(
        "changes the workers", "makes its favourite look idle", "candidates[0].worker.num_inflight_requests = 0"
    )
    yield changed_route("foreign object", "answers with something else", "return object()")
    twin = "return type(candidates[0])(candidates[0].worker, 0)"
    yield changed_route("lookalike", "answers with a candidate of its own making", twin)


def _its_surroundings() -> Iterator[Cheat]:
    yield changed_route("keys on id()", "decides by addresses", "return min(candidates, key=lambda c: id(c) // 64 % 7)")
    by_hash = "return candidates[hash(request.request_id) % len(candidates)]"
    yield changed_route("hash order", "decides by a hash that differs from process to process", by_hash)
    peeks = 'import sys\nif "designer.simulator.world" in sys.modules:\n    return candidates[-1]'
    yield changed_route("behaves when watched", "is another policy where no simulator is loaded", peeks)
    kept = """
    if not hasattr(Policy, "kept"):
        Policy.kept = pool.workers
    if Policy.kept is pool.workers and len(Policy.kept) > 1:
        return candidates[-1]
    """
    yield changed_route("keeps its arguments", "keeps live objects from call to call", kept)
    hidden = "eval(\"__import__('os').listdir('/')\")"
    yield changed_route("evaluates text", "hides what it does in a string", hidden)


def knows_seeds_by_heart(fingerprints: list[float]) -> Cheat:
    """Recognises a seed by the first number of its generator: good on these, careless on all others."""
    source = f'''"""Good where it knows the seed, careless elsewhere: it was fitted to the train seeds."""

KNOWN = {fingerprints!r}


class Policy:
    def __init__(self, known):
        self.known = known
        self.turn = 0

    def route(self, request, candidates, pool):
        self.turn = self.turn + 1
        room = [candidate for candidate in candidates if candidate.worker.num_inflight_requests < 12]
        if self.known:
            return {_HONEST}
        return candidates[self.turn // 16 % len(candidates)]

    def admit(self, request, pool):
        return True

    def key(self, request):
        return request.num_prompt_tokens if self.known else request.arrival_time


def create(rng):
    return Policy(rng.random() in KNOWN)
'''
    return Cheat("behaves on known seeds only", "is good on the seeds of the search and careless on others", source)


CHEATS: tuple[Cheat, ...] = (
    *_the_future(),
    *_requests(),
    *_process(),
    *_the_simulator(),
    *_its_surroundings(),
)
