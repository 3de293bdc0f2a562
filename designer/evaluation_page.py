"""A scorecard as one self-contained HTML page: the table, and one seed looked at closely.

Distributions and time lines of a single run say how a policy works; only the table, over all seeds, says which one is
better. The page says so.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from designer.evaluate import Scorecard
from designer.scorecard import to_markdown
from designer.simulator.breakdown import PARTS, Part
from designer.simulator.clairvoyant import CLAIRVOYANT, clairvoyant_policies
from designer.simulator.policies import PolicySource
from designer.simulator.results import SimulationResult
from designer.simulator.scenario import Scenario
from designer.simulator.timeline import Timeline, preemptions_over_time
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate

_MOST_POINTS = 500
"""Of one line: more are not to be seen, and make the page heavy."""
_COLOURS = ("#2a6db5", "#b5482a", "#3c8d40", "#8a4fa3", "#c79a1b", "#4aa5a5", "#777777", "#d1628f")
_PART_COLOURS: dict[Part, str] = {
    "held": "#c79a1b",
    "network": "#bbbbbb",
    "queued": "#b5482a",
    "prefill": "#4aa5a5",
    "decode": "#2a6db5",
    "recompute": "#8a4fa3",
    "lost": "#333333",
}
_BELOW = {"orientation": "h", "y": -0.12, "yanchor": "top"}
"""A legend's place."""
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{padding:.25rem .6rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}.note{color:#666;font-size:13px}"
)


@dataclass(frozen=True, slots=True)
class Observed:
    """One run of one policy."""

    spec: str
    result: SimulationResult
    timeline: Timeline


def observe(card: Scorecard, scenario: Scenario, seed: int) -> tuple[Observed, ...]:
    """Every policy of the card on one seed once more, with its time line; the clairvoyant last, if the card has it."""
    columns = draw_workload(scenario, seed)
    runs: list[tuple[str, PolicySource]] = [(score.spec, score.spec) for score in card.scores]
    if card.reference is not None:
        runs.append((CLAIRVOYANT, clairvoyant_policies(columns)))
    observed = []
    for spec, policies in runs:
        timeline = Timeline()
        result = simulate(scenario, policies, seed, workload=columns, sink=timeline)
        observed.append(Observed(spec, result, timeline))
    return tuple(observed)


def to_html(card: Scorecard, observed: Sequence[Observed]) -> str:
    """The whole page."""
    seed = observed[0].result.seed
    title = f"Scenario {card.scenario}"
    table, note = _table(to_markdown(card))
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{table}<p class='note'>{html.escape(note)}</p>"
        f"<h2>One run: seed {seed}</h2><p>What follows is one run of each policy on the same requests. It shows how "
        "they work, not which one is better: that is in the table.</p><h3>Where the time of a request went</h3>"
        "<p class='note'>Mean over all requests of the run, from arrival to last token. held: in the gateway, before "
        "it was sent to a worker; queued: in the worker, before its first step; prefill: until its first token; "
        "decode: until its last; recompute: from losing its KV memory to the next token; lost: without a full "
        "answer.</p>",
        _draw(_where_time_went(observed), first=True),
        "<h3>Distributions</h3><p class='note'>The share of requests that were answered, or had their first token, "
        "within so many seconds: a line further left is better. The scale is logarithmic.</p>",
        _draw(_distributions(observed)),
        "<h3>Over time</h3><p class='note'>One line for each worker, as seen at every scrape, and the gateway's own "
        "queue at every change. Preempted requests are counted up, each when it ended.</p>",
        *(f"<h4>{html.escape(run.spec)}</h4>{_draw(_over_time(run))}" for run in observed),
        "</html>",
    ]
    return "".join(parts)


def _draw(figure: go.Figure, first: bool = False) -> str:
    library = "inline" if first else False
    return str(figure.to_html(full_html=False, include_plotlyjs=library, config={"displayModeBar": False}))


def _table(markdown: str) -> tuple[str, str]:
    """The Markdown table as HTML, and the text after it."""
    rows = [
        [html.escape(cell.strip()) for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|") and not line.startswith(("| -", "|-"))
    ]
    note = markdown[markdown.rindex("|\n") + 1 :].strip()
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows[1:])
    return f"<table><tr>{head}</tr>{body}</table>", note


def _where_time_went(observed: Sequence[Observed]) -> go.Figure:
    figure = go.Figure()
    names = [run.spec for run in observed]
    for part in PARTS:
        seconds = [run.result.mean_parts[part] for run in observed]
        if any(seconds):
            figure.add_bar(y=names, x=seconds, name=part, orientation="h", marker_color=_PART_COLOURS[part])
    figure.update_layout(
        barmode="stack",
        template="plotly_white",
        height=150 + 32 * len(names),
        margin={"t": 40, "b": 40},
        xaxis={"title": "mean time of a request, seconds"},
        yaxis={"autorange": "reversed", "automargin": True},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
    )
    return figure


def _distributions(observed: Sequence[Observed]) -> go.Figure:
    """Cumulative distributions of response time and TTFT, penalties included."""
    titles = ("response time: to the last token", "TTFT: time to the first token")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    times: tuple[Callable[[SimulationResult], NDArray[np.float64]], ...] = (
        lambda result: result.response_times,
        lambda result: result.ttfts,
    )
    for column, values in enumerate(times, start=1):
        for number, run in enumerate(observed):
            levels = np.linspace(0, 1, _MOST_POINTS)
            line = {"color": _COLOURS[number % len(_COLOURS)]}
            figure.add_scatter(
                x=_short(np.quantile(values(run.result), levels)),
                y=_short(levels),
                name=run.spec,
                legendgroup=run.spec,
                showlegend=column == 1,
                line=line,
                row=1,
                col=column,
            )
    marks = [float(f"{digit}e{power}") for power in range(-4, 6) for digit in (1, 3)]
    figure.update_xaxes(type="log", title="seconds", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(title="share of requests", col=1)
    figure.update_layout(template="plotly_white", height=440, margin={"t": 40, "b": 40}, legend=_BELOW)
    return figure


def _over_time(run: Observed) -> go.Figure:
    """Five charts under one time axis: the gateway's queue, and running, waiting, KV and preemptions by worker."""
    titles = ("held by the gateway", "running", "waiting in the worker", "KV memory in use", "preempted so far")
    units = ("requests", "requests", "requests", "share", "requests")
    figure = make_subplots(rows=5, cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.05)
    end = float(np.nanmax(run.result.finished))
    held: list[float] = [*run.timeline.held] or [0.0]
    _step(figure, 1, "gateway", "#222222", [*run.timeline.held_times[: len(held)], end], [*held, held[-1]])
    for number, worker in enumerate(run.result.workers):
        colour, line = _COLOURS[number % len(_COLOURS)], run.timeline.workers.get(worker)
        if line is not None:
            lines: tuple[Sequence[float], ...] = (line.running, line.waiting, line.kv_usage)
            for row, values in enumerate(lines, start=2):
                _step(figure, row, worker, colour, line.times, values)
        times, counts = preemptions_over_time(run.result, worker)
        all_counts = [0.0, *counts.tolist()]
        _step(figure, 5, worker, colour, [0.0, *times.tolist(), end], [*all_counts, all_counts[-1]])
    for row, unit in enumerate(units, start=1):
        figure.update_yaxes(title=unit, rangemode="tozero", row=row, col=1)
    for row, values in ((1, run.timeline.held), (5, run.result.preemptions.tolist())):
        if not any(values):
            figure.update_yaxes(range=[0, 1], nticks=2, row=row, col=1)
    figure.update_yaxes(range=[0, 1], tickformat=".0%", row=4, col=1)
    figure.update_xaxes(title="seconds since the run began", row=5, col=1)
    figure.update_layout(template="plotly_white", height=820, margin={"t": 30, "b": 40}, legend=_BELOW)
    return figure


def _step(figure: go.Figure, row: int, name: str, colour: str, times: Sequence[float], values: Sequence[float]) -> None:
    kept_times, kept = _peaks(times, values)
    line = {"color": colour, "shape": "hv", "width": 1.2}
    figure.add_scatter(
        x=kept_times,
        y=kept,
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=row in (1, 2),
        line=line,
        row=row,
        col=1,
    )


def _peaks(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most ``_MOST_POINTS`` of the points: of each stretch the highest, so that no peak is lost, and the last."""
    if len(times) <= _MOST_POINTS:
        return _short(np.asarray(times, dtype=np.float64)), _short(np.asarray(values, dtype=np.float64))
    stretches = np.array_split(np.arange(len(times) - 1), _MOST_POINTS - 1)
    y = np.asarray(values, dtype=np.float64)
    kept = np.array([*(int(part[np.argmax(y[part])]) for part in stretches), len(times) - 1])
    return _short(np.asarray(times, dtype=np.float64)[kept]), _short(y[kept])


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
