"""``designer report``, ``promote`` and ``rollback`` against a gateway's admin port on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from designer.cli import app, main
from designer.search import RunOutcome
from policies.loader import load_policies, parse_specs


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


def test_report_writes_a_page_and_says_where(outcome: RunOutcome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(outcome.folder), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "Better than" in done.stdout
    assert str(page) in done.stdout
    assert "<svg" in page.read_text()
