"""What a run tells in a pipe, and on a terminal: how far it is, how good, how fast, how long and how dear."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TextColumn

from designer.arm import Progress
from designer.commands.watching import Bars, Lines, Rate, pace_words, watching


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_is_of_the_latest_reports_alone() -> None:
    clock = Clock()
    rate = Rate(clock)
    assert rate.per_minute is None
    rate.see(0)
    rate.see(500)
    assert rate.per_minute is None, "what was known already took no time"
    for n in range(1, 9):
        clock.now += 2.0
        rate.see(500 + n)
    assert rate.per_minute == pytest.approx(30.0)
    assert rate.minutes_for(15) == pytest.approx(0.5)
    assert pace_words(rate, 15) == ["30 a minute", "30 s left"]
    assert pace_words(rate, 0) == ["30 a minute"]
    assert pace_words(rate, 3000) == ["30 a minute", "100 min left"]
    assert pace_words(rate, 30000) == ["30 a minute", "16.7 h left"]


def test_a_pipe_gets_plain_lines_with_best_rate_time_and_money() -> None:
    said: list[str] = []
    clock = Clock()
    watcher = Lines(said.append, lambda: "$0.25 of $1.00 left", clock).watcher()
    watcher.on_search(Progress("search", 8, 100, None, 8))
    clock.now = 12.0
    watcher.on_search(Progress("search", 20, 100, -0.1, 16))
    watcher.on_search(Progress("search", 20, 100, -0.1, 16))
    watcher.on_search(Progress("control", 8, 100, -0.1, 8))
    assert said == [
        "search: 8 candidates, 8 of 100 simulations, $0.25 of $1.00 left",
        "search: 16 candidates, best 0.905, 20 of 100 simulations, 60 a minute, 80 s left, $0.25 of $1.00 left",
        "control: 8 candidates, best 0.905, 8 of 100 simulations",
    ]


def test_a_long_phase_says_now_and_then_that_it_goes_on() -> None:
    said: list[str] = []
    clock = Clock()
    watcher = Lines(said.append, lambda: "", clock).watcher()
    for _ in range(64):
        watcher.on_judge("sealed", 64)
        clock.now += 1.0
    assert said == [
        "sealed: 64 simulations",
        "sealed: 31 of 64, 60 a minute, 33 s left",
        "sealed: 61 of 64, 60 a minute, 3 s left",
    ]


def test_a_terminal_gets_bars() -> None:
    out = io.StringIO()
    columns = (TextColumn("{task.description} {task.completed}/{task.total} {task.fields[more]}"),)
    with Bar(*columns, console=Console(file=out, width=120), auto_refresh=False) as bar:
        watcher = Bars(bar, lambda: "$0.25 of $1.00 left").watcher()
        watcher.on_search(Progress("search", 8, 100, -0.1, 8))
        watcher.on_judge("validation", 40)
        watcher.on_judge("validation", 40)
        watcher.say("a line above them")
    shown = out.getvalue()
    assert "search: 8 candidates, best 0.905 8/100 $0.25 of $1.00 left" in shown
    assert "validation 2/40" in shown
    assert "a line above them" in shown


def test_what_is_no_terminal_is_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with watching() as watcher:
        watcher.say("sandbox: rlimits")
    assert capsys.readouterr() == ("", "sandbox: rlimits\n")
