"""A run as text for a terminal and as one self-contained HTML page. Ratios below 1 are improvements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from designer.claim import not_compared
from designer.findings import ARMS, Findings
from designer.report_page import page, sealed_rows
from designer.report_summary import NAMES, beside_it, interval, level


def verdict_line(findings: Findings) -> str:
    """The outcome of the run in one sentence."""
    if findings.verdict is None:
        return "The run has not ended; designer resume goes on with it."
    if findings.frozen is None:
        return f"Nothing better was found: {_nearest(findings)}."
    look, margin = findings.sealed[-1], findings.frozen.margin
    comparator = findings.labels[findings.frozen.comparator]
    if "ratio" not in look:
        return f"The sealed test gave no figure: {look['error']}"
    size = f"{1 / look['ratio']:.2f} times" if look["ratio"] < 1 else f"a ratio of {look['ratio']:.3f}"
    said = {
        "better": f"Better than {comparator}: {size} lower",
        "worse": f"Not better than {comparator}: {size}",
        "undecided": f"Undecided against {comparator}: {size}, {_why_undecided(look, margin)}",
    }[findings.verdict]
    ratio = f"ratio {interval(look)} ({level(look)} interval)"
    text = f"{said}, {ratio}, p {look['p_value']:.2g}, margin {margin:.0%}, {look['num_seeds']} sealed seeds."
    return " ".join([text, *not_compared(findings.validation)])


def _why_undecided(look: Mapping[str, Any], margin: float) -> str:
    clear = max(look["t_interval"][1], look["bca_interval"][1]) < 1 - margin
    clear = clear or min(look["t_interval"][0], look["bca_interval"][0]) > 1 + margin
    return f"p is not below {look['alpha']:g}" if clear else "the intervals are not clear of the margin"


def _nearest(findings: Findings) -> str:
    """How near the best finalist came to what validation asks for."""
    validation = findings.validation or {}
    if "error" in validation:
        return f"{validation['error']}, so there was nothing to compare with"
    if not validation.get("finalists"):
        return "no candidate beat the reference on the train seeds, or none of them kept the contract"
    best = min(validation["finalists"], key=lambda row: row["ratio"])
    return (
        f"the best of {len(validation['finalists'])} finalists came to {interval(best)} (95 % interval) of "
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
        lines.append(
            f"sealed, winner's ratio to (its mean {_winner_mean(findings)}; ratios are of geometric means, "
            f"with {level(findings.sealed[-1])} intervals):"
        )
        lines += [
            f"  {row[0]:<32} mean {row[1]:>8}  {row[2]}  p {row[4]}  worst seed {row[6]}"
            for row in sealed_rows(findings)
        ]
        lines += [f"  {words.lower()} {said}" for words, said in beside_it(findings)]
    controls = (findings.validation or {}).get("controls", {})
    if not findings.sealed and controls:
        lines.append(f"validation, ratio to {findings.validation['comparator_label']}:" if findings.validation else "")
        lines += [
            f"  {NAMES[arm]:<32} {interval(row) if 'ratio' in row else row['failure']}" for arm, row in controls.items()
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
        "results": dict(findings.results),
        "replays": findings.replays,
        "roles": [asdict(role) for role in findings.account.roles.values()] if findings.account else [],
        "builds": dict(findings.builds),
        "wall_seconds": findings.wall_seconds,
        "layers": list(findings.layers),
    }


def to_html(findings: Findings, refresh_seconds: int = 0, links: Sequence[tuple[str, str]] = ()) -> str:
    """One page that needs nothing else; see ``designer.report_page``."""
    return page(findings, verdict_line(findings), _facts(findings), refresh_seconds, links)


def write_html(findings: Findings, path: Path) -> None:
    path.write_text(to_html(findings), encoding="utf-8")


def _facts(findings: Findings) -> list[tuple[str, str]]:
    facts = [("scenario", f"{findings.run.scenario_name} ({findings.run.scenario_hash[:12]})")]
    for arm in ARMS:
        share = findings.share_beating_reference(arm)
        if share is not None:
            reference = _setting(findings, "baselines")[0]
            facts.append((NAMES[arm], f"{len(findings.entries[arm])} candidates, {share:.0%} beat {reference}"))
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


def _winner_mean(findings: Findings) -> str:
    return f"{findings.sealed[-1]['mean']:.2f}" if "mean" in findings.sealed[-1] else "unknown"


def _setting(findings: Findings, name: str) -> Any:
    return findings.run.settings[name]
