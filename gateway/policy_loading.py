"""From the text of a policy set to the set: parse, copy the bytes aside, check the copy in another process, load it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from gateway.config import PolicySection
from gateway.core.policy_set import PolicySet
from gateway.errors import PolicyRefusedError, one_line
from gateway.promoted import promotion_of, require_bytes
from policies.loader import PolicyLoadError, PolicySpec, load_policies, parse_specs, resolve
from policies.source_file import read_source


def parse(text: str, base: Path) -> tuple[PolicySpec, ...]:
    """The specs of a set with paths made absolute. PolicyRefusedError when the text is not a set of specs."""
    try:
        specs = parse_specs(text)
    except PolicyLoadError as error:
        raise PolicyRefusedError(str(error)) from None
    return tuple(replace(s, source=absolute(s.source, base)) if s.source.endswith(".py") else s for s in specs)


def absolute(path: str, base: Path) -> str:
    """Without the dots. Links stay: a mounted ConfigMap's files are links whose targets change."""
    return os.path.normpath(base.absolute() / Path(path).expanduser())


async def check(specs: Sequence[PolicySpec], settings: PolicySection, originals: Mapping[str, str]) -> None:
    """The conformance check in its own process group, killed at its deadline. PolicyRefusedError says what failed."""
    limits = [str(int(settings.check_seconds) + 1), str(settings.check_memory_bytes)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "gateway.policy_check", *limits, *map(spec_text, specs)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd="/",
        env={},
    )
    try:
        async with asyncio.timeout(settings.check_seconds):
            out, err = await process.communicate()
    except TimeoutError:
        raise PolicyRefusedError(f"the check did not end within {settings.check_seconds:g} s") from None
    finally:
        _kill_group(process)
        await process.communicate()  # reaps it and reads its pipes to their ends, so that nothing of it remains
    if process.returncode:
        raise PolicyRefusedError(_in_original_names(_complaint(process.returncode, out, err), originals))


def _complaint(status: int, out: bytes, err: bytes) -> str:
    """The first violation; without one, what the process died of."""
    lines = out.decode(errors="replace").splitlines()
    if status == 1 and lines:
        rest = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        return one_line(lines[0]) + rest
    last = err.decode(errors="replace").splitlines()[-1:]
    cause = signal.Signals(-status).name if status < 0 else f"status {status}"
    return one_line(f"the check ended by {cause}; is it within its limits of time and memory? {' '.join(last)}")


def _kill_group(process: asyncio.subprocess.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def copied(
    specs: Sequence[PolicySpec], folder: Path, expected_sha256: Mapping[str, str] = MappingProxyType({})
) -> tuple[tuple[PolicySpec, ...], dict[str, str]]:
    """Specs that point at private copies, and for each copy's path the original's. Built-ins stay as they are.

    Args:
        expected_sha256: by path, of files whose bytes are known.

    Raises:
        PolicyRefusedError: a file cannot be read, or its bytes are not those expected, or not those promoted.
    """
    copies, originals = [], {}
    if strangers := expected_sha256.keys() - {spec.source for spec in specs}:
        raise PolicyRefusedError(f"sha256: {min(strangers)} is no file of the set; name its files as the set does")
    for index, spec in enumerate(specs):
        if not spec.source.endswith(".py"):
            _resolved(spec.source)
            copies.append(spec)
            continue
        original = _resolved(spec.source)
        copy = folder / str(index) / original.name
        copy.parent.mkdir()
        try:
            data = read_source(original)
            copy.write_bytes(data)
        except OSError as error:
            raise PolicyRefusedError(f"{original}: {error.strerror}; name a readable .py file") from None
        require_bytes(data, expected_sha256.get(spec.source), str(original))
        promotion_of(data.decode("utf-8", errors="replace"), str(original))
        copies.append(replace(spec, source=str(copy)))
        originals[str(copy)] = str(original)
    return tuple(copies), originals


def load_copies(specs: Sequence[PolicySpec], seed: int, generation: int, originals: Mapping[str, str]) -> PolicySet:
    """Executes the copies in this process: only after ``check``. PolicyRefusedError as everywhere."""
    try:
        return PolicySet.of(load_policies(specs, seed, generation), generation)
    except PolicyLoadError as error:
        raise PolicyRefusedError(_in_original_names(str(error), originals)) from None


def _resolved(source: str) -> Path:
    try:
        return resolve(source)[0]
    except PolicyLoadError as error:
        raise PolicyRefusedError(str(error)) from None


def _in_original_names(message: str, originals: Mapping[str, str]) -> str:
    for copy, original in originals.items():
        message = message.replace(copy, original)
    return message


def spec_text(spec: PolicySpec) -> str:
    """The spec in its text form."""
    slots = f"@{','.join(spec.slots)}" if spec.slots else ""
    params = ",".join(f"{key}={_param_text(value)}" for key, value in spec.params.items())
    return f"{spec.source}{slots}{':' + params if params else ''}"


def _param_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else repr(value)
