from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from random import Random

import pytest

from policies.loader import (
    MAX_MODULES,
    PolicyLoadError,
    PolicySpec,
    builtin_names,
    load_policies,
    load_policy,
    parse_specs,
)

GOOD = """
from dataclasses import dataclass

@dataclass
class Mine:
    alpha: float
    name: str

    def route(self, request, candidates, pool):
        return candidates[0]

def create(rng, *, alpha: float = 0.5, rounds: int = 3, on: bool = False, name: str = "x"):
    return Mine(alpha, name)
"""


def written(tmp_path: Path, text: str | bytes, name: str = "mine.py") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def loaded(text: str):
    (spec,) = parse_specs(text)
    return load_policy(spec, Random(0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("least_loaded", [PolicySpec("least_loaded")]),
        ("joint/head_room@routing+fcfs", [PolicySpec("joint/head_room", ("routing",)), PolicySpec("fcfs")]),
        ("a@observer,routing", [PolicySpec("a", ("routing", "observer"))]),
        ("head_room:ageing=0", [PolicySpec("head_room", None, {"ageing": 0})]),
        ("x:a=1e+5,b=-2+y", [PolicySpec("x", None, {"a": 1e5, "b": -2}), PolicySpec("y")]),
        (
            "./my.py:alpha=0.5,on=true,name=best,n='12'",
            [PolicySpec("./my.py", None, {"alpha": 0.5, "on": True, "name": "best", "n": "12"})],
        ),
    ],
)
def test_spec_text(text, expected):
    assert list(parse_specs(text)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty policy name"),
        ("a+", "empty policy name"),
        ("a@router", "no slot 'router'; the slots are routing, scheduling, autoscaling, batch, observer"),
        ("a@", "no slot ''"),
        ("a:b", "'b' is not a parameter"),
        ("a:b=1,b=2", "'b=2' is not a parameter; write each key once"),
        ("a:", "'' is not a parameter"),
        ("a:b=", "'b=' is not a parameter"),
    ],
)
def test_spec_text_errors(text, says):
    with pytest.raises(PolicyLoadError, match=r"^[^\n]*$") as caught:
        parse_specs(text)
    assert says in str(caught.value)


def test_every_builtin_loads_by_both_names():
    for name in builtin_names():
        long, short = loaded(name), loaded(name.rpartition("/")[2])
        assert (long.name, long.policy_hash) == (name, short.policy_hash)
        assert long.slots


def test_identity_covers_bytes_and_all_parameters(tmp_path):
    path = written(tmp_path, GOOD)
    plain = loaded(path)
    canonical = b'{"alpha":0.5,"name":"x","on":false,"rounds":3}'
    assert plain.policy_hash == hashlib.sha256(GOOD.encode() + b"\0" + canonical).hexdigest()
    assert loaded(f"{path}:alpha=0.5").policy_hash == plain.policy_hash
    assert loaded(f"{path}:alpha=1").policy_hash == loaded(f"{path}:alpha=1.0").policy_hash != plain.policy_hash
    assert loaded(written(tmp_path, GOOD + "#\n", "other.py")).policy_hash != plain.policy_hash


def test_loaded_policy_tells_what_it_is(tmp_path):
    policy = loaded(written(tmp_path, GOOD) + ":name=y")
    assert (policy.name, policy.slots, policy.source) == ("mine", ("routing",), GOOD)
    assert policy.params == {"alpha": 0.5, "rounds": 3, "on": False, "name": "y"}
    assert policy.policy.name == "y"


def test_reads_are_the_contract_fields_in_the_source(tmp_path):
    text = GOOD.replace("return candidates[0]", "return candidates[0].worker.num_inflight_tokens or self.queued")
    assert loaded(written(tmp_path, text)).reads == {"worker", "num_inflight_tokens"}
    pattern = "match candidates[0].worker:\n            case Worker(tpot_ewma=x): return x"
    assert loaded(written(tmp_path, GOOD.replace("return candidates[0]", pattern))).reads == {"worker", "tpot_ewma"}


def test_slots_restrict_but_an_observer_always_observes(tmp_path):
    observing = GOOD + "\nMine.observe = lambda self, event: None\nMine.admit = Mine.key = Mine.route\n"
    path = written(tmp_path, observing)
    assert loaded(path).slots == ("routing", "scheduling", "observer")
    assert loaded(f"{path}@routing").slots == ("routing", "observer")


def test_expected_hash():
    good = loaded("fcfs")
    assert load_policy(PolicySpec("fcfs", expected_hash=good.policy_hash), Random(0)).name == "scheduling/fcfs"
    with pytest.raises(PolicyLoadError, match=r"fcfs\.py: its identity is [0-9a-f]{64}, not the expected 00ff"):
        load_policy(PolicySpec("fcfs", expected_hash="00ff"), Random(0))


def test_each_policy_of_a_set_has_its_own_stream():
    drawing = parse_specs("routing/random+scheduling/fcfs")
    streams = [load_policies(drawing, seed, generation)[0].policy._rng for seed, generation in [(1, 0), (1, 0), (1, 1)]]
    draws = [rng.random() for rng in streams]
    assert draws[0] == draws[1] == Random("1/0/0").random() != draws[2]


def test_two_policies_of_a_set_may_not_share_a_slot():
    with pytest.raises(PolicyLoadError) as caught:
        load_policies(parse_specs("fcfs+head_room"), 0)
    assert "slot scheduling is already filled by" in str(caught.value)
    assert "leave the slot to the other with joint/head_room@routing" in str(caught.value)
    assert len(load_policies(parse_specs("fcfs+head_room@routing"), 0)) == 2


def test_two_observers_are_welcome(tmp_path):
    text = "class P:\n    def observe(self, event):\n        pass\n\ndef create(rng):\n    return P()\n"
    one, two = written(tmp_path, text, "one.py"), written(tmp_path, text, "two.py")
    assert [policy.slots for policy in load_policies(parse_specs(f"{one}+{two}"), 0)] == [("observer",)] * 2


BROKEN = {
    "syntax": ("def create(rng:\n", r":1: does not parse: .*; correct the syntax"),
    "indent": ("x = 1\n  y = 2\n", r":2: does not parse: "),
    "null bytes": (b"x = 1\0", r":1: does not parse: "),
    "latin-1": ("# a\nx = 'é'\n".encode("latin-1"), r":2: not UTF-8; save the file as UTF-8"),
    "deep": ("x = " + "(" * 3000 + ")" * 3000, r":1: does not parse: "),
    "no create": ("x = 1\n", r":1: exports no create\(rng, \*, …\)"),
    "create is no function": ("create = 3\n", r":1: exports no create"),
    "import fails": ("import math\nimport no_such_thing\n", r":2: the module raised ModuleNotFoundError: .*no_such"),
    "module raises": ("\n\nx = 1 / 0\n", r":3: the module raised ZeroDivisionError"),
    "module exits": ("raise SystemExit(3)\n", r":1: the module raised SystemExit: 3"),
    "create raises": ("def create(rng):\n    raise ValueError('a\\nb')\n", r":2: create raised ValueError: a b; "),
    "fills no slot": ("def create(rng):\n    return 3\n", r":1: create returned a int, which fills no slot; "),
    "half a slot": (
        "class P:\n    def admit(self, r, p): ...\ndef create(rng):\n    return P()\n",
        r":3: create returned a P, which fills no slot; give it route, admit and key,",
    ),
    "no rng": ("def create():\n    return 3\n", r":1: create takes no rng"),
    "rng by keyword": ("def create(*, rng):\n    return 3\n", r":1: create's first parameter must be rng"),
    "positional parameter": (
        "def create(rng, a: int = 1):\n    return 3\n",
        r":1: make parameter 'a' of create keyword",
    ),
    "no annotation": (
        "def create(rng, *, a=1):\n    return 3\n",
        r":1: make parameter 'a' of create keyword-only, ann",
    ),
    "wrong annotation": ("def create(rng, *, a: list = 1):\n    return 3\n", r":1: make parameter 'a' of create"),
    "any parameters": ("def create(rng, **a):\n    return 3\n", r":1: make parameter 'a' of create keyword-only"),
    "bad default": ("def create(rng, *, a: int = 'x'):\n    return 3\n", r":1: parameter 'a' must be of type int"),
    "missing": ("def create(rng, *, a: int):\n    return 3\n", r":1: parameter 'a' \(int\) has no default"),
}


@pytest.mark.parametrize(("text", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_clear_line(tmp_path, text, says):
    before = set(sys.modules)
    with pytest.raises(PolicyLoadError, match=r"^[^\n]*mine\.py" + says):
        loaded(written(tmp_path, text))
    assert not {name for name in set(sys.modules) - before if name.startswith("ranvier_policy_")}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (
            "beta=1",
            "no parameter 'beta'; it takes alpha: float = 0.5, rounds: int = 3, on: bool = False, name: str = 'x'",
        ),
        ("rounds=1.5", "parameter 'rounds' must be of type int, not 1.5"),
        ("rounds=true", "parameter 'rounds' must be of type int, not True"),
        ("alpha=fast", "parameter 'alpha' must be of type finite float, not 'fast'"),
        ("alpha=nan", "parameter 'alpha' must be of type finite float, not 'nan'"),
        ("alpha=1e999", "parameter 'alpha' must be of type finite float, not inf"),
        (f"alpha={'9' * 400}", "parameter 'alpha' is too large"),
        (f"rounds={'9' * 20}", "parameter 'rounds' is too large"),
        (f"rounds={'9' * 5000}", "parameter 'rounds' must be of type int, not"),
        ("on=1", "parameter 'on' must be of type bool, not 1"),
        ("name=3", "parameter 'name' must be of type str, not 3"),
    ],
)
def test_parameters_are_checked_against_the_signature(tmp_path, params, says):
    with pytest.raises(PolicyLoadError) as caught:
        loaded(f"{written(tmp_path, GOOD)}:{params}")
    assert says in str(caught.value)
    assert "mine.py:12: " in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no_such", "no_such: no such policy; name one of "),
        ("routing/fcfs", "routing/fcfs: no such policy; name one of "),
        ("./no_such.py", "no_such.py: No such file or directory; name a built-in ("),
    ],
)
def test_unknown_sources(source, says):
    with pytest.raises(PolicyLoadError) as caught:
        loaded(source)
    assert says in str(caught.value)


def test_a_slot_it_does_not_fill():
    with pytest.raises(PolicyLoadError, match=r"fcfs\.py:\d+: does not fill slot routing; it fills scheduling"):
        loaded("fcfs@routing")


def test_a_failed_reload_leaves_the_module_of_the_same_file_in_place(tmp_path):
    """One whose module runs only the first time, as it counts in the interpreter."""
    path = written(tmp_path, "import sys\nsys.ranvier_runs = getattr(sys, 'ranvier_runs', 0) + 1\n"
                   "assert sys.ranvier_runs == 1\n" + GOOD)  # fmt: skip
    try:
        first = loaded(path)
        with pytest.raises(PolicyLoadError, match="AssertionError"):
            loaded(path)
        assert sys.modules[type(first.policy).__module__].create
    finally:
        del sys.ranvier_runs


def test_a_thousand_versions_leave_no_thousand_modules(tmp_path: Path) -> None:
    def ours() -> list[str]:
        return [name for name in sys.modules if name.startswith("ranvier_policy_")]

    for number in range(1_000):
        last = loaded(written(tmp_path, f"{GOOD}# version {number}\n"))
    assert len(ours()) == MAX_MODULES
    assert type(last.policy).__module__ in ours()  # what can still run stays
