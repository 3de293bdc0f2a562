"""Two published policies written in the designer's grammar, and a way to make an emitted module a policy."""

from __future__ import annotations

import random
from typing import Any

from designer.proposers.emit import emit
from designer.proposers.grammar import Const, Field, Limit, Program, Rank, Sum, Times, canonical
from policies.loader import PolicySpec, load_source

_PROMPT = Field("request.num_prompt_tokens")
_INFLIGHT = Field("worker.num_inflight_tokens")
_PREFILL = Field("worker.num_inflight_prefill_tokens")
_REQUESTS = Field("worker.num_inflight_requests")
_CAPACITY = Field("worker.kv_capacity_tokens")
_PARTIAL = Times(Const("tokens_each", 8.0), _REQUESTS)


def _reserve(tokens: Field) -> Times:
    return Times(Const("reserve_ratio", 0.6), tokens)


HEAD_ROOM = canonical(
    Program(
        limits=(
            Limit(
                Sum((_INFLIGHT, _reserve(_PREFILL), _PARTIAL, _PROMPT, _reserve(_PROMPT))),
                Times(Const("usable_share", 0.97), _CAPACITY),
            ),
        ),
        choice=(Rank(Sum((_INFLIGHT, _reserve(_PREFILL), _PARTIAL))), Rank(_REQUESTS)),
        ties="turn",
        order=(Rank(_PROMPT),),
    )
)
"""``joint/head_room:oversize=false,ageing=0`` but for the rounding to blocks of 16 tokens."""

EXPERT = canonical(
    Program(
        limits=(Limit(Sum((_INFLIGHT, _PARTIAL)), Times(Const("usable_share", 0.9375), _CAPACITY)),),
        choice=(Rank(_REQUESTS),),
        ties="random",
        order=(Rank(_PROMPT),),
    )
)
"""``joint/expert``."""


def load(source: str, seed: int = 0) -> Any:
    """The policy object of a module's text."""
    return load_source(source.encode(), PolicySpec("emitted"), random.Random(seed), path="emitted", name="x").policy


def load_program(program: Program, seed: int = 0) -> Any:
    return load(emit(program), seed)
