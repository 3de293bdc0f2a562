"""docs/conformance.md names tests that are there, for every line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "conformance.md").read_text()


def functions(path: Path) -> set[str]:
    """As pytest calls them: those of a class after its name."""
    body = ast.parse(path.read_text()).body
    named = [("", node) for node in body]
    named += [(f"{node.name}::", inner) for node in body if isinstance(node, ast.ClassDef) for inner in node.body]
    return {prefix + node.name for prefix, node in named if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[^`:]+)::([^`]+)`", PAGE)
    assert len(named) > 80
    assert [(file, name) for file, name in named if name not in functions(ROOT / file)] == []


def test_every_line_names_a_test_or_a_decision() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(line.split("|")[1]) for line in rows] == [*range(1, 18), 20, *range(29, 38), 18, 19, *range(21, 29)]
    assert [line for line in rows if "`tests/" not in line and "Decision:" not in line] == []
