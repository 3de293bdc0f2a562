"""The section of a report that says why the winner wins, and the one about the traffic."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from designer import svg
from designer.html_parts import note, table
from designer.why import WORDS

_COLOURS = ("#c79a1b", "#bbbbbb", "#b5482a", "#4aa5a5", "#2a6db5", "#8a4fa3", "#333333")


def why_sections(why: Mapping[str, Any] | None) -> Iterator[str]:
    """Of what ``designer.why.explain`` wrote; nothing without it."""
    if not why:
        return
    yield f"<h2>Why it wins</h2><p>{html.escape(why['sentence'])}</p>"
    yield from _time(why)
    yield from _taken(why)
    yield from _winnable(why["winnable"])
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in why["traffic"])
    yield f"<h2>The traffic, and what the winner has of it</h2><ul>{lines}</ul>"


def _time(why: Mapping[str, Any]) -> Iterator[str]:
    parts = why["parts"]
    names = ((why["comparator_label"], "comparator"), ("the winner", "winner"))
    bars = [(label, [(row["part"], row[key]) for row in parts]) for label, key in names]
    yield svg.stacked_bars(bars, _COLOURS, "mean seconds of a request, by where they went")
    rows = [
        (WORDS[row["part"]], f"{row['comparator']:.3f}", f"{row['winner']:.3f}", _seconds(row))
        for row in parts
        if row["comparator"] or row["winner"]
    ]
    yield table(("seconds of a mean request", "comparator", "winner", "saved, 95 % interval"), rows)
    yield note(
        "They add up to the time from arrival to end, penalties left out. That is bookkeeping, and no cause yet."
    )


def _seconds(row: Mapping[str, Any]) -> str:
    ends = row["interval"]
    return f"{row['saved']:+.3f}" + (f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else "")


def _taken(why: Mapping[str, Any]) -> Iterator[str]:
    rows = why["interventions"]
    yield (
        f"<p>What it hangs on: winner and comparator again on the same {why['seeds']} seeds, which nothing else has "
        "used, each time without one thing. What is gone of the gain is what that thing was worth to it.</p>"
    )
    drawn = [
        svg.Interval(f"without {row['without']}", row["taken_interval"][0], row["taken"], row["taken_interval"][1])
        for row in rows[1:]
        if row.get("taken_interval")
    ]
    yield svg.interval_chart(drawn, "share of the gain that is gone; left of the line the gain grew", 0.0)
    head = ("without", "how", "comparator", "winner", "ratio, 95 % interval", "of the gain is gone")
    yield table(head, [_cells(row) for row in rows])
    out = [(row["without"], row["reason"]) for row in why["not_applicable"]]
    if out:
        yield table(("not taken away", "because"), out)
    yield note(_overlap(why["overlap"]))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "failure" in row:
        return row["without"], row["how"], "", "", "failed", row["failure"]
    return (
        row["without"],
        row["how"],
        f"{row['comparator']:.4g}",
        f"{row['winner']:.4g}",
        _range(row["ratio"], row["t_interval"], ".3f"),
        "" if row["kind"] == "none" or row["taken"] is None else _range(row["taken"], row["taken_interval"], ".0%"),
    )


def _range(value: float, ends: Sequence[float] | None, form: str) -> str:
    return f"{value:{form}}" + (f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else "")


def _overlap(overlap: Mapping[str, float] | None) -> str:
    text = "The gain is the mean log-ratio of a pair of runs. Each interval has a level of 95 % of its own. "
    if overlap is None:
        return text + "How far the mechanisms overlap is not known: the gain, or one of them, could not be measured."
    return text + (
        f"One by one the mechanisms take away {overlap['one_by_one']:.0%} in sum, all at once "
        f"{overlap['together']:.0%}: the difference, {overlap['interaction']:+.0%}, is their interaction (one thing's "
        "worth depends on the others). "
        f"{overlap['left']:.0%} of the gain is left without any of them, and has another reason."
    )


def _winnable(won: Mapping[str, Any]) -> Iterator[str]:
    if "reason" in won:
        yield note(f"How much could be won at all is not known: {won['reason']}.")
        return
    yield table(
        ("what could be won", "mean, s", "the winner won"),
        [
            ("clairvoyant reference", f"{won['clairvoyant']:.2f}", _won(won, "share")),
            ("proven lower bound", f"{won['bound']:.2f}", _won(won, "share_of_bound")),
        ],
    )
    yield note(
        "The clairvoyant reference is a schedule that was run, by a policy that is told the true lengths: it can be "
        "reached by who knows them, and a policy may beat it. The lower bound is proven, for "
        f"{won['bound_is_for']}, on this fleet and engine model; maybe none comes near it. Shares are of the distance "
        "from the comparator."
    )


def _won(won: Mapping[str, Any], name: str) -> str:
    return "there is nothing to win" if won[name] is None else _range(won[name], won[f"{name}_interval"], ".0%")
