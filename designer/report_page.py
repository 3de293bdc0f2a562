"""A run as one HTML page that needs nothing else: no script, no image, nothing from elsewhere. Read from the top.

What a platform engineer wants to know comes first: what was found, how sure that is, what the policy does, where it is
worst, and how to put it in and take it out again. The rest is the evidence.
"""

from __future__ import annotations

import difflib
import html
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from designer import svg
from designer.claim import shortcomings
from designer.findings import ARMS, Entry, Findings
from designer.gates_page import gate_sections
from designer.html_parts import note, table
from designer.replay_evidence import contradiction_in
from designer.swap_in import RESULT, harm_in
from designer.why_page import why_sections

COLOURS = {"search": "#2a6db5", "control": "#b5482a", "tuned": "#5f8a3a"}
NAMES = {"search": "search", "control": "random control", "tuned": "tuned baselines"}
_MOST_SHOWN = 15
_MOST_DIFFS = 12
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin:2.2rem 0 .4rem;border-top:1px solid #ddd;padding-top:1rem}"
    "table{border-collapse:collapse;margin:.8rem 0}td,th{padding:.25rem .8rem .25rem 0;text-align:left;"
    "vertical-align:top;border-bottom:1px solid #e4e4e4}th{font-weight:600;color:#555}"
    "pre{background:#f6f6f6;padding:1rem;overflow:auto;font-size:13px;line-height:1.4}"
    ".verdict{font-size:1.15rem;padding:.8rem 1rem;background:#eef4fb;border-left:4px solid #2a6db5}"
    ".verdict.no{background:#faf3ec;border-color:#b5482a}.note{color:#666;font-size:13px}li{margin:.3rem 0}"
    "svg{width:100%;max-width:46rem;height:auto;display:block;margin:.6rem 0}svg text{font:12px system-ui,sans-serif;"
    "fill:#444}svg .grid{stroke:#eee}svg .level{stroke:#999;stroke-dasharray:4 4}svg .cell{fill:#222}"
    "details{margin:.4rem 0}summary{cursor:pointer}.add{color:#1b6e2d}.del{color:#b00020}"
)


def page(findings: Findings, verdict: str, facts: Sequence[tuple[str, str]], refresh_seconds: int = 0) -> str:
    """The whole page.

    Args:
        verdict: the outcome in one sentence.
        facts: name and text, for the table of figures.
        refresh_seconds: the browser is to ask again after so long; 0: never.
    """
    title = f"Ranvier: run {html.escape(findings.run.run)}"
    again = f"<meta http-equiv='refresh' content='{refresh_seconds}'>" if refresh_seconds else ""
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'>{again}<title>{title}</title>"
    kind = "verdict" if findings.verdict in (None, "better") else "verdict no"
    body = f"<h1>{title}</h1><p class='{kind}'>{html.escape(verdict)}</p>" + "".join(_sections(findings, facts))
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>"


def _sections(findings: Findings, facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield _in_short(findings)
    yield from _policy(findings)
    yield from _sealed(findings)
    yield _best_so_far(findings)
    yield from why_sections(findings.results.get("why"))
    yield from _ablation(findings)
    yield from _regimes(findings)
    yield from gate_sections(findings.replays, findings.results.get(RESULT))
    yield from _validation(findings)
    yield from _lineage(findings)
    yield from _hypotheses(findings)
    yield f"<h2>Cost and figures</h2>{table(('', ''), facts)}{_roles(findings)}"
    yield from _failures(findings)


# -- in five minutes ------------------------------------------------------------------------------------------------


def _in_short(findings: Findings) -> str:
    points = [
        *_what_it_does(findings),
        *_how_sure(findings),
        *_short_of(findings),
        *_beside_it(findings),
        *_where_worst(findings),
        *_controls(findings),
    ]
    points += _what_to_do(findings)
    return "<h2>In short</h2><ul>" + "".join(f"<li>{point}</li>" for point in points) + "</ul>"


def _what_it_does(findings: Findings) -> Iterator[str]:
    if findings.winner_source:
        yield f"<b>What it does.</b> {html.escape(_docstring(findings).partition(chr(10) * 2)[0])}"
    why = findings.results.get("why")
    if why:
        yield f"<b>Why it wins.</b> {html.escape(why['sentence'])}"


def _how_sure(findings: Findings) -> Iterator[str]:
    if not findings.sealed or "ratio" not in findings.sealed[-1]:
        return
    look = findings.sealed[-1]
    text = (
        f"{look['num_seeds']} workloads that did not exist while it was written; p {look['p_value']:.2g}. "
        "Policy, comparator, metric and margin were fixed before they were drawn."
    )
    if findings.selection_bias is not None:
        text += f" Sealed ratio / ratio on the search's own workloads: {findings.selection_bias:.3f}"
        text += " (above 1, the search flattered its winner)."
    yield f"<b>How sure.</b> {html.escape(text)}"


def _short_of(findings: Findings) -> Iterator[str]:
    """What the claim does not cover, and no reader should take it to."""
    for line in shortcomings(findings.validation, findings.sealed):
        yield f"<b>Not shown.</b> {html.escape(line)}"


def _beside_it(findings: Findings) -> Iterator[str]:
    """What it was not better than, on the same seeds: no part of the test, and nothing to be left unsaid."""
    shown = findings.sealed[-1].get("against", []) if findings.sealed else []
    rows = [row for row in shown[1:] if row["t_interval"][1] >= 1.0]
    if rows:
        said = ", ".join(f"{row['label']} {interval(row)}" for row in rows)
        yield f"<b>Not better than</b> these, which were shown beside it and not tested: {html.escape(said)}."


def _where_worst(findings: Findings) -> Iterator[str]:
    certificate = findings.results.get("certificate")
    if not certificate or not certificate.get("worst"):
        return
    worst, cells = certificate["worst"], certificate["cells"]
    won = sum(1 for cell in cells if cell["won"])
    text = (
        f"Of {len(cells)} regimes it won {won}. At its worst, {worst['regime']}, its metric is {worst['ratio']:.3f} "
        f"of {worst['label']}."
    )
    yield f"<b>Where it is worst.</b> {html.escape(text)}"


def _controls(findings: Findings) -> Iterator[str]:
    ends = {arm: findings.curves[arm][-1][1] for arm in ARMS if findings.curves.get(arm)}
    if len(ends) > 1:
        said = ", ".join(f"{NAMES[arm]} {ratio:.3f}" for arm, ratio in ends.items())
        yield f"<b>Against chance.</b> Best train ratio at equal budget: {html.escape(said)}."


def _what_to_do(findings: Findings) -> Iterator[str]:
    run = shlex.quote(str(findings.folder))
    if findings.verdict is None:
        yield f"<b>Next.</b> <code>designer resume {html.escape(run)}</code> if it is not running."
        return
    if findings.frozen is None:
        yield "<b>Next.</b> Nothing is to be promoted. A larger budget, or another scenario, is another run."
        return
    contradicted = bool(contradiction_in(findings.replays))
    if not findings.replays:
        yield f"<b>Next.</b> Through the real gateway: <code>designer replay {html.escape(run)}</code>."
    elif contradicted:
        yield "<b>Next.</b> The replay through the real gateway contradicts the simulator: it is not promoted."
    if harm := harm_in(findings.results.get(RESULT)):
        yield f"<b>Not as it is.</b> {html.escape(harm)}"
    elif findings.verdict == "better" and not contradicted:
        there = "--gateway http://127.0.0.1:9000"
        yield (
            f"<b>Put it in.</b> <code>designer promote {html.escape(run)} {there}</code>; "
            f"<b>take it out:</b> <code>designer rollback {there}</code>."
        )


# -- the evidence ---------------------------------------------------------------------------------------------------


def _policy(findings: Findings) -> Iterator[str]:
    if findings.winner_source:
        yield f"<h2>The policy</h2><p>{html.escape(_docstring(findings)).replace(chr(10) * 2, '</p><p>')}</p>"
        yield f"<details><summary>Source</summary><pre>{html.escape(findings.winner_source)}</pre></details>"


def _docstring(findings: Findings) -> str:
    parts = findings.winner_source.split('"""')
    return parts[1].strip() if len(parts) > 2 else ""


def _sealed(findings: Findings) -> Iterator[str]:
    if not findings.sealed or not findings.sealed[-1].get("against"):
        return
    look = findings.sealed[-1]
    rows = [_drawn_interval(_label(findings, row), row) for row in look["against"]]
    yield "<h2>Sealed result</h2>"
    yield svg.interval_chart(rows, "winner's metric / the other's, with its interval; left of the line is better")
    head = ("winner's ratio to", "its mean", "ratio, t interval", "BCa interval", "p")
    yield table(head, sealed_rows(findings))
    yield note(
        f"The winner's mean is {look['mean']:.2f}; ratios are of geometric means, seed by seed. The test is against "
        "the first; the others are shown beside it."
    )


def _best_so_far(findings: Findings) -> str:
    shown = [arm for arm in ARMS if findings.curves.get(arm)]
    series = [svg.Series(NAMES[arm], findings.curves[arm], COLOURS[arm], steps=True) for arm in shown]
    drawn = svg.line_chart(series, "simulations spent (one policy on one seed)", "best metric / reference", 1.0)
    if not drawn:
        return "<h2>Best so far</h2><p>Nothing has been scored yet.</p>"
    return f"<h2>Best so far</h2>{drawn}" + note(
        "Ratio to the reference on train seeds: optimistic, because the best of many was picked by it. What counts is "
        "the sealed result. Controls had the same budget."
    )


def _ablation(findings: Findings) -> Iterator[str]:
    ablation = findings.results.get("ablation")
    rows = [row for row in (ablation or {}).get("rows", ()) if "ratio" in row]
    if rows:
        drawn = [_drawn_interval(f"without {row['component']}", row) for row in rows]
        label = "metric without the component / with it; right of the line, it helps"
        yield f"<h2>Ablation</h2>{svg.interval_chart(drawn, label)}"
        yield table(("component", "ratio without it"), [(row["component"], interval(row)) for row in rows])


def _regimes(findings: Findings) -> Iterator[str]:
    certificate = findings.results.get("certificate")
    if not certificate or not certificate["cells"]:
        return
    labels = [row["label"] for row in certificate["cells"][0]["against"]]
    cells = [[_ratio_to(cell, label) for label in labels] for cell in certificate["cells"]]
    yield "<h2>Regime map</h2>"
    yield svg.heat_map(labels, [cell["regime"] for cell in certificate["cells"]], cells)
    seeds = f"{certificate['seeds']} seeds in each regime"
    yield note(f"The winner's metric / the other's, {seeds}; blue is better. It has no part in the verdict.")
    if certificate.get("won_in"):
        yield "<p>Won where a gateway measures:</p>"
        ranges = certificate["won_in"].items()
        yield table(("measure", "from", "to"), [(what, f"{low:g}", f"{high:g}") for what, (low, high) in ranges])


def _ratio_to(cell: Mapping[str, Any], label: str) -> float | None:
    return next((float(row["ratio"]) for row in cell["against"] if row["label"] == label), None)


def _validation(findings: Findings) -> Iterator[str]:
    if findings.validation and findings.validation.get("finalists"):
        label = html.escape(str(findings.validation["comparator_label"]))
        finalists = findings.validation["finalists"]
        rows = [(row["digest"][:12], interval(row), f"{row['adjusted_p']:.2g}") for row in finalists]
        yield f"<h2>Validation</h2><p>Against {label}.</p>"
        yield table(("finalist", "ratio, t interval", "adjusted p"), rows)


def _lineage(findings: Findings) -> Iterator[str]:
    chain = findings.lineage()
    if not chain:
        return
    yield "<h2>Lineage</h2>"
    rows = [_entry_row(entry, entry.record.proposal.change) for entry in chain]
    yield table(("candidate", "what was done", "predicted", "observed"), rows)
    for child, parent in pairwise(chain[: _MOST_DIFFS + 1]):
        yield f"<details><summary>{name(parent)} → {name(child)}</summary><pre>{_diff(parent, child)}</pre></details>"


def _diff(parent: Entry, child: Entry) -> str:
    before, after = (entry.record.proposal.source.splitlines() for entry in (parent, child))
    lines = difflib.unified_diff(before, after, name(parent), name(child), lineterm="", n=1)
    return "\n".join(_marked(line) for line in lines)


def _marked(line: str) -> str:
    kind = {"+": "add", "-": "del"}.get(line[:1], "")
    return f"<span class='{kind}'>{html.escape(line)}</span>" if kind else html.escape(line)


def _hypotheses(findings: Findings) -> Iterator[str]:
    points = [_predicted_points(arm, findings.entries[arm]) for arm in ARMS if findings.entries.get(arm)]
    drawn = svg.diagonal_chart([one for one in points if one.points], "predicted metric / reference", "observed")
    if drawn:
        yield f"<h2>Hypotheses</h2>{drawn}"
        yield note("On the line: it came as predicted. Above it: it was worse than predicted.")
    for arm in ARMS:
        if findings.entries.get(arm):
            best = sorted(findings.entries[arm], key=lambda e: (e.observed_effect is None, e.observed_effect or 0.0))
            rows = [_entry_row(entry, entry.record.proposal.hypothesis) for entry in best[:_MOST_SHOWN]]
            yield f"<h2>Best of {len(best)} candidates: {NAMES[arm]}</h2>"
            yield table(("candidate", "hypothesis", "predicted", "observed"), rows)


def _predicted_points(arm: str, entries: Sequence[Entry]) -> svg.Series:
    known = ((entry.record.proposal.predicted_effect, entry.observed_effect) for entry in entries)
    points = [(predicted, observed) for predicted, observed in known if predicted is not None and observed is not None]
    return svg.Series(NAMES[arm], points, COLOURS[arm], joined=False)


def _roles(findings: Findings) -> str:
    if not findings.roles:
        return ""
    rows = [
        (r.role, str(r.replies), f"{r.prompt_tokens:,}", f"{r.completion_tokens:,}", f"{r.dollars:.4f}")
        for r in findings.roles
    ]
    return table(("role of a model", "replies", "prompt tokens", "tokens written", "dollars"), rows)


def _failures(findings: Findings) -> Iterator[str]:
    failed = [e for arm in ARMS for e in findings.entries.get(arm, ()) if e.outcome.status == "failed"]
    if failed:
        yield f"<h2>{len(failed)} candidates failed</h2>"
        yield table(("candidate", "reason"), [(name(e), e.outcome.reason) for e in failed[:_MOST_SHOWN]])


# -- pieces ---------------------------------------------------------------------------------------------------------


def sealed_rows(findings: Findings) -> list[tuple[str, ...]]:
    rows = findings.sealed[-1].get("against", []) if findings.sealed else []
    return [
        (
            _label(findings, r),
            f"{r['mean']:.2f}",
            interval(r),
            interval(r, "bca_interval"),
            f"{r['p_value']:.2g}",
        )
        for r in rows
    ]


def _label(findings: Findings, row: Mapping[str, Any]) -> str:
    """The comparator is called by the name it was found under."""
    frozen = findings.frozen
    is_comparator = frozen is not None and row["digest"] == frozen.comparator
    return findings.labels[row["digest"]] if is_comparator else str(row["label"])


def _drawn_interval(label: str, row: Mapping[str, Any]) -> svg.Interval:
    low, high = row["t_interval"]
    return svg.Interval(label, low, row["ratio"], high)


def name(entry: Entry) -> str:
    return f"{entry.record.number} {entry.record.proposal.candidate_hash[:8]}"


def _entry_row(entry: Entry, text: str) -> tuple[str, ...]:
    effect = entry.record.proposal.predicted_effect
    return name(entry), text, "" if effect is None else f"{effect:.3f}", observed(entry)


def observed(entry: Entry) -> str:
    if entry.observed_effect is None:
        return entry.outcome.status
    return f"{entry.observed_effect:.3f} ({len(entry.outcome.scores)} seeds)"


def interval(row: Mapping[str, Any], which: str = "t_interval") -> str:
    low, high = row[which]
    return f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]" if which == "t_interval" else f"[{low:.3f}, {high:.3f}]"
