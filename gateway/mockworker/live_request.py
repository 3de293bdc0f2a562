"""A request in the engine, and all that the scheduler knows of it."""

from __future__ import annotations

from gateway.mockworker.engine_types import EngineRequest, RequestStats
from gateway.mockworker.kv_cache import Chain, Held

WAITING, PREFILLING, DECODING, ENDED = range(4)


class Losses:
    """What preemptions cost a request."""

    __slots__ = (
        "cached_at_admission",
        "high",
        "num_preemptions",
        "preempted_at",
        "preempted_ps",
        "prefill_preempted_ps",
        "recomputed",
    )

    def __init__(self, num_cached: int) -> None:
        self.num_preemptions = 0
        self.recomputed = 0
        self.cached_at_admission = num_cached
        self.high = 0
        """Most tokens ever computed, as of the last preemption."""
        self.preempted_at = -1
        """Of the first preemption since its last token."""
        self.preempted_ps = 0
        self.prefill_preempted_ps = 0

    def add(self, computed: int) -> None:
        """Account for what was computed since the admission, now that it ends or is lost."""
        self.recomputed += max(0, min(computed, self.high) - self.cached_at_admission)
        self.high = max(self.high, computed)

    def made_token(self, now: int, *, first: bool) -> None:
        """It goes on, or starts, to decode."""
        if self.preempted_at >= 0:
            stood = now - self.preempted_at
            self.preempted_ps += stood
            if first:
                self.prefill_preempted_ps = stood
            self.preempted_at = -1


class LiveRequest:
    """Its state. What a decoding request changes from step to step is told by the engine's count of steps."""

    __slots__ = (
        "arrival",
        "chain",
        "computed",
        "end_count",
        "first_scheduled",
        "first_token",
        "held",
        "limit",
        "losses",
        "num_cached",
        "num_held",
        "num_keyed",
        "offset",
        "order",
        "sequence",
        "spec",
        "starved_at",
        "state",
        "target",
        "visible",
    )

    offset: int
    """While it decodes: its tokens less the engine's count of steps."""
    end_count: int
    """While it decodes: the engine's count of steps at which it ends."""
    order: int
    """Of its last admission."""
    held: Held
    """Cached blocks it shares or may share; set while ``num_held`` is not 0."""

    def __init__(self, spec: EngineRequest, arrival: int, visible: int, limit: int, sequence: int) -> None:
        self.spec = spec
        self.arrival = arrival
        self.visible = visible
        self.sequence = sequence
        self.state = WAITING
        prompt = spec.num_prompt_tokens
        most = prompt + spec.num_output_tokens
        self.limit = most if most < limit else limit
        """It ends when it has so many tokens."""
        self.target = prompt
        """Tokens to compute before it decodes: those it had when it last started to wait."""
        self.computed = 0
        """Tokens computed, while it prefills and at its end."""
        self.chain: Chain | None = None
        """Keys of its blocks, where any can be hit."""
        self.num_keyed = 0
        """Blocks, from the first, that are under keys others may know."""
        self.num_held = 0
        """Blocks in ``held``."""
        self.starved_at = -1
        """While it decodes: the engine's count of steps after the last one that had no token for it."""
        self.first_scheduled = -1
        self.first_token = -1
        self.num_cached = 0
        self.losses: Losses | None = None

    def final_stats(self, finish: int) -> RequestStats:
        """As it ends."""
        if self.losses:
            self.losses.add(self.computed)
        return self.stats(self.limit, finish)

    def stats(self, num_tokens: int, finish: int) -> RequestStats:
        spec, losses = self.spec, self.losses
        prompt, num_cached = spec.num_prompt_tokens, self.num_cached
        times = (spec.request_id, self.arrival, self.first_scheduled, self.first_token, finish)
        if losses is None:
            return tuple.__new__(RequestStats, (*times, prompt, num_tokens - prompt, num_cached, 0, 0, 0, 0))
        lost = (losses.num_preemptions, losses.recomputed, losses.preempted_ps, losses.prefill_preempted_ps)
        return tuple.__new__(RequestStats, (*times, prompt, num_tokens - prompt, num_cached, *lost))
