from __future__ import annotations

import builtins
import importlib

from policies import allowed


def test_refused_members_exist_in_allowed_modules():
    """A misspelt entry would refuse nothing."""
    for module, names in allowed.REFUSED_MEMBERS.items():
        assert module in allowed.ALLOWED_MODULES
        assert all(hasattr(importlib.import_module(module), name) for name in names)


def test_allowed_builtins_exist_and_none_reaches_out():
    assert all(hasattr(builtins, name) for name in allowed.ALLOWED_BUILTINS)
    assert not allowed.ALLOWED_BUILTINS & {"eval", "exec", "open", "getattr", "hash", "id", "print", "pow", "vars"}


def test_contract_methods_are_those_of_the_slots():
    from policies.contract import _SLOT_SHAPES

    shaped = {name for shape in _SLOT_SHAPES.values() for name in shape.__annotations__}
    assert shaped == allowed.CONTRACT_METHODS
