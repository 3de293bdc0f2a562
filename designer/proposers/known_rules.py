"""Rules that operators use, by part: where a search starts, and what ``tuned-baseline`` tunes."""

from __future__ import annotations

from typing import Any

from designer.proposers.batching import ENGINE_FCFS, ENGINE_PRIORITY, BatchProgram, Order, Term
from designer.proposers.grammar import Const, Field, Limit, Program, Rank, Sum, Times
from designer.proposers.scaling import make

_PROMPT = Field("request.num_prompt_tokens")
_EXPECTED = Field("request.expected_output_tokens")
_AGED = Times(Const("ageing", 1.0), Field("request.arrival_time"))
Rules = tuple[tuple[str, Any], ...]

PLAIN_ROUTER = Program(
    (Limit(Field("worker.kv_cache_usage"), Const("most_used_share", 0.8)),),
    (Rank(Field("worker.num_inflight_requests")),),
)
"""What holds the requests when their order alone is searched: a worker is full at 0.8 of its KV cache (the saturation
detector of the Kubernetes inference gateway), and of the others the one with fewest requests takes the next."""
ORDER_FOUNDERS: Rules = (
    ("first come first served", Program()),
    ("shortest_prompt_first", Program(order=(Rank(_PROMPT),))),
)
ORDER_RULES: Rules = (
    ("first come first served", Program()),
    ("shortest prompt first, aged", Program(order=(Rank(Sum((_PROMPT, _AGED))),))),
    (
        "least expected work first",
        Program(order=(Rank(Sum((_PROMPT, Times(Const("weight", 1.0), _EXPECTED)))),)),
    ),
)
SCALING_RULES: Rules = (
    (
        "target tracking on requests",
        make(("requests",), "larger", {"requests_per_replica": 32.0, "hold_seconds": 300.0}),
    ),
    ("a queue-length rule", make(("waiting",), "larger", {"waiting_per_replica": 4.0, "hold_seconds": 300.0})),
    ("a rate a replica carries", make(("arrivals",), "larger", {"rate_per_replica": 4.0, "hold_seconds": 300.0})),
    ("a share of the KV cache in use", make(("kv_use",), "larger", {"use_per_replica": 0.7, "hold_seconds": 300.0})),
)
"""The Kubernetes HorizontalPodAutoscaler with an average value (its downscale window of 300 s among the constants), on
what operators give it: requests, the length of the queue (as KEDA's scalers for vLLM do), the request rate, KV use."""
SCALING_FOUNDERS: Rules = (
    *SCALING_RULES[:3],
    (
        "a rate a replica carries, looked ahead",
        make(("requests_ahead",), "larger", {"rate_per_replica": 4.0, "hold_seconds": 30.0}),
    ),
)
"""Looking ahead is what one tries first where replicas take time to start; its constants are the middle of their
ranges."""
BATCH_FOUNDERS: Rules = (
    ("vLLM's first come first served", ENGINE_FCFS),
    ("vLLM's priority order", ENGINE_PRIORITY),
    ("prompts in smaller chunks", BatchProgram(budget="share", limits=(Const("prefill_share", 0.25),))),
    ("shortest prompt first", BatchProgram(Order((Term("num_prompt_tokens"),)))),
)
BATCH_RULES: Rules = (
    ("vLLM's first come first served", ENGINE_FCFS),
    ("prompts in smaller chunks", BatchProgram(budget="share", limits=(Const("prefill_share", 0.25),))),
    (
        "shortest prompt first, aged",
        BatchProgram(
            Order((Term("num_prompt_tokens"), Term("arrival_time", Const("tokens_per_second", 10.0)))),
        ),
    ),
    (
        "shortest prompt first, aged, in smaller chunks",
        BatchProgram(
            Order((Term("num_prompt_tokens"), Term("arrival_time", Const("tokens_per_second", 10.0)))),
            budget="share",
            limits=(Const("prefill_share", 0.25),),
        ),
    ),
)
"""Smaller chunks: Agrawal et al., "Sarathi-Serve", OSDI 2024. Shortest first: as any queue with jobs of unlike size."""
