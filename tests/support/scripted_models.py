"""Models that say what a test wrote for them, over real HTTP, streamed or whole as the request asks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from designer.proposers.llm.settings import LlmSettings, make_settings
from tests.support.fake_connection import Behaviour, Exchange, Recorded
from tests.support.fake_vllm import answer, choose, error
from tests.support.vllm_bytes import DONE, LAST_CHUNK, SSE_HEADERS, chunk, head, sse_event

ROLES = ("researcher", "analyst", "supervisor")
GOOD = '''"""Shortest prompt first, to the server with the fewest prompt tokens in flight."""


class Policy:
    def route(self, request, candidates, pool):
        return min(candidates, key=lambda candidate: candidate.worker.num_inflight_prompt_tokens)

    def admit(self, request, pool):
        return True

    def key(self, request):
        return request.num_prompt_tokens


def create(rng):
    return Policy()
'''
"""A policy that keeps the contract."""
IMPORTS_OS = GOOD.replace("\n\nclass", "\nimport os\n\n\nclass").replace("return True", "return bool(os.environ)")
READS_FUTURE = GOOD.replace("candidate.worker.num_inflight_prompt_tokens", "request.num_output_tokens")


def says(
    content: str = "",
    calls: Sequence[tuple[str, Any]] = (),
    *,
    usage: tuple[Any, Any] | None = (100, 20),
    finish: str = "",
    refusal: str = "",
    reasoning: str = "",
) -> Behaviour:
    """One reply; arguments of calls are JSON values, or a text to be sent as it is."""
    tool_calls = [
        {
            "id": f"id-{n}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for n, (name, given) in enumerate(calls)
    ]
    message: dict[str, Any] = {"role": "assistant", "content": content}
    message |= {"tool_calls": tool_calls} if tool_calls else {}
    message |= {"refusal": refusal} if refusal else {}
    message |= {"reasoning_content": reasoning} if reasoning else {}
    reason = finish or ("tool_calls" if tool_calls else "stop")

    async def behave(exchange: Exchange) -> None:
        if exchange.request.json.get("stream"):
            await exchange.send(head(200, SSE_HEADERS))
            for event in [*_events(message, reason, usage), DONE]:
                await exchange.send(chunk(event))
            await exchange.send(LAST_CHUNK)
        else:
            await answer(_whole(message, reason, usage))(exchange)

    return behave


def cut_stream(content: str = "half a reply", *, politely: bool = False) -> Behaviour:
    """Some of a reply, then the end: of the connection, or of the body, as if that were all."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(head(200, SSE_HEADERS))
        await exchange.send(chunk(_event({"content": content}, None)))
        if politely:
            await exchange.send(LAST_CHUNK)
        else:
            exchange.close()

    return behave


def experiment(source: str, hypothesis: str = "it is faster", predicted: float | None = 0.9) -> Behaviour:
    return says(calls=[("run_experiment", wanted(source, hypothesis, predicted))])


def wanted(source: str, hypothesis: str = "it is faster", predicted: float | None = 0.9) -> dict[str, Any]:
    return {"hypothesis": hypothesis, "predicted_ratio": predicted, "source": source}


def judges(decision: str = "deeper", message: str = "Why?", recall: Sequence[str] = ()) -> Behaviour:
    return says(json.dumps({"decision": decision, "message": message, "recall": list(recall)}))


class Cast:
    """The script of three models: every role has its own lines, the last of which repeats."""

    def __init__(self, **lines: Sequence[Behaviour]) -> None:
        self.lines = {role: list(lines.get(role, ())) for role in ROLES}
        self.heard: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
        """Bodies of the requests to each role."""

    def script(self) -> Behaviour:
        return choose(self._pick)

    def texts(self, role: str) -> str:
        """Everything a role was ever sent."""
        return json.dumps(self.heard[role])

    def _pick(self, request: Recorded) -> Behaviour:
        role = str(request.json["model"])
        self.heard[role].append(request.json)
        lines = self.lines[role]
        if not lines:
            return error(500, f"{role} has no lines")
        return lines.pop(0) if len(lines) > 1 else lines[0]


def cast_settings(url: str, **changes: Any) -> LlmSettings:
    """Every role a model of its name at one address, for a dollar a million tokens."""
    settings = make_settings(model="any", base_url=f"{url}/v1", price="1")
    roles = {role: _role(settings, role, changes.pop(role, {})) for role in ROLES}
    return LlmSettings.model_validate({**settings.model_dump(), **roles, **changes})


def _role(settings: LlmSettings, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings.researcher.model_dump(), "model": name, "max_tokens": 500, "request_seconds": 20.0, **changes}


def _events(message: Mapping[str, Any], reason: str, usage: tuple[Any, Any] | None) -> list[bytes]:
    """As servers do: the role first, the text in two pieces, arguments of a call in two, usage at the end."""
    events = [_event({"role": "assistant", "content": ""}, None)]
    if message.get("reasoning_content"):
        events.append(_event({"reasoning_content": message["reasoning_content"]}, None))
    half = len(message["content"]) // 2
    events += [_event({"content": part}, None) for part in (message["content"][:half], message["content"][half:])]
    if message.get("refusal"):
        events.append(_event({"refusal": message["refusal"]}, None))
    for n, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        cut = len(function["arguments"]) // 2
        first = {**call, "index": n, "function": {"name": function["name"], "arguments": function["arguments"][:cut]}}
        rest = {"index": n, "function": {"arguments": function["arguments"][cut:]}}
        events += [_event({"tool_calls": [part]}, None) for part in (first, rest)]
    events.append(_event({}, reason))
    if usage is not None:
        events.append(sse_event({**_FRAME, "object": "chat.completion.chunk", "choices": [], "usage": _usage(usage)}))
    return events


_FRAME: Mapping[str, Any] = {"id": "chatcmpl-1", "created": 1, "model": "scripted"}


def _event(delta: Mapping[str, Any], reason: str | None) -> bytes:
    choice = {"index": 0, "delta": dict(delta), "finish_reason": reason}
    return sse_event({**_FRAME, "object": "chat.completion.chunk", "choices": [choice]})


def _whole(message: Mapping[str, Any], reason: str, usage: tuple[Any, Any] | None) -> dict[str, Any]:
    choice = {"index": 0, "message": dict(message), "finish_reason": reason}
    counted = {"usage": _usage(usage)} if usage is not None else {}
    return {**_FRAME, "object": "chat.completion", "choices": [choice], **counted}


def _usage(usage: tuple[Any, Any]) -> dict[str, Any]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
