"""The parts of a policy module, and the one module they make: a class with the methods of every slot that is filled."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

WIDTH = 110
CLASS = "DesignedPolicy"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A constant as a keyword of ``create``."""

    name: str
    value: float
    words: str


@dataclass(frozen=True, slots=True)
class Section:
    """What one part of a program adds to a module."""

    title: str
    """A noun phrase or clause, no full stop."""
    rules: tuple[str, ...]
    """What it does, a paragraph each."""
    why: str
    """One sentence."""
    methods: tuple[str, ...]
    """Each indented, with a line end."""
    parameters: tuple[Parameter, ...] = ()
    state: tuple[str, ...] = ()
    """Lines of ``__init__``, besides one for each parameter."""
    contract: frozenset[str] = frozenset()
    """Names it takes from the contract."""
    typing: frozenset[str] = frozenset()
    """Names it takes from ``collections.abc``."""
    modules: frozenset[str] = frozenset()
    imports: tuple[str, ...] = field(default=())
    """Other lines of import."""
    functions: tuple[str, ...] = ()
    """Of the module, each with a line end."""
    reads_rng: bool = False


def compose(sections: Sequence[Section]) -> str:
    """The source of a module that fills the slots of all the sections."""
    parameters = [parameter for section in sections for parameter in section.parameters]
    methods = [method for section in sections for method in section.methods]
    parts = [
        _docstring(sections),
        _imports(sections),
        f"class {CLASS}:",
        "\n".join([_init(sections, parameters), *methods]),
        *(f"\n{function}" for section in sections for function in section.functions),
        "\n" + _create(parameters, rng=_reads_rng(sections)),
    ]
    return "\n".join(parts)


def method(signature: str, body: Iterable[str], doc: str = "") -> str:
    """A method of the class; a signature that is too long gets an argument a line."""
    lines = [f'        """{doc}"""'] if doc else []
    return "\n".join([*_wrapped(f"    def {signature}:"), *lines, *(f"        {line}" for line in body), ""])


def _docstring(sections: Sequence[Section]) -> str:
    titles = [section.title for section in sections]
    heading = "; ".join([titles[0], *(title[0].lower() + title[1:] for title in titles[1:])]) + "."
    texts = [textwrap.shorten(heading, WIDTH, placeholder=" …")]
    for section in sections:
        texts += [textwrap.fill(rule, WIDTH) for rule in section.rules if rule]
    reasons = " ".join(section.why for section in sections)
    texts.append(textwrap.fill(f"Why it should work: {reasons}", WIDTH))
    return '"""' + "\n\n".join([*texts, "Written by the designer."]) + '\n"""\n'


def _imports(sections: Sequence[Section]) -> str:
    modules = sorted({name for section in sections for name in section.modules})
    typing = sorted({name for section in sections for name in section.typing})
    contract = sorted({name for section in sections for name in section.contract} | {"Rng"})
    lines = [f"import {name}" for name in modules]
    lines += [f"from collections.abc import {', '.join(typing)}"] if typing else []
    lines += [line for section in sections for line in section.imports]
    blocks = ["from __future__ import annotations", *(["\n".join(lines)] if lines else [])]
    return "\n\n".join([*blocks, f"from policies.contract import {', '.join(contract)}"]) + "\n\n"


def _reads_rng(sections: Sequence[Section]) -> bool:
    return any(section.reads_rng for section in sections)


def _init(sections: Sequence[Section], parameters: Sequence[Parameter]) -> str:
    rng = ", rng: Rng" if _reads_rng(sections) else ""
    arguments = "".join(f", {parameter.name}: float" for parameter in parameters)
    body = [f"self._{parameter.name} = {parameter.name}" for parameter in parameters]
    body += [line for section in sections for line in section.state]
    return method(f"__init__(self{rng}{arguments}) -> None", body) if body else ""


def _create(parameters: Sequence[Parameter], *, rng: bool) -> str:
    typed = [f"{parameter.name}: float = {parameter.value!r}" for parameter in parameters]
    head = f"def create({', '.join(['rng: Rng', *(['*'] if typed else []), *typed])}) -> {CLASS}:"
    if len(head) > WIDTH:
        lines = "".join(f"    {argument},\n" for argument in typed)
        head = f"def create(\n    rng: Rng,\n    *,\n{lines}) -> {CLASS}:"
    notes = [f"``{parameter.name}``: {parameter.words}." for parameter in parameters]
    doc = [f'    """{notes[0]}"""'] if len(notes) == 1 else []
    if len(notes) > 1:
        doc = ['    """' + notes[0], *(f"    {note}" for note in notes[1:]), '    """']
    arguments = ", ".join([*(["rng"] if rng else []), *(parameter.name for parameter in parameters)])
    made = f"    return {CLASS}({arguments})"
    if len(made) > WIDTH:
        made = f"    return {CLASS}(\n{textwrap.indent(textwrap.fill(arguments, WIDTH - 8), ' ' * 8)}\n    )"
    return "\n".join([head, *doc, made, ""])


def _wrapped(head: str) -> list[str]:
    """A signature on one line, or its arguments on the next, or one a line."""
    if len(head) <= WIDTH + 8:
        return [head]
    name, _, rest = head.partition("(")
    inside, _, result = rest.rpartition(")")
    if len(inside) <= WIDTH:
        return [f"{name}(", f"        {inside}", f"    ){result}"]
    return [f"{name}(", *(f"        {argument}," for argument in inside.split(", ")), f"    ){result}"]
