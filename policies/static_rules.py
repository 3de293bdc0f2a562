"""What a policy's source may not contain, decided on its syntax tree without running it.

The rules keep a policy deterministic (no clock, no I/O, no hash order), interruptible (nothing that stays in C
for long, nothing that swallows the watchdog's exception) and legible to the loader (no reflection, so that the
attribute names in it are the fields it reads). They are a fence, not a prison: unpromoted code runs in a sandbox too.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from policies.allowed import (
    ALLOWED_BUILTINS,
    ALLOWED_MODULES,
    ARGUMENT_NAMES,
    CONTRACT_METHODS,
    MAX_CHARACTERS,
    MAX_EXPONENT,
    MAX_LINES,
    MAX_RANGE,
    MAX_SHIFT,
    MUTATORS,
    ORDER_SENSITIVE,
    REFUSED_ATTRIBUTES,
    REFUSED_MEMBERS,
)
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


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.line}: {self.rule}: {self.message}"


class Source:
    """A parsed policy with what several rules ask about it."""

    def __init__(self, text: str, tree: ast.Module, builtin: bool) -> None:
        self.text = text
        self.tree = tree
        self.builtin = builtin
        self.nodes = list(ast.walk(tree))
        self.modules = self._imported_modules()
        self.constants = {
            target.id
            for statement in tree.body
            if isinstance(statement, ast.Assign) and is_small_int(statement.value, MAX_RANGE)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        self.sets = {name for node in self.nodes for name in names_set(node)}

    def _imported_modules(self) -> dict[str, str]:
        return {
            alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
            for node in self.nodes
            if isinstance(node, ast.Import)
            for alias in node.names
        }

    def is_set(self, node: ast.AST) -> bool:
        if isinstance(node, ast.BinOp):
            return self.is_set(node.left) or self.is_set(node.right)
        return is_set_display(node) or plain_name(node) in self.sets

    def is_bounded(self, node: ast.expr) -> bool:
        """A number that cannot be large: literals, ``len``, module constants, ``min`` with one of these, their sums."""
        match node:
            case ast.Constant():
                return is_small_int(node, MAX_RANGE)
            case ast.UnaryOp(operand=operand):
                return self.is_bounded(operand)
            case ast.Name(id=name):
                return name in self.constants
            case ast.Call(func=ast.Name(id="len")):
                return True
            case ast.Call(func=ast.Name(id="min"), args=args):
                return len(args) > 1 and any(self.is_bounded(arg) for arg in args)
            case ast.Call(func=ast.Name(id="max"), args=args):
                return len(args) > 1 and all(self.is_bounded(arg) for arg in args)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
                return self.is_bounded(left) and self.is_bounded(right)
            case ast.BinOp(left=left, op=ast.FloorDiv() | ast.Mod(), right=right):
                return self.is_bounded(left) and self.is_bounded(right)
        return False


Found = Iterator[tuple[ast.AST, str]]


def check_text(text: str, *, builtin: bool = False) -> list[Violation]:
    """Every violation in a policy's source text, by line; ``builtin`` asks for the cited source as well."""
    try:
        source = Source(text, parse(text), builtin)
        found = {
            Violation(getattr(node, "lineno", 1), rule, message)
            for rule, check in RULES.items()
            for node, message in check(source)
        }
    except SyntaxError as error:
        return [Violation(error.lineno or 1, "syntax", f"does not parse: {error.msg}")]
    except (ValueError, RecursionError, MemoryError) as error:
        return [Violation(1, "syntax", f"does not parse: {error}; write plain, shallow Python")]
    return sorted(found)


def _sizes(source: Source) -> Found:
    lines, characters = len(source.text.splitlines()), len(source.text)
    if lines > MAX_LINES or characters > MAX_CHARACTERS:
        yield source.tree, f"{lines} lines, {characters} characters; keep it to {MAX_LINES} and {MAX_CHARACTERS}"


def _docstring(source: Source) -> Found:
    text = ast.get_docstring(source.tree) or ""
    if source.builtin and not any(line.startswith("Source: ") for line in text.splitlines()):
        yield source.tree, "cite the paper or precedent in the module docstring, in a line that starts with 'Source: '"


def _create(source: Source) -> Found:
    if not any(isinstance(node, ast.FunctionDef) and node.name == "create" for node in source.tree.body):
        yield source.tree, "define create(rng, *, …) at the top level and return the policy from it"


def _imports(source: Source) -> Found:
    for node in source.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in ALLOWED_MODULES or alias.name == "policies.contract":
                    yield node, f"import {alias.name} is refused; {_import_advice(alias.name)}"
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module not in ALLOWED_MODULES:
                yield node, f"import from {module} is refused; {_import_advice(module)}"
                continue
            for alias in node.names:
                yield from _member(node, module, alias.name)
    yield from _members(source)


def _import_advice(module: str) -> str:
    if module == "policies.contract":
        return "write from policies.contract import …"
    return f"a policy may import only {', '.join(sorted(ALLOWED_MODULES))}"


def _members(source: Source) -> Found:
    """``module.name`` stays inside what the module exports; a module is not passed around as a value."""
    under = {id(node.value) for node in source.nodes if isinstance(node, ast.Attribute)}
    for node in source.nodes:
        if isinstance(node, ast.Attribute):
            module = dotted(node.value)
            head = module.partition(".")[0]
            full = source.modules.get(head, "") + module[len(head) :]
            if head in source.modules and full in ALLOWED_MODULES and f"{full}.{node.attr}" not in ALLOWED_MODULES:
                yield from _member(node, full, node.attr)
        elif isinstance(node, ast.Name) and node.id in source.modules and id(node) not in under:
            yield node, f"the module {node.id} is used as a value; use its functions by name"


def _member(node: ast.AST, module: str, name: str) -> Found:
    why = REFUSED_MEMBERS.get(module, {}).get(name)
    if why is not None:
        yield node, f"{module}.{name} is refused: it {why}"
    elif module != "__future__" and not _is_exported(module, name):
        yield node, f"{module}.{name} is not exported by {module}"


def _is_exported(module: str, name: str) -> bool:
    loaded = importlib.import_module(module)
    if name.startswith("_") or isinstance(getattr(loaded, name, None), ModuleType):
        return False
    return name in getattr(loaded, "__all__", vars(loaded))


def _names(source: Source) -> Found:
    for node in source.nodes:
        name = _bound_or_used(node)
        if name.startswith("__") and name.endswith("__"):
            if name != "__slots__":
                yield node, f"{name} is refused; a policy needs none of Python's internals"
        elif hasattr(builtins, name) and name not in ALLOWED_BUILTINS:
            yield node, f"{name} is refused, also as the name of something else"


def _bound_or_used(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.arg(arg=name):
            return name
        case ast.alias(name=name, asname=asname):
            return asname or name.rpartition(".")[2] if name != "__future__" else ""
        case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
            return name
        case ast.FunctionDef(name=name):
            return "" if name in ("__init__", "__post_init__") else name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return name
    return ""


def _attributes(source: Source) -> Found:
    for node in source.nodes:
        for name in _attribute_names(node):
            if name.startswith("__") and name.endswith("__"):
                yield node, f".{name} is refused; a policy needs none of Python's internals"
            elif name in REFUSED_ATTRIBUTES:
                yield node, f".{name} is refused: it reaches what does not show in the source; f-strings are allowed"


def _attribute_names(node: ast.AST) -> Sequence[str]:
    """As in ``value.name``, and in the pattern ``Kind(name=…)``, which reads it as well."""
    match node:
        case ast.Attribute(attr=name):
            return (name,)
        case ast.MatchClass(kwd_attrs=names):
            return names
    return ()


def _calls(source: Source) -> Found:
    for node in source.nodes:
        match node:
            case ast.Call(func=ast.Name(id="type" | "iter" as name), args=args, keywords=keywords):
                if len(args) != 1 or keywords:
                    yield node, f"{name}() takes one argument in a policy"
            case ast.Call(func=ast.Attribute(attr="samples")):
                yield node, ".samples() draws from a generator that is not the policy's; use rng"
            case ast.ClassDef(keywords=[_, *_]):
                yield node, "a metaclass or class keyword is refused"
            case ast.MatchClass(patterns=[_, *_]):
                yield node, "name the fields in a class pattern, as in Worker(block_size=size)"


def _loops(source: Source) -> Found:
    called = {id(node.func) for node in source.nodes if isinstance(node, ast.Call)}
    for node in source.nodes:
        match node:
            case ast.While():
                yield node, "while is refused: it may never end; use for over something bounded"
            case ast.Call(func=ast.Name(id="range"), args=args):
                if not all(source.is_bounded(arg) for arg in args):
                    yield node, f"bound range by literals (up to {MAX_RANGE}), len(), min() of these or a constant"
            case ast.Name(id="range") if id(node) not in called:
                yield node, "range is used as a value; call it with its bounds"


def _growth(source: Source) -> Found:
    """Operations whose cost grows without bound inside one instruction, where no signal gets in."""
    for node in source.nodes:
        match node:
            case ast.BinOp(op=ast.Pow(), right=right) | ast.AugAssign(op=ast.Pow(), value=right):
                if not is_number(right, MAX_EXPONENT):
                    yield node, f"** takes a literal exponent of at most {MAX_EXPONENT}; use math.pow or math.exp"
            case ast.BinOp(op=ast.LShift(), right=right) | ast.AugAssign(op=ast.LShift(), value=right):
                if not is_number(right, MAX_SHIFT):
                    yield node, f"<< takes a literal of at most {MAX_SHIFT}"
            case ast.BinOp(op=ast.Mult(), left=left, right=right):
                if (is_sequence(left) and not source.is_bounded(right)) or (
                    is_sequence(right) and not source.is_bounded(left)
                ):
                    yield node, "repeat a sequence a bounded number of times: a literal, len() or a constant"


def _exceptions(source: Source) -> Found:
    """Nothing may swallow the exception by which an endless call is stopped."""
    for node in source.nodes:
        match node:
            case ast.ExceptHandler(type=kind):
                names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
                if any(not isinstance(name, ast.Name) or name.id.endswith("Exception") for name in names):
                    yield node, "catch the errors you expect by name, as in except ZeroDivisionError"
            case ast.Name(id="Exception" | "BaseException" as name) if not _is_handler_type(source, node):
                yield node, f"{name} is refused; raise or catch a named error"
            case ast.Try(finalbody=body) | ast.TryStar(finalbody=body):
                inner = [leaf for statement in body for leaf in ast.walk(statement)]
                if any(isinstance(leaf, ast.Return | ast.Break | ast.Continue) for leaf in inner):
                    yield node, "leaving finally by return, break or continue swallows the error"


def _is_handler_type(source: Source, name: ast.Name) -> bool:
    return any(
        leaf is name
        for node in source.nodes
        if isinstance(node, ast.ExceptHandler) and node.type is not None
        for leaf in ast.walk(node.type)
    )


def _coroutines(source: Source) -> Found:
    consumed = {id(arg) for node in source.nodes if isinstance(node, ast.Call) for arg in node.args}
    consumed |= {id(node.iter) for node in source.nodes if isinstance(node, ast.For | ast.comprehension)}
    for node in source.nodes:
        match node:
            case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await():
                yield node, "a policy is synchronous"
            case ast.comprehension(is_async=1):
                yield node.target, "a policy is synchronous"
            case ast.Yield() | ast.YieldFrom():
                yield node, "a generator function is refused; return a list"
            case ast.GeneratorExp() if id(node) not in consumed:
                yield node, "a generator is kept; use it up in a call, or make it a list"


def _scopes(source: Source) -> Found:
    for node in source.nodes:
        if isinstance(node, ast.Global | ast.Nonlocal):
            yield node, "keep state in attributes of the policy object"


def _arguments(source: Source) -> Found:
    """The objects a policy is handed are not its own."""
    methods = [node for node in source.nodes if isinstance(node, ast.FunctionDef) and node.name in CONTRACT_METHODS]
    own = {id(leaf): {arg.arg for arg in method.args.args[1:]} for method in methods for leaf in ast.walk(method)}
    for node in source.nodes:
        target, what = _changed(node)
        name = root(target)
        if name in ARGUMENT_NAMES or name in own.get(id(node), ()):
            yield node, f"{what} {name}, which is the runner's; copy what you need into your own state"


def _changed(node: ast.AST) -> tuple[ast.AST | None, str]:
    match node:
        case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
            return node.value, "assigns to a part of"
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in MUTATORS:
            return value, f"calls {attr} on"
    return None, ""


def _set_order(source: Source) -> Found:
    advice = "the order of a set differs from run to run; use sorted(), a list or a dict"
    for node in source.nodes:
        match node:
            case ast.For(iter=iterated) | ast.comprehension(iter=iterated) | ast.Starred(value=iterated):
                if source.is_set(iterated):
                    yield iterated, advice
            case ast.Call(func=ast.Name(id=name), args=args) if name in ORDER_SENSITIVE:
                if any(source.is_set(arg) for arg in args):
                    yield node, advice
            case ast.Call(func=ast.Attribute(value=value, attr="pop" | "join" as attr), args=args):
                if (attr == "pop" and source.is_set(value)) or any(source.is_set(arg) for arg in args):
                    yield node, advice


RULES: dict[str, Callable[[Source], Found]] = {
    "size": _sizes,
    "docstring": _docstring,
    "create": _create,
    "import": _imports,
    "name": _names,
    "attribute": _attributes,
    "call": _calls,
    "loop": _loops,
    "growth": _growth,
    "exception": _exceptions,
    "coroutine": _coroutines,
    "scope": _scopes,
    "argument": _arguments,
    "set-order": _set_order,
}
