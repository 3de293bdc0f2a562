"""Where the search starts: what anybody would try first. Neither head-room admission nor the paper's expert is here."""

from __future__ import annotations

from collections.abc import Set

from designer.proposers.grammar import Const, Difference, Field, Program, Rank, Times

_FEWEST_IN_FLIGHT = Rank(Field("worker.num_inflight_requests"))
_FEWEST_WAITING = Rank(Field("worker.num_requests_waiting"))
_LEAST_TOKENS = Rank(Field("worker.num_inflight_tokens"))
_CACHED_TOKENS = Field("candidate.num_cached_tokens")
_SHORTEST_PROMPT = Rank(Field("request.num_prompt_tokens"))

FOUNDERS: tuple[tuple[str, Program], ...] = (
    ("least_loaded + fcfs", Program(choice=(_FEWEST_IN_FLIGHT,))),
    ("least_loaded + shortest_prompt_first", Program(choice=(_FEWEST_IN_FLIGHT,), order=(_SHORTEST_PROMPT,))),
    ("least_tokens + fcfs", Program(choice=(_LEAST_TOKENS,))),
    ("least_waiting + fcfs", Program(choice=(_FEWEST_WAITING, _FEWEST_IN_FLIGHT))),
)
"""None of them ever holds a request."""
_LEAST_TOKENS_LESS_CACHED = Rank(
    Difference(Field("worker.num_inflight_tokens"), Times(Const("weight", 1.0), _CACHED_TOKENS))
)


def founders(offered: Set[str]) -> tuple[tuple[str, Program], ...]:
    """``FOUNDERS``, and where prefix caches tell anything the plainest rule that weighs load against what is cached."""
    if _CACHED_TOKENS.name not in offered:
        return FOUNDERS
    return (*FOUNDERS, ("least_tokens less those cached + fcfs", Program(choice=(_LEAST_TOKENS_LESS_CACHED,))))
