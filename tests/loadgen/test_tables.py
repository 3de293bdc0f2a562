from __future__ import annotations

from rich.console import Console

from loadgen.describe import describe
from loadgen.records import Record
from loadgen.report import summarize
from loadgen.tables import print_description, print_report
from loadgen.trace import TraceRequest


def printed(show, told) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    show("name", told, console)
    console.file.close()
    return console.export_text()


def test_a_description():
    text = printed(print_description, describe([TraceRequest(0, 1000, 5), TraceRequest(500, 3000, 5)]).as_dict())
    assert "name: 2 requests in 0.5 s, 2.00 a second" in text
    assert "2,000" in text
    assert "no hash ids" in text


def test_a_report_is_in_milliseconds_and_leaves_out_what_was_not_measured():
    record = Record("r", 0.0, 0.001, 1.5, None, 10, 5, None, None, 5, None, 0.0, 200, None, None, "w0")
    text = printed(print_report, summarize([record]).as_dict())
    assert "1 of 1 requests completed in 1.5 s" in text
    assert "1,500.0" in text
    assert "TTFT" not in text
    assert "workers: w0: 1" in text
    assert "failures" not in text
    assert text.rstrip().endswith("run: valid")
