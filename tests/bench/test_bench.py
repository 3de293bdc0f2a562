"""Every row of the benchmark runs to its end and is compared with the row it names. Speed itself is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from designer.simulator.scenario import TRACES_VARIABLE
from tests.bench.bench import LOOK_ALIKES, Case, Traces, cases, first, main, measure

SAMPLES = Path("designer/scenarios/samples").absolute()


def test_every_row_finishes_every_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(TRACES_VARIABLE, str(SAMPLES))
    traces = Traces(tmp_path, num_requests=60)
    rows = measure(cases(traces), 1)
    assert traces.drawn == []
    assert {row.num_requests for row in rows} == {60}
    names = {row.case for row in rows}
    assert len(names) == len(rows)
    assert all(row.ratio is not None for row in rows if row.baseline)
    assert {row.baseline for row in rows} <= names | {""}


def test_a_missing_trace_is_drawn_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TRACES_VARIABLE, str(tmp_path / "none"))
    file = tmp_path / "table.md"
    words = ["--json", "--repeat", "1", "--requests", "20", "--only", "mooncake, round_robin"]
    assert main([*words, "--markdown", str(file)]) == 0
    assert "traces: drawn look-alikes of azure-conv, mooncake." in file.read_text()
    assert "| mooncake, round_robin | 20 | " in file.read_text()
    told = json.loads(capsys.readouterr().out)
    assert told["look_alikes"] == ["azure-conv", "mooncake"]
    (row,) = told["rows"]
    assert (row["case"], row["num_requests"], row["ratio"]) == ("mooncake, round_robin", 20, None)


def test_ratios_are_to_rows_of_the_same_run() -> None:
    def work() -> int:
        return sum(1 for _ in range(50_000))

    rows = measure([Case("a", work), Case("b", work, "a"), Case("c", work, "gone")], 2)
    assert rows[1].ratio == pytest.approx(rows[1].rate / rows[0].rate)
    assert rows[2].ratio is None
    assert rows[0].slowest <= rows[0].rate <= rows[0].fastest


def test_the_first_requests_are_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(TRACES_VARIABLE, str(SAMPLES))
    columns = Traces(tmp_path).requests("mooncake")
    cut = first(columns, 7)
    assert len(cut) == len(cut.prefix_chunks) == len(cut.tenant) == 7
    assert cut.arrival_ps.tolist() == columns.arrival_ps.tolist()[:7]
    assert first(columns, None) is columns


def test_look_alikes_are_as_long_as_their_traces() -> None:
    assert 19_000 < LOOK_ALIKES["azure-conv"].rate * LOOK_ALIKES["azure-conv"].duration < 19_700
    assert 11_700 < LOOK_ALIKES["mooncake"].rate * LOOK_ALIKES["mooncake"].duration < 12_300
