"""The command line as a user meets it: exit statuses, one line on stderr, real processes where something serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import __version__
from gateway.api_keys import digest, load_keys
from gateway.cli import main
from gateway.config import ApiKeysSection
from tests.support.processes import RunningGateway, free_port, running_gateway


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command's own entry point in this process: starting Python for each would be most of the time."""

    def run_main(*args: str, cwd: Path | None = None) -> Done:
        monkeypatch.setattr(sys, "argv", ["gateway", *args])
        if cwd is not None:
            monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capfd.readouterr()
        return Done(int(exit_.value.code or 0), said.out, said.err)

    return run_main


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("cli")
    unreachable = f"http://127.0.0.1:{free_port()}"
    arguments = ["--mock", "1", "--mock-speed", "50", "--mock-arg=--seed=7", "--worker", f"{unreachable}, "]
    with running_gateway(folder, *arguments, "--event-log", "events") as g:
        yield g


def test_the_command_is_installed() -> None:
    command = [str(Path(sys.executable).with_name("gateway")), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"gateway {__version__}\n")


@pytest.mark.parametrize("command", [[], ["policy"]])
def test_a_group_alone_shows_its_help(run: Run, command: list[str]) -> None:
    done = run(*command)
    assert done.returncode == 2
    assert done.stderr.startswith(" ".join(["Usage: gateway", *command]))


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["check"], ["replay-log"], ["policy"], ["policy", "load"], ["mock-worker"]]
)
def test_every_command_has_help_with_an_example(run: Run, command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert not command or command == ["policy"] or "xample: gateway" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["serve", "--prt", "1"], 2, "No such option: --prt"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["serve", "--port", "70000"], 2, "--port"),
        (["serve", "--worker", "x:1"], 2, "worker[0].url: is 'x:1'; must be a URL"),
        (["serve", "--config", "none.toml"], 2, "none.toml: cannot be read: No such file"),
        (["serve", "--log-level", "loud"], 2, "log.level: is 'loud'; input should be 'debug'"),
        (["check", "--policy", "nope"], 1, "nope: no such policy; name one of"),
        (["check", "--policy", "bad.py"], 1, "bad.py:1: syntax: does not parse"),
        (["replay-log", "bad.py"], 1, "bad.py: is no event log"),
        (["policy", "list", "--admin", "http://127.0.0.1:1"], 1, "no gateway answers at http://127.0.0.1:1"),
    ],
)
def test_a_fault_is_one_line_with_its_status(
    run: Run, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "bad.py").write_text("def create(:\n")
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_check_says_what_would_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[[pool]]\nworkers = ['http://x:1']\npolicies = ['head_room:ageing=2']\n")
    done = run("check", "--config", "c.toml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["workers"] == 1
    assert report["pools"][0]["slots"]["routing"]["params"]["ageing"] == 2.0


def test_a_port_in_use(run: Run, gateway: RunningGateway) -> None:
    done = run("serve", "--host", "127.0.0.1", "--port", str(gateway.port), "--admin-port", "0")
    assert done.returncode == 1
    assert f"error: port {gateway.port} on 127.0.0.1 is in use" in done.stderr.splitlines()[-1]


def test_a_worker_that_is_not_there_is_told_once_and_disturbs_nothing(gateway: RunningGateway) -> None:
    assert gateway.output().count("worker cannot be reached yet") == 1
    assert post(f"{gateway.url}/v1/completions", {"prompt": "x", "max_tokens": 2})["usage"]["completion_tokens"] == 2


def test_policies_of_a_running_gateway(run: Run, gateway: RunningGateway, tmp_path: Path) -> None:
    admin = ["--admin", gateway.admin_url]
    (tmp_path / "mine.py").write_text((Path(__file__).parents[2] / "policies/routing/random.py").read_text())
    loaded = run("policy", "load", "mine.py", *admin, cwd=tmp_path)
    assert (loaded.returncode, loaded.stdout) == (0, f"default: generation 2: {tmp_path}/mine.py\n"), loaded.stderr
    (tmp_path / "mine.py").write_text("x = 1\n")
    refused = run("policy", "load", "./mine.py", *admin, cwd=tmp_path)
    assert refused.returncode == 1
    assert str(tmp_path / "mine.py") in refused.stderr and refused.stderr.count("\n") == 1
    back = run("policy", "rollback", *admin, "--json")
    assert json.loads(back.stdout)["current"]["slots"]["routing"]["policy"] == "routing/least_loaded"
    assert "origin" not in run("policy", "show", *admin).stderr
    rekeyed = run("policy", "rekey", *admin)
    assert (rekeyed.returncode, rekeyed.stdout) == (0, "default: 0 held\n"), rekeyed.stderr
    shown = json.loads(run("policy", "list", *admin, "--json").stdout)
    assert [entry["ok"] for entry in shown[0]["log"]].count(False) >= 1


def test_an_endpoint_on_the_data_port_is_never_administrative(gateway: RunningGateway) -> None:
    with pytest.raises(urllib.error.HTTPError) as failure:
        urllib.request.urlopen(f"{gateway.url}/admin/policies", timeout=5)
    assert failure.value.code == 404
    failure.value.close()


def test_sigterm_lets_a_stream_end_and_the_log_replays(run: Run, tmp_path: Path) -> None:
    with running_gateway(tmp_path, "--mock", "1", "--mock-speed", "1", "--event-log", "events") as g:
        body = {"prompt": "x", "max_tokens": 40, "ignore_eos": True, "stream": True}
        with urllib.request.urlopen(request(f"{g.url}/v1/completions", body), timeout=30) as answer:
            answer.readline()
            g.process.send_signal(signal.SIGTERM)
            assert b"[DONE]" in answer.read()
        assert g.process.wait(20) == 0
        mocks = subprocess.run(["pgrep", "-s", str(g.process.pid)], capture_output=True, text=True, check=False)
        assert mocks.stdout == ""
    (path,) = (tmp_path / "events").iterdir()
    done = run("replay-log", str(path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dispatches"] == 1


def test_a_changed_file_is_reloaded_and_sigkill_ends_the_mock_workers_too(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[[pool]]\npolicies = ['least_loaded']\n")
    with running_gateway(tmp_path, "--mock", "1", "--config", "c.toml") as g:
        config.write_text("[admin]\nhost = '::1'\n[tls]\ncert = 'c'\nkey = 'k'\n[[pool]]\npolicies = ['random']\n")
        wait_for(lambda: "configuration reloaded changed=pool.default.policies" in g.output())  # it is followed
        assert "origin=reload" in g.output()
        assert "in force only after a restart keys=admin.host,tls" in g.output()
        config.write_text("[[pool")
        g.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "configuration not reloaded" in g.output())
        line = next(line for line in g.output().splitlines() if "mock workers started" in line)
        mocks = Path(f"/proc/{int(line.rpartition('pid=')[2])}/stat")
        os.kill(g.process.pid, signal.SIGKILL)
        g.process.wait()
        wait_for(lambda: not mocks.exists() or mocks.read_text().rpartition(")")[2].split()[0] == "Z")


def request(url: str, body: object) -> urllib.request.Request:
    return urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})


def post(url: str, body: object) -> dict[str, dict[str, int]]:
    with urllib.request.urlopen(request(url, body), timeout=20) as answer:
        return json.loads(answer.read())  # type: ignore[no-any-return]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_new_key_is_shown_once_with_its_entry(run: Run, tmp_path: Path) -> None:
    done = run("key", "new", "--tenant", "acme", "--model", "m", "--json")
    made = json.loads(done.stdout)
    (tmp_path / "keys.toml").write_text(made["entry"])
    keys = load_keys(ApiKeysSection(file="keys.toml"), tmp_path.joinpath)
    assert keys is not None
    assert keys[digest(made["key"].encode())].tenant == "acme"
    assert run("key", "new", "--tenant", "a b").returncode == 2
