"""What runs compiled, and whether it still is what the sources say: told off real files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from gateway.machine_code import MANIFEST, ROOT, machine_code

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
SOURCES = ("gateway/core/pool.py", "designer/simulator/world.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two sources, compiled as far as anybody can see who does not load them."""
    hashes = {}
    for name in SOURCES:
        source = tmp_path / name
        source.parent.mkdir(parents=True)
        source.write_text(f"# {name}\n")
        source.with_name(source.stem + SUFFIX).write_bytes(b"\x7fELF")
        hashes[name] = hashlib.sha256(source.read_bytes()).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps({"sources": hashes}))
    return tmp_path


def test_sources_alone_run_as_python(tree: Path) -> None:
    for file in tree.rglob("*.so"):
        file.unlink()
    code = machine_code(tree)
    assert (code.state, code.num_modules) == ("false", 0)
    assert "make compiled" in code.line


def test_machine_code_of_these_very_sources(tree: Path) -> None:
    code = machine_code(tree)
    assert (code.state, code.num_modules, code.stale) == ("true", 2, ())
    assert "2 modules" in code.line


def test_an_edited_source_is_named_with_what_to_do(tree: Path) -> None:
    with (tree / SOURCES[0]).open("a") as file:
        file.write("# another line\n")
    code = machine_code(tree)
    assert (code.state, code.stale) == ("stale", (SOURCES[0],))
    assert SOURCES[0] in code.line
    assert "make compiled" in code.line
    assert "make pure" in code.line


@pytest.mark.parametrize("written", [None, b"", b"[]", b'{"sources": []}', b'{"sources": {}}'])
def test_without_a_manifest_nothing_is_known_of_any(tree: Path, written: bytes | None) -> None:
    if written is None:
        (tree / MANIFEST).unlink()
    else:
        (tree / MANIFEST).write_bytes(written)
    assert machine_code(tree).stale == tuple(sorted(SOURCES))


def test_a_part_that_was_deleted_leaves_the_rest_stale(tree: Path) -> None:
    (tree / SOURCES[1]).with_name("world" + SUFFIX).unlink()
    assert machine_code(tree).stale == (SOURCES[1],)


def test_a_source_that_is_gone_is_no_source(tree: Path) -> None:
    (tree / SOURCES[1]).unlink()
    assert machine_code(tree).stale == (SOURCES[1],)


def test_machine_code_for_another_python_does_not_run(tree: Path) -> None:
    for file in list(tree.rglob("*.so")):
        file.rename(str(file).replace(SUFFIX, ".cpython-27m-vax.so"))
    assert machine_code(tree).state == "false"


def test_more_stale_modules_than_can_be_named_are_counted(tree: Path) -> None:
    for n in range(5):
        (tree / f"gateway/core/more{n}{SUFFIX}").write_bytes(b"")
    assert "and 2 more" in machine_code(tree).line


def test_the_designer_warns_of_stale_machine_code(tree: Path) -> None:
    """The real command, which is told to look at that tree instead of its own."""
    program = (
        "import sys, pathlib, gateway.machine_code as m\n"
        f"m.machine_code.__defaults__ = (pathlib.Path({str(tree)!r}),)\n"
        "from designer.cli import main\n"
        "sys.argv[1:] = ['evaluate', '--help']\n"
        "main()\n"
    )
    (tree / SOURCES[0]).write_text("edited")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("designer: runs machine code that is NOT of the sources beside it")
    assert SOURCES[0] in done.stderr
