"""The build of machine code, as far as it goes without a compiler. What it makes is tested by ``make compiled``."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import build_compiled
from build_compiled import ROOT, SWITCH, BuildError, CompiledModules, imported, manifest, modules, without_slots

SOURCE = '''"""Text that says __slots__ = () and slots=True."""

from dataclasses import dataclass


class Plain:
    __slots__ = (
        "a",
        "b",
    )

    def __init__(self) -> None:
        self.a = self.b = "__slots__ = ()"


class Empty:
    __slots__ = ()


@dataclass(slots=True, frozen=True)
class Frozen:
    x: int


@dataclass(slots=True)
class Open:
    x: int
'''


def test_the_modules_are_there_and_none_is_the_guard() -> None:
    named = modules(ROOT)
    assert len(named) == len(set(named)) > 50
    assert "gateway/core/guard.py" not in named
    assert "gateway/watchdog.py" not in named


@pytest.mark.parametrize("name", modules(ROOT))
def test_no_compiled_generator_holds_something_open(name: str) -> None:
    """Dropped half way it would not be closed: a compiled generator does not run its ``finally`` then."""
    for function in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(function, ast.FunctionDef) and any(
            isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(function)
        ):
            assert not [node for node in ast.walk(function) if isinstance(node, ast.With | ast.Try)]


def test_slots_are_left_out_and_every_line_stays_where_it_was() -> None:
    stripped = without_slots(SOURCE)
    assert len(stripped.splitlines()) == len(SOURCE.splitlines())
    space: dict[str, Any] = {"__name__": "builtins"}
    exec(stripped, space)
    assert space["__doc__"] == "Text that says __slots__ = () and slots=True."
    assert vars(space["Plain"]()) == {"a": "__slots__ = ()", "b": "__slots__ = ()"}
    for name in ("Plain", "Empty", "Frozen", "Open"):
        assert "__slots__" not in vars(space[name])
    with pytest.raises(AttributeError):
        space["Frozen"](1).x = 2


@pytest.mark.parametrize("name", modules(ROOT))
def test_every_module_is_the_same_without_its_slots(name: str) -> None:
    source = (ROOT / name).read_text()
    stripped = without_slots(source)
    assert "slots=True" not in stripped
    before, after = ast.parse(source), ast.parse(stripped)
    assert [type(node) for node in after.body] == [type(node) for node in before.body]
    functions = [{n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)} for tree in (before, after)]
    assert functions[0] == functions[1]


def test_the_manifest_tells_each_source_by_its_hash() -> None:
    name = "gateway/core/pool.py"
    assert manifest(ROOT, [name])["sources"] == {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}


def test_a_module_that_is_named_and_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.ranvier.compiled]\nmodules = ["gateway/gone.py"]\n')
    with pytest.raises(BuildError, match=r"no such file: gateway/gone\.py"):
        modules(tmp_path)


def hook(root: Path) -> CompiledModules:
    return CompiledModules(str(root), {}, None, None, str(root / "dist"), "wheel")  # type: ignore[arg-type]


@pytest.mark.parametrize(("switch", "version"), [("0", "standard"), ("", "standard"), ("1", "editable")])
def test_a_wheel_is_pure_unless_it_is_asked_for(
    switch: str, version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    data: dict[str, Any] = {"force_include": {}}
    hook(tmp_path).initialize(version, data)
    assert data == {"force_include": {}}
    assert bool(hook(ROOT).dependencies()) is (switch == "1")


def test_a_build_apart_from_any_environment_installs_what_the_modules_import() -> None:
    """mypyc needs its types: without numpy there it refuses what is built with it."""
    own = {*build_compiled.PACKAGES, *sys.stdlib_module_names}
    needed = {name.partition(".")[0] for module in modules(ROOT) for name in _imports(ROOT / module)} - own
    installed = {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in imported(ROOT)}
    assert "numpy" in needed
    assert needed <= installed


def _imports(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_a_build_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in build_compiled.PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "gateway/one.py").write_text("x: int = 'no number'\n")
    (tmp_path / "pyproject.toml").write_text('[tool.ranvier.compiled]\nmodules = ["gateway/one.py"]\n')
    monkeypatch.setenv(SWITCH, "1")
    data: dict[str, Any] = {"force_include": {}}
    with pytest.raises(SystemExit, match=r"mypyc failed.*without RANVIER_COMPILE the wheel is pure"):
        hook(tmp_path).initialize("standard", data)
    assert data == {"force_include": {}}
    assert not list(tmp_path.rglob("*.so"))


def test_what_the_image_is_built_of_holds_no_machine_code() -> None:
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    assert "**/*.so" in ignored
    assert ignored.index("**/*.so") > ignored.index("!gateway")
    assert "!build_compiled.py" in ignored
