"""How often the interpreter looks for cycles of dead objects during a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_ALLOCATIONS = 1_000_000
"""More than a run of twenty thousand requests keeps; a policy that makes cycles is still cleaned up after."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """A run keeps many objects and makes no cycles: looking for those often is an eighth of its time."""
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
