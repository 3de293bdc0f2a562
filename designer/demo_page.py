"""The demo's page: what was measured beside what was simulated, and the policy that made the difference."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

Pair = tuple[list[float], list[float]]
Row = tuple[str, float, float]


def write_page(path: Path, measured: Pair, simulated: Pair, winner: Path, rows: Sequence[Row]) -> None:
    """One self-contained HTML file: response times in seconds, (before, after) of each pair."""
    figure = distribution(measured, simulated).to_html(full_html=False, include_plotlyjs="inline")
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{old:.2f}</td><td>{new:.2f}</td><td>{old / new:.2f}</td></tr>"
        for name, old, new in rows
    )
    path.write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Ranvier demo</title>"
        "<style>body{font:15px system-ui;max-width:64rem;margin:2rem auto;padding:0 1rem}"
        "td,th{padding:.2rem 1rem;text-align:right}th:first-child{text-align:left}"
        "pre{background:#f6f6f6;padding:1rem;overflow:auto}</style>"
        "<h1>The same trace before and after</h1>"
        f"<table><tr><th></th><th>before, s</th><th>after, s</th><th>before / after</th></tr>{cells}</table>"
        f"{figure}<h2>{html.escape(winner.name)}</h2><pre>{html.escape(winner.read_text())}</pre></html>",
        encoding="utf-8",
    )


def distribution(measured: Pair, simulated: Pair) -> go.Figure:
    """Cumulative distributions: solid measured, dotted simulated."""
    figure = go.Figure()
    for name, colour, real, model in (
        ("before", "#b5482a", measured[0], simulated[0]),
        ("after", "#2a6db5", measured[1], simulated[1]),
    ):
        for label, values, dash in (("measured", real, "solid"), ("simulated", model, "dot")):
            ordered = sorted(values)
            share = [(i + 1) / len(ordered) for i in range(len(ordered))]
            line = {"color": colour, "dash": dash}
            figure.add_trace(go.Scatter(x=ordered, y=share, mode="lines", name=f"{name}, {label}", line=line))
    figure.update_layout(
        xaxis={"title": "response time, s", "type": "log"},
        yaxis={"title": "share of requests"},
        template="simple_white",
    )
    return figure
