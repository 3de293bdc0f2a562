"""What was said, without code, whatever form the code came in: for those who must not see any.

A text loses, in this order: fenced blocks, tool calls written as JSON (whole or cut off), inline code, every line of
code that is known to have been written, and what looks like a statement of Python. It rather loses a sentence than
keeps code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from designer.proposers.llm.clean import UnreadableError, decode, decode_from

CODE = "[code]"
"""Stands where code was."""
_FENCE = re.compile(r"(```|~~~)[^\n]*\n?(.*?)(?:\1|\Z)", re.DOTALL)
_CALL_KEYS = frozenset(("tool", "name", "function", "arguments", "parameters", "source"))
_LIKE_A_CALL = re.compile(r"""["'](tool|name|function|arguments|parameters|source)["']\s*:""")
_NEAR = 400
"""Characters within which a broken object that is a call says so."""
_INLINE = re.compile(r"`[^`\n]*[()=\[\]:;{}][^`\n]*`")
_ANYWHERE = re.compile(
    r"""(\b(async\s+)?def\s+\w+\s*\(|\bclass\s+\w+\s*(\([^)]*\))?:|\blambda\b[^:\n]{0,80}:|\bfrom\s+[\w.]+\s+import\s"""
    r"""|\\n\s*(def|class|return|import|from|if|for|self)\b|\bself\.\w+|\"\"\"|''').*"""
)
_CALL = re.compile(r"([A-Za-z_][\w.]*\s*=\s*)?[A-Za-z_][\w.]*\((?=[^)\n]*[=.\[,])[^)\n]*\)")
"""Of a function, inside of a sentence."""
_COMMENT = re.compile(r"\s+#.*$")
_STATEMENT = re.compile(
    r"""^[\s>*\d.-]*(
      import\s+[\w.]+(\s+as\s+\w+)?(\s*,.*)?$ | @\w[\w.]*(\(.*)?$
    | (return|yield|raise|assert|del|global|nonlocal)\b(\s*$|.*[()\[\]=.{}<>]|\s+\w+\s*$)
    | (if|elif|while|for|with|except|match|case)\b.*:\s*(\#.*)?$ | (else|try|finally)\s*:.*$ | (pass|break|continue)\s*$
    | [A-Za-z_][\w.]*(\[[^\]]*\])?(\s*:\s*[\w.\[\], |]+)?\s*([-+*/%|&^]|//|\*\*|<<|>>)?=
      (?!=|\s*[\d.]+(\s*\w+|%)?\s*([,;.].*)?$).+
    | [A-Za-z_][\w.]*\(.*\)?\s*[,)]?$
    )""",
    re.VERBOSE,
)
_SHORTEST_LINE = 8
_PUNCTUATION = frozenset("()=[]{}:._,")


def prose(text: str, sources: Collection[str] = ()) -> str:
    """The text without code.

    Args:
        sources: code that was written; no line of it is left, wherever it stands.
    """
    text = _FENCE.sub(f"{CODE}\n", text)
    text = _INLINE.sub(CODE, _without_calls(text))
    for line in sorted(_code_lines(sources), key=len, reverse=True):
        text = text.replace(line, CODE)
    lines = (_ANYWHERE.sub(CODE, line) for line in text.split("\n"))
    kept = [CODE if _STATEMENT.match(_COMMENT.sub("", line)) else _CALL.sub(CODE, line) for line in lines]
    return "\n".join(line for n, line in enumerate(kept) if line != CODE or n == 0 or kept[n - 1] != CODE)


def written(reply: Mapping[str, Any]) -> list[str]:
    """Code that a reply holds by its form: fenced blocks, and the source of calls of any kind."""
    content = str(reply.get("content") or "")
    found = [match.group(2) for match in _FENCE.finditer(content)]
    for _, _, value in _objects(content):
        found += _sources(value)
    for call in reply.get("tool_calls") or []:
        try:
            found += _sources(decode(call["function"]["arguments"]))
        except UnreadableError:
            found.append(call["function"]["arguments"].replace("\\n", "\n").replace('\\"', '"'))
    return found


def _sources(value: Any) -> list[str]:
    """Of an object and those in it."""
    if not isinstance(value, dict):
        return []
    own = [value["source"]] if isinstance(value.get("source"), str) else []
    return own + [source for inner in value.values() for source in _sources(inner)]


def _without_calls(text: str) -> str:
    """Objects that are calls are taken out; from one that was cut off, all that follows."""
    kept: list[str] = []
    done = 0
    for start, end, value in _objects(text):
        if value is None:
            return "".join((*kept, text[done:start], CODE))
        if isinstance(value, dict) and value.keys() & _CALL_KEYS:
            kept += [text[done:start], CODE]
            done = end
    return "".join((*kept, text[done:]))


def _objects(text: str) -> Iterator[tuple[int, int, Any]]:
    """Where each JSON object begins and ends, and the object; None for one that is broken and looks like a call."""
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decode_from(text, at)
            yield at, end, value
        except UnreadableError:
            end = at + 1
            if _LIKE_A_CALL.search(text, at, at + _NEAR):
                yield at, end, None
        at = text.find("{", end)


def _code_lines(sources: Collection[str]) -> set[str]:
    """Lines that are code and no words: docstrings and comments may be said."""
    found: set[str] = set()
    for source in sources:
        words = _docstring_lines(source)
        for number, line in enumerate(source.splitlines(), 1):
            bare = line.partition("#")[0].strip() if '"' not in line else line.strip()
            if number not in words and len(bare) >= _SHORTEST_LINE and _PUNCTUATION & set(bare):
                found |= {bare, line.strip()}
    return found


def _docstring_lines(source: str) -> set[int]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found
