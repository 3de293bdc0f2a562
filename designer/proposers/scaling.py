"""A grammar of autoscaling rules: what is measured, how much of it one replica carries, how fast to shrink.

Wanted replicas are the largest, or the sum, of a few signals each divided by what a replica carries of it, and spare
ones besides. More are asked for at once; fewer only after every answer of the last ``hold`` seconds was that low. A
signal that looks ahead is a line through what arrived lately, carried on to the time when a change has its effect:
the start of a replica on the way up, and whatever holds back a replica's end on the way down.

Nothing here reads the time of day: a rule found on some days must do on others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from designer.proposers.grammar import Const, GrammarError
from designer.proposers.sampling import rounded
from designer.proposers.vocabulary import ConstantKind

SignalName = Literal["requests", "waiting", "prefill", "arrivals", "requests_ahead", "tokens_ahead", "kv_use", "queued"]
Combine = Literal["larger", "sum"]
MAX_SIGNALS = 2


@dataclass(frozen=True, slots=True)
class SignalKind:
    """Something a pool can measure, and the constant it is divided by."""

    name: SignalName
    short: str
    """For a title."""
    words: str
    each: str
    """What stands behind the number that one replica carries."""
    code: str
    """Over ``pool``; of a signal that looks ahead, the count whose rate is carried on."""
    carried: str
    """A key of ``CONSTANTS``: what one replica carries of it."""
    ahead: bool = False
    """A rate per second, as it will be when a change has its effect."""


_SIGNALS = (
    SignalKind(
        "requests",
        "requests in flight",
        "the requests in flight and held",
        "requests in flight and held",
        "pool.num_inflight_requests + pool.num_queued_requests",
        "requests_per_replica",
    ),
    SignalKind(
        "waiting",
        "waiting requests",
        "the requests waiting in the engines at the last scrape, and held",
        "requests waiting, in the engines at the last scrape and held",
        "sum(worker.num_requests_waiting for worker in pool.workers) + pool.num_queued_requests",
        "waiting_per_replica",
    ),
    SignalKind(
        "prefill",
        "work not yet prefilled",
        "the prompt tokens not yet prefilled, in flight and held",
        "prompt tokens not yet prefilled, in flight and held",
        "sum(worker.num_inflight_prefill_tokens for worker in pool.workers) + pool.num_queued_prompt_tokens",
        "prefill_per_replica",
    ),
    SignalKind(
        "arrivals",
        "the arrival rate",
        "the arrival rate of the last minute",
        "requests a second that arrived in the last minute",
        "pool.arrival_rate",
        "rate_per_replica",
    ),
    SignalKind(
        "requests_ahead",
        "the arrival rate to come",
        "the arrival rate expected when a change of size has its effect",
        "requests a second expected when a change of size has its effect",
        "pool.num_arrived_requests",
        "rate_per_replica",
        ahead=True,
    ),
    SignalKind(
        "tokens_ahead",
        "the prompt tokens to come",
        "the rate of prompt tokens expected when a change of size has its effect",
        "prompt tokens a second expected when a change of size has its effect",
        "pool.num_arrived_prompt_tokens",
        "token_rate_per_replica",
        ahead=True,
    ),
    SignalKind(
        "kv_use",
        "KV cache in use",
        "the KV cache in use, in workers' worth",
        "workers' worth of KV cache in use",
        "sum(worker.kv_cache_usage for worker in pool.workers)",
        "use_per_replica",
    ),
    SignalKind(
        "queued",
        "held requests",
        "the requests held",
        "requests held",
        "pool.num_queued_requests",
        "waiting_per_replica",
    ),
)
SIGNALS: Mapping[str, SignalKind] = {signal.name: signal for signal in _SIGNALS}
CONSTANTS: Mapping[str, ConstantKind] = {
    kind.name: kind
    for kind in (
        ConstantKind("requests_per_replica", "requests", 4.0, 256.0, True, "requests one replica carries"),
        ConstantKind("waiting_per_replica", "requests", 0.5, 64.0, True, "waiting requests that call for a replica"),
        ConstantKind("prefill_per_replica", "tokens", 500.0, 100_000.0, True, "unprefilled tokens a replica carries"),
        ConstantKind("rate_per_replica", "requests", 0.2, 50.0, True, "requests a second one replica carries"),
        ConstantKind("token_rate_per_replica", "tokens", 200.0, 50_000.0, True, "prompt tokens a second it carries"),
        ConstantKind("use_per_replica", "fraction", 0.2, 1.0, False, "share of its KV cache a replica is to use"),
        ConstantKind("window_seconds", "seconds", 15.0, 400.0, True, "seconds of arrivals that the line goes through"),
        ConstantKind("lead_seconds", "seconds", 3.0, 120.0, True, "seconds ahead that a rising rate is carried on"),
        ConstantKind(
            "fall_lead_seconds", "seconds", 3.0, 120.0, True, "seconds ahead that a falling one is carried on"
        ),
        ConstantKind("spare_replicas", "fraction", 0.0, 2.0, False, "replicas wanted beyond what is measured"),
        ConstantKind("hold_seconds", "seconds", 1.0, 600.0, True, "seconds for which fewer must do before one goes"),
    )
}
_AHEAD = ("window_seconds", "lead_seconds", "fall_lead_seconds")
_ALWAYS = ("spare_replicas", "hold_seconds")


@dataclass(frozen=True, slots=True)
class ScalingProgram:
    signals: tuple[SignalName, ...]
    combine: Combine
    values: tuple[tuple[str, float], ...]
    """The constants that it reads, by the name of a parameter, in the order of ``constant_names``."""

    def __getitem__(self, name: str) -> float:
        return dict(self.values)[name]


def carried_names(signals: tuple[SignalName, ...]) -> list[str]:
    """For each signal, the parameter it is divided by: two that share a kind have one each."""
    kinds = [SIGNALS[name].carried for name in signals]
    return [
        kind if kinds[:n].count(kind) == 0 else f"{kind}_{kinds[:n].count(kind) + 1}" for n, kind in enumerate(kinds)
    ]


def constant_names(signals: tuple[SignalName, ...]) -> list[str]:
    """The parameters of a rule on these signals."""
    return [*carried_names(signals), *(_AHEAD if looks_ahead(signals) else ()), *_ALWAYS]


def looks_ahead(signals: tuple[SignalName, ...]) -> bool:
    return any(SIGNALS[name].ahead for name in signals)


def kind_of(name: str) -> str:
    """The kind of a parameter: its name without a number behind it."""
    return name if name in CONSTANTS else name.rpartition("_")[0]


def constants(program: ScalingProgram) -> dict[str, Const]:
    """By the name of the emitted module's parameter."""
    return {name: Const(kind_of(name), value) for name, value in program.values}


def with_constants(program: ScalingProgram, values: Mapping[str, Const]) -> ScalingProgram:
    """The program with some of its constants replaced."""
    new = tuple((name, values[name].value if name in values else value) for name, value in program.values)
    return replace(program, values=new)


def make(
    signals: tuple[SignalName, ...], combine: Combine, values: Mapping[str, float], **rest: float
) -> ScalingProgram:
    """A program in its standard form: signals in the order of ``SIGNALS``, nothing kept that is not read.

    Args:
        values: by parameter; what is missing there is taken from ``rest``.
    """
    ordered = tuple(sorted(dict.fromkeys(signals), key=list(SIGNALS).index))
    found = {**rest, **values}
    read = tuple((name, found.get(name, found.get(kind_of(name), _middle(name)))) for name in constant_names(ordered))
    return check(ScalingProgram(ordered, combine if len(ordered) > 1 else "larger", read))


def check(program: ScalingProgram) -> ScalingProgram:
    """Itself.

    Raises:
        GrammarError: no signal, too many, one twice, or a constant that is missing or out of its range.
    """
    names = list(program.signals)
    if not 1 <= len(names) <= MAX_SIGNALS or len(set(names)) < len(names) or not set(names) <= SIGNALS.keys():
        raise GrammarError(f"one to {MAX_SIGNALS} different signals of {', '.join(SIGNALS)}, not {names}")
    if program.combine not in get_args(Combine):
        raise GrammarError(f"signals are combined by {' or '.join(get_args(Combine))}, not {program.combine!r}")
    if [name for name, _ in program.values] != constant_names(program.signals):
        raise GrammarError(f"the constants of {names} are {', '.join(constant_names(program.signals))}")
    for name, value in program.values:
        kind = CONSTANTS[kind_of(name)]
        if not kind.low <= value <= kind.high:
            raise GrammarError(f"{name} = {value} is outside {kind.low} to {kind.high}")
    return program


def random_scaling(rng: random.Random) -> ScalingProgram:
    """An independent sample: one signal or two, constants anywhere."""
    signals = tuple(rng.sample([signal.name for signal in _SIGNALS], rng.choice((1, 1, 2))))
    combine: Combine = rng.choice(("larger", "larger", "sum"))
    values = {name: random_constant(rng, kind_of(name)).value for name in constant_names(signals)}
    return make(signals, combine, values)


def random_constant(rng: random.Random, kind: str) -> Const:
    """Most often near the middle; spare replicas most often near none."""
    mode = 0.0 if kind == "spare_replicas" else 0.5
    return rounded(CONSTANTS[kind], CONSTANTS[kind].value_at(rng.triangular(0.0, 1.0, mode)))


def _assembled(signals: Sequence[SignalName], combine: Combine, *sources: ScalingProgram) -> ScalingProgram:
    """A rule on signals of these programs, each divided by what the first program that has it divides it by.

    By signal and not by parameter: which of two signals of a kind has the parameter without a number depends on
    which others there are.
    """
    carried: dict[SignalName, float] = {}
    pace: dict[str, float] = {}
    for program in reversed(sources):
        names = carried_names(program.signals)
        carried |= {signal: program[name] for signal, name in zip(program.signals, names, strict=True)}
        pace |= {name: value for name, value in program.values if name in (*_AHEAD, *_ALWAYS)}
    ordered = tuple(sorted(dict.fromkeys(signals), key=list(SIGNALS).index))
    own = {name: carried[signal] for signal, name in zip(ordered, carried_names(ordered), strict=True)}
    return make(ordered, combine, {**pace, **own})


def _middle(name: str) -> float:
    kind = CONSTANTS[kind_of(name)]
    return 0.0 if kind.name == "spare_replicas" else rounded(kind, kind.value_at(0.5)).value


Change = Callable[[ScalingProgram, random.Random], ScalingProgram]


def _other_signal(program: ScalingProgram, rng: random.Random) -> ScalingProgram:
    fresh = random_scaling(rng)
    return _assembled((*program.signals[1:], fresh.signals[0]), program.combine, program, fresh)


def _more_signals(program: ScalingProgram, rng: random.Random) -> ScalingProgram:
    fresh = random_scaling(rng)
    return _assembled((*program.signals, fresh.signals[0]), fresh.combine, program, fresh)


def _fewer_signals(program: ScalingProgram, rng: random.Random) -> ScalingProgram:
    kept = tuple(rng.sample(program.signals, len(program.signals) - 1))
    return _assembled(kept, program.combine, program)


def _looks_ahead(program: ScalingProgram, rng: random.Random) -> ScalingProgram:
    """The rate of arrivals as it will be, in place of as it was; or the other way round."""
    swap: Mapping[str, SignalName] = {"arrivals": "requests_ahead", "requests_ahead": "arrivals"}
    return make(tuple(swap.get(name, name) for name in program.signals), program.combine, dict(program.values))


def _combines_otherwise(program: ScalingProgram, rng: random.Random) -> ScalingProgram:
    return make(program.signals, "sum" if program.combine == "larger" else "larger", dict(program.values))


def _other_constant(program: ScalingProgram, rng: random.Random) -> ScalingProgram:
    name = rng.choice([name for name, _ in program.values])
    return with_constants(program, {name: random_constant(rng, kind_of(name))})


_CHANGES: Mapping[str, Change] = {
    "measures something else": _other_signal,
    "measures something besides": _more_signals,
    "measures less": _fewer_signals,
    "looks ahead, or no longer": _looks_ahead,
    "combines otherwise": _combines_otherwise,
    "draws a constant anew": _other_constant,
}


def mutate(program: ScalingProgram, rng: random.Random) -> tuple[ScalingProgram, str]:
    """One change, in words."""
    while True:
        name = rng.choice(list(_CHANGES))
        try:
            changed = _CHANGES[name](program, rng)
        except GrammarError:
            continue
        if changed != program:
            return changed, name


def cross(first: ScalingProgram, second: ScalingProgram, rng: random.Random) -> tuple[ScalingProgram, str]:
    """A signal of each, constants of the first where both have one; or one's signals at the other's pace."""
    if rng.random() < 0.5:
        pace = {name: value for name, value in second.values if name in (*_AHEAD, *_ALWAYS)}
        child = make(first.signals, first.combine, {**dict(first.values), **pace})
        return child, "keeps pace with another parent"
    signals = (rng.choice(first.signals), rng.choice(second.signals))
    return _assembled(signals, "larger", first, second), "measures what two parents do"


def reductions(program: ScalingProgram) -> Iterator[tuple[str, ScalingProgram]]:
    """The rule without each of its signals, its look ahead, its spare replicas, its patience; and what that is."""
    for name in program.signals if len(program.signals) > 1 else ():
        rest = tuple(other for other in program.signals if other != name)
        yield SIGNALS[name].words, _assembled(rest, program.combine, program)
    if looks_ahead(program.signals):
        least = {"lead_seconds": CONSTANTS["lead_seconds"].low, "fall_lead_seconds": CONSTANTS["fall_lead_seconds"].low}
        yield "the look ahead", make(program.signals, program.combine, {**dict(program.values), **least})
    for constant, words in (
        ("spare_replicas", "the spare replicas"),
        ("hold_seconds", "the patience before shrinking"),
    ):
        if program[constant] > CONSTANTS[constant].low:
            yield words, with_constants(program, {constant: Const(constant, CONSTANTS[constant].low)})


def to_json(program: ScalingProgram) -> dict[str, Any]:
    return {"signals": list(program.signals), "combine": program.combine, "values": dict(program.values)}


def from_json(data: Mapping[str, Any]) -> ScalingProgram:
    """What ``to_json`` wrote.

    Raises:
        GrammarError: it is not one.
    """
    try:
        signals = tuple(data["signals"])
        values = {str(name): float(value) for name, value in data["values"].items()}
        read = tuple((name, values[name]) for name in constant_names(signals))
        return check(ScalingProgram(signals, data["combine"], read))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GrammarError(f"not a scaling program: {error!r}") from None
