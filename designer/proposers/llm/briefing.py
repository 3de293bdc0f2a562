"""What a model is told before it begins: target, contract, rules, scenario, and this traffic in figures.

Statistics only: no prompt, no answer and no user is in a scenario; no seed of validation or sealed test is drawn.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields

import numpy as np

from designer.proposers.llm.baselines import Baselines
from designer.proposers.llm.example import example, plain_example
from designer.proposers.llm.objective import in_words, name_of
from designer.proposers.llm.prompts import fill
from designer.proposers.parts import PartName
from designer.simulator.draws import Floats, Ints
from designer.simulator.scenario import Scenario
from designer.simulator.workload import PS_PER_SECOND, RequestColumns, draw_workload
from policies import contract
from policies.allowed import ALLOWED_BUILTINS, ALLOWED_MODULES, MAX_LINES
from policies.syntax import parse

_QUANTILES = (10, 50, 90, 99)
_DATA = (contract.Request, contract.Worker, contract.Candidate, contract.Variant, contract.Pool)
_VIEWS: Mapping[type, str] = {contract.BatchRequest: "request in an engine", contract.BatchEngine: "engine"}
_EVENTS = frozenset({"Rng", "Dispatched", "FirstToken", "Finished", "Observer"})
_POOL = frozenset({"Worker", "Variant", "Pool"}) | _EVENTS
_ROUTED = _POOL | {"Request", "Candidate", "RoutingPolicy", "SchedulingPolicy"}
_CONTRACT: Mapping[PartName, frozenset[str]] = {
    "routing": _ROUTED | {"HoldingPolicy"},
    "scheduling": _ROUTED,
    "autoscaling": _POOL | {"AutoscalingPolicy"},
    "batch": frozenset({"Rng", "BatchRequest", "BatchEngine", "BatchPolicy"}),
}
"""Classes of the contract that the author of a part is shown."""
_TASKS: Mapping[PartName, str] = {
    "routing": "which server gets a request, in what order held requests go, and when one is better held than sent",
    "scheduling": "in what order requests go that are held while no server has room, and which are turned away",
    "autoscaling": "how many servers of each kind there are, and when one is started or stopped",
    "batch": "inside each server, which waiting request joins the running ones, which of them gives way when memory is "
    "short, and how much of a step goes to prompts",
}
_OBSERVE = "`observe`, if the class has it, is told of every dispatch, first token and end, to learn from."
_JOINT = (
    "The target of this run is {parts}, jointly: one class has the methods of all these parts, `create` returns one "
    "object of it, and what one part has seen or decided the others may use; only the methods of batch, which run "
    "inside the servers, share nothing with the rest. A part whose methods are all left out keeps the built-in."
)


def briefing(
    scenario: Scenario,
    baselines: Baselines,
    seeds: Sequence[int],
    parts: Sequence[PartName],
    prompts: Mapping[str, str],
) -> dict[str, str]:
    """Texts for the prompts, by the names they have there.

    Args:
        seeds: of the train split.
        parts: of the run's target.
        prompts: by name, for what they say about each part.
    """
    return {
        "task": "; ".join(_TASKS[part] for part in parts),
        "target": target(scenario, parts, prompts),
        "example": example(parts),
        "plain_example": plain_example(parts),
        "contract": contract_text(parts),
        "contract_fields": contract_fields(parts),
        "rules": rules(),
        "scenario": json.dumps(
            scenario.model_dump(mode="json", exclude_defaults=True, exclude={"name", "description"}), indent=1
        ),
        "workload": characterise(draw_workload(scenario, seeds[0])),
        "objective": name_of(scenario.objective),
        "objective_rule": in_words(scenario.objective),
        "reference": baselines.reference(scenario.objective),
        "baselines": baselines.text(),
        "num_seeds": str(len(seeds)),
    }


def target(scenario: Scenario, parts: Sequence[PartName], prompts: Mapping[str, str]) -> str:
    """What the methods of each part are for, and what a module of several looks like."""
    values = {"replicas": replicas(scenario)}
    texts = [fill(prompts.get(f"target-{part}", ""), values).strip() for part in parts]
    if len(parts) > 1:
        texts.append(_JOINT.format(parts=", ".join(parts)))
    if set(parts) != {"batch"}:
        texts.append(_OBSERVE)
    return "\n\n".join(texts)


def replicas(scenario: Scenario) -> str:
    """When servers are started and stopped, and how many there may be."""
    scaled = [workers for workers in scenario.workers if workers.max_replicas is not None]
    if not scaled:
        return "No server of this scenario is ever started or stopped, so nothing can be won here."
    times = scenario.autoscaling
    kinds = "; ".join(
        f"{workers.variant}: {workers.min_replicas} to {workers.max_replicas}, {workers.count} at the start, one "
        f"that is asked for takes requests {workers.cold_start_seconds:g} s later"
        for workers in scaled
    )
    return (
        f"It is asked every {times.interval_seconds:g} s; a wish for more counts once it has lasted "
        f"{times.up_delay_seconds:g} s, one for fewer {times.down_delay_seconds:g} s. {kinds}."
    )


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


def contract_text(parts: Sequence[PartName]) -> str:
    """The contract's own words, as far as they concern the target."""
    source = inspect.getsource(contract).split("@runtime_checkable")[0]
    lines, tree = source.splitlines(), parse(source)
    shown = frozenset().union(*(_CONTRACT[part] for part in parts))
    left_out: set[int] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name not in shown:
            first = min(node.lineno, *(decorator.lineno for decorator in node.decorator_list), node.lineno)
            left_out.update(range(first, (node.end_lineno or node.lineno) + 3))
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in left_out).strip()


def contract_fields(parts: Sequence[PartName]) -> str:
    """The same in as few words as it can be said."""
    shown = frozenset().union(*(_CONTRACT[part] for part in parts))
    lines = []
    for kind in _DATA:
        if kind.__name__ in shown:
            names = [f.name + ("" if f.default is MISSING else f"={f.default!r}") for f in fields(kind)]
            lines.append(f"{kind.__name__.lower()}: {', '.join(names)}")
    for view, word in _VIEWS.items():
        if view.__name__ in shown:
            lines.append(f"{word}: {', '.join(name for name in vars(view) if not name.startswith('_'))}")
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
        f"requests a second in each tenth of that time: {_tenths(arrivals)}",
        f"correlation of prompt and output length: {_correlation(prompts, outputs):.2f}",
        f"the longest tenth of prompts holds {_top_share(prompts):.0%} of all prompt tokens,"
        f" the longest tenth of outputs {_top_share(outputs):.0%} of all output tokens",
    ]
    return "\n".join([*lines, *_sharing(columns)])


def _tenths(arrivals: Floats) -> str:
    counts, edges = np.histogram(arrivals, bins=10)
    return ", ".join(f"{count / max(1e-9, width):.3g}" for count, width in zip(counts, np.diff(edges), strict=True))


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
