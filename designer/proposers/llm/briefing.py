"""What a model is told before it begins: contract, rules, scenario, and this traffic in figures.

Statistics only: no prompt, no answer and no user is in a scenario; no seed of validation or sealed test is drawn.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields

import numpy as np

from designer.simulator.draws import Ints
from designer.simulator.scenario import Scenario
from designer.simulator.workload import PS_PER_SECOND, RequestColumns, draw_workload
from policies import contract
from policies.allowed import ALLOWED_BUILTINS, ALLOWED_MODULES, MAX_LINES

_QUANTILES = (10, 50, 90, 99)
_SHOWN = (contract.Request, contract.Worker, contract.Candidate, contract.Pool)


def briefing(scenario: Scenario, reference: str, scores: Mapping[int, float], seeds: Sequence[int]) -> dict[str, str]:
    """Texts for the prompts, by the names they have there.

    Args:
        reference: the policy that scores are ratios to.
        scores: its metric on the train seeds.
        seeds: of the train split.
    """
    unit = scenario.objective.metric.replace("_", " ")
    spread = f"{min(scores.values()):.3g} to {max(scores.values()):.3g}" if scores else "not known"
    return {
        "contract": inspect.getsource(contract).split("@runtime_checkable")[0].strip(),
        "contract_fields": contract_fields(),
        "rules": rules(),
        "scenario": json.dumps(
            scenario.model_dump(mode="json", exclude_defaults=True, exclude={"name", "description"}), indent=1
        ),
        "workload": characterise(draw_workload(scenario, seeds[0])),
        "objective": unit,
        "reference": f"{reference} (its {unit} on the train seeds: {spread} s)",
        "num_seeds": str(len(seeds)),
    }


def rules() -> str:
    """What the static check refuses, in words."""
    return "\n".join(
        (
            f"- at most {MAX_LINES} lines; imports only from: {', '.join(sorted(ALLOWED_MODULES))}",
            f"- built-ins: {', '.join(sorted(name for name in ALLOWED_BUILTINS if name[0].islower()))}",
            "- no while, no variable exponent, no range without a small bound, no getattr or other reflection,",
            "  no bare except, no id() or hash(), no clock, no I/O, no module-level state that changes",
            "- the objects passed in are live: read them, never keep or change them (copy numbers instead)",
            "- the true output length is not a field anywhere; max_tokens is independent of it",
        )
    )


def contract_fields() -> str:
    """The contract in as few words as it can be said."""
    lines = []
    for kind in _SHOWN:
        names = [f.name + ("" if f.default is MISSING else f"={f.default!r}") for f in fields(kind)]
        lines.append(f"{kind.__name__.lower()}: {', '.join(names)}")
    return "\n".join(lines)


def characterise(columns: RequestColumns) -> str:
    """One train seed's traffic as statistics."""
    arrivals = np.sort(columns.arrival_ps) / PS_PER_SECOND
    gaps = np.diff(arrivals) if len(arrivals) > 1 else np.zeros(1)
    span, mean_gap = float(arrivals[-1] - arrivals[0]), float(gaps.mean())
    variation = float(gaps.std()) / mean_gap if mean_gap else 0.0
    prompts, outputs = columns.num_prompt_tokens, columns.num_output_tokens
    lines = [
        f"{len(arrivals)} requests in {span:.0f} s, {len(arrivals) / max(span, 1e-9):.2f} a second;"
        f" coefficient of variation of the gaps {variation:.2f}",
        f"prompt tokens: {_quantiles(prompts)}",
        f"output tokens (hindsight; no policy knows them): {_quantiles(outputs)}",
        f"correlation of prompt and output length: {_correlation(prompts, outputs):.2f}",
        f"the longest tenth of prompts holds {_top_share(prompts):.0%} of all prompt tokens,"
        f" the longest tenth of outputs {_top_share(outputs):.0%} of all output tokens",
    ]
    return "\n".join([*lines, *_sharing(columns)])


def _quantiles(values: Ints) -> str:
    found = np.percentile(values, _QUANTILES)
    texts = [f"p{q} {value:.0f}" for q, value in zip(_QUANTILES, found, strict=True)]
    return f"mean {values.mean():.0f}, {', '.join(texts)}, longest {values.max()}"


def _correlation(left: Ints, right: Ints) -> float:
    if len(left) < 2 or not left.std() or not right.std():
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def _top_share(values: Ints) -> float:
    ordered = np.sort(values)
    return float(ordered[-max(1, len(ordered) // 10) :].sum() / max(1, ordered.sum()))


def _sharing(columns: RequestColumns) -> list[str]:
    """Prefixes, tenants and sessions, where there are any."""
    lines = []
    if columns.prefix_chunks:
        seen: set[int] = set()
        again = total = 0
        for chunks in columns.prefix_chunks:
            before = 0
            for key, upto in chunks:
                again += (upto - before) * (key in seen)
                total, before = total + upto - before, upto
                seen.add(key)
        lines.append(f"prompt tokens in chunks that were sent before: {again / max(1, total):.0%} of those in chunks")
    if len(columns.tenants) > 1:
        counts = np.bincount(columns.tenant, minlength=len(columns.tenants))
        shares = [f"{t.name} {c / counts.sum():.0%}" for t, c in zip(columns.tenants, counts, strict=True)]
        lines.append(f"tenants: {', '.join(shares)}")
    if any(columns.session_ids):
        lines.append(f"sessions: {len(set(columns.session_ids) - {None})}")
    return lines
