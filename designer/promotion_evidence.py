"""What a promoted policy carries: gate by gate what it went through, in the words and figures of the run's ledger.

The gates are those of a promotion in their order; one that was not passed through is null. Shadow and canary belong to
the gateway in production: they are null here, and whoever runs them fills them in, in the same form (a gate is an
object with at least ``passed`` and ``sentence``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from designer.ledger import Ledger
from designer.replay_evidence import LEAST_PAIRS, judged, num_started, pairs_in, too_many_aborted
from designer.sealed_state import SealedState
from designer.swap_in import RESULT, batch_in

FORMAT = 1
GATES = ("sealed", "regimes", "replay", "swap_in", "shadow", "canary")

Gate = Mapping[str, Any]


def evidence_of(ledger: Ledger, *, forced: bool) -> dict[str, Any]:
    """All of it, as JSON."""
    run, state = ledger.run(), SealedState.of(ledger)
    gates: dict[str, Gate | None] = dict.fromkeys(GATES)
    gates["sealed"] = _sealed(ledger, state)
    gates["regimes"] = _regimes(ledger.result("certificate"))
    gates["replay"] = _replay(judged(list(pairs_in(ledger))))
    gates["swap_in"] = _swap_in(ledger.result(RESULT))
    return {
        "format": FORMAT,
        "run": run.run,
        "scenario": run.scenario_name,
        "scenario_sha256": run.scenario_hash,
        "forced": forced,
        "batch": batch_of(ledger),
        "gates": gates,
    }


def batch_of(ledger: Ledger) -> dict[str, Any] | None:
    """What is to be said of the winner's batch rules; None where it has none."""
    frozen = ledger.frozen()
    return None if frozen is None else batch_in(ledger.subject(frozen.digest), num_started(ledger))


def _sealed(ledger: Ledger, state: SealedState) -> Gate:
    if "ratio" not in state.look:
        return {"passed": False, "sentence": f"no result: {state.said}"}
    frozen = ledger.frozen()
    label = "" if frozen is None else ledger.subject(frozen.comparator).label
    low, high = state.look["t_interval"]
    figures = {key: state.look[key] for key in ("ratio", "t_interval", "bca_interval", "p_value", "num_seeds")}
    return {
        "passed": state.is_better,
        "verdict": state.verdict,
        "comparator": label,
        "metric": "" if frozen is None else frozen.metric,
        **figures,
        "sentence": f"{state.verdict}: {figures['ratio']:.4f} of {label} [{low:.4f}, {high:.4f}] on "
        f"{figures['num_seeds']} sealed seeds",
    }


def _regimes(certificate: Mapping[str, Any] | None) -> Gate | None:
    """No gate refuses a policy for its worst regime; it is told, and where it won in terms that a gateway measures."""
    if not certificate or not certificate["cells"]:
        return None
    won = sum(1 for cell in certificate["cells"] if cell["won"])
    worst, total = certificate["worst"], len(certificate["cells"]) + len(certificate.get("failed", ()))
    return {
        "passed": won > 0,
        "cells": total,
        "won": won,
        "worst": dict(worst),
        "won_in": dict(certificate.get("won_in") or {}),
        "sentence": f"won {won} of {total}; worst in {worst['regime']}: {worst['ratio']:.3f} of {worst['label']}",
    }


def _replay(replays: Mapping[str, Any] | None) -> Gate | None:
    """Passed: enough pairs were ended to be judged under some conditions, none contradict, and few were aborted."""
    if replays is None:
        return None
    is_judged = any(one["pairs"] + one["lost"] >= LEAST_PAIRS for one in replays["conditions"])
    keys = ("workers", "speed", "first_seconds", "pairs", "lost", "invalid", "evidence", "contradicts")
    return {
        "passed": is_judged and not replays["contradicts"] and not too_many_aborted(replays),
        "aborted": replays["aborted"],
        "aborted_pairs": replays["aborted_pairs"],
        "conditions": [{key: one[key] for key in keys} for one in replays["conditions"]],
        "sentence": replays["sentence"],
    }


def _swap_in(rehearsal: Mapping[str, Any] | None) -> Gate | None:
    if rehearsal is None or not rehearsal["rows"]:
        return None
    figures = [{key: row[key] for key in ("what", "ratio", "t_interval", "bound")} for row in rehearsal["rows"]]
    return {"passed": not rehearsal["harm"], "rows": figures, "sentence": rehearsal["sentence"]}
