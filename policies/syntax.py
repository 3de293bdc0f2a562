"""Python source to a syntax tree, from any thread."""

from __future__ import annotations

import ast

_MOST_TRIES = 20


def parse(source: str | bytes, filename: str = "<policy>") -> ast.Module:
    """The tree of ``source``; errors are those of ``ast.parse``.

    Threads of one interpreter share the depth counter of CPython 3.11's tree builder: of two that parse at the
    same moment one may be told ``SystemError: AST constructor recursion depth mismatch``
    (https://github.com/python/cpython/issues/106905). Nothing is wrong with its source, so it asks again.
    """
    for _ in range(_MOST_TRIES - 1):
        try:
            return ast.parse(source, filename=filename)
        except SystemError:
            continue
    return ast.parse(source, filename=filename)
