"""A scaling program as the part of a module a person would have written."""

from __future__ import annotations

from designer.proposers.scaling import CONSTANTS, SIGNALS, ScalingProgram, carried_names, kind_of, looks_ahead
from designer.proposers.sections import Parameter, Section, method

_HELD = method(
    "_held(self, wanted: int, now: float) -> int",
    [
        "oldest = now - self._hold_seconds",
        "self._recent = [(time, size) for time, size in self._recent if time > oldest and size > wanted]",
        "self._recent.append((now, wanted))",
        "return self._recent[0][1]",
    ],
    "The largest answer of the last ``hold_seconds``; only those larger than all after them need be kept.",
)
_AHEAD = method(
    "_ahead(self, counts: list[tuple[float, int]], now: float, count: int) -> float",
    [
        "oldest = now - self._window_seconds",
        "counts[:] = [(time, known) for time, known in counts if oldest < time < now]",
        "counts.append((now, count))",
        "steps = list(pairwise(counts))",
        "times = [(before[0] + after[0]) / 2 - now for before, after in steps]",
        "rates = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in steps]",
        "if len(rates) < 2:",
        "    return max(0.0, sum(rates))",
        "slope, rate_now = statistics.linear_regression(times, rates)",
        "lead = self._lead_seconds if slope > 0.0 else self._fall_lead_seconds",
        "return max(0.0, rate_now + slope * lead)",
    ],
    "Per second: the line through the rates of the last ``window_seconds``, carried on beyond now.",
)
_FILLED = '''\
def _filled(pool: Pool, wanted: int) -> Mapping[str, int]:
    """The first variant to its maximum, then the next."""
    left = wanted - sum(variant.min_replicas for variant in pool.variants.values())
    sizes: dict[str, int] = {}
    for name, variant in pool.variants.items():
        more = max(0, min(left, variant.max_replicas - variant.min_replicas))
        sizes[name] = variant.min_replicas + more
        left -= more
    return sizes
'''


def scaling_section(program: ScalingProgram) -> Section:
    """Its methods and its words."""
    ahead = looks_ahead(program.signals)
    return Section(
        title=f"Replicas by {' and '.join(SIGNALS[name].short for name in program.signals)}",
        rules=(_rule(program),),
        why=why_scaling(program),
        methods=(_desired(program), *((_AHEAD,) if ahead else ()), _HELD),
        parameters=tuple(Parameter(name, value, CONSTANTS[kind_of(name)].words) for name, value in program.values),
        state=("self._recent: list[tuple[float, int]] = []", *_memory(program)),
        contract=frozenset({"Pool"}),
        typing=frozenset({"Mapping"}),
        modules=frozenset({"math", "statistics"} if ahead else {"math"}),
        imports=("from itertools import pairwise",) if ahead else (),
        functions=(_FILLED,),
    )


def why_scaling(program: ScalingProgram) -> str:
    """The reason to expect an effect, from the parts the program has."""
    names = set(program.signals)
    reasons = []
    if looks_ahead(program.signals):
        reasons.append(
            "a replica takes time to start and is given up only after a while, so what counts is the load at the time "
            "when a change has its effect, and a line through what arrived lately says what that will be"
        )
    if "arrivals" in names:
        reasons.append("the arrival rate moves before queues do, and does not grow when workers are slow")
    if {"requests", "kv_use"} & names:
        reasons.append("what is in flight says how much the workers have in hand, long requests included")
    if {"waiting", "queued", "prefill"} & names:
        reasons.append("work that waits is the sign that capacity is missing now")
    if program["hold_seconds"] >= 10.0:
        reasons.append("fewer replicas are taken only after a while, so that a lull in arrivals costs no cold start")
    text = "; ".join(reasons or ["each replica carries so much and no more"])
    return f"{text[0].upper()}{text[1:]}."


_COMBINED = {"larger": "the larger of", "sum": "the sum of"}


def _rule(program: ScalingProgram) -> str:
    shares = [
        f"one for every {program[key]:g} {SIGNALS[name].each}"
        for name, key in zip(program.signals, carried_names(program.signals), strict=True)
    ]
    joined = shares[0] if len(shares) == 1 else f"{_COMBINED[program.combine]} {'; and '.join(shares)}"
    spare = f"; and {program['spare_replicas']:g} to spare" if program["spare_replicas"] else ""
    text = f"Replicas wanted: {joined}{spare}; rounded up."
    if looks_ahead(program.signals):
        text += (
            f" What is expected is the line through the last {program['window_seconds']:g} seconds, "
            f"{program['lead_seconds']:g} seconds on if it rises and {program['fall_lead_seconds']:g} if it falls."
        )
    return (
        f"{text} More are asked for at once; fewer only after every answer of the last {program['hold_seconds']:g} "
        "seconds was that low. With several variants the first is filled to its maximum, then the next."
    )


def _memory(program: ScalingProgram) -> tuple[str, ...]:
    return tuple(f"self._{name}: list[tuple[float, int]] = []" for name in program.signals if SIGNALS[name].ahead)


def _desired(program: ScalingProgram) -> str:
    lines = []
    demands = []
    for name, carried in zip(program.signals, carried_names(program.signals), strict=True):
        signal = SIGNALS[name]
        code = f"self._ahead(self._{name}, pool.now, {signal.code})" if signal.ahead else signal.code
        if " + " in code or signal.ahead:
            lines.append(f"{name} = {code}")
            code = name
        lines.append(f"for_{name} = {code} / self._{carried}")
        demands.append(f"for_{name}")
    joined = f"max({', '.join(demands)})" if program.combine == "larger" and len(demands) > 1 else " + ".join(demands)
    lines.append(f"wanted = math.ceil({joined} + self._spare_replicas)")
    lines.append("return _filled(pool, self._held(wanted, pool.now))")
    return method("desired_replicas(self, pool: Pool) -> Mapping[str, int]", lines)
