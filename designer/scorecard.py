"""A scorecard for people (an aligned Markdown table) and for programs (JSON)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson

from designer.evaluate import PolicyScore, Scorecard
from designer.statistics import Interval, bootstrap_interval, paired_effect

_EXPLANATION = """\
Means over {seeds} seeds; in brackets the 90 % bootstrap interval of the mean. The ratio is to {comparator} on the same
seeds, {metric}, lower is better: the geometric mean, its 95 % t interval, and the p of a two-sided sign-flip test,
Holm-adjusted. Preempted: share of dispatched requests that lost their KV at least once. Held: mean seconds in the
gateway's queue.
"""
_REFERENCE = """\
Won: the share of what the clairvoyant, a reference that knows every output's length, wins over {comparator}; and in
brackets of what lies between {comparator} and the proven lower bound, which nobody can pass and maybe nobody reach.
"""
_HEADER = (
    "policy",
    "{metric}, s",
    "ratio",
    "p",
    "preempted",
    "held, s",
    "TTFT p99, s",
    "TPOT p99, s",
    "RT p99, s",
    "unserved",
)


def to_markdown(card: Scorecard) -> str:
    """The table with what its columns mean."""
    metric = card.metric.replace("_", " ")
    header = [name.format(metric=metric) for name in _HEADER]
    p_values = card.adjusted_p_values()
    rows = [_row(card, score, p_values) for score in card.scores]
    explanation = _EXPLANATION.format(seeds=len(card.seeds), comparator=card.comparator, metric=metric)
    if card.reference is not None:
        header.append("won")
        rows = [[*row, _won(card, score.spec)] for row, score in zip(rows, card.scores, strict=True)]
        rows += _reference_rows(card, card.reference)
        explanation += _REFERENCE.format(comparator=card.comparator)
    return f"{_title(card)}\n\n{_table(header, rows)}\n\n{explanation}{_warnings(card)}"


def _title(card: Scorecard) -> str:
    return f"Scenario {card.scenario}, {_seeds(card.seeds)} (scenario {card.scenario_digest[:12]})"


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _won(card: Scorecard, spec: str) -> str:
    if spec == card.comparator:
        return ""
    of_bound = card.share_of_bound(spec)
    return _percent(card.share_won(spec), 0) + ("" if of_bound is None else f" [{_percent(of_bound, 0)}]")


def _reference_rows(card: Scorecard, reference: PolicyScore) -> list[list[str]]:
    ratio = paired_effect(reference.values, card.score(card.comparator).values)
    columns = _measured(reference)
    interval = bootstrap_interval(reference.values, 0.90)
    mean = f"{_number(sum(reference.values) / len(reference.values))}{_range(interval, 1)}"
    rows = [[reference.spec, mean, f"{ratio.ratio:.3f}{_range(ratio.t_interval, 3)}", "", *columns, _percent(1.0, 0)]]
    if card.metric == "mean_response_time":
        rows.append(["lower bound", _number(reference.mean("lower_bound")), *[""] * (len(rows[0]) - 2)])
    return rows


def _row(card: Scorecard, score: PolicyScore, p_values: dict[str, float]) -> list[str]:
    effect = card.effect(score.spec)
    own = score.spec == card.comparator
    return [
        score.spec,
        f"{_number(sum(score.values) / len(score.values))}{_range(card.interval(score.spec), 1)}",
        "1" if own else f"{effect.ratio:.3f}{_range(effect.t_interval, 3)}",
        "" if own else f"{p_values[score.spec]:.2g}",
        *_measured(score),
    ]


def _measured(score: PolicyScore) -> list[str]:
    return [
        _percent(score.mean("preempted_share")),
        _number(score.mean("mean_held")),
        _number(score.mean("p99_ttft")),
        _number(score.mean("p99_tpot"), 3),
        _number(score.mean("p99_response_time")),
        str(sum(summary["num_requests"] - summary["num_completed"] for summary in score.summaries)),
    ]


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f} %"


def _range(interval: Interval, digits: int) -> str:
    return "" if math.isnan(interval.low) else f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[header[0].ljust(widths[0]), *(n.rjust(w) for n, w in zip(header[1:], widths[1:], strict=True))], rule]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append([row[0].ljust(widths[0]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _warnings(card: Scorecard) -> str:
    """Policies that the guard had to correct: their score is partly the built-in's."""
    lines = []
    for score in card.scores:
        failures = sum(summary["num_policy_failures"] for summary in score.summaries)
        retired = sum(summary["num_sets_retired"] for summary in score.summaries)
        if failures:
            text = f"Warning: {score.spec} failed {failures} times and was replaced by the built-in"
            lines.append(
                f"{text} in {retired} of {len(card.seeds)} runs.\n" if retired else f"{text} for those calls.\n"
            )
    return "".join(["\n", *lines]) if lines else ""


def to_json(card: Scorecard) -> bytes:
    """Everything, seed by seed; the same evaluation gives the same bytes."""
    p_values = card.adjusted_p_values()
    content: dict[str, Any] = {
        "scenario": card.scenario,
        "scenario_digest": card.scenario_digest,
        "metric": card.metric,
        "seeds": list(card.seeds),
        "comparator": card.comparator,
        "policies": [_policy(card, score, p_values) for score in card.scores],
    }
    if card.reference is not None:
        values = card.reference.values
        content["clairvoyant"] = {"mean": sum(values) / len(values), "seeds": list(card.reference.summaries)}
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def _policy(card: Scorecard, score: PolicyScore, p_values: dict[str, float]) -> dict[str, Any]:
    effect = card.effect(score.spec)
    return {
        "policy": score.spec,
        "modules": list(score.identities),
        "mean": sum(score.values) / len(score.values),
        "interval_90": _pair(card.interval(score.spec)),
        "ratio": effect.ratio,
        "ratio_t_95": _pair(effect.t_interval),
        "ratio_bca_95": _pair(effect.bca_interval),
        "p": effect.p_value,
        "p_holm": p_values.get(score.spec),
        **_shares(card, score.spec),
        "seeds": list(score.summaries),
    }


def _shares(card: Scorecard, spec: str) -> dict[str, float | None]:
    if card.reference is None:
        return {}
    shares = {"share_won": card.share_won(spec), "share_of_bound": card.share_of_bound(spec)}
    return {"lower_bound": card.bound(spec), **shares}


def _pair(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else [interval.low, interval.high]
