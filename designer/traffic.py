"""What in a scenario's traffic there is to be won from, in figures: lengths, bursts, memory, and what policies met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from designer.simulator.draws import Floats
from designer.simulator.fleet import WorkerPlan, plan_workers
from designer.simulator.scenario import Scenario
from designer.simulator.workload import PS_PER_SECOND, RequestColumns, draw_workload

_MOMENTS = 400
"""At which the memory in demand is looked at, evenly over the run."""


def traffic(scenario: Scenario, seeds: Sequence[int]) -> dict[str, float]:
    """Figures by name, means over the seeds. Shares are 0 to 1."""
    plans = plan_workers(scenario)
    found = [_of_one(draw_workload(scenario, seed), plans) for seed in seeds]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def _of_one(columns: RequestColumns, plans: Sequence[WorkerPlan]) -> dict[str, float]:
    gaps = np.diff(np.sort(columns.arrival_ps)).astype(float)
    demand = _memory_in_demand(columns, plans)
    return {
        "requests": float(len(columns)),
        **_lengths("prompt", columns.num_prompt_tokens.astype(float)),
        **_lengths("answer", columns.num_output_tokens.astype(float)),
        "gap_cv": float(gaps.std() / max(gaps.mean(), 1.0)) if len(gaps) else 0.0,
        "memory_mean": float(demand.mean()),
        "memory_peak": float(demand.max()),
        "memory_short_share": float((demand > 1.0).mean()),
        "shared_prompt_share": _shared(columns),
    }


def _lengths(name: str, lengths: Floats) -> dict[str, float]:
    tenth = max(1, len(lengths) // 10)
    return {
        f"{name}_p50": float(np.percentile(lengths, 50)),
        f"{name}_p99": float(np.percentile(lengths, 99)),
        f"{name}_longest_tenth_share": float(np.sort(lengths)[-tenth:].sum() / lengths.sum()),
    }


def _memory_in_demand(columns: RequestColumns, plans: Sequence[WorkerPlan]) -> Floats:
    """Over time, the KV memory that requests would hold if none ever waited and each token took the least a step takes,
    as a share of all there is: above 1 somebody must wait, whatever the policy."""
    capacity = sum(plan.config.num_gpu_blocks * plan.config.block_size for plan in plans)
    step = min(plan.profile.floor_ps + plan.profile.host_step_ps for plan in plans) / PS_PER_SECOND
    begins = columns.arrival_ps / PS_PER_SECOND
    lasts = columns.num_output_tokens * step
    moments = np.linspace(float(begins.min()), float(begins.max()), _MOMENTS)
    held = np.zeros(_MOMENTS)
    for begin, last, prompt, output in zip(
        begins, lasts, columns.num_prompt_tokens, columns.num_output_tokens, strict=True
    ):
        low, high = np.searchsorted(moments, (begin, begin + last))
        held[low:high] += prompt + (moments[low:high] - begin) / last * output
    return np.asarray(held / capacity)


def _shared(columns: RequestColumns) -> float:
    """Prompt tokens under a prefix key that another request has too, over all prompt tokens."""
    if not columns.prefix_chunks:
        return 0.0
    counts: dict[int, int] = {}
    for chunks in columns.prefix_chunks:
        for key, _ in chunks:
            counts[key] = counts.get(key, 0) + 1
    shared = sum(max((end for key, end in chunks if counts[key] > 1), default=0) for chunks in columns.prefix_chunks)
    return min(1.0, shared / float(columns.num_prompt_tokens.sum()))


def told(figures: Mapping[str, float], seen: Mapping[str, Mapping[str, float]], taken: Mapping[str, str]) -> list[str]:
    """The figures in words, each with what is left of the gain without it.

    Args:
        seen: by policy, what it met: ``preempted_share``, ``cached_share``, ``held_share``.
        taken: by intervention, what it took away of the gain, in words.
    """
    f = figures
    lines = [
        f"The longest tenth of the prompts holds {f['prompt_longest_tenth_share']:.0%} of the prompt tokens (median "
        f"{f['prompt_p50']:,.0f}, 99th percentile {f['prompt_p99']:,.0f})."
        + taken.get("the spread of prompt lengths", ""),
        f"The longest tenth of the answers holds {f['answer_longest_tenth_share']:.0%} of the tokens made (median "
        f"{f['answer_p50']:,.0f}, 99th percentile {f['answer_p99']:,.0f})."
        + taken.get("the spread of answer lengths", ""),
        f"The gaps between arrivals spread {f['gap_cv']:.1f} times their mean (1 is Poisson's)."
        + taken.get("bursts", ""),
        f"If nobody waited and every step took its least, requests would hold {f['memory_mean']:.0%} of all KV "
        f"memory on average and {f['memory_peak']:.0%} at the peak; more than there is for "
        f"{f['memory_short_share']:.0%} of the time." + taken.get("the shortage of KV memory and seats", ""),
        f"{f['shared_prompt_share']:.0%} of the prompt tokens begin as another prompt does."
        + taken.get("prefix-cache hits", ""),
    ]
    for policy, met in seen.items():
        lines.append(
            f"Under {policy} {met['preempted_share']:.1%} of the requests were preempted, {met['held_share']:.1%} were "
            f"held in the gateway, and {met['cached_share']:.1%} of the prompt tokens were found in a prefix cache."
        )
    return lines


SEEN = ("preempted_share", "held_share", "cached_share")


def seen_by(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the seeds of what a policy met."""
    return {name: sum(float(summary[name] or 0.0) for summary in summaries) / len(summaries) for name in SEEN}
