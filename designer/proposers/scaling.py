"""A small grammar of autoscaling rules: what is measured, how much of it one replica carries, how fast to shrink.

Wanted replicas are the largest, or the sum, of a few signals each divided by what a replica carries of it, and spare
ones besides. More are asked for at once; fewer only after every answer of the last ``hold`` seconds was that low.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from designer.proposers.grammar import Const, GrammarError
from designer.proposers.sampling import rounded
from designer.proposers.vocabulary import ConstantKind

SignalName = Literal["requests", "waiting", "arrivals", "forecast", "kv_use", "queued"]
Combine = Literal["larger", "sum"]
MAX_SIGNALS = 2


@dataclass(frozen=True, slots=True)
class SignalKind:
    """Something a pool can measure, and the constant it is divided by."""

    name: SignalName
    words: str
    code: str
    """Over ``pool``; ``self._rate_ahead(pool)`` is the arrival rate, ``lead`` seconds ahead."""
    carried: str
    """A key of ``CONSTANTS``: what one replica carries of it."""


_SIGNALS = (
    SignalKind(
        "requests",
        "the requests in flight and held",
        "pool.num_inflight_requests + pool.num_queued_requests",
        "requests_per_replica",
    ),
    SignalKind(
        "waiting",
        "the requests waiting in the engines at the last scrape, and held",
        "sum(worker.num_requests_waiting for worker in pool.workers) + pool.num_queued_requests",
        "waiting_per_replica",
    ),
    SignalKind("arrivals", "the arrival rate", "pool.arrival_rate", "rate_per_replica"),
    SignalKind(
        "forecast",
        "the arrival rate expected when a replica asked for now is ready",
        "self._rate_ahead(pool)",
        "rate_per_replica",
    ),
    SignalKind(
        "kv_use",
        "the KV cache in use, in workers' worth",
        "sum(worker.kv_cache_usage for worker in pool.workers)",
        "use_per_replica",
    ),
    SignalKind("queued", "the requests held", "pool.num_queued_requests", "waiting_per_replica"),
)
SIGNALS: Mapping[str, SignalKind] = {signal.name: signal for signal in _SIGNALS}
CONSTANTS: Mapping[str, ConstantKind] = {
    kind.name: kind
    for kind in (
        ConstantKind("requests_per_replica", "requests", 4.0, 256.0, True, "requests one replica carries"),
        ConstantKind("waiting_per_replica", "requests", 0.5, 64.0, True, "waiting requests that call for a replica"),
        ConstantKind("rate_per_replica", "requests", 0.2, 50.0, True, "requests a second one replica carries"),
        ConstantKind("use_per_replica", "fraction", 0.2, 1.0, False, "share of its KV cache a replica is to use"),
        ConstantKind("lead_seconds", "seconds", 5.0, 120.0, True, "seconds ahead that the arrival rate is carried on"),
        ConstantKind("spare_replicas", "fraction", 0.0, 2.0, False, "replicas wanted beyond what is measured"),
        ConstantKind(
            "hold_seconds", "seconds", 1.0, 600.0, True, "seconds for which fewer must do before any is given up"
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Signal:
    name: SignalName
    carried: Const


@dataclass(frozen=True, slots=True)
class ScalingProgram:
    signals: tuple[Signal, ...]
    combine: Combine
    spare: Const
    hold: Const
    lead: Const
    """Read by the forecast alone."""


def constants(program: ScalingProgram) -> dict[str, Const]:
    """The constants that decide something, by a name that is a parameter of the emitted module."""
    found = {f"{signal.carried.kind}{_number(n, program)}": signal.carried for n, signal in enumerate(program.signals)}
    found |= {"spare_replicas": program.spare, "hold_seconds": program.hold}
    if any(signal.name == "forecast" for signal in program.signals):
        found["lead_seconds"] = program.lead
    return found


def with_constants(program: ScalingProgram, values: Mapping[str, Const]) -> ScalingProgram:
    """The program with some of its constants replaced."""
    all_of = {**constants(program), **values}
    names = [f"{signal.carried.kind}{_number(n, program)}" for n, signal in enumerate(program.signals)]
    signals = tuple(replace(s, carried=all_of[name]) for s, name in zip(program.signals, names, strict=True))
    lead = all_of.get("lead_seconds", program.lead)
    return ScalingProgram(signals, program.combine, all_of["spare_replicas"], all_of["hold_seconds"], lead)


def check(program: ScalingProgram) -> ScalingProgram:
    """Itself.

    Raises:
        GrammarError: no signal, too many, or one twice.
    """
    names = [signal.name for signal in program.signals]
    if not 1 <= len(names) <= MAX_SIGNALS or len(set(names)) < len(names):
        raise GrammarError(f"one to {MAX_SIGNALS} different signals, not {names}")
    return program


def canonical(program: ScalingProgram) -> ScalingProgram:
    """Signals in the order of ``SIGNALS``; with one of them there is nothing to combine."""
    order = list(SIGNALS)
    signals = tuple(sorted(program.signals, key=lambda signal: order.index(signal.name)))
    return replace(program, signals=signals, combine=program.combine if len(signals) > 1 else "larger")


def random_scaling(rng: random.Random) -> ScalingProgram:
    names = rng.sample(list(SIGNALS), rng.choice((1, 1, 2)))
    signals = tuple(Signal(SIGNALS[name].name, random_constant(rng, SIGNALS[name].carried)) for name in names)
    combine: Combine = rng.choice(("larger", "larger", "sum"))
    others = (random_constant(rng, kind) for kind in ("spare_replicas", "hold_seconds", "lead_seconds"))
    return canonical(ScalingProgram(signals, combine, *others))


def random_constant(rng: random.Random, kind: str) -> Const:
    position = rng.triangular(0.0, 1.0, 0.5)
    return at(CONSTANTS[kind], position)


def at(kind: ConstantKind, position: float) -> Const:
    """The constant at this place of its range, 0 to 1."""
    return rounded(kind, kind.value_at(position))


_CHANGES: Mapping[str, Callable[[ScalingProgram, random.Random], ScalingProgram]] = {
    "measures something else": lambda program, rng: replace(
        program, signals=(*program.signals[1:], random_scaling(rng).signals[0])
    ),
    "measures something besides": lambda program, rng: replace(
        program, signals=(*program.signals, random_scaling(rng).signals[0])
    ),
    "measures less": lambda program, rng: replace(program, signals=program.signals[: len(program.signals) - 1]),
    "combines otherwise": lambda program, rng: replace(
        program, combine="sum" if program.combine == "larger" else "larger"
    ),
    "shrinks at another pace": lambda program, rng: replace(program, hold=random_constant(rng, "hold_seconds")),
}


def mutate(program: ScalingProgram, rng: random.Random) -> tuple[ScalingProgram, str]:
    """One change, in words."""
    while True:
        name = rng.choice(list(_CHANGES))
        try:
            changed = check(canonical(_CHANGES[name](program, rng)))
        except GrammarError:
            continue
        if changed != program:
            return changed, name


def to_json(program: ScalingProgram) -> dict[str, Any]:
    return {
        "scaling": {
            "signals": [[signal.name, signal.carried.value] for signal in program.signals],
            "combine": program.combine,
            **{key: getattr(program, key).value for key in ("spare", "hold", "lead")},
        }
    }


def from_json(data: Mapping[str, Any]) -> ScalingProgram:
    """What ``to_json`` wrote.

    Raises:
        GrammarError: it is not one.
    """
    try:
        table = data["scaling"]
        signals = tuple(Signal(name, Const(SIGNALS[name].carried, float(value))) for name, value in table["signals"])
        kinds = {"spare": "spare_replicas", "hold": "hold_seconds", "lead": "lead_seconds"}
        others = {key: Const(kind, float(table[key])) for key, kind in kinds.items()}
        return check(ScalingProgram(signals, table["combine"], **others))
    except (KeyError, TypeError, ValueError) as error:
        raise GrammarError(f"not a scaling program: {error!r}") from None


def _number(n: int, program: ScalingProgram) -> str:
    kinds = [signal.carried.kind for signal in program.signals[:n]]
    return f"_{kinds.count(program.signals[n].carried.kind) + 1}" if program.signals[n].carried.kind in kinds else ""
