"""A module of the right form for a target: the plainest rule of every part, in one class."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from designer.proposers.llm.slots import GIVEN_ROUTE
from designer.proposers.parts import PartName
from policies.syntax import parse


@dataclass(frozen=True, slots=True)
class _Piece:
    """What a part adds to the module."""

    title: str
    typing: frozenset[str]
    """Names from ``collections.abc``."""
    contract: frozenset[str]
    methods: str


_ORDER = """\
    def admit(self, request: Request, pool: Pool) -> bool:
        return True

    def key(self, request: Request) -> float:
        return request.arrival_time
"""
_ROUTE = """\
    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        return min(candidates, key=lambda candidate: candidate.worker.num_inflight_requests)
"""
_REPLICAS = """\
    def desired_replicas(self, pool: Pool) -> Mapping[str, int]:
        wanted = math.ceil((pool.num_inflight_requests + pool.num_queued_requests) / 32)
        return {
            name: max(variant.min_replicas, min(wanted, variant.max_replicas))
            for name, variant in pool.variants.items()
        }
"""
_BATCH = """\
    def waiting_key(self, request: BatchRequest) -> float:
        return request.arrival_time

    def victim_key(self, request: BatchRequest) -> float:
        return request.arrival_time

    def prefill_budget(self, engine: BatchEngine) -> int:
        return engine.max_num_batched_tokens
"""
_ROUTED = frozenset({"Candidate", "Pool", "Request"})
_PIECES: Mapping[PartName, _Piece] = {
    "routing": _Piece(
        "fewest requests in flight; first come, first served", frozenset({"Sequence"}), _ROUTED, f"{_ROUTE}\n{_ORDER}"
    ),
    "scheduling": _Piece(
        "held while no server has room; first come, first served",
        frozenset({"Sequence"}),
        _ROUTED,
        f"{GIVEN_ROUTE}\n{_ORDER}",
    ),
    "autoscaling": _Piece("a replica for 32 requests", frozenset({"Mapping"}), frozenset({"Pool"}), _REPLICAS),
    "batch": _Piece(
        "in the engine first come, first served", frozenset(), frozenset({"BatchEngine", "BatchRequest"}), _BATCH
    ),
}


def example(parts: Sequence[PartName]) -> str:
    """With types, as a policy is kept."""
    pieces = [_PIECES[part] for part in parts]
    title = "; ".join(piece.title for piece in pieces)
    typing = sorted(frozenset().union(*(piece.typing for piece in pieces)))
    contract = sorted(frozenset({"Rng"}).union(*(piece.contract for piece in pieces)))
    imports = ["import math"] if "autoscaling" in parts else []
    imports += [f"from collections.abc import {', '.join(typing)}"] if typing else []
    blocks = [
        f'"""{title[0].upper()}{title[1:]}."""',
        "from __future__ import annotations",
        *(["\n".join(imports)] if imports else []),
        f"from policies.contract import {', '.join(contract)}",
        "\nclass Policy:\n" + "\n".join(piece.methods for piece in pieces).rstrip(),
        "\ndef create(rng: Rng) -> Policy:\n    return Policy()",
    ]
    return "\n\n".join(blocks)


def plain_example(parts: Sequence[PartName]) -> str:
    """The same without types, for models to which every word is dear."""
    tree = parse(example(parts))
    tree.body = [node for node in tree.body if not isinstance(node, ast.ImportFrom)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    return ast.unparse(tree)
