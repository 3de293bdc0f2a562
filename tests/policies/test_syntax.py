"""Threads that parse at the same moment each get their tree."""

from __future__ import annotations

import ast
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from policies.syntax import (
    dotted,
    is_number,
    is_sequence,
    is_set_display,
    is_small_int,
    names_set,
    parse,
    plain_name,
    root,
)

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


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


@pytest.mark.parametrize(
    ("predicate", "yes", "no"),
    [
        (lambda node: is_small_int(node, 9), ("0", "9"), ("10", "True", "1.0", "n", "-1")),
        (lambda node: is_number(node, 9), ("9", "-9", "2.5"), ("10", "-99", "n", "'9'")),
        (is_sequence, ("''", "b'x'", "[1]", "(1,)", "[x for x in y]", "f'{x}'"), ("{1}", "x", "3", "list(x)")),
        (is_set_display, ("{1}", "{x for x in y}", "set()", "frozenset(x)"), ("{}", "{1: 2}", "x.set()", "[1]")),
    ],
)
def test_what_an_expression_is(predicate, yes, no):
    assert [text for text in (*yes, *no) if predicate(expression(text))] == list(yes)


def test_names_of_an_expression():
    assert [plain_name(expression(text)) for text in ("x", "self.x", "other.x", "x()")] == ["x", "self.x", "", ""]
    assert [dotted(expression(text)) for text in ("x", "x.y", "x.y.z", "x()")] == ["x", "x.y", "", ""]
    assert [root(expression(text)) for text in ("x", "x.y[0].z", "f().y", "(*x, y)")] == ["x", "x", "", ""]
    assert root(None) == ""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("x = self.y = {1}", ["x", "self.y"]),
        ("x: set[int] = f()", ["x"]),
        ("x: list[int] = set()", ["x"]),
        ("x: list[int] = []", []),
        ("def f(a: frozenset[str], b: list[set[int]]): ...", ["a"]),
    ],
)
def test_names_that_hold_sets(text, names):
    assert [name for node in ast.walk(ast.parse(text)) for name in names_set(node)] == names
