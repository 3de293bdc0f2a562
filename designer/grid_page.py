"""A grid as one self-contained HTML page: a heat map of paired ratios for each two policies and each kind of load."""

from __future__ import annotations

import html
import math

import plotly.graph_objects as go

from designer.grid import Grid, tables

_STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}"


def to_html(grid: Grid) -> str:
    """The whole page. Blue: the first policy is better; red: the comparator is."""
    title = f"Regimes of {grid.scenario}"
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>{len(grid.cells)} cells, {len(grid.seeds)} seeds each; geometric mean of the ratios on the same seeds, "
        "below 1 (blue) the first policy is better.</p>"
    ]
    library = "inline"
    for policy, comparator in grid.pairs():
        worst = grid.worst(policy, comparator)
        parts.append(f"<h2>{html.escape(policy)} against {html.escape(comparator)}</h2>")
        parts.append(f"<p>Worst cell: {html.escape(worst.regime.name)}, ratio {worst.ratio:.3f}.</p>")
        for title, rows in tables(grid, policy, comparator):
            parts.append(f"<h3>{html.escape(title.strip().rstrip(':'))}</h3>" if title else "")
            parts.append(str(_heat_map(rows).to_html(full_html=False, include_plotlyjs=library or False)))
            library = ""
    return "".join([*parts, "</html>"])


def _heat_map(rows: dict[float, dict[float, float]]) -> go.Figure:
    loads = list(next(iter(rows.values())))
    ratios = [[row[load] for load in loads] for row in rows.values()]
    logs = [[math.log(ratio) for ratio in row] for row in ratios]
    far = max(0.1, *(abs(value) for row in logs for value in row))
    figure = go.Figure(
        go.Heatmap(
            z=logs,
            x=[f"load x{load:g}" for load in loads],
            y=[f"KV x{kv:g}" for kv in rows],
            text=[[f"{ratio:.3f}" for ratio in row] for row in ratios],
            texttemplate="%{text}",
            colorscale="RdBu_r",
            zmin=-far,
            zmax=far,
            showscale=False,
        )
    )
    figure.update_layout(
        template="plotly_white", height=90 + 60 * len(rows), margin={"t": 10, "b": 40, "l": 80, "r": 20}
    )
    return figure
