"""The requests of one simulation, as columns, with the truth that only engines may know.

A workload is drawn before anything is decided: it is a function of scenario and seed alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from designer.simulator import draws
from designer.simulator.draws import Floats, Ints
from designer.simulator.scenario import (
    Arrivals,
    Lengths,
    MaxTokens,
    Prefixes,
    PromptBytes,
    Scenario,
    ScenarioError,
    Sessions,
    SyntheticWorkload,
    Tenant,
    TraceWorkload,
)
from designer.simulator.trace import Trace, read_trace
from designer.simulator.workload_tables import LONGEST_SECONDS, MOST_REQUESTS
from gateway.mockworker.engine import PS_PER_SECOND as PS_PER_SECOND

CHUNK_TOKENS = 256
"""Tokens in a chunk of a drawn prefix: the gateway's 1 KB of text at about four bytes a token."""
PRIOR_BYTES_PER_TOKEN = 4.0
"""How the gateway turns the bytes of a prefix chunk into tokens."""

Chunks = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RequestColumns:
    """One row for each request, in order of arrival."""

    arrival_ps: Ints
    """Of a later turn of a session the earliest that could be; it is sent ``think_ps`` after the answer before it."""
    num_prompt_tokens: Ints
    num_output_tokens: Ints
    """The truth, at least 1, already cut to ``max_tokens``."""
    num_prompt_bytes: Ints
    max_tokens: Ints
    """0: not given."""
    tenant: Ints
    """Index into ``tenants``."""
    stream: NDArray[np.bool_]
    tenants: tuple[Tenant, ...]
    prefix_chunks: tuple[Chunks, ...] = ()
    """For each request (key, cumulative true prompt tokens); empty when nothing is shared."""
    answer_chunks: tuple[Chunks, ...] = ()
    """Those that go on from there through its answer, which the next turn's prompt repeats; empty: no turns."""
    exact_prompt_tokens: bool = False
    """The dispatcher is told token counts, not only bytes."""
    session_ids: tuple[str | None, ...] = ()
    """Empty: no request has one."""
    models: tuple[str, ...] = ()
    """As the client wrote them; empty: nobody wrote one."""
    ttft_slos: Floats | None = None
    """Seconds, of each request; NaN: the tenant's. None: the tenant's for all."""
    priorities: Ints | None = None
    """Higher first, of each request. None: the tenant's for all."""
    turn_after: Ints | None = None
    """The row of the turn before, which comes first; -1 for a first turn. None: there are no sessions."""
    think_ps: Ints | None = None
    """From the answer of the turn before; 0 for a first turn."""

    def __len__(self) -> int:
        return len(self.arrival_ps)


def draw_workload(scenario: Scenario, seed: int) -> RequestColumns:
    """The requests of ``scenario`` under ``seed``: the same for every policy.

    Raises:
        ScenarioError, TraceError: the trace is missing, or cannot be read.
    """
    if isinstance(scenario.workload, TraceWorkload):
        return _from_trace(scenario.workload, seed)
    return _synthesize(scenario.workload, seed)


def _synthesize(spec: SyntheticWorkload, seed: int) -> RequestColumns:
    arrival_ps = _arrivals(spec, seed)
    count = len(arrival_ps)
    prompt = _lengths(spec.prompt_tokens, seed, "prompt", count)
    chunks: tuple[Chunks, ...] = ()
    if spec.prefixes is not None:
        added, chunks = _prefixes(spec.prefixes, seed, count)
        prompt = prompt + added
    output = _lengths(spec.output_tokens, seed, "output", count)
    max_tokens = _max_tokens(spec.max_tokens, seed, count)
    columns = RequestColumns(
        arrival_ps=arrival_ps,
        num_prompt_tokens=prompt,
        num_output_tokens=_cut(output, max_tokens),
        num_prompt_bytes=_bytes(spec.bytes, prompt, seed),
        max_tokens=max_tokens,
        tenant=draws.choices(seed, "tenant", count, np.array([tenant.weight for tenant in spec.tenants])),
        stream=draws.uniforms(seed, "stream", count) < spec.stream_fraction,
        tenants=spec.tenants,
        prefix_chunks=chunks,
        exact_prompt_tokens=spec.bytes.exact,
    )
    if spec.models:
        chosen = draws.choices(seed, "model", count, np.array([model.weight for model in spec.models]))
        columns = replace(columns, models=tuple(spec.models[index].name for index in chosen.tolist()))
    columns = _within_tenants_times(columns)
    return columns if spec.sessions is None else _with_turns(columns, spec, spec.sessions, seed)


def _with_turns(columns: RequestColumns, spec: SyntheticWorkload, sessions: Sessions, seed: int) -> RequestColumns:
    """Later turns, drawn by seed, session and turn; all rows in the order of their earliest arrival."""
    count = len(columns)
    num_turns = _lengths(sessions.turns, seed, "turns", count)
    turns = [columns]
    session = [np.arange(count)]
    after, thinks = [np.full(count, -1)], [np.zeros(count, dtype=np.int64)]
    row, prompt, output = np.arange(count), columns.num_prompt_tokens, columns.num_output_tokens
    arrival_ps, num_rows = columns.arrival_ps, count
    for turn in range(1, int(num_turns.max(initial=0))):
        prompt = prompt + output + _lengths(spec.prompt_tokens, seed, f"prompt of turn {turn}", count)
        output = _cut(_lengths(spec.output_tokens, seed, f"output of turn {turn}", count), columns.max_tokens)
        normals = draws.standard_normals(seed, f"think before turn {turn}", count)
        think_ps = _to_ps(sessions.think_seconds * np.exp(sessions.think_sigma * normals))
        arrival_ps = arrival_ps + think_ps
        num_bytes = _bytes(spec.bytes, prompt, seed, f"bytes of turn {turn}")
        goes_on = np.flatnonzero((num_turns > turn) & (prompt <= sessions.max_prompt_tokens))
        num_turns = np.where(prompt <= sessions.max_prompt_tokens, num_turns, 0)
        drawn = replace(
            columns,
            arrival_ps=arrival_ps,
            num_prompt_tokens=prompt,
            num_output_tokens=output,
            num_prompt_bytes=num_bytes,
        )
        turns.append(_rows(drawn, goes_on))
        session.append(goes_on)
        after.append(row[goes_on])
        thinks.append(think_ps[goes_on])
        row = row.copy()
        row[goes_on] = num_rows + np.arange(len(goes_on))
        num_rows += len(goes_on)
    return _in_order(columns, turns, np.concatenate(session), np.concatenate(after), np.concatenate(thinks), seed)


def _in_order(
    columns: RequestColumns, turns: list[RequestColumns], session: Ints, after: Ints, think_ps: Ints, seed: int
) -> RequestColumns:
    """One table of all turns, sorted, each naming the place of the one before it, with the prefixes they share."""
    whole = {name: np.concatenate([getattr(turn, name) for turn in turns]) for name in _ROWS}
    order = np.argsort(whole["arrival_ps"], kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    joined: dict[str, Any] = {name: column[order] for name, column in whole.items()}
    of = session[order].tolist()
    prompts = joined["num_prompt_tokens"].tolist()
    ends = (joined["num_prompt_tokens"] + joined["num_output_tokens"]).tolist()
    shared = _session_chunks(columns, of, prompts, ends, seed)
    return replace(
        columns,
        **joined,
        prefix_chunks=tuple(chunks for chunks, _ in shared),
        answer_chunks=tuple(chunks for _, chunks in shared),
        session_ids=tuple(f"s{number}" for number in of),
        models=tuple(columns.models[number] for number in of) if columns.models else (),
        turn_after=np.where(after < 0, -1, place[after])[order],
        think_ps=think_ps[order],
    )


def _session_chunks(
    columns: RequestColumns, session: list[int], prompts: list[int], ends: list[int], seed: int
) -> list[tuple[Chunks, Chunks]]:
    """Of each row, in prompt and answer: the chunks of a common beginning, if its session has one, then its own."""
    longest = [0] * len(columns)
    for number, end in zip(session, ends, strict=True):
        longest[number] = max(longest[number], end // CHUNK_TOKENS)
    whole = []
    for number, last in enumerate(longest):
        common = columns.prefix_chunks[number] if columns.prefix_chunks else ()
        own = range(len(common) + 1, last + 1)
        whole.append(common + tuple((_key(f"{seed}/session {number}/{i}"), i * CHUNK_TOKENS) for i in own))
    return [
        (whole[number][: prompt // CHUNK_TOKENS], whole[number][prompt // CHUNK_TOKENS : end // CHUNK_TOKENS])
        for number, prompt, end in zip(session, prompts, ends, strict=True)
    ]


def _within_tenants_times(columns: RequestColumns) -> RequestColumns:
    ends = [tenant.to_seconds for tenant in columns.tenants]
    if not any(tenant.from_seconds for tenant in columns.tenants) and not any(ends):
        return columns
    seconds = columns.arrival_ps / PS_PER_SECOND
    since = np.array([tenant.from_seconds for tenant in columns.tenants])[columns.tenant]
    until = np.array([np.inf if end is None else end for end in ends])[columns.tenant]
    kept = np.flatnonzero((since <= seconds) & (seconds < until))
    return _rows(columns, kept)


_ROWS = ("arrival_ps", "num_prompt_tokens", "num_output_tokens", "num_prompt_bytes", "max_tokens", "tenant", "stream")
"""The columns of a drawn workload."""


def _rows(columns: RequestColumns, kept: Ints) -> RequestColumns:
    """Some of its requests."""
    chunks = tuple(columns.prefix_chunks[row] for row in kept.tolist()) if columns.prefix_chunks else ()
    models = tuple(columns.models[row] for row in kept.tolist()) if columns.models else ()
    return replace(
        columns, prefix_chunks=chunks, models=models, **{name: getattr(columns, name)[kept] for name in _ROWS}
    )


def _arrivals(spec: SyntheticWorkload, seed: int) -> Ints:
    if spec.num_requests is not None:
        times = _times(spec.arrivals, seed, spec.num_requests)
        if times[-1] > LONGEST_SECONDS:
            raise ScenarioError(
                f"workload: arrivals last {times[-1]:g} s, over {LONGEST_SECONDS:g}; raise arrivals.rate"
            )
        return _to_ps(times)
    duration = spec.duration_seconds or 0.0
    count = 1024
    while True:  # a longer draw begins with the shorter one, so doubling changes nothing
        times = _times(spec.arrivals, seed, count)
        if times[-1] > duration:
            return _to_ps(times[times <= duration])
        if count > MOST_REQUESTS:
            raise ScenarioError(
                f"workload: over {MOST_REQUESTS:,} requests in duration_seconds = {duration:g}; "
                "lower it or arrivals.rate, or give num_requests"
            )
        count *= 2


def _times(arrivals: Arrivals, seed: int, count: int) -> Floats:
    steady = np.cumsum(_gaps(arrivals, seed, count))
    if arrivals.day_seconds is None:
        return np.asarray(steady, dtype=np.float64)
    return _through_the_day(steady, arrivals.day_seconds, arrivals.day_amplitude)


def _through_the_day(steady: Floats, day: float, amplitude: float) -> Floats:
    """The times at which a rate of ``1 - amplitude * cos`` has let as many requests come as a steady one by then."""
    swing = amplitude * day / (2 * np.pi)
    low, high = steady - swing, steady + swing
    for _ in range(64):  # bisection: to the last bit of a float
        middle = (low + high) / 2
        early = middle - swing * np.sin(2 * np.pi * middle / day) < steady
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return high


def _gaps(arrivals: Arrivals, seed: int, count: int) -> Floats:
    if arrivals.sigma is not None:
        unit = draws.unit_lognormals(seed, "gap", count, arrivals.sigma)
    elif arrivals.cv is not None:
        unit = draws.unit_gammas(seed, "gap", count, arrivals.cv)
    else:
        unit = draws.exponentials(seed, "gap", count)
    return unit / arrivals.rate


def _to_ps(seconds: Floats) -> Ints:
    return np.rint(seconds * PS_PER_SECOND).astype(np.int64)


def _lengths(lengths: Lengths, seed: int, purpose: str, count: int) -> Ints:
    tokens = lengths.median * np.exp(lengths.sigma * draws.standard_normals(seed, purpose, count))
    outlier = draws.uniforms(seed, f"{purpose} outlier", count) < lengths.outlier_fraction
    tokens = np.where(outlier, tokens * lengths.outlier_factor, tokens)
    return np.clip(np.rint(tokens), lengths.min, lengths.max).astype(np.int64)


def _max_tokens(spec: MaxTokens | None, seed: int, count: int) -> Ints:
    if spec is None:
        return np.zeros(count, dtype=np.int64)
    picked = draws.choices(seed, "max_tokens", count, np.ones(len(spec.values)))
    unset = draws.uniforms(seed, "max_tokens unset", count) < spec.unset_fraction
    return np.asarray(np.where(unset, 0, np.array(spec.values)[picked]), dtype=np.int64)


def _cut(output: Ints, max_tokens: Ints) -> Ints:
    limit = np.where(max_tokens > 0, max_tokens, np.iinfo(np.int64).max)
    cut: Ints = np.minimum(output, limit)
    return cut


def _bytes(spec: PromptBytes, prompt: Ints, seed: int, purpose: str = "bytes") -> Ints:
    noise = np.exp(spec.sigma * draws.standard_normals(seed, purpose, len(prompt)))
    counts: Ints = np.maximum(1, np.rint(prompt * spec.per_token * noise)).astype(np.int64)
    return counts


def _prefixes(spec: Prefixes, seed: int, count: int) -> tuple[Ints, tuple[Chunks, ...]]:
    """Tokens added in front of each prompt, and the chunks that name them."""
    tokens = _lengths(spec.tokens, seed, "prefix", spec.groups)
    weights = np.arange(1, spec.groups + 1, dtype=np.float64) ** -spec.zipf
    group = draws.choices(seed, "prefix group", count, weights)
    has_one = draws.uniforms(seed, "prefix share", count) < spec.fraction
    of_group = [_group_chunks(seed, index, int(length)) for index, length in enumerate(tokens)]
    chunks = tuple(of_group[index] if shared else () for index, shared in zip(group, has_one, strict=True))
    return np.where(has_one, tokens[group], 0), chunks


def _group_chunks(seed: int, group: int, num_tokens: int) -> Chunks:
    whole = range(1, num_tokens // CHUNK_TOKENS + 1)
    return tuple((_key(f"{seed}/{group}/{index}"), index * CHUNK_TOKENS) for index in whole)


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _from_trace(spec: TraceWorkload, seed: int) -> RequestColumns:
    trace = read_trace(spec.file)
    kept = _slice(trace, spec)
    kept = kept[draws.uniforms(seed, "keep", len(kept)) < spec.keep_fraction]
    seconds = (trace.seconds[kept] - spec.start_seconds) * spec.time_scale
    prompt = trace.num_prompt_tokens[kept]
    max_tokens = np.where(
        trace.max_tokens[kept] > 0, trace.max_tokens[kept], _max_tokens(spec.max_tokens, seed, len(kept))
    )
    rows = kept.tolist()
    return RequestColumns(
        arrival_ps=_to_ps(seconds),
        num_prompt_tokens=prompt,
        num_output_tokens=_cut(trace.num_output_tokens[kept], max_tokens),
        num_prompt_bytes=_bytes(spec.bytes, prompt, seed),
        max_tokens=max_tokens,
        tenant=trace.tenant[kept],
        stream=np.ones(len(kept), dtype=np.bool_),
        tenants=tuple(Tenant(name=name) for name in trace.tenants),
        prefix_chunks=tuple(trace.prefix_chunks[row] for row in rows) if trace.prefix_chunks else (),
        exact_prompt_tokens=spec.bytes.exact,
        session_ids=tuple(trace.session_ids[row] for row in rows) if trace.session_ids else (),
        models=tuple(trace.models[row] for row in rows) if trace.models else (),
        ttft_slos=trace.ttft_slos[kept],
        priorities=trace.priorities[kept],
    )


def _slice(trace: Trace, spec: TraceWorkload) -> Ints:
    end = np.inf if spec.first_seconds is None else spec.start_seconds + spec.first_seconds
    return np.flatnonzero((trace.seconds >= spec.start_seconds) & (trace.seconds < end)).astype(np.int64)


_SINGLE = 32
"""Trace blocks at the start of a prompt that are each shown to the dispatcher."""


def shown_chunks(chunks: Chunks, tokens_per_token: float) -> Chunks:
    """At most 64 of a prompt's chunks, with token counts as the gateway believes them.

    The chunks shown lie at places that depend on nothing but their index (every one of the first 32, every second up
    to 64, every eighth up to 128, every 16th up to 256), so that two prompts with a common start show the same keys.
    """
    shown = []
    last = 0
    for index, (key, tokens) in enumerate(chunks[:256], start=1):
        if index % _stride(index) == 0:
            last = max(last + 1, round(tokens * tokens_per_token))
            shown.append((key, last))
    return tuple(shown)


def _stride(index: int) -> int:
    if index <= _SINGLE:
        return 1
    if index <= 2 * _SINGLE:
        return 2
    return 8 if index <= 4 * _SINGLE else 16
