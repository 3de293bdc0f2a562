"""Python source to a syntax tree, from any thread, and what a single node of it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

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


def is_small_int(node: ast.expr, most: int) -> bool:
    """A literal whole number of at most that size."""
    return isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) <= most


def is_number(node: ast.expr, most: int) -> bool:
    """A literal number of at most that size, with or without a sign."""
    value = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, int | float) and value.value <= most


def is_sequence(node: ast.expr) -> bool:
    """It shows that it makes a text or a list."""
    literal = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return literal or isinstance(node, ast.List | ast.Tuple | ast.ListComp | ast.JoinedStr)


def is_set_display(node: ast.AST | None) -> bool:
    """It shows that it makes a set."""
    match node:
        case ast.Set() | ast.SetComp() | ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
    return False


def names_set(node: ast.AST) -> Iterator[str]:
    """Names (``x`` or ``self.x``) that are somewhere given a set or annotated as one."""
    match node:
        case ast.Assign(targets=targets, value=value) if is_set_display(value):
            yield from filter(None, map(plain_name, targets))
        case ast.AnnAssign(target=target, annotation=annotation, value=value):
            if is_set_display(value) or ast.unparse(annotation).startswith(("set", "frozenset", "Set", "FrozenSet")):
                yield from filter(None, [plain_name(target)])
        case ast.arg(arg=name, annotation=ast.expr() as annotation):
            if ast.unparse(annotation).startswith(("set", "frozenset", "Set", "FrozenSet")):
                yield name


def plain_name(node: ast.AST) -> str:
    """``x`` or ``self.x``; empty for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id="self"), attr=attr):
            return f"self.{attr}"
    return ""


def dotted(node: ast.AST) -> str:
    """``x`` or ``x.y``; empty for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=name), attr=attr):
            return f"{name}.{attr}"
    return ""


def root(node: ast.AST | None) -> str:
    """The name at the start of ``x.y[z].w``; empty when it is none."""
    for _ in range(100):
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            node = node.value
    return node.id if isinstance(node, ast.Name) else ""
