"""One request to an OpenAI-compatible server, whole or not at all; failures in three kinds: wait, charge, give up."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
from openai import AsyncOpenAI

from designer.proposers.llm.clean import clean, clean_name
from designer.proposers.llm.client import limits, make_client
from designer.proposers.llm.diagnosis import (
    no_http,
    no_protocol,
    redirected,
    refused,
    unreachable,
    without_tools,
)
from designer.proposers.llm.keys import key_of
from designer.proposers.llm.settings import Role

_NO_KEY = "none"
_SHORTEST_SECRET = 8
"""Shorter words are placeholders, and occur in texts."""
_LONGEST_TOKEN = 16
"""Characters. What is longer than so many times ``max_tokens`` is cut: the server kept to no limit."""
_LEAST_LIMIT = 16_384
_MOST_CALLS = 16
"""Tool calls of a reply; further ones are left out."""
_MOST_TOKENS = 1 << 40
_MALFORMED = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What comes of an answer of another form than the protocol's."""
_LONGEST_ERROR = 300
"""Characters of what a server said or what the system said of it."""
_FATAL = (401, 403, 404)
_NO_CREDIT = "insufficient_quota"
"""OpenAI's code for an account that cannot pay, under the status of a rate limit; waiting mends nothing."""
_PROBE_SECONDS = 15.0
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""By name: which HTTP library the SDK brings depends on its version."""


class EndpointError(Exception):
    """A request that brought no reply; one line, without the key."""

    def __init__(
        self,
        text: str,
        *,
        retry: bool,
        charged: bool,
        retry_after: float | None = None,
        fatal: bool = False,
        nowhere: bool = False,
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
        self.nowhere = nowhere
        """As far as this request shows there is no server of models: one that never answered is not waited for."""


@dataclass(slots=True)
class Answer:
    """A complete reply."""

    content: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """As the protocol has them: id, type, function with name and arguments."""
    refusal: str = ""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    """None: the server did not say, or said 0."""
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
        """
        Raises:
            LlmSettingsError: the key must not be sent there.
        """
        self._role = role
        self._key = key_of(role)
        self._limit = max(_LEAST_LIMIT, _LONGEST_TOKEN * role.max_tokens)
        key = self._key or _NO_KEY
        self._http = make_client(role.base_url, key, role.request_seconds)
        client: Any = self._http
        timeout: Any = limits(role.request_seconds)
        self._client = AsyncOpenAI(
            api_key=key, base_url=role.base_url, max_retries=0, timeout=timeout, http_client=client
        )
        self.served: frozenset[str] | None = None
        """The models it lists, as far as somebody found out; None: not known."""

    async def close(self) -> None:
        await self._client.close()

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        response_format: Mapping[str, Any] | None,
        seconds: float | None = None,
    ) -> Answer:
        """One attempt.

        Args:
            seconds: for the whole reply, if less than the role has.

        Raises:
            EndpointError: there is no complete reply.
        """
        limit = min(self._role.request_seconds, self._role.request_seconds if seconds is None else seconds)
        try:
            async with asyncio.timeout(limit):
                answer = await self._ask(self._body(messages, tools, response_format))
        except TimeoutError:
            raise EndpointError(f"no complete reply in {limit:.3g} s", retry=True, charged=True) from None
        except (openai.OpenAIError, httpx.HTTPError, httpx.StreamError, OSError, *_MALFORMED) as error:
            raise self._failure(error) from None
        if not answer.finish_reason:
            if answer == Answer():
                raise EndpointError(
                    no_protocol(self._role, "nothing of a reply"), retry=True, charged=True, nowhere=True
                )
            raise EndpointError("the reply was cut off", retry=True, charged=True)
        return self._tidy(answer)

    def scrub(self, text: str) -> str:
        """Clean, and without the key, should a server have echoed it. Before anything is cut: half a key is one too."""
        text = clean(text)
        if len(self._key) < _SHORTEST_SECRET:
            return text
        return text.replace(self._key, "[key]").replace(urllib.parse.quote(self._key, safe=""), "[key]")

    def _tidy(self, answer: Answer) -> Answer:
        """As it may be kept, sent again and shown."""
        for name in ("content", "refusal", "reasoning"):
            setattr(answer, name, self._text(answer, getattr(answer, name)))
        answer.finish_reason = clean_name(answer.finish_reason)
        calls, answer.tool_calls = answer.tool_calls[:_MOST_CALLS], []
        for number, call in enumerate(calls):
            identity = clean_name(call["id"], f"call_{number}")
            if any(other["id"] == identity for other in answer.tool_calls):
                identity = f"call_{number}"
            name, given = clean_name(call["function"]["name"]), self._text(answer, call["function"]["arguments"])
            answer.tool_calls.append(_call(identity, name, given, number))
        return answer

    def _text(self, answer: Answer, text: str) -> str:
        whole = self.scrub(text)
        if len(whole) > self._limit:
            answer.finish_reason = "length"
        return whole[: self._limit]

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
            if role.structured == "json_schema":
                body["tool_choice"] = "required"
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
        if not self._role.stream:
            return _whole(reply)
        try:
            # What is beyond the limit by more than a key's length is cut again after the key was looked for.
            return await _gather(reply, 2 * self._limit + len(self._key))
        finally:
            await reply.close()

    async def probe(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and content of a GET, or of a POST of ``body``, that asks no model for anything and costs nothing.

        Raises:
            EndpointError: there is no answer.
        """
        method, url = "GET" if body is None else "POST", f"{self._role.base_url.rstrip('/')}{path}"
        try:
            answer = await self._http.request(method, url, json=body, timeout=limits(_PROBE_SECONDS))
        except httpx.HTTPError as error:
            raise self._silence(error) from None
        return answer.status_code, answer.content

    def _failure(self, error: Exception) -> EndpointError:
        role, text = self._role, " ".join(self.scrub(_said(error)).split())[:_LONGEST_ERROR]
        match error:
            case openai.RateLimitError() if error.code == _NO_CREDIT:
                return EndpointError(f"{role.base_url}: {text}", retry=False, charged=False, fatal=True)
            case openai.RateLimitError():
                return EndpointError(text, retry=True, charged=False, retry_after=_retry_after(error.response.headers))
            case openai.APIStatusError() if without := without_tools(text):
                return EndpointError(f"{role.base_url}: {without}", retry=False, charged=False, fatal=True)
            case openai.APIStatusError() if error.status_code >= 500 or error.status_code in (408, 409):
                wait = _retry_after(error.response.headers)
                return EndpointError(text, retry=True, charged=True, retry_after=wait)
            case openai.APIStatusError() if 300 <= error.status_code < 400:
                return EndpointError(redirected(role, error.status_code), retry=False, charged=False, fatal=True)
            case openai.APIStatusError() if error.status_code in _FATAL:
                text = refused(role, error.status_code, text, self.served)
                return EndpointError(text, retry=False, charged=False, fatal=True)
            case openai.APIStatusError():
                return EndpointError(text, retry=False, charged=False)
            case openai.APIConnectionError():
                return self._silence(error.__cause__ or error)
            case _ if isinstance(error, _MALFORMED):
                return EndpointError(no_protocol(role, text), retry=True, charged=True, nowhere=True)
            case _:
                return EndpointError(text, retry=True, charged=True)

    def _silence(self, error: BaseException) -> EndpointError:
        """No status came back."""
        name = type(error).__name__
        said = " ".join(self.scrub(str(error) or name).split())[:_LONGEST_ERROR]
        if name in _NEVER_SENT:
            text = self.scrub(unreachable(self._role, error))
            return EndpointError(text, retry=True, charged=False, nowhere=True)
        if name.endswith("Timeout"):
            return EndpointError(said, retry=True, charged=True)
        return EndpointError(no_http(self._role, said), retry=True, charged=True, nowhere=True)


async def _gather(stream: AsyncIterator[Any], limit: int) -> Answer:
    """A streamed reply, put together; no more of it than ``limit`` characters."""
    answer = Answer()
    calls: dict[int, tuple[str, str, str]] = {}
    read = 0
    async for chunk in stream:
        _count(answer, chunk.usage)
        for choice in (chunk.choices or [])[:1]:
            answer.finish_reason = _text_of(choice.finish_reason) or answer.finish_reason
            read += _add(answer, choice.delta, calls)
        if read > limit:
            answer.finish_reason = "length"
            break
    answer.tool_calls = [_call(*call, number) for number, call in sorted(calls.items())]
    return answer


def _add(answer: Answer, delta: Any, calls: dict[int, tuple[str, str, str]]) -> int:
    """What a chunk adds; in characters."""
    content, refusal, reasoning = _text_of(delta.content), _text_of(getattr(delta, "refusal", "")), _reasoning(delta)
    answer.content, answer.refusal = answer.content + content, answer.refusal + refusal
    answer.reasoning += reasoning
    read = len(content) + len(refusal) + len(reasoning)
    for part in delta.tool_calls or []:
        at = part.index if isinstance(part.index, int) else 0
        identity, name, arguments = calls.get(at, ("", "", ""))
        if part.function is not None:
            added = _text_of(part.function.name), _arguments(part.function.arguments)
            name, arguments = name + added[0], arguments + added[1]
            read += len(added[0]) + len(added[1])
        calls[at] = identity or _text_of(part.id), name, arguments
        read += 1
    return read


def _whole(reply: Any) -> Answer:
    """A reply in one piece."""
    if not getattr(reply, "choices", None):
        raise ValueError("the reply has no choices")
    choice = reply.choices[0]
    message = choice.message
    answer = Answer(_text_of(message.content), [], _text_of(message.refusal), _text_of(choice.finish_reason))
    answer.reasoning = _reasoning(message)
    for number, call in enumerate(message.tool_calls or []):
        name, given = _text_of(call.function.name), _arguments(call.function.arguments)
        answer.tool_calls.append(_call(_text_of(call.id), name, given, number))
    _count(answer, reply.usage)
    return answer


def _call(identity: str, name: str, arguments: str, number: int) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": identity or f"call_{number}", "type": "function", "function": function}


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    """Some servers send the object itself."""
    return json.dumps(value) if isinstance(value, dict) else _text_of(value)


def _count(answer: Answer, usage: Any) -> None:
    """As the server counted; a count of 0 is none, as there was something to count."""
    if usage is None:
        return
    answer.prompt_tokens = _counted(getattr(usage, "prompt_tokens", None))
    answer.completion_tokens = _counted(getattr(usage, "completion_tokens", None))


def _counted(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < _MOST_TOKENS else None


def _reasoning(part: Any) -> str:
    return _text_of(getattr(part, "reasoning", None)) or _text_of(getattr(part, "reasoning_content", None))


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


def _said(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "the reply is no JSON"
    if isinstance(error, RecursionError):
        return "the reply is nested too deeply"
    text = str(error) or type(error).__name__
    cause = error.__cause__
    if isinstance(error, openai.APIConnectionError) and cause is not None:
        text = f"{text} {cause}"
    return text
