"""Threads that parse at the same moment each get their tree."""

from __future__ import annotations

import ast
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from policies.syntax import parse

SOURCE = "def route(request):\n    return [[[(a + b) * (c - d)] for a in b] for b in c]\n" * 20


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change places in the middle of a tree: whenever the collector has told its listener."""

    def give_way(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.set_threshold(50)
    gc.callbacks.append(give_way)
    yield
    gc.callbacks.remove(give_way)
    gc.set_threshold(*before)


@pytest.mark.usefixtures("restless")
def test_threads_that_parse_at_once_get_their_trees() -> None:
    whole = ast.dump(ast.parse(SOURCE))
    with ThreadPoolExecutor(4) as threads:
        trees = list(threads.map(parse, [SOURCE] * 60))
    assert {ast.dump(tree) for tree in trees} == {whole}


def test_what_is_wrong_with_the_source_is_told_at_once() -> None:
    with pytest.raises(SyntaxError) as told:
        parse(b"def route(:\n", "mine.py")
    assert (told.value.filename, told.value.lineno) == ("mine.py", 1)
