"""What a policy remembers, as plain JSON data: so that a dispatcher can be made again in the middle of its life.

A policy keeps its state in attributes of its object (``policies.static_rules`` refuses the other ways). As long as
these hold plain data (numbers, text, lists, dictionaries, sets, deques, the ``random.Random`` it was given, and objects
of classes of its own module made of these) it can be told and put into a fresh object of the same source. What holds
anything else, a function for example, or more than ``MAX_ITEMS``, cannot.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from random import Random
from types import FunctionType, MemberDescriptorType
from typing import Any

from gateway.core.policy_set import PolicySet

MAX_ITEMS = 20_000
_MAX_DEPTH = 16
_MAX_INT = 2**63
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (int, float, list, dict, set)}
_CONTAINERS = {"list": list, "set": set, "dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
_BUILT_IN = (dict, list, set, frozenset, deque, str, int, float, complex, bytes, bytearray, Random, BaseException)
"""Of a class of its own that is one of these besides, the attributes are not all."""
_TABLES = (list, dict, set, deque, defaultdict, OrderedDict, Counter, bytearray)


class NotPlainError(Exception):
    """It holds what cannot be told; the text says what."""


def remembered(policy_set: PolicySet) -> list[Any]:
    """Of each policy of the set.

    Raises:
        NotPlainError: for one of them there is no telling.
    """
    return [_Teller(policy, bool(policy_set.sources)).told() for policy in _policies(policy_set)]


def remind(policy_set: PolicySet, memories: list[Any]) -> None:
    """Puts ``memories`` into the fresh policies of the same set.

    Raises:
        NotPlainError: these are not of that set.
    """
    policies = _policies(policy_set)
    if len(policies) != len(memories):
        raise NotPlainError(f"{len(memories)} policies were told of, and there are {len(policies)}")
    for policy, memory in zip(policies, memories, strict=True):
        _Hearer(policy).hear(memory)


def extent(told: Any) -> int:
    """Values in what ``remembered`` gave; a long text counts as several."""
    if type(told) is list:
        return 1 + sum(map(extent, told))
    return 1 + len(told) // 16 if type(told) is str else 1


def plain(value: Any) -> Any:
    """One value in the same form, infinite numbers and large ones included.

    Raises:
        NotPlainError: it is none.
    """
    return _Teller(None, False).tell(value, 0)


def unplain(told: Any) -> Any:
    return _Hearer(None).value(told)


def _policies(policy_set: PolicySet) -> list[Any]:
    """Each once."""
    filled = (policy_set.routing, policy_set.scheduling, policy_set.autoscaling, policy_set.batch)
    found = {id(policy): policy for policy in (*filled, *policy_set.observers) if policy is not None}
    return list(found.values())


def _module_of(policy: Any) -> dict[str, Any]:
    """The names of the module that defines the policy's class; it may be registered no longer."""
    for value in vars(type(policy)).values():
        if isinstance(value, FunctionType):
            return value.__globals__
    module = sys.modules.get(type(policy).__module__)
    return vars(module) if module else {}


def _attributes(value: Any) -> Iterator[str]:
    yield from getattr(value, "__dict__", ())
    for kind in type(value).__mro__:
        yield from (name for name, slot in vars(kind).items() if type(slot) is MemberDescriptorType)


class _Teller:
    """What is met a second time is told as a reference, so that what is one object stays one."""

    def __init__(self, policy: Any, own_module: bool) -> None:
        self._policy, self._module = policy, _module_of(policy) if policy is not None else {}
        self._own_module = own_module
        self._seen: dict[int, int] = {}
        self._num_items = 0

    def told(self) -> Any:
        """Of the policy, and of the tables of its module, which it could write to."""
        if isinstance(self._policy, (*_BUILT_IN, tuple)):
            raise NotPlainError(f"{type(self._policy).__name__} is more than its attributes")
        tables = {}
        if self._own_module:
            tables = {k: v for k, v in self._module.items() if type(v) in _TABLES and not k.startswith("__")}
        return [self._object(self._policy, 0), [[name, self.tell(table, 0)] for name, table in tables.items()]]

    def tell(self, value: Any, depth: int) -> Any:
        self._num_items += 1
        if self._num_items > MAX_ITEMS or depth > _MAX_DEPTH:
            raise NotPlainError(f"more than {MAX_ITEMS} values, or {_MAX_DEPTH} levels")
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -_MAX_INT <= value < _MAX_INT else ["int", hex(value)]
        if kind is float:
            return value if value - value == 0.0 else ["float", repr(value)]
        if kind in (tuple, frozenset):
            return [kind.__name__, *(self.tell(item, depth + 1) for item in value)]
        if isinstance(value, tuple) and self._is_own(kind):
            return ["named", kind.__name__, *(self.tell(item, depth + 1) for item in value)]
        if id(value) in self._seen:
            return ["=", self._seen[id(value)]]
        return self._mutable(value, kind, depth)

    def _mutable(self, value: Any, kind: type, depth: int) -> Any:
        self._seen[id(value)] = len(self._seen)
        if kind is Random:
            return ["Random", self.tell(value.getstate(), depth + 1)]
        if kind is list or kind is set:
            return [kind.__name__, *(self.tell(item, depth + 1) for item in value)]
        if kind is deque:
            return ["deque", value.maxlen, *(self.tell(item, depth + 1) for item in value)]
        if kind is dict or kind is OrderedDict or kind is Counter:
            return [kind.__name__, *self._items(value, depth)]
        if kind is defaultdict and value.default_factory in _FACTORIES.values():
            return ["defaultdict", value.default_factory.__name__, *self._items(value, depth)]
        if self._is_own(kind) and not isinstance(value, _BUILT_IN):
            del self._seen[id(value)]
            return self._object(value, depth)
        raise NotPlainError(f"{type(self._policy).__name__} holds a {kind.__name__}")

    def _is_own(self, kind: type) -> bool:
        return self._module.get(kind.__name__) is kind

    def _items(self, value: dict[Any, Any], depth: int) -> list[Any]:
        return [[self.tell(key, depth + 1), self.tell(item, depth + 1)] for key, item in value.items()]

    def _object(self, value: Any, depth: int) -> Any:
        self._seen[id(value)] = len(self._seen)
        told = []
        for name in dict.fromkeys(_attributes(value)):
            try:
                held = object.__getattribute__(value, name)
            except AttributeError:
                continue  # a slot that was never set
            told.append([name, self.tell(held, depth + 1)])
        return ["object", type(value).__name__, *told]


class _Hearer:
    """The other way."""

    def __init__(self, policy: Any) -> None:
        self._policy, self._module = policy, _module_of(policy) if policy is not None else {}
        self._seen: list[Any] = []

    def hear(self, memory: Any) -> None:
        (_, name, *attributes), tables = memory
        if type(self._policy).__name__ != name:
            raise NotPlainError(f"a {name} was told of, and there is a {type(self._policy).__name__}")
        getattr(self._policy, "__dict__", {}).clear()
        self._fill(self._policy, attributes)
        for table, told in tables:
            self._module[table] = self.value(told)

    def value(self, told: Any) -> Any:
        if type(told) is not list:
            return told
        kind, *rest = told
        if kind == "int":
            return int(rest[0], 16)
        if kind == "float":
            return float(rest[0])
        if kind == "=":
            return self._seen[rest[0]]
        if kind in ("tuple", "frozenset"):
            items = (self.value(item) for item in rest)
            return tuple(items) if kind == "tuple" else frozenset(items)
        if kind == "named":
            return tuple.__new__(self._module[rest[0]], [self.value(item) for item in rest[1:]])
        return self._mutable(kind, rest)

    def _mutable(self, kind: str, rest: list[Any]) -> Any:
        if kind == "object":
            made = self._module[rest[0]]
            return self._fill(object.__new__(made), rest[1:])
        if kind == "Random":
            made = self._keep(Random())
            made.setstate(self.value(rest[0]))
        elif kind in ("list", "deque"):
            made = self._keep([] if kind == "list" else deque(maxlen=rest.pop(0)))
            made.extend(self.value(item) for item in rest)
        elif kind == "set":
            made = self._keep(set())
            made.update(self.value(item) for item in rest)
        else:
            made = self._keep(defaultdict(_FACTORIES[rest.pop(0)]) if kind == "defaultdict" else _CONTAINERS[kind]())
            for key, item in rest:
                made[self.value(key)] = self.value(item)
        return made

    def _keep(self, made: Any) -> Any:
        self._seen.append(made)
        return made

    def _fill(self, made: Any, attributes: list[Any]) -> Any:
        self._seen.append(made)
        for name, told in attributes:
            object.__setattr__(made, name, self.value(told))
        return made
