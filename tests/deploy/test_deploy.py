"""The deployment files agree with the repository and with the commands they call. They are not built here: that needs
a container engine and a registry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = (DEPLOY / "compose.yaml").read_text()
LOCK = (ROOT / "requirements.lock").read_text()


def services() -> dict[str, str]:
    """The text of each service of the compose file."""
    body = COMPOSE[COMPOSE.index("services:\n") + len("services:\n") : COMPOSE.index("\nvolumes:")]
    parts = re.split(r"^  (\w+):\n", body, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def command(service: str) -> list[str]:
    block = re.search(r"    command:\n((?:      - .*\n)+)", services()[service])
    return [line.strip()[2:].strip('"') for line in block[1].splitlines()]


def test_what_the_image_copies_exists_and_is_not_ignored():
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_images_constraints_are_the_locks_versions(tmp_path):
    (expression,) = re.findall(r"RUN sed -E -n '(.+)' requirements\.lock > constraints\.txt", DOCKERFILE)
    done = subprocess.run(
        ["sed", "-E", "-n", expression, ROOT / "requirements.lock"], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(re.findall(r"^[a-z0-9._-]+==", LOCK, re.MULTILINE))
    assert all(re.fullmatch(r"[a-z0-9._-]+==[^\s\\]+( ; [^\\]+[^\\ ])?", line) for line in lines)


def test_the_image_runs_without_privileges_and_checks_its_health():
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.search(r"^USER [1-9]\d+$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert "http://127.0.0.1:9000/health/live" in last
    assert last.rstrip().endswith('ENTRYPOINT ["gateway"]\nCMD ["serve"]')


def test_the_compose_file_is_two_space_blocks_without_tabs():
    for number, line in enumerate(COMPOSE.splitlines(), start=1):
        indent = len(line) - len(line.lstrip(" "))
        assert "\t" not in line and indent % 2 == 0, number
    assert set(services()) == {"gateway", "mock", "vllm", "prometheus"}
    assert "profiles: [mock]" in services()["mock"]
    assert "profiles: [vllm]" in services()["vllm"]


def test_files_and_volumes_that_the_compose_file_names_exist():
    declared = set(re.findall(r"^  (\w+):$", COMPOSE[COMPOSE.index("\nvolumes:") :], re.MULTILINE))
    for source in re.findall(r"^      - ([\w./]+):/[\w./]+(?::ro)?$", COMPOSE, re.MULTILINE):
        assert source in declared or (DEPLOY / source).exists(), source
    assert (DEPLOY / re.search(r"context: (\S+)", COMPOSE)[1] / re.search(r"dockerfile: (\S+)", COMPOSE)[1]).exists()


@pytest.mark.parametrize("service", ["gateway", "mock"])
def test_the_commands_options_exist(service):
    name, *arguments = command(service)
    options = {argument for argument in arguments if argument.startswith("--")}
    code = f"import sys; sys.argv = ['gateway', {name!r}, '--help']; from gateway.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert {option for option in options if f"{option} " in done.stdout} == options


def test_prometheus_scrapes_the_admin_port():
    assert '"127.0.0.1:9000"' in (DEPLOY / "prometheus.yml").read_text()
    assert "network_mode: service:gateway" in services()["prometheus"]
