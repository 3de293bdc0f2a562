"""One line an event, whatever is in it."""

from __future__ import annotations

import json
import logging

import pytest

from gateway.telemetry.logs import JsonFormatter, TextFormatter, configure


def record(message: str = "worker joined", **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "gateway.x", "levelno": 30, "levelname": "WARNING", "msg": message, "created": 0}
    )
    vars(made).update(extra)
    return made


def test_text() -> None:
    line = TextFormatter().format(record(worker="a:1", error='bad "thing"\nhere', empty=""))
    assert line == '1970-01-01T00:00:00.000Z warning worker joined worker=a:1 error="bad \\"thing\\"\\nhere" empty=""'


def test_json() -> None:
    line = JsonFormatter().format(record(worker="a:1", count=3))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "warning",
        "logger": "gateway.x",
        "message": "worker joined",
        "worker": "a:1",
        "count": 3,
    }
    assert "\n" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_stays_on_its_line(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure("info", form)
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("gateway.test").exception("failed")
        line = capsys.readouterr().err
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert line.count("\n") == 1 and "ValueError" in line
