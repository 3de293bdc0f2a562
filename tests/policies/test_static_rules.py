"""Every static rule catches its planted violator, at its line, and lets the honest neighbour pass."""

from __future__ import annotations

import pytest

from policies.allowed import MAX_CHARACTERS, MAX_LINES
from policies.static_rules import RULES, check_text

TAIL = "\ndef create(rng):\n    return 1\n"

VIOLATORS = {
    "syntax": ["def f(:", "x = 1\0", "x = " + "(" * 5000 + ")" * 5000],
    "size": ["x = 1\n" * MAX_LINES, f"x = '{'a' * MAX_CHARACTERS}'"],
    "import": [
        "import os",
        "import random",
        "import time",
        "import re",
        "import numpy",
        "import policies.contract",
        "import policies.loader",
        "from os import path",
        "from random import random",
        "from . import loader",
        "from policies import loader",
        "from gateway.core import dispatcher",
        "def f():\n    import socket",
        "from math import *",
        "from collections import _sys",
        "from statistics import random",
        "import statistics\nx = statistics.random",
        "import dataclasses\nx = dataclasses.sys.modules",
        "import dataclasses as d\nx = d.sys",
        "import collections.abc\nx = collections.abc.sys",
        "import math\nx = math",
        "from operator import attrgetter",
        "import operator\nx = operator.methodcaller('f')",
        "from dataclasses import replace",
        "from functools import lru_cache",
        "from typing import get_type_hints",
        "import itertools\nfor x in itertools.count(): pass",
        "from itertools import product",
        "from math import factorial",
        "from policies.contract import _Routing",
    ],
    "name": [
        "eval('1')",
        "exec('1')",
        "open('/etc/passwd')",
        "compile('1', '', 'eval')",
        "__import__('os')",
        "globals()",
        "locals()",
        "vars()",
        "dir()",
        "x = getattr",
        "setattr(1, 'a', 2)",
        "delattr(1, 'a')",
        "hasattr(1, 'a')",
        "id(1)",
        "hash('a')",
        "input()",
        "print(1)",
        "breakpoint()",
        "exit()",
        "pow(2, 9)",
        "repr(1)",
        "memoryview(b'')",
        "x = __builtins__",
        "x = __file__",
        "def __getattr__(name): pass",
        "class A:\n    def __del__(self): pass",
        "def f(open): return open('x')",
        "from operator import add as eval",
        "class hash: pass",
        "match 1:\n    case id: pass",
        "match [1]:\n    case [*vars]: pass",
    ],
    "attribute": [
        "x = (1).__class__",
        "x = object.__subclasses__()",
        "x = [].__len__",
        "'{0.a}'.format(1)",
        "x = f.gi_frame",
        "class A: pass\nA.mro()",
        "match 1:\n    case Worker(__class__=kind): pass",
        "match 1:\n    case Worker(worker_id=Worker(gi_frame=frame)): pass",
    ],
    "call": [
        "type('A', (), {})",
        "iter(f, 1)",
        "import statistics\nstatistics.NormalDist().samples(3)",
        "class A(metaclass=type): pass",
        "match 1:\n    case Worker(a): pass",
    ],
    "loop": [
        "while True: pass",
        "def f(n):\n    for x in range(n): pass",
        "for x in range(10**9): pass",
        "for x in range(1000000): pass",
        "for x in range(len([]) * len([])): pass",
        "for x in range(min(f())): pass",
        "def f(n): return sum(range(0, n))",
        "def f(n): return sum(range(*n))",
        "x = map(range, [1])",
    ],
    "growth": [
        "def f(n): return 2 ** n",
        "def f(n): return n ** 9",
        "def f(n):\n    n **= n",
        "def f(n): return 1 << n",
        "def f(n):\n    n <<= 65",
        "def f(n): return [0] * n",
        "def f(n): return n * 'ab'",
        "def f(n): return (1,) * 10**9",
    ],
    "exception": [
        "try: pass\nexcept: pass",
        "try: pass\nexcept Exception: pass",
        "try: pass\nexcept (ValueError, BaseException): pass",
        "E = Exception",
        "raise Exception('x')",
        "def f():\n    try: pass\n    finally: return 1",
        "for x in []:\n    try: pass\n    finally: continue",
        "try: pass\nexcept f(): pass",
    ],
    "coroutine": [
        "async def f(): pass",
        "async def f():\n    async for x in y: pass",
        "async def f():\n    return [x async for x in y]",
        "def f():\n    yield 1",
        "def f():\n    yield from []",
        "x = (y for y in [])",
        "def f(): return (y for y in [])",
    ],
    "scope": ["def f():\n    global x\n    x = 1", "def f():\n    x = 1\n    def g():\n        nonlocal x"],
    "argument": [
        "def f(request): request.priority = 1",
        "def f(worker): worker.tpot_ewma += 1",
        "def f(candidate): candidate.worker.block_size = 1",
        "def f(pool): del pool.workers",
        "def f(pool): pool.workers[0] = 1",
        "def f(candidates): candidates.sort()",
        "class A:\n    def route(self, r, cs, p): p.now = 1",
        "class A:\n    def key(self, q): q.priority += 1",
        "def f(candidates):\n    for candidates[0].x in []: pass",
    ],
    "set-order": [
        "for x in {1, 2}: pass",
        "x = [y for y in set([1])]",
        "x = list(frozenset([1]))",
        "s = {1}\nfor x in s: pass",
        "s = set()\ns.pop()",
        "s = {1} | {2}\nx = max({1} | {2}, key=len)",
        "class A:\n    def f(self):\n        self.s: set[int] = f()\n        return next(iter(self.s))",
        "def f(s: set[str]): return ''.join(s)",
        "s = {x for x in []}\nx = [*s]",
    ],
    "docstring": ['"""No word of where it is from."""'],
    "create": ["x = 1"],
}


def test_every_rule_has_violators():
    assert set(VIOLATORS) == {"syntax", *RULES}


@pytest.mark.parametrize(
    ("rule", "text"),
    [(rule, text) for rule, texts in VIOLATORS.items() for text in texts],
    ids=lambda value: value[:40].replace("\n", "|").replace("\0", "NUL"),
)
def test_violator_is_caught(rule, text):
    whole = text if rule == "create" else text + TAIL
    found = check_text(whole, builtin=rule == "docstring")
    assert rule in {violation.rule for violation in found}, found


HONEST = {
    "arithmetic": "x = 3 ** 2 + 2 ** -1 + (1 << 3)\nz = [0] * 3\ny = 4 * 5",
    "bounded loops": "N = 50\ndef f(xs, n):\n    for i in range(min(n, 10)): pass\n"
    "    for i in range(1, len(xs) - 1, 2): pass\n    return [i for i in range(N)] + [0] * len(xs)",
    "modules": "import math\nimport collections.abc\nfrom collections import deque\nimport heapq as h\n"
    "x = math.ceil(1.5)\ny: collections.abc.Sequence = []\nh.heappush(y, 1)",
    "sorted sets": "s = {3, 1}\nfor x in sorted(s): pass\ny = 3 in s and len(s) + s.union({2}).issuperset([])",
    "generator in a call": "x = sum(y for y in [1]) + min((y for y in [2]), key=abs)",
    "dataclass": "from dataclasses import dataclass, field\n@dataclass(slots=True)\nclass A:\n"
    "    x: list = field(default_factory=list)\n    __slots__ = ()\n    def __init__(self): self.x = []",
    "own state": "class A:\n    def observe(self, event):\n        state = self.state[event.worker_id]\n"
    "        state.tokens += event.num_prompt_tokens\n        self.state.pop(event.request_id)",
    "named errors": "try: x = 1 / 0\nexcept (ZeroDivisionError, KeyError) as error: x = 0\nfinally: y = 1",
    "class pattern": "match 1:\n    case Worker(block_size=size): pass",
    "f-string": "x = f'{1:>3}' + '%d' % 2",
}


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST)
def test_honest_code_passes(text):
    assert check_text(text + TAIL) == []


def test_violations_come_by_line_with_a_reason():
    found = check_text("import os\nx = 1\nwhile True: pass" + TAIL)
    assert [(violation.line, violation.rule) for violation in found] == [(1, "import"), (3, "loop")]
    assert str(found[0]).startswith("1: import: import os is refused; a policy may import only __future__, bisect")


def test_exactly_the_line_limit_passes():
    padding = "\n" * (MAX_LINES - TAIL.count("\n"))
    assert check_text(padding + TAIL) == []
    assert [violation.rule for violation in check_text("\n" + padding + TAIL)] == ["size"]
