"""The top of a report: what a platform engineer wants to know, one point each, in the order they would ask."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from designer.claim import shortcomings
from designer.findings import ARMS, Findings
from designer.replay_evidence import contradiction_in
from designer.swap_in import RESULT, harm_in

NAMES = {"search": "search", "control": "random control", "tuned": "tuned baselines"}
_GATEWAY = "--gateway http://127.0.0.1:9000"
_MOST_NAMED = 4
_ASTRAY = 1.2
"""Of one seed, to another policy's: told in the summary."""
_RULES = ("Admission:", "Choice:", "Queue order:", "Replicas wanted:", "Engine:")
"""How the paragraphs of a policy of ours begin that say what it does."""


def in_short(findings: Findings) -> str:
    """A list; every text of a candidate's author is escaped."""
    points = [
        *_what_it_does(findings),
        *_how_much(findings),
        *_how_sure(findings),
        *_short_of(findings),
        *_beside_it(findings),
        *_bad_days(findings),
        *_where_worst(findings),
        *_in_reality(findings),
        *_controls(findings),
        *_what_it_cost(findings),
        *_what_to_do(findings),
    ]
    return "<h2 id='short'>In short</h2><ul>" + "".join(f"<li>{point}</li>" for point in points) + "</ul>"


def docstring(findings: Findings) -> str:
    """Of the winner's module."""
    parts = findings.winner_source.split('"""')
    return parts[1].strip() if len(parts) > 2 else ""


def _what_it_does(findings: Findings) -> Iterator[str]:
    if findings.winner_source:
        paragraphs = [" ".join(one.split()) for one in docstring(findings).split("\n\n")]
        rules = [one for one in paragraphs if one.startswith(_RULES)]
        yield f"<b>What it does.</b> {html.escape(' '.join(rules or paragraphs[:1]))}"
    why = findings.results.get("why")
    if why:
        yield f"<b>Why it wins.</b> {html.escape(why['sentence'])}"


def _how_much(findings: Findings) -> Iterator[str]:
    """In the scenario's own unit, beside everything that was scored on the same seeds."""
    look = findings.sealed[-1] if findings.sealed else {}
    if findings.frozen is None or "mean" not in look:
        return
    rows = [row for row in look.get("against", ()) if "ratio" in row]
    beside = ", ".join(
        f"{row['mean']:.4g} under {called(findings, row)}{_of_what(findings, row)} (ratio {row['ratio']:.3f})"
        for row in rows
    )
    metric = findings.frozen.metric.replace("_", " ") + (" in seconds" if "time" in findings.frozen.metric else "")
    text = f"{metric}, mean of the sealed seeds: {look['mean']:.4g}; {beside}."
    yield f"<b>How much better.</b> {html.escape(text)}"


def called(findings: Findings, row: Mapping[str, Any]) -> str:
    """The comparator is called by the name it was found under, wherever it is named."""
    return findings.labels[row["digest"]] if _is_comparator(findings, row) else str(row["label"])


def _of_what(findings: Findings, row: Mapping[str, Any]) -> str:
    return ", the best in use" if _is_comparator(findings, row) else ""


def _is_comparator(findings: Findings, row: Mapping[str, Any]) -> bool:
    return findings.frozen is not None and row.get("digest") == findings.frozen.comparator


def _how_sure(findings: Findings) -> Iterator[str]:
    if not findings.sealed or "ratio" not in findings.sealed[-1]:
        return
    look = findings.sealed[-1]
    text = (
        f"{look['num_seeds']} workloads that did not exist while it was written; p {look['p_value']:.2g}. "
        "Policy, comparator, metric and margin were fixed before they were drawn."
    )
    if findings.selection_bias is not None and findings.winner_train_ratio is not None:
        flattered = "flattered its winner by that much" if findings.selection_bias > 1 else "did not flatter its winner"
        text += (
            f" Selection bias: ratio {look['ratio']:.3f} here over {findings.winner_train_ratio:.3f} on the workloads "
            f"of the search is {findings.selection_bias:.3f}: the search {flattered}."
        )
    yield f"<b>How sure.</b> {html.escape(text)}"


def _short_of(findings: Findings) -> Iterator[str]:
    """What the claim does not cover, and no reader should take it to."""
    for line in shortcomings(findings.validation, findings.sealed):
        yield f"<b>Not shown.</b> {html.escape(line)}"


def _beside_it(findings: Findings) -> Iterator[str]:
    """What it was not better than, on the same seeds: no part of the test, and nothing to be left unsaid."""
    for words, said in beside_it(findings):
        yield f"<b>{words}</b> these, which were shown beside it and not tested: {html.escape(said)}."


def beside_it(findings: Findings) -> Iterator[tuple[str, str]]:
    """Of the policies that were shown beside the comparator: which the winner was worse than, and which no better."""
    shown = findings.sealed[-1].get("against", []) if findings.sealed else []
    rows = [row for row in shown[1:] if "ratio" in row and row["t_interval"][1] >= 1.0]
    worse = [row for row in rows if row["t_interval"][0] > 1.0]
    for words, some in (("Worse than", worse), ("Not better than", [row for row in rows if row not in worse])):
        if some:
            yield words, ", ".join(f"{called(findings, row)} {interval(row)}" for row in some)


def _bad_days(findings: Findings) -> Iterator[str]:
    """A mean hides the seed on which a policy goes astray, and that is the day on which it is cursed."""
    shown = findings.sealed[-1].get("against", []) if findings.sealed else []
    rows = [row for row in shown if row.get("worst_ratio", 0.0) >= _ASTRAY]
    if rows:
        said = ", ".join(
            f"{row['worst_ratio']:.2f} times {called(findings, row)} at its worst,"
            f" worse on {row['num_worse']} of {row['num_seeds']}"
            for row in rows
        )
        yield f"<b>Not on every seed.</b> {html.escape(said)}. Look at those workloads before it is promoted."


def _where_worst(findings: Findings) -> Iterator[str]:
    certificate = findings.results.get("certificate")
    if not certificate or not certificate.get("worst"):
        return
    worst, cells = certificate["worst"], [*certificate["cells"], *certificate.get("failed", ())]
    lost = [cell["regime"] for cell in cells if not cell.get("won")]
    text = (
        f"Of {len(cells)} regimes it won {len(cells) - len(lost)}{_not_won(lost)}. At its worst, {worst['regime']}, "
        f"its metric is {worst['ratio']:.3f} of {called(findings, worst)}."
    )
    yield f"<b>Where it is worst.</b> {html.escape(text)}"


def _not_won(lost: Sequence[str]) -> str:
    if not lost:
        return ""
    more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
    return f", and not {'; '.join(lost[:_MOST_NAMED])}{more}"


def _in_reality(findings: Findings) -> Iterator[str]:
    if findings.replays is not None:
        yield f"<b>Through the real gateway.</b> {html.escape(str(findings.replays['sentence']))}"
    elif findings.frozen is not None:
        yield "<b>Through the real gateway.</b> It has not been replayed: so far all is simulated."


def _controls(findings: Findings) -> Iterator[str]:
    ends = {arm: findings.curves[arm][-1][1] for arm in ARMS if findings.curves.get(arm)}
    if len(ends) > 1:
        said = ", ".join(f"{NAMES[arm]} {ratio:.3f}" for arm, ratio in ends.items())
        yield f"<b>Against chance.</b> Best train ratio at equal budget: {html.escape(said)}."


def _what_it_cost(findings: Findings) -> Iterator[str]:
    if findings.account is not None:
        total = findings.account.total
        models = html.escape(", ".join(total.models))
        yield f"<b>What models cost.</b> ${total.dollars:.2f} for {total.calls} requests to {models}."


def _what_to_do(findings: Findings) -> Iterator[str]:
    run = html.escape(shlex.quote(str(findings.folder)))
    if findings.verdict is None:
        yield f"<b>Next.</b> <code>designer resume {run}</code> if it is not running."
        return
    if findings.frozen is None:
        yield "<b>Next.</b> Nothing is to be promoted. A larger budget, or another scenario, is another run."
        return
    contradicted = bool(contradiction_in(findings.replays))
    if "why" not in findings.results:
        yield f"<b>Next.</b> What the gain consists of: <code>designer why {run}</code>."
    if not findings.replays:
        yield f"<b>Next.</b> Through the real gateway: <code>designer replay {run}</code>."
    elif contradicted:
        yield "<b>Next.</b> The replay through the real gateway contradicts the simulator: it is not promoted."
    if harm := harm_in(findings.results.get(RESULT)):
        yield f"<b>Not as it is.</b> {html.escape(harm)}"
    elif findings.verdict == "better" and not contradicted:
        yield (
            f"<b>Put it in.</b> <code>designer promote {run} {_GATEWAY}</code>; "
            f"<b>take it out:</b> <code>designer rollback {_GATEWAY}</code>."
        )


def interval(row: Mapping[str, Any], which: str = "t_interval") -> str:
    """A ratio with its interval, or the second interval alone."""
    low, high = row[which]
    return f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]" if which == "t_interval" else f"[{low:.3f}, {high:.3f}]"


def level(look: Mapping[str, Any]) -> str:
    """Of the intervals of a sealed look; one that may be repeated has half of alpha, so its intervals are wider."""
    return f"{100 * (1 - look['alpha']):g} %"
