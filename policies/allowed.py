"""What a policy's source may use: the tables of ``policies.static_rules``."""

from __future__ import annotations

from collections.abc import Mapping

MAX_LINES = 249
"""Enough for a module that fills four slots; one that fills a single slot is best kept under 150."""
MAX_CHARACTERS = 16_384
MAX_RANGE = 100_000
"""The largest literal that bounds a range or a repetition."""
MAX_EXPONENT = 8
MAX_SHIFT = 64


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALLOWED_MODULES = _words(
    """
    __future__ bisect collections collections.abc dataclasses functools heapq itertools math operator
    policies.contract statistics typing
    """
)

ALLOWED_BUILTINS = _words(
    """
    abs all any bool callable chr classmethod dict divmod enumerate filter float frozenset int isinstance issubclass
    iter len list map max min next object ord property range reversed round set slice sorted staticmethod str sum
    super tuple type zip NotImplemented Ellipsis
    ArithmeticError AssertionError AttributeError IndexError KeyError LookupError NotImplementedError OverflowError
    RuntimeError StopIteration TypeError ValueError ZeroDivisionError Exception BaseException
    """
)
"""Every other built-in is refused. (The exception rule has more to say on the last two.)"""

_HIDES = "reads fields that do not show in the source"
_STAYS = "cannot be interrupted for long"
_ENDLESS = "may never end"
_KEEPS = "keeps its arguments"
_EVALUATES = "evaluates text"

REFUSED_MEMBERS: Mapping[str, Mapping[str, str]] = {
    "dataclasses": dict.fromkeys(("asdict", "astuple", "fields", "make_dataclass", "replace"), _HIDES),
    "functools": dict.fromkeys(("cache", "cached_property", "lru_cache"), _KEEPS),
    "itertools": {
        **dict.fromkeys(("count", "cycle", "repeat"), _ENDLESS),
        **dict.fromkeys(("combinations", "combinations_with_replacement", "permutations", "product"), _STAYS),
    },
    "math": dict.fromkeys(("comb", "factorial", "perm"), _STAYS),
    "operator": {
        **dict.fromkeys(("attrgetter", "methodcaller"), _HIDES),
        **dict.fromkeys(("ilshift", "ipow", "lshift", "pow"), _STAYS),
    },
    "typing": dict.fromkeys(("ForwardRef", "get_type_hints"), _EVALUATES),
}
"""Of the allowed modules, what is refused all the same, and why."""

REFUSED_ATTRIBUTES = _words(
    """
    format format_map mro gi_frame gi_code gi_yieldfrom cr_frame cr_code cr_await cr_origin ag_frame ag_code ag_await
    f_back f_builtins f_code f_globals f_locals f_trace tb_frame tb_next tb_lasti tb_lineno
    """
)
"""Ways from a value to the interpreter. Every dunder attribute is refused besides."""

CONTRACT_METHODS = _words("route admit key desired_replicas waiting_key victim_key prefill_budget observe")
ARGUMENT_NAMES = _words("request worker candidate candidates pool variant engine event")
"""Names that stand for the runner's objects in any function of a policy."""

MUTATORS = _words("append clear extend insert pop popitem remove reverse setdefault sort update")
ORDER_SENSITIVE = _words("enumerate filter iter list map max min next reversed sum tuple zip")
"""Calls whose answer may depend on the order of what they are given."""
