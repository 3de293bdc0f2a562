"""Policy files into policy objects, or one line that says what is wrong and how to put it right.

The bytes are read once: what is hashed is what is parsed and what is executed. Nothing here judges what a
policy does; that is ``policies.conformance``, and a runner asks it before it loads.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from policies.contract import SLOTS, Candidate, Pool, Request, Rng, Slot, Variant, Worker, slots_of
from policies.source_file import read_source
from policies.syntax import parse

Param = int | float | bool | str
_PARAM_TYPES: Mapping[str, type[Param]] = {"int": int, "float": float, "bool": bool, "str": str}
_BUILTIN_FOLDERS = ("routing", "scheduling", "autoscaling", "batch", "joint")
_PACKAGE = Path(__file__).parent
_MODULE_PREFIX = "ranvier_policy_"
MAX_MODULES = 512
"""Policies that stay registered as modules, the last ones loaded: more than a gateway keeps for rollback."""

CONTRACT_FIELDS = frozenset(f.name for kind in (Request, Worker, Candidate, Pool, Variant) for f in fields(kind))
"""Every field name a policy may read; ``LoadedPolicy.reads`` is a part of it."""


class PolicyLoadError(Exception):
    """``str()`` is one line that names the file (and line, where there is one) and the fix."""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """Which file, with which parameters, for which slots."""

    source: str
    """A built-in name (``least_loaded``, ``routing/least_loaded``) or a path ending in ``.py``."""
    slots: tuple[Slot, ...] | None = None
    """The slots to use of those the policy fills; None: all. A policy that observes does so in any case."""
    params: Mapping[str, Param] = field(default_factory=dict)
    expected_hash: str | None = None
    """Loading anything else than this identity is an error; None: whatever is there."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPolicy:
    """A policy object with its identity."""

    policy: object
    name: str
    """``folder/name`` for a built-in, the file's stem otherwise."""
    policy_hash: str
    """SHA-256 (hex) over the source bytes and the canonical parameters, defaults filled in."""
    params: Mapping[str, Param]
    slots: tuple[Slot, ...]
    """The slots it fills and was asked to fill, in the order of ``SLOTS``."""
    reads: frozenset[str]
    """Names of contract fields that appear in its source."""
    source: str
    """The text that was executed."""
    path: str
    """Where it was read, for messages."""


def builtin_names() -> tuple[str, ...]:
    """Every built-in policy as ``folder/name``, sorted by folder and name."""
    return tuple(
        f"{folder}/{path.stem}"
        for folder in _BUILTIN_FOLDERS
        for path in sorted((_PACKAGE / folder).glob("*.py"))
        if path.stem != "__init__"
    )


def parse_specs(text: str) -> tuple[PolicySpec, ...]:
    """``SOURCE[@slot[,slot]][:key=value[,key=value]]`` joined by ``+``.

    A value is ``true``, ``false``, an integer, a decimal number, or text (in quotes if it looks like one of those).

    Raises:
        PolicyLoadError: the text is empty or is not of that form.
    """
    return tuple(_parse_spec(part.strip()) for part in _split_set(text))


def load_policies(specs: Sequence[PolicySpec], seed: int, generation: int = 0) -> tuple[LoadedPolicy, ...]:
    """Load a set; its n-th policy draws from ``random.Random(f"{seed}/{generation}/{n}")``.

    Raises:
        PolicyLoadError: one cannot be loaded, or two claim a slot. Any number may observe.
    """
    loaded = tuple(load_policy(spec, random.Random(f"{seed}/{generation}/{n}")) for n, spec in enumerate(specs))
    holders: dict[Slot, LoadedPolicy] = {}
    for policy in loaded:
        for slot in policy.slots:
            if slot != "observer" and slot in holders:
                raise PolicyLoadError(_claimed_twice(slot, holders[slot], policy))
            holders[slot] = policy
    return loaded


def load_policy(spec: PolicySpec, rng: Rng) -> LoadedPolicy:
    """Read, execute and make the policy of ``spec``; ``rng`` is the one it keeps.

    Raises:
        PolicyLoadError: there is no such file, it does not parse or run, its parameters do not fit, it fills no
            slot, or it is not the one expected.
    """
    path, name = resolve(spec.source)
    try:
        source = read_source(path)
    except OSError as error:
        raise PolicyLoadError(
            f"{path}: {error.strerror}; name a built-in ({_shorts()}) or a readable .py file"
        ) from None
    return load_source(source, spec, rng, path=str(path), name=name)


def load_source(source: bytes, spec: PolicySpec, rng: Rng, *, path: str, name: str) -> LoadedPolicy:
    """As ``load_policy``, of bytes already in hand; ``spec.source`` is not looked at."""
    tree = _parse(source, path)
    with _registered(source, path) as module:
        _guarded(path, "the module", lambda: exec(compile(source, path, "exec", dont_inherit=True), vars(module)))  # noqa: S102 - loading code is what this file is for
        create, line = _find_create(module, tree, path)
        params = _bind(create, spec.params, f"{path}:{line}")
        policy_hash = _expected(identity(source, params), spec, path)
        policy = _guarded(path, "create", lambda: create(rng, **params))
        slots = _claimed(policy, spec, f"{path}:{line}")
    text = source.decode("utf-8")
    return LoadedPolicy(policy, name, policy_hash, params, slots, reads_of(tree), text, path)


def resolve(source: str) -> tuple[Path, str]:
    """The file of a built-in name or path, and the policy's name.

    Raises:
        PolicyLoadError: no built-in has that name and it is no ``.py`` path.
    """
    if source.endswith(".py"):
        path = Path(source).resolve()
        return path, _builtin_name(path) or path.stem
    found = [name for name in builtin_names() if source in (name, name.rpartition("/")[2])]
    if len(found) != 1:
        raise PolicyLoadError(f"{source}: no such policy; name one of {_shorts()}, or a path that ends in .py")
    return _PACKAGE / f"{found[0]}.py", found[0]


def identity(source: bytes, params: Mapping[str, Param]) -> str:
    """SHA-256 (hex) of the source bytes, a NUL byte and the parameters as canonical JSON."""
    canonical = json.dumps(dict(params), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(source + b"\0" + canonical.encode()).hexdigest()


def reads_of(tree: ast.AST) -> frozenset[str]:
    """The contract fields that appear as attribute names (class patterns included) in a policy's source."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.MatchClass):
            names.update(node.kwd_attrs)
    return CONTRACT_FIELDS & names


def _split_set(text: str) -> Iterator[str]:
    """At each ``+`` that is not the sign of an exponent (``x=1e+5``)."""
    start = 0
    for plus in (match.start() for match in re.finditer(r"\+", text)):
        if re.search(r"=[-+]?[0-9.]+[eE]$", text[:plus]) and text[plus + 1 : plus + 2].isdigit():
            continue
        yield text[start:plus]
        start = plus + 1
    yield text[start:]


_SPEC = re.compile(r"(?P<source>[^@:]+)(?:@(?P<slots>[^:]*))?(?::(?P<params>.*))?", re.DOTALL)


def _parse_spec(text: str) -> PolicySpec:
    match = _SPEC.fullmatch(text)
    if match is None:
        raise PolicyLoadError(
            f"{text or 'empty policy name'!r}: write NAME_OR_PATH[@slot,…][:key=value,…], joined by +"
        )
    return PolicySpec(match["source"].strip(), _parse_slots(text, match["slots"]), _parse_params(text, match["params"]))


def _parse_slots(text: str, slots: str | None) -> tuple[Slot, ...] | None:
    if slots is None:
        return None
    named = [slot.strip() for slot in slots.split(",")]
    for slot in named:
        if slot not in SLOTS:
            raise PolicyLoadError(f"{text}: no slot {slot!r}; the slots are {', '.join(SLOTS)}")
    return tuple(slot for slot in SLOTS if slot in named)


def _parse_params(text: str, params: str | None) -> dict[str, Param]:
    parsed: dict[str, Param] = {}
    for pair in params.split(",") if params is not None else ():
        key, equals, value = (piece.strip() for piece in pair.partition("="))
        if not equals or not key.isidentifier() or not value or key in parsed:
            raise PolicyLoadError(f"{text}: {pair.strip()!r} is not a parameter; write each key once, as key=value")
        parsed[key] = _parse_value(value)
    return parsed


def _parse_value(text: str) -> Param:
    if text in ("true", "false", "True", "False"):
        return text in ("true", "True")
    if re.fullmatch(r"[-+]?[0-9]{1,400}", text):
        return int(text)
    if re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        return float(text)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _shorts() -> str:
    return ", ".join(name.rpartition("/")[2] for name in builtin_names())


def _builtin_name(path: Path) -> str | None:
    inside = path.parent.parent == _PACKAGE and path.parent.name in _BUILTIN_FOLDERS
    return f"{path.parent.name}/{path.stem}" if inside else None


def _claimed_twice(slot: Slot, first: LoadedPolicy, second: LoadedPolicy) -> str:
    fix = "keep one of them"
    for policy in (first, second):
        rest = ",".join(other for other in policy.slots if other not in (slot, "observer"))
        if rest:
            fix += f", or leave the slot to the other with {policy.name}@{rest}"
    return f"{second.path}: slot {slot} is already filled by {first.path}; {fix}"


def _parse(source: bytes, path: str) -> ast.Module:
    try:
        source.decode("utf-8")
        return parse(source, path)
    except SyntaxError as error:
        raise PolicyLoadError(f"{path}:{error.lineno or 1}: does not parse: {error.msg}; correct the syntax") from None
    except UnicodeDecodeError as error:
        line = source[: error.start].count(b"\n") + 1
        raise PolicyLoadError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise PolicyLoadError(f"{path}:1: does not parse: {error}; write plain, shallow Python") from None


@contextmanager
def _registered(source: bytes, path: str) -> Iterator[ModuleType]:
    """An empty module, in ``sys.modules`` before it is executed: a dataclass looks its own module up there while
    it is being made. When the body fails, what was there before is back."""
    name = f"{_MODULE_PREFIX}{hashlib.sha256(path.encode() + source).hexdigest()[:24]}"
    module = ModuleType(name)
    module.__file__ = path
    before = sys.modules.pop(name, None)
    sys.modules[name] = module
    _forget_oldest()
    with ExitStack() as undo:
        undo.callback(_put_back, name, before)
        yield module
        undo.pop_all()


def _put_back(name: str, before: ModuleType | None) -> None:
    sys.modules.pop(name, None)
    if before is not None:
        sys.modules[name] = before


def _forget_oldest() -> None:
    """A process that swaps for months does not keep every version by its name. What still runs does not need that:
    it holds its own module's names. Other threads import meanwhile, so the table is copied first."""
    ours = [name for name in list(sys.modules) if name.startswith(_MODULE_PREFIX)]
    for name in ours[:-MAX_MODULES]:
        sys.modules.pop(name, None)


def _expected(policy_hash: str, spec: PolicySpec, path: str) -> str:
    if spec.expected_hash not in (None, policy_hash):
        raise PolicyLoadError(
            f"{path}: its identity is {policy_hash}, not the expected {spec.expected_hash}; "
            "the file or its parameters were changed: put the expected ones back, or promote this one"
        )
    return policy_hash


def _guarded(path: str, what: str, call: Callable[[], Any]) -> Any:
    """Run code of the policy file; anything it raises names the file's line nearest to the cause."""
    try:
        return call()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary to code that is not ours
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = (lines[-1] if lines else None) or 1
        message = " ".join(str(error).split())
        raise PolicyLoadError(
            f"{path}:{line}: {what} raised {type(error).__name__}: {message}; correct the file or its parameters"
        ) from None


def _find_create(module: ModuleType, tree: ast.Module, path: str) -> tuple[Callable[..., object], int]:
    create = vars(module).get("create")
    if not callable(create):
        raise PolicyLoadError(f"{path}:1: exports no create(rng, *, …); define it and return the policy object")
    lines = [node.lineno for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "create"]
    return cast("Callable[..., object]", create), lines[-1] if lines else 1


def _bind(create: Callable[..., object], given: Mapping[str, Param], where: str) -> dict[str, Param]:
    """The parameters ``create`` gets: those given, checked, and its own defaults for the rest."""
    declared = _declared(create, where)
    for key in given:
        if key not in declared:
            raise PolicyLoadError(f"{where}: no parameter {key!r}; {_listing(declared)}")
    bound: dict[str, Param] = {}
    for key, (kind, default) in declared.items():
        value = given.get(key, default)
        if value is inspect.Parameter.empty:
            raise PolicyLoadError(f"{where}: parameter {key!r} ({kind.__name__}) has no default and was not given")
        bound[key] = _convert(key, value, kind, where)
    return bound


def _declared(create: Callable[..., object], where: str) -> dict[str, tuple[type[Param], Any]]:
    try:
        rng, *params = inspect.signature(create).parameters.values()
    except (ValueError, TypeError):
        raise PolicyLoadError(f"{where}: create takes no rng; write def create(rng, *, …)") from None
    if rng.kind not in (rng.POSITIONAL_ONLY, rng.POSITIONAL_OR_KEYWORD):
        raise PolicyLoadError(f"{where}: create's first parameter must be rng; write def create(rng, *, …)")
    declared: dict[str, tuple[type[Param], Any]] = {}
    for param in params:
        kind = _PARAM_TYPES.get(getattr(param.annotation, "__name__", param.annotation))
        if param.kind is not param.KEYWORD_ONLY or kind is None:
            raise PolicyLoadError(
                f"{where}: make parameter {param.name!r} of create keyword-only, annotated int, float, bool or str"
            )
        declared[param.name] = (kind, param.default)
    return declared


def _convert(key: str, value: Param, kind: type[Param], where: str) -> Param:
    """A whole number does for a float, so that ``r=1`` and ``r=1.0`` are one identity."""
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is int and abs(value) >= 2**63:
        raise PolicyLoadError(f"{where}: parameter {key!r} is too large; an int is below 2 to the 63rd")
    if type(value) is not kind or (isinstance(value, float) and not isfinite(value)):
        wanted = "finite float" if kind is float else kind.__name__
        raise PolicyLoadError(f"{where}: parameter {key!r} must be of type {wanted}, not {value!r}")
    return value


def _listing(declared: Mapping[str, tuple[type[Param], Any]]) -> str:
    if not declared:
        return "it takes none"
    return "it takes " + ", ".join(
        f"{key}: {kind.__name__}" + ("" if default is inspect.Parameter.empty else f" = {default!r}")
        for key, (kind, default) in declared.items()
    )


def _claimed(policy: object, spec: PolicySpec, where: str) -> tuple[Slot, ...]:
    fills = slots_of(policy)
    if not fills:
        raise PolicyLoadError(
            f"{where}: create returned a {type(policy).__name__}, which fills no slot; "
            "give it route, admit and key, desired_replicas, waiting_key with victim_key and prefill_budget, or observe"
        )
    if spec.slots is None:
        return fills
    for slot in spec.slots:
        if slot not in fills:
            raise PolicyLoadError(f"{where}: does not fill slot {slot}; it fills {', '.join(fills)}")
    return tuple(slot for slot in fills if slot in spec.slots or slot == "observer")
