"""A run as text for a terminal and as one self-contained HTML page. Ratios below 1 are improvements."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from designer.findings import ARMS, Entry, Findings

_COLOURS = {"search": "#2a6db5", "control": "#b5482a", "tuned": "#5f8a3a"}
_NAMES = {"search": "search", "control": "random control", "tuned": "tuned baselines"}
_MOST_SHOWN = 15
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;text-align:right;vertical-align:top;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child,td.text{text-align:left}"
    "pre{background:#f6f6f6;padding:1rem;overflow:auto;font-size:13px}.verdict{font-size:1.15rem;padding:.8rem 1rem;"
    "background:#eef4fb;border-left:4px solid #2a6db5}.note{color:#666;font-size:13px}"
)


def verdict_line(findings: Findings) -> str:
    """The outcome of the run in one sentence."""
    if findings.verdict is None:
        return "The run has not ended; designer resume goes on with it."
    if findings.frozen is None:
        return f"Nothing better was found: {_nearest(findings)}."
    look, margin = findings.sealed[-1], findings.frozen.margin
    comparator = findings.labels[findings.frozen.comparator]
    if "ratio" not in look:
        return f"The winner failed on the sealed seeds: {look['error']}"
    size = f"{1 / look['ratio']:.2f} times" if look["ratio"] < 1 else f"a ratio of {look['ratio']:.3f}"
    said = {
        "better": f"Better than {comparator}: {size} lower",
        "worse": f"Not better than {comparator}: {size}",
        "undecided": f"Undecided against {comparator}: {size}, the interval is not clear of the margin",
    }[findings.verdict]
    seeds = f"{look['num_seeds']} sealed seeds"
    return f"{said}, ratio {_interval(look)}, p {look['p_value']:.2g}, margin {margin:.0%}, {seeds}."


def _nearest(findings: Findings) -> str:
    """How near the best finalist came to what validation asks for."""
    validation = findings.validation or {}
    if not validation.get("finalists"):
        return "no candidate beat the reference on the train seeds, or none of them kept the contract"
    best = min(validation["finalists"], key=lambda row: row["ratio"])
    return (
        f"the best of {len(validation['finalists'])} finalists came to {_interval(best)} of "
        f"{validation['comparator_label']} on {best['num_seeds']} validation seeds, adjusted p {best['adjusted_p']:.2g}"
    )


def to_text(findings: Findings) -> str:
    """For a terminal."""
    lines = [
        f"run {findings.run.run}: scenario {findings.run.scenario_name}, proposer {_setting(findings, 'proposer')}, "
        f"budget {_setting(findings, 'budget')} simulations, seed {_setting(findings, 'seed')}",
        verdict_line(findings),
        *(f"  {name}: {text}" for name, text in _facts(findings)),
    ]
    if findings.sealed:
        lines.append(f"sealed, winner's ratio to (its mean {_winner_mean(findings)}; ratios are of geometric means):")
        lines += [f"  {row[0]:<32} mean {row[1]:>8}  {row[2]}  p {row[4]}" for row in _sealed_rows(findings)]
    controls = (findings.validation or {}).get("controls", {})
    if not findings.sealed and controls:
        lines.append(f"validation, ratio to {findings.validation['comparator_label']}:" if findings.validation else "")
        lines += [
            f"  {_NAMES[arm]:<32} {_interval(row) if 'ratio' in row else row['failure']}"
            for arm, row in controls.items()
        ]
    if findings.winner_source:
        lines += ["", findings.winner_source.split('"""')[1].strip()]
    return "\n".join(lines)


def to_json(findings: Findings) -> dict[str, Any]:
    """For a program."""
    return {
        "run": findings.run.run,
        "scenario": findings.run.scenario_name,
        "settings": dict(findings.run.settings),
        "verdict": findings.verdict,
        "summary": verdict_line(findings),
        "winner": None if findings.frozen is None else findings.frozen.digest,
        "comparator": None if findings.frozen is None else findings.labels[findings.frozen.comparator],
        "validation": findings.validation,
        "sealed": list(findings.sealed),
        "selection_bias": findings.selection_bias,
        "share_beating_reference": {arm: findings.share_beating_reference(arm) for arm in ARMS},
        "best_so_far": {arm: list(findings.curves[arm]) for arm in ARMS},
        "simulations": dict(findings.simulations),
        "wall_seconds": findings.wall_seconds,
        "layers": list(findings.layers),
    }


def write_html(findings: Findings, path: Path) -> None:
    """One file that needs nothing else."""
    body = "".join(_sections(findings))
    title = f"Ranvier: run {html.escape(findings.run.run)}"
    path.write_text(
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>",
        encoding="utf-8",
    )


def _sections(findings: Findings) -> Iterator[str]:
    yield f"<p class='verdict'>{html.escape(verdict_line(findings))}</p>"
    yield _table(("", ""), _facts(findings))
    yield f"<h2>Best so far</h2>{_plot(findings)}"
    yield (
        "<p class='note'>Estimated ratio to the reference on train seeds: an optimistic number, because the best of "
        "many was picked by it. What counts is the sealed result.</p>"
    )
    if findings.sealed:
        yield "<h2>Sealed result</h2>"
        yield f"<p>The winner's mean is {_winner_mean(findings)}; the ratios are of geometric means, seed by seed.</p>"
        yield _table(
            ("winner's ratio to", "its mean", "ratio, t interval", "BCa interval", "p"), _sealed_rows(findings)
        )
    if findings.validation and findings.validation.get("finalists"):
        yield f"<h2>Validation</h2><p>Against {html.escape(str(findings.validation['comparator_label']))}.</p>"
        yield _table(("finalist", "ratio, t interval", "adjusted p"), _validation_rows(findings))
    if findings.winner_source:
        yield "<h2>The policy</h2>"
        yield f"<pre>{html.escape(findings.winner_source)}</pre>"
        yield "<h2>Lineage</h2>"
        yield _table(("candidate", "what was done", "predicted", "observed"), _entry_rows(findings.lineage()))
    for arm in ARMS:
        if findings.entries[arm]:
            yield f"<h2>Best of {len(findings.entries[arm])} candidates: {_NAMES[arm]}</h2>"
            best = sorted(findings.entries[arm], key=lambda e: (e.observed_effect is None, e.observed_effect or 0.0))
            yield _table(("candidate", "hypothesis", "predicted", "observed"), _hypothesis_rows(best[:_MOST_SHOWN]))
    yield from _failures(findings)


def _facts(findings: Findings) -> list[tuple[str, str]]:
    facts = [("scenario", f"{findings.run.scenario_name} ({findings.run.scenario_hash[:12]})")]
    for arm in ARMS:
        share = findings.share_beating_reference(arm)
        if share is not None:
            reference = _setting(findings, "baselines")[0]
            facts.append((_NAMES[arm], f"{len(findings.entries[arm])} candidates, {share:.0%} beat {reference}"))
    if findings.selection_bias is not None and findings.winner_train_ratio is not None:
        facts.append(
            (
                "selection bias",
                f"train ratio {findings.winner_train_ratio:.3f}, sealed / train {findings.selection_bias:.3f}",
            )
        )
    spent = ", ".join(f"{kind} {count}" for kind, count in findings.simulations.items())
    facts.append(("simulations", f"{spent}; {findings.wall_seconds:.0f} s"))
    facts.append(("confined by", ", ".join(findings.layers)))
    return facts


def _sealed_rows(findings: Findings) -> list[tuple[str, ...]]:
    rows = findings.sealed[-1].get("against", []) if findings.sealed else []
    return [
        (
            str(row["label"]),
            f"{row['mean']:.2f}",
            _interval(row),
            _interval(row, "bca_interval"),
            f"{row['p_value']:.2g}",
        )
        for row in rows
    ]


def _winner_mean(findings: Findings) -> str:
    return f"{findings.sealed[-1]['mean']:.2f}" if "mean" in findings.sealed[-1] else "unknown"


def _validation_rows(findings: Findings) -> list[tuple[str, ...]]:
    rows = findings.validation["finalists"] if findings.validation else []
    return [(row["digest"][:12], _interval(row), f"{row['adjusted_p']:.2g}") for row in rows]


def _entry_rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    return [(_name(e), e.record.proposal.change, _predicted(e), _observed(e)) for e in entries]


def _hypothesis_rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    return [(_name(e), e.record.proposal.hypothesis, _predicted(e), _observed(e)) for e in entries]


def _failures(findings: Findings) -> Iterator[str]:
    failed = [e for arm in ARMS for e in findings.entries[arm] if e.outcome.status == "failed"]
    if failed:
        yield f"<h2>{len(failed)} candidates failed</h2>"
        yield _table(("candidate", "reason"), [(_name(e), e.outcome.reason) for e in failed[:_MOST_SHOWN]])


def _name(entry: Entry) -> str:
    return f"{entry.record.number} {entry.record.proposal.candidate_hash[:8]}"


def _predicted(entry: Entry) -> str:
    effect = entry.record.proposal.predicted_effect
    return "" if effect is None else f"{effect:.3f}"


def _observed(entry: Entry) -> str:
    if entry.observed_effect is None:
        return entry.outcome.status
    return f"{entry.observed_effect:.3f} ({len(entry.outcome.scores)} seeds)"


def _interval(row: Mapping[str, Any], which: str = "t_interval") -> str:
    low, high = row[which]
    return f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]" if which == "t_interval" else f"[{low:.3f}, {high:.3f}]"


def _setting(findings: Findings, name: str) -> Any:
    return findings.run.settings[name]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td{_text_class(cell)}>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{heading}</tr>{lines}</table>"


def _text_class(cell: str) -> str:
    return " class='text'" if len(cell) > 20 else ""


def _plot(findings: Findings) -> str:
    figure = go.Figure()
    for arm in ARMS:
        curve = findings.curves[arm]
        if curve:
            spent, best = zip(*curve, strict=True)
            line = {"color": _COLOURS[arm], "shape": "hv"}
            figure.add_trace(go.Scatter(x=spent, y=best, name=_NAMES[arm], line=line, mode="lines+markers"))
    figure.add_hline(y=1.0, line_dash="dot", line_color="#999")
    figure.update_layout(
        template="plotly_white",
        height=380,
        margin={"t": 20, "l": 60, "r": 20, "b": 50},
        xaxis_title="simulations spent (one policy on one seed)",
        yaxis_title="metric / reference",
    )
    return str(figure.to_html(full_html=False, include_plotlyjs="inline"))
