"""One request to an OpenAI-compatible server, whole or not at all; failures in three kinds: wait, charge, give up."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
from openai import AsyncOpenAI

from designer.proposers.llm.settings import OPENAI, Role

_NO_KEY = "none"
_LONGEST_ERROR = 500
_FATAL = (401, 403, 404)
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""By name: which HTTP library the SDK brings depends on its version."""


class EndpointError(Exception):
    """A request that brought no reply; one line, without the key."""

    def __init__(
        self, text: str, *, retry: bool, charged: bool, retry_after: float | None = None, fatal: bool = False
    ) -> None:
        super().__init__(text)
        self.retry = retry
        """It may pass."""
        self.charged = charged
        """The server may have worked on it, and may ask money for that."""
        self.retry_after = retry_after
        """Seconds the server asked to be left alone."""
        self.fatal = fatal
        """No request to this server can succeed: the key, the address or the model's name is wrong."""


@dataclass(slots=True)
class Answer:
    """A complete reply."""

    content: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """As the protocol has them: id, type, function with name and arguments."""
    refusal: str = ""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    """None: the server did not say."""
    completion_tokens: int | None = None
    reasoning: str = ""
    """What a reasoning model thought, where the server shows it; kept, never sent back."""

    def message(self) -> dict[str, Any]:
        """The assistant's message, as it goes back into the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or self.refusal}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


class Endpoint:
    """The client of one role."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._key = os.environ.get(role.api_key_env, "")
        self._client = AsyncOpenAI(
            api_key=self._key or _NO_KEY, base_url=role.base_url, max_retries=0, timeout=role.request_seconds
        )
        if not role.base_url.startswith(OPENAI):
            # The SDK takes these from the environment; they concern nobody else.
            self._client.organization = self._client.project = None

    async def close(self) -> None:
        await self._client.close()

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        response_format: Mapping[str, Any] | None,
    ) -> Answer:
        """One attempt.

        Raises:
            EndpointError: there is no complete reply.
        """
        try:
            async with asyncio.timeout(self._role.request_seconds):
                answer = await self._ask(self._body(messages, tools, response_format))
        except TimeoutError:
            raise EndpointError(
                f"no complete reply in {self._role.request_seconds:g} s", retry=True, charged=True
            ) from None
        except (openai.OpenAIError, httpx.HTTPError, ValueError, TypeError) as error:
            raise self._failure(error) from None
        if not answer.finish_reason:
            raise EndpointError("the reply was cut off", retry=True, charged=True)
        return answer

    def scrub(self, text: str) -> str:
        """Without the key, should a server have echoed it."""
        return text.replace(self._key, "[key]") if self._key else text

    def _body(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        response_format: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        role = self._role
        body: dict[str, Any] = {"model": role.model, "messages": list(messages), role.limit_field: role.max_tokens}
        if tools:
            body["tools"] = list(tools)
        if response_format is not None:
            body["response_format"] = dict(response_format)
        if role.temperature is not None:
            body["temperature"] = role.temperature
        if role.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    async def _ask(self, body: dict[str, Any]) -> Answer:
        create: Any = self._client.chat.completions.create
        reply = await create(**body)
        return await _gather(reply) if self._role.stream else _whole(reply)

    def _failure(self, error: Exception) -> EndpointError:
        text = self.scrub(_one_line(error))
        match error:
            case openai.RateLimitError():
                return EndpointError(text, retry=True, charged=False, retry_after=_retry_after(error.response.headers))
            case openai.APIStatusError() if error.status_code >= 500 or error.status_code in (408, 409):
                wait = _retry_after(error.response.headers)
                return EndpointError(text, retry=True, charged=True, retry_after=wait)
            case openai.APIStatusError():
                return EndpointError(text, retry=False, charged=False, fatal=error.status_code in _FATAL)
            case openai.APIConnectionError() if type(error.__cause__).__name__ in _NEVER_SENT:
                return EndpointError(f"{self._role.base_url}: {text}", retry=True, charged=False)
            case _:
                return EndpointError(text, retry=True, charged=True)


async def _gather(stream: AsyncIterator[Any]) -> Answer:
    """A streamed reply, put together."""
    answer = Answer()
    calls: dict[int, tuple[str, str, str]] = {}
    async for chunk in stream:
        _count(answer, chunk.usage)
        for choice in (chunk.choices or [])[:1]:
            answer.finish_reason = choice.finish_reason or answer.finish_reason
            delta = choice.delta
            answer.content += delta.content or ""
            answer.refusal += getattr(delta, "refusal", None) or ""
            answer.reasoning += _reasoning(delta)
            for part in delta.tool_calls or []:
                calls[part.index] = _joined(calls.get(part.index, ("", "", "")), part)
    answer.tool_calls = [_call(*call, number) for number, call in sorted(calls.items())]
    return answer


def _joined(call: tuple[str, str, str], part: Any) -> tuple[str, str, str]:
    """Id, name and arguments with what a chunk adds to them."""
    identity, name, arguments = call
    if part.function is not None:
        name, arguments = name + (part.function.name or ""), arguments + (part.function.arguments or "")
    return identity or part.id or "", name, arguments


def _whole(reply: Any) -> Answer:
    """A reply in one piece."""
    if not getattr(reply, "choices", None):
        raise ValueError("the reply has no choices")
    choice = reply.choices[0]
    message = choice.message
    answer = Answer(message.content or "", [], message.refusal or "", choice.finish_reason or "")
    answer.reasoning = _reasoning(message)
    for number, call in enumerate(message.tool_calls or []):
        answer.tool_calls.append(_call(call.id, call.function.name, call.function.arguments, number))
    _count(answer, reply.usage)
    return answer


def _call(identity: str | None, name: str, arguments: str, number: int) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": identity or f"call_{number}", "type": "function", "function": function}


def _count(answer: Answer, usage: Any) -> None:
    if usage is not None:
        answer.prompt_tokens, answer.completion_tokens = usage.prompt_tokens, usage.completion_tokens


def _reasoning(part: Any) -> str:
    text = getattr(part, "reasoning", None) or getattr(part, "reasoning_content", None)
    return text if isinstance(text, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date; None where there is none that can be read."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _one_line(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "the reply is no JSON"
    text = " ".join(str(error).split()) or type(error).__name__
    cause = error.__cause__
    if isinstance(error, openai.APIConnectionError) and cause is not None:
        text = f"{text} {' '.join(str(cause).split())}"
    return text[:_LONGEST_ERROR]
