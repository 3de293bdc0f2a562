"""What a run's objective is, in words: what is counted, what is punished, what was promised."""

from __future__ import annotations

from collections.abc import Mapping

from designer.simulator.scenario import Objective

_TIMES: Mapping[str, str] = {
    "mean_response_time": "the mean over all requests of the seconds from arrival to the last token",
    "p99_response_time": "the 99th percentile of the seconds from arrival to the last token",
    "mean_ttft": "the mean over all requests of the seconds from arrival to the first token",
    "p99_ttft": "the 99th percentile of the seconds from arrival to the first token",
}


def name_of(objective: Objective) -> str:
    return objective.metric.replace("_", " ")


def unit_of(objective: Objective) -> str:
    """After a figure of it; a sum of unlike things has none."""
    return "" if objective.metric == "weighted" else " s"


def in_words(objective: Objective) -> str:
    """The metric's definition, a sentence for each of its parts; lower is better."""
    metrics: list[str] = [*objective.weights] or [objective.metric]
    lines = [f"{metric.replace('_', ' ')}: {_defined(metric, objective)}." for metric in metrics]
    if objective.metric == "weighted":
        total = " + ".join(f"{weight:g} x {name.replace('_', ' ')}" for name, weight in objective.weights.items())
        lines.insert(0, f"weighted: {total}.")
    if any(metric in _TIMES for metric in metrics):
        lines.append(
            f"A request that got no full answer counts in every time as {objective.penalty_seconds:g} s, or as long as "
            "it had waited if that was longer: turning requests away wins nothing."
        )
    return " ".join(lines)


def _defined(metric: str, objective: Objective) -> str:
    if metric == "worker_seconds":
        most = f"{100 * (1 - objective.slo_share):.3g} %"
        return (
            "the seconds of all servers, each from the moment it is asked for until it is gone, times the factor by "
            f"which more than {most} of the requests miss their promise ({_promise(objective)}), 1 while no more do"
        )
    if metric == "seconds_per_good_request":
        return f"seconds for each request that met its promise ({_promise(objective)}), the inverse of goodput"
    return _TIMES[metric]


def _promise(objective: Objective) -> str:
    first = "its own" if objective.ttft_slo_seconds is None else f"its own, else {objective.ttft_slo_seconds:g} s"
    texts = [f"answered in full, the first token within {first}"]
    if objective.tpot_slo_seconds is not None:
        texts.append(f"then at most {objective.tpot_slo_seconds:g} s a token")
    return ", ".join(texts)
