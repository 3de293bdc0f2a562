"""``designer report``, ``promote`` and ``rollback`` against a gateway's admin port on loopback."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from designer.cli import app, main
from designer.processes import running_gateway, running_mock_workers
from designer.search import RunOutcome
from gateway.admin.client import AdminClient
from gateway.batch_guard import vllm_flags
from gateway.cli import app as gateway_app
from gateway.errors import GatewayError
from policies.loader import load_policies, parse_specs
from tests.support.batch_winner import with_batch_winner


class Admin(ThreadingHTTPServer):
    """Answers like the admin port and loads what it is told to; ``lie`` makes it report another hash."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.loaded: list[list[str]] = []
        self.lie = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Admin

    def do_GET(self) -> None:
        self._answer({"pools": [{"pool": "default"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/admin/policies/default/rollback":
            self._answer({"current": {"specs": "least_loaded"}})
            return
        assert self.path == "/admin/policies/default/load"
        self.server.loaded.append(body["specs"])
        (loaded,) = load_policies(parse_specs("+".join(body["specs"])), seed=0)
        value = "0" * 64 if self.server.lie else loaded.policy_hash
        self._answer({"current": {"slots": {slot: {"hash": value} for slot in loaded.slots}}})

    def _answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[Admin]:
    with Admin() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_promote_to_a_gateway_and_roll_back(outcome: RunOutcome, admin: Admin, tmp_path: Path) -> None:
    target = tmp_path / "policies" / "designed.py"
    promote = ["promote", str(outcome.folder), "--to", str(target), "--gateway", admin.url, "--json"]
    for _ in range(2):
        done = CliRunner().invoke(app, promote)
        assert done.exit_code == 0, done.output
    assert admin.loaded == [[str(target)], [str(target)]]
    assert json.loads(done.stdout)["evaluated_sha256"] == outcome.winner
    done = CliRunner().invoke(app, ["rollback", str(target), "--gateway", admin.url, "--pool", "default"])
    assert done.exit_code == 0, done.output
    assert len(admin.loaded) == 3
    assert str(outcome.winner)[:12] in done.stdout


def test_what_workers_need_for_batch_rules_is_told(outcome: RunOutcome, tmp_path: Path) -> None:
    with with_batch_winner(outcome, tmp_path / "run", "batch"):
        pass
    target = tmp_path / "batch.py"
    done = CliRunner().invoke(app, ["promote", str(tmp_path / "run"), "--to", str(target)])
    assert done.exit_code == 0, done.output
    assert f"vllm serve MODEL {vllm_flags(str(target))}\n" in done.stdout


def test_a_gateway_is_rolled_back_to_what_it_ran_before(admin: Admin) -> None:
    done = CliRunner().invoke(app, ["rollback", "--gateway", admin.url])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{admin.url}: runs least_loaded\n"
    assert admin.loaded == []


def test_a_gateway_that_runs_something_else_is_an_error(
    outcome: RunOutcome,
    admin: Admin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    admin.lie = True
    to = ["--to", str(tmp_path / "p.py"), "--gateway", admin.url]
    monkeypatch.setattr("sys.argv", ["designer", "promote", str(outcome.folder), *to])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    assert "not the promoted" in capsys.readouterr().err


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_gateway_that_is_not_there_leaves_nothing_written(outcome: RunOutcome, tmp_path: Path) -> None:
    target = tmp_path / "policies" / "designed.py"
    nowhere = ["--to", str(target), "--gateway", "http://127.0.0.1:1"]
    failed = CliRunner().invoke(app, ["promote", str(outcome.folder), *nowhere])
    assert isinstance(failed.exception, GatewayError)
    assert "is --gateway right?" in str(failed.exception)
    assert not target.parent.exists()


def test_a_promotion_that_the_gateway_does_not_run_is_no_version(
    outcome: RunOutcome, admin: Admin, tmp_path: Path
) -> None:
    target = tmp_path / "policies" / "designed.py"
    promote = ["promote", str(outcome.folder), "--to", str(target)]
    admin.lie = True
    failed = CliRunner().invoke(app, [*promote, "--gateway", admin.url])
    assert f"{target} is as it was" in str(failed.exception)
    assert not target.parent.exists()

    assert CliRunner().invoke(app, promote).exit_code == 0
    before = everything_in(target.parent)
    assert CliRunner().invoke(app, [*promote, "--gateway", admin.url]).exit_code != 0
    assert everything_in(target.parent) == before
    assert "no promoted version before" in str(CliRunner().invoke(app, ["rollback", str(target)]).exception)


def test_a_rollback_that_the_gateway_does_not_run_is_undone(outcome: RunOutcome, admin: Admin, tmp_path: Path) -> None:
    target = tmp_path / "policies" / "designed.py"
    for _ in range(2):
        assert CliRunner().invoke(app, ["promote", str(outcome.folder), "--to", str(target)]).exit_code == 0
    before = everything_in(target.parent)
    admin.lie = True
    assert CliRunner().invoke(app, ["rollback", str(target), "--gateway", admin.url]).exit_code != 0
    assert everything_in(target.parent) == before


def test_report_writes_a_page_and_says_where(outcome: RunOutcome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(outcome.folder), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "Better than" in done.stdout
    assert str(page) in done.stdout
    assert "<svg" in page.read_text()


BEFORE = ("--policy", "least_loaded")


def until(client: AdminClient, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The pool's policies, once they are so."""
    deadline = time.monotonic() + 60.0
    while True:
        shown: dict[str, Any] = client.get("/admin/policies/default")
        if true(shown):
            return shown
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)


def current_hashes(shown: dict[str, Any]) -> set[str]:
    return {slot["hash"] for slot in shown["current"]["slots"].values()}


def test_a_real_gateway_is_told_everything_and_takes_no_other_bytes(outcome: RunOutcome, tmp_path: Path) -> None:
    """Promote, look, change one byte, promote again, roll back, in the file and in the gateway."""
    target = tmp_path / "policies" / "designed.py"
    to = ["--to", str(target), "--json"]
    with (
        running_mock_workers(["--profile", "demo"]) as urls,
        running_gateway(
            ["--worker", urls[0], "--policy", "least_loaded", "--no-event-log"], tmp_path / "log"
        ) as gateway,
    ):
        client, there = AdminClient(gateway.admin_url, None), ["--gateway", gateway.admin_url]
        done = CliRunner().invoke(app, ["promote", str(outcome.folder), *to, *there])
        assert done.exit_code == 0, done.output
        version = json.loads(done.stdout)
        shown = client.get("/admin/policies/default")
        (promoted,) = shown["current"]["promoted"]
        assert promoted["hash"] == version["policy_hash"]
        assert promoted["evaluated_sha256"] == outcome.winner
        assert promoted["gates"]["sealed"]["verdict"] == "better"
        assert promoted["gates"]["swap_in"]["passed"]
        assert promoted["gates"]["canary"] is None
        told = CliRunner().invoke(gateway_app, ["policy", "show", "--admin", gateway.admin_url])
        assert "sealed: better: 0." in told.stdout
        assert "swap_in: Swapped in for" in told.stdout
        assert "replay: not passed through" in told.stdout

        text = target.read_text()
        target.write_text(
            text.replace("return True", "return False", 1) if "return True" in text else text[:-2] + "#\n"
        )
        shown = until(client, lambda pool: pool["last_error"] is not None)
        assert "not the expected" in shown["last_error"]["message"]
        assert current_hashes(shown) == {version["policy_hash"]}

        target.write_text(
            text.replace("# Promoted by", "# promoted by", 1)
        )  # above the marker: seen by the file's hash
        body = {"specs": [str(target)], "sha256": {str(target): version["file_sha256"]}}
        with pytest.raises(GatewayError, match="its bytes have the SHA-256"):
            client.post("/admin/policies/default/load", body)
        with pytest.raises(GatewayError, match="is no file of the set"):
            client.post("/admin/policies/default/load", {"specs": ["fcfs"], "sha256": {"/x.py": "0"}})

        done = CliRunner().invoke(app, ["promote", str(outcome.folder), *to, *there, "--force"])
        assert done.exit_code == 0, done.output
        done = CliRunner().invoke(app, ["rollback", str(target), *there])
        assert done.exit_code == 0, done.output
        assert target.read_text() == text
        assert current_hashes(until(client, lambda pool: True)) == {version["policy_hash"]}
        for _ in range(8):
            done = CliRunner().invoke(app, ["rollback", *there])
            assert done.exit_code == 0, done.output
            if "runs least_loaded" in done.stdout:
                break
        shown = client.get("/admin/policies/default")
        assert shown["current"]["specs"] == "least_loaded"
        assert shown["current"]["promoted"] == []


def test_a_rehearsal_says_what_the_swap_does(outcome: RunOutcome) -> None:
    done = CliRunner().invoke(app, ["rehearse", str(outcome.folder)])
    assert done.exit_code == 0, done.output
    assert "The swap does no significant harm" in done.stdout
