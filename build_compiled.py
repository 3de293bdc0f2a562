"""Machine code of the modules that ``[tool.ranvier.compiled]`` names: ``make compiled``, and a build hook of the wheel.

mypyc makes it from a copy of the sources, in which ``__slots__`` is left out, as its classes have nothing else. Beside
the modules lies a manifest with the hash of each source, by which ``gateway.machine_code`` tells whether they are still
what the sources say.

    python build_compiled.py            puts it beside the sources
    RANVIER_COMPILE=1 pip wheel .       puts it into the wheel, which is then for one platform and Python
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
PACKAGES = ("gateway", "designer", "policies")
MANIFEST = "gateway/machine_code.json"
SWITCH = "RANVIER_COMPILE"
LIBRARY = "ranvier__mypyc"
"""The shared library that the modules beside their sources lead to."""
_SETUP = """\
from setuptools import setup
from mypyc.build import mypycify

extensions = mypycify({arguments}, opt_level="{level}", group_name="ranvier")
setup(name="ranvier-compiled", packages=[], py_modules=[], ext_modules=extensions)
"""
_MYPY = ["--ignore-missing-imports", "--python-version", "{}.{}".format(*sys.version_info)]


class BuildError(Exception):
    """One line: why there is no machine code."""


def modules(root: Path) -> list[str]:
    """Paths of the sources, relative to ``root``."""
    with (root / "pyproject.toml").open("rb") as file:
        named: list[str] = tomllib.load(file)["tool"]["ranvier"]["compiled"]["modules"]
    missing = [name for name in named if not (root / name).is_file()]
    if missing:
        raise BuildError(f"pyproject.toml, tool.ranvier.compiled: no such file: {', '.join(missing)}")
    return named


def without_slots(source: str) -> str:
    """The same lines without ``__slots__`` in classes and ``slots=True`` of dataclasses."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if _is_slots(statement):
                    _blank(lines, statement)
            for decorator in node.decorator_list:
                line = decorator.lineno - 1
                lines[line] = (
                    lines[line].replace("slots=True, ", "").replace(", slots=True", "").replace("(slots=True)", "")
                )
    return "\n".join(lines) + "\n"


def _is_slots(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__slots__"


def _blank(lines: list[str], statement: ast.stmt) -> None:
    indent = " " * statement.col_offset
    for number in range(statement.lineno - 1, statement.end_lineno or statement.lineno):
        lines[number] = ""
    lines[statement.lineno - 1] = f"{indent}pass"


def manifest(root: Path, named: list[str]) -> dict[str, Any]:
    hashes = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in named}
    return {"suffix": sysconfig.get_config_var("EXT_SUFFIX"), "sources": hashes}


def imported(root: Path) -> list[str]:
    """What a build apart from any environment must install: mypyc reads the types of all that is imported."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["designer"]]


def build(root: Path, into: Path) -> list[str]:
    """Compiles in ``into``, which is made anew; the paths made there, relative to it."""
    named = modules(root)
    shutil.rmtree(into, ignore_errors=True)
    before = manifest(root, named)
    for package in PACKAGES:
        shutil.copytree(root / package, into / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in named:
        (into / name).write_text(without_slots((root / name).read_text()))
    if manifest(root, named) != before:
        raise BuildError("a source was edited while it was copied; begin again")
    (into / "setup.py").write_text(
        _SETUP.format(arguments=[*_MYPY, *named], level=os.environ.get("MYPYC_OPT_LEVEL", "3"))
    )
    done = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=into, check=False)
    if done.returncode:
        raise BuildError("mypyc failed; it needs mypy and setuptools installed, a C compiler and Python's headers")
    (into / MANIFEST).write_text(json.dumps(before, indent=1))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return [LIBRARY + suffix, *(name.removesuffix(".py") + suffix for name in named), MANIFEST]


class CompiledModules(BuildHookInterface[Any]):
    """Of hatchling. Without the variable the wheel is pure, as it is where there is no C compiler."""

    PLUGIN_NAME = "custom"

    def _wanted(self) -> bool:
        return os.environ.get(SWITCH, "0") not in ("", "0")

    def dependencies(self) -> list[str]:
        return ["mypy>=1.14", "setuptools", *imported(Path(self.root))] if self._wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard" or not self._wanted():  # an editable install runs the sources
            return
        root, into = Path(self.root), Path(self.directory) / "compiled"
        try:
            made = build(root, into)
        except BuildError as error:
            sys.exit(f"error: {error}; without {SWITCH} the wheel is pure Python")
        build_data["force_include"].update({str(into / name): name for name in made})
        build_data["pure_python"], build_data["infer_tag"] = False, True


def main() -> None:
    into = ROOT / "build" / "compiled"
    try:
        made = build(ROOT, into)
    except BuildError as error:
        sys.exit(f"error: {error}")
    for old in (*ROOT.glob(LIBRARY + "*.so"), *(so for package in PACKAGES for so in (ROOT / package).rglob("*.so"))):
        old.unlink()  # of a module that is not compiled any more, perhaps
    for name in made:
        shutil.copy2(into / name, ROOT / name)
    sys.stdout.write(f"compiled: {len(made) - 2} modules\n")


if __name__ == "__main__":
    main()
