"""A scaling program as the module a person would have written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from designer.proposers.scaling import CONSTANTS, SIGNALS, ScalingProgram, constants

_WIDTH = 110
_FORECAST = "forecast"

_HELD = '''\
    def _held(self, wanted: int, now: float) -> int:
        """The largest answer of the last ``hold_seconds``; only those larger than all after them need be kept."""
        oldest = now - self._hold_seconds
        self._recent = [(time, size) for time, size in self._recent if time > oldest and size > wanted]
        self._recent.append((now, wanted))
        return self._recent[0][1]
'''
_RATE_AHEAD = '''\
    def _rate_ahead(self, pool: Pool) -> float:
        """The arrival rate carried on along its slope of the last minute, ``lead_seconds`` ahead."""
        self._rates = [(time, rate) for time, rate in self._rates if time > pool.now - 60.0]
        self._rates.append((pool.now, pool.arrival_rate))
        oldest_time, oldest_rate = self._rates[0]
        passed = pool.now - oldest_time
        slope = (pool.arrival_rate - oldest_rate) / passed if passed > 0.0 else 0.0
        return max(0.0, pool.arrival_rate + slope * self._lead_seconds)
'''
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


def emit_scaling(program: ScalingProgram) -> str:
    """The source of an autoscaling policy, constants as its parameters' defaults."""
    imports = "import math\nfrom collections.abc import Mapping\n\nfrom policies.contract import Pool, Rng\n\n"
    methods = [_init(program), _desired(program), *([_RATE_AHEAD] if _forecasts(program) else []), _HELD]
    return "\n".join(
        [
            _docstring(program),
            f"from __future__ import annotations\n\n{imports}",
            "class DesignedScaling:",
            "\n".join(methods),
            f"\n{_FILLED}",
            f"\n{_create(program)}",
        ]
    )


def why_scaling(program: ScalingProgram) -> str:
    """The reason to expect an effect, from the parts the program has."""
    names = [signal.name for signal in program.signals]
    reasons = []
    if _FORECAST in names:
        reasons.append("a replica takes time to start, so what counts is the load at the time when it is ready")
    if "arrivals" in names or _FORECAST in names:
        reasons.append("the arrival rate moves before queues do, and does not grow when workers are slow")
    if {"requests", "kv_use"} & set(names):
        reasons.append("what is in flight says how much the workers have in hand, long requests included")
    if {"waiting", "queued"} & set(names):
        reasons.append("a queue is the sign that capacity is missing now")
    reasons.append("fewer replicas are taken only after a while, so that a lull in arrivals costs no cold start")
    return "; ".join(reasons).capitalize() + "."


def _forecasts(program: ScalingProgram) -> bool:
    return any(signal.name == _FORECAST for signal in program.signals)


def _docstring(program: ScalingProgram) -> str:
    values = {name: constant.value for name, constant in constants(program).items()}
    keys = list(values)
    shares = [
        f"{SIGNALS[signal.name].words} over {values[key]:g} for each replica"
        for signal, key in zip(program.signals, keys, strict=False)
    ]
    joined = shares[0]
    if len(shares) > 1:
        joined = f"the larger of {shares[0]}, and {shares[1]}" if program.combine == "larger" else " plus ".join(shares)
    spare = f", plus {values['spare_replicas']:g} to spare" if values["spare_replicas"] else ""
    rules = (
        f"Wanted: {joined}{spare}; rounded up. More are asked for at once; fewer only after every answer of the last "
        f"{values['hold_seconds']:g} seconds was that low. With several variants the first is filled to its maximum, "
        "then the next."
    )
    what = " and ".join(SIGNALS[signal.name].words for signal in program.signals)
    heading = textwrap.shorten(f"As many replicas as carry {what}.", _WIDTH, placeholder=" …")
    reason = f"Why it should work: {why_scaling(program)}"
    texts = [heading, textwrap.fill(rules, _WIDTH), textwrap.fill(reason, _WIDTH), "Written by the designer."]
    return '"""' + "\n\n".join(texts) + '\n"""\n'


def _init(program: ScalingProgram) -> str:
    names = list(constants(program))
    arguments = "".join(f", {name}: float" for name in names)
    lines = [f"    def __init__(self{arguments}) -> None:", *(f"        self._{name} = {name}" for name in names)]
    lines.append("        self._recent: list[tuple[float, int]] = []")
    if _forecasts(program):
        lines.append("        self._rates: list[tuple[float, float]] = []")
    return "\n".join([*_wrapped(lines[0]), *lines[1:], ""])


def _desired(program: ScalingProgram) -> str:
    names = list(constants(program))[: len(program.signals)]
    lines = ["    def desired_replicas(self, pool: Pool) -> Mapping[str, int]:"]
    demands = []
    for signal, name in zip(program.signals, names, strict=True):
        code = SIGNALS[signal.name].code
        if " + " in code:
            lines.append(f"        {signal.name} = {code}")
            code = signal.name
        lines.append(f"        for_{signal.name} = {code} / self._{name}")
        demands.append(f"for_{signal.name}")
    joined = demands[0] if len(demands) == 1 else _joined(program, demands)
    lines.append(f"        wanted = math.ceil({joined} + self._spare_replicas)")
    lines.append("        return _filled(pool, self._held(wanted, pool.now))")
    return "\n".join([*lines, ""])


def _joined(program: ScalingProgram, demands: list[str]) -> str:
    return f"max({', '.join(demands)})" if program.combine == "larger" else " + ".join(demands)


def _create(program: ScalingProgram) -> str:
    values = {name: constant.value for name, constant in constants(program).items()}
    kinds = {name: constant.kind for name, constant in constants(program).items()}
    arguments = "".join(f"    {name}: float = {value!r},\n" for name, value in values.items())
    notes = [f"    ``{name}``: {CONSTANTS[kind].words}." for name, kind in kinds.items()]
    head = ['    """' + notes[0].strip(), *notes[1:], '    """']
    body = f"    return DesignedScaling({', '.join(values)})"
    return "\n".join([f"def create(\n    rng: Rng,\n    *,\n{arguments}) -> DesignedScaling:", *head, body, ""])


def _wrapped(head: str) -> Iterator[str]:
    """A signature on one line, or an argument a line."""
    if len(head) <= _WIDTH + 8:
        yield head
        return
    name, _, rest = head.partition("(")
    inside, _, result = rest.rpartition(")")
    yield f"{name}("
    yield from (f"        {argument}," for argument in inside.split(", "))
    yield f"    ){result}"
