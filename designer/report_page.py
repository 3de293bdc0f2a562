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
from designer.claim import of_cells
from designer.findings import ARMS, TAILS, Entry, Findings
from designer.gates_page import gate_sections
from designer.html_parts import note, table
from designer.report_conversation import conversation_sections
from designer.report_origin import origin_section
from designer.report_style import STYLE, VIEWPORT
from designer.report_summary import NAMES, called, docstring, in_short, interval, level
from designer.swap_in import RESULT
from designer.why_page import why_sections

COLOURS = {"search": "#2a6db5", "control": "#b5482a", "tuned": "#5f8a3a"}
_MOST_SHOWN = 15
_MOST_DIFFS = 12


def page(
    findings: Findings,
    verdict: str,
    facts: Sequence[tuple[str, str]],
    refresh_seconds: int = 0,
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole page.

    Args:
        verdict: the outcome in one sentence.
        facts: name and text, for the table of figures.
        refresh_seconds: the browser is to ask again after so long; 0: never.
        links: text and address, above the title; none in a file.
    """
    title = f"Ranvier: run {html.escape(findings.run.run)}"
    again = f"<meta http-equiv='refresh' content='{refresh_seconds}'>" if refresh_seconds else ""
    head = f"<meta charset='utf-8'>{VIEWPORT}{again}<title>{title}</title>"
    anchors = "".join(f"<a href='{html.escape(to, quote=True)}'>{html.escape(text)}</a>" for text, to in links)
    nav = f"<nav>{anchors}</nav>" if links else ""
    kind = "verdict" if findings.verdict in (None, "better") else "verdict no"
    body = f"{nav}<h1>{title}</h1><p class='{kind}'>{html.escape(verdict)}</p>" + "".join(
        map(_plots, _sections(findings, facts))
    )
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>"


def _plots(section: str) -> str:
    """Plots scroll by themselves where the screen is narrower than they can be read on."""
    return section.replace("<svg ", "<div class='plot'><svg ").replace("</svg>", "</svg></div>")


def _sections(findings: Findings, facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield in_short(findings)
    yield from _policy(findings)
    yield from _sealed(findings)
    yield _best_so_far(findings)
    yield from _latest(findings)
    yield from why_sections(findings.results.get("why"))
    yield from _ablation(findings)
    yield from _regimes(findings)
    yield from gate_sections(findings.replays, findings.results.get(RESULT))
    yield from _validation(findings)
    yield from _lineage(findings)
    yield from _hypotheses(findings)
    yield from _failures(findings)
    yield from conversation_sections(findings.account, findings.said, shlex.quote(str(findings.folder)))
    yield f"<h2 id='figures'>Figures</h2>{table(('', ''), facts)}"
    yield from origin_section(findings)


# -- the evidence ---------------------------------------------------------------------------------------------------


def _policy(findings: Findings) -> Iterator[str]:
    if findings.winner_source:
        yield f"<h2>The policy</h2><p>{html.escape(docstring(findings)).replace(chr(10) * 2, '</p><p>')}</p>"
        yield f"<details><summary>Source</summary><pre>{html.escape(findings.winner_source)}</pre></details>"


def _sealed(findings: Findings) -> Iterator[str]:
    if not findings.sealed or not findings.sealed[-1].get("against"):
        return
    look = findings.sealed[-1]
    rows = [_drawn_interval(called(findings, row), row) for row in look["against"]]
    yield "<h2>Sealed result</h2>"
    yield svg.interval_chart(rows, f"winner's metric / the other's, {level(look)} interval; left: better")
    intervals = (f"ratio, {level(look)} t interval", f"{level(look)} BCa interval")
    head = ("winner's ratio to", "its mean", *intervals, "p", "worse on", "worst seed")
    yield table(head, sealed_rows(findings))
    yield note(
        f"The winner's mean is {look['mean']:.2f}; ratios are of geometric means, seed by seed. The test is against "
        "the first; the others are shown beside it."
    )
    if findings.tails:
        yield table(("seconds", *(_in_words(name) for name in TAILS)), _tail_rows(findings))
        yield note("Means over the sealed seeds: what one mean does not show. A policy may buy its mean with its tail.")


def _tail_rows(findings: Findings) -> list[tuple[str, ...]]:
    look, frozen = findings.sealed[-1], findings.frozen
    winner = [("the winner", frozen.digest)] if frozen is not None else []
    shown = [*winner, *((called(findings, row), str(row["digest"])) for row in look["against"])]
    tails = [(label, findings.tails.get(digest, {})) for label, digest in shown]
    return [(label, *(f"{tail[name]:.4g}" if name in tail else "" for name in TAILS)) for label, tail in tails]


def _in_words(name: str) -> str:
    return name.replace("_", " ").replace("ttft", "TTFT")


def _best_so_far(findings: Findings) -> str:
    shown = [arm for arm in ARMS if findings.curves.get(arm)]
    series = [svg.Series(NAMES[arm], findings.curves[arm], COLOURS[arm], steps=True) for arm in shown]
    drawn = svg.line_chart(series, "simulations spent (one policy on one seed)", "best metric / reference", 1.0)
    if not drawn:
        return "<h2>Best so far</h2><p>Nothing has been scored yet.</p>"
    return f"<h2>Best so far</h2>{drawn}" + note(
        "Ratio to the reference on train seeds: optimistic, because the best of many was picked by it. What counts is "
        "the sealed result. Controls had the same budget. A line can rise: the first figures are of one "
        "or three seeds, and the best so far is then tried on all."
    )


def _latest(findings: Findings) -> Iterator[str]:
    """What a run that goes on is about: its newest candidates, the last first."""
    going = [arm for arm in ARMS if findings.entries.get(arm)] if findings.verdict is None else []
    for arm in going[-1:]:
        rows = [_entry_row(entry, entry.record.proposal.hypothesis) for entry in findings.entries[arm][::-1]]
        yield f"<h2>Latest candidates: {NAMES[arm]}</h2>"
        yield table(("candidate", "hypothesis", "predicted", "observed"), rows[:_MOST_SHOWN])


def _ablation(findings: Findings) -> Iterator[str]:
    ablation = findings.results.get("ablation") or {}
    rows = [row for row in ablation.get("rows", ()) if "ratio" in row]
    if rows:
        drawn = [_drawn_interval(f"without {row['component']}", row) for row in rows]
        label = "metric without it / with it, 95 % interval; right: it helps"
        yield f"<h2>Ablation</h2>{svg.interval_chart(drawn, label)}"
        shown = [(row["component"], interval(row), f"{row['adjusted_p']:.2g}") for row in rows]
        yield table(("component", "ratio without it, 95 % t interval", "p, adjusted for all of them"), shown)
        failed = [f"{row['component']} (failed)" for row in ablation["rows"] if "failure" in row]
        if unknown := [*failed, *ablation.get("not_tried", ())]:
            yield note(f"Not known: what these are worth: {'; '.join(unknown)}.")


def _regimes(findings: Findings) -> Iterator[str]:
    certificate = findings.results.get("certificate")
    if not certificate or not certificate["cells"]:
        return
    rivals = {_rival(row): called(findings, row) for cell in certificate["cells"] for row in cell["against"]}
    cells = [[_ratio_to(cell, rival) for rival in rivals] for cell in certificate["cells"]]
    yield "<h2>Regime map</h2>"
    yield svg.heat_map(list(rivals.values()), [cell["regime"] for cell in certificate["cells"]], cells)
    seeds = f"{certificate['seeds']} seeds in each regime"
    yield note(f"The winner's metric / the other's, {seeds}; blue is better. It has no part in the verdict.")
    yield from (f"<p>{html.escape(line)}</p>" for line in of_cells(certificate))
    if certificate.get("won_in"):
        yield "<p>Won where a gateway measures:</p>"
        where = certificate.get("measures", {})
        ranges = certificate["won_in"].items()
        rows = [(what, f"{low:g}", f"{high:g}", where.get(what, "")) for what, (low, high) in ranges]
        yield table(("measure", "from", "to", "where it is"), rows)


def _rival(row: Mapping[str, Any]) -> str:
    """A certificate of an earlier version has names alone."""
    return str(row.get("digest", row["label"]))


def _ratio_to(cell: Mapping[str, Any], rival: str) -> float | None:
    return next((float(row["ratio"]) for row in cell["against"] if _rival(row) == rival), None)


def _validation(findings: Findings) -> Iterator[str]:
    if findings.validation and findings.validation.get("finalists"):
        label = html.escape(str(findings.validation["comparator_label"]))
        finalists = findings.validation["finalists"]
        rows = [(row["digest"][:12], interval(row), f"{row['adjusted_p']:.2g}") for row in finalists]
        yield f"<h2>Validation</h2><p>Against {label}.</p>"
        yield table(("finalist", "ratio, 95 % t interval", "adjusted p"), rows)


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
            called(findings, r),
            f"{r['mean']:.2f}",
            interval(r),
            interval(r, "bca_interval"),
            f"{r['p_value']:.2g}",
            f"{r['num_worse']} of {r['num_seeds']}" if "num_worse" in r else "",
            f"{r['worst_ratio']:.2f}" if "worst_ratio" in r else "",
        )
        for r in rows
    ]


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
    seeds = len(entry.outcome.scores)
    return f"{entry.observed_effect:.3f} ({seeds} seed{'s' if seeds > 1 else ''})"
