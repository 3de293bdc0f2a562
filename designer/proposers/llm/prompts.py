"""The prompts: Markdown files beside this one, which a folder of the user's may replace one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

_BRIEFING = (
    *("task", "target", "example", "plain_example", "contract", "contract_fields", "rules", "scenario", "workload"),
    *("objective", "objective_rule", "reference", "baselines", "num_seeds"),
)
_CODE = ("target", "example", "plain_example", "contract")
MARKS: Mapping[str, tuple[str, ...]] = {
    "researcher": _BRIEFING,
    "researcher-start": (*_BRIEFING, "digest", "findings", "best", "budget"),
    "analyst": ("tables", "turns"),
    "supervisor": tuple(mark for mark in _BRIEFING if mark not in _CODE),
    "text-tools": ("tools",),
    "target-routing": (),
    "target-scheduling": (),
    "target-autoscaling": ("replicas",),
    "target-batch": (),
}
"""What each may name in double braces; the Supervisor sees no code, and of the contract the names of fields."""
NAMES = tuple(MARKS)
SMALL = "small"
"""The name of the shorter set, for models with a context of about four thousand tokens."""
_MARK = re.compile(r"\{\{([a-z_]+)\}\}")


class PromptError(Exception):
    """Prompts that cannot be read or filled in; one line."""


def read_prompts(folder: str, base: Path) -> dict[str, str]:
    """Every prompt by name: the package's, ``small`` ones, or those of a folder with the package's for the rest.

    Raises:
        PromptError: there is no such folder, or a file of it is no prompt.
    """
    package = resources.files("designer.proposers.llm").joinpath("prompts")
    texts = {name: package.joinpath(f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
    if folder == SMALL:
        small = package.joinpath(SMALL)
        return {name: _or(small.joinpath(f"{name}.md"), text) for name, text in texts.items()}
    texts |= _from_folder(base / folder) if folder else {}
    for name, text in texts.items():
        try:
            fill(text, dict.fromkeys(MARKS[name], ""))
        except PromptError as error:
            raise PromptError(f"{name}.md: {error}") from None
    return texts


def _or(path: resources.abc.Traversable, text: str) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else text


def _from_folder(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise PromptError(f"prompts: {folder} is no folder; give one with any of {', '.join(f'{n}.md' for n in NAMES)}")
    texts: dict[str, str] = {}
    for path in sorted(folder.glob("*.md")):
        if path.stem not in NAMES:
            raise PromptError(f"prompts: {path} is none of {', '.join(f'{name}.md' for name in NAMES)}")
        try:
            texts[path.stem] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PromptError(f"prompts: {path}: {error}") from None
    return texts


def fill(template: str, values: Mapping[str, str]) -> str:
    """``{{name}}`` replaced by what it names.

    Raises:
        PromptError: a name is not known.
    """
    unknown = sorted(set(_MARK.findall(template)) - values.keys())
    if unknown:
        raise PromptError(f"prompts: {{{{{unknown[0]}}}}} is not known; one of {', '.join(sorted(values))}")
    return _MARK.sub(lambda match: values[match.group(1)], template)
