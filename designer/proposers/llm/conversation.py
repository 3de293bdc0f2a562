"""One conversation with one model: its cost is reserved, its words are kept, and what is kept is not bought again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from designer.proposers.llm.clean import UnreadableError, clean_json, decode
from designer.proposers.llm.endpoint import Answer, Endpoint, EndpointError
from designer.proposers.llm.message_log import Attempt, Message, MessageLog, ToolCall
from designer.proposers.llm.meter import CapReachedError, Meter, Reservation
from designer.proposers.llm.prompts import fill
from designer.proposers.llm.settings import ROLES, LlmSettings, Role, RoleName
from designer.proposers.llm.tools import Call, Tool, call_schema

_MESSAGE_TOKENS = 16
"""What a chat template adds to a message, at most."""
_SLACK = 1.05
"""A reply read back as a prompt may be cut into other tokens."""
_GUESS = 0.35
"""Tokens a byte, before the server has counted any: English and code have about 0.25 to 0.3."""
_LONGEST_WAIT = 120.0
_FIRST_SECONDS = 120.0
"""For which a request is tried again at an endpoint that has never answered, and says that it is busy or broken."""
_LEFT_OUT = "\n\n[Earlier exchanges are left out here.]"


class LlmError(Exception):
    """The proposer cannot go on at all; one line. The run can be resumed once it is mended."""


class ConversationEndedError(Exception):
    """Nothing more can be asked in this conversation, now or after a resume; one line."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What all conversations of a run share."""

    settings: LlmSettings
    log: MessageLog
    meter: Meter
    endpoints: Mapping[RoleName, Endpoint]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    say: Callable[[str], None] = lambda line: None


class Conversation:
    """Messages with one role's model, from its system prompt on."""

    def __init__(self, name: str, role: RoleName, desk: Desk, system: str, tools: Sequence[Tool] = ()) -> None:
        self.name = name
        self.tools = tuple(tools)
        self._desk = desk
        self._role_name = role
        self._role: Role = desk.settings.role(role)
        self._native = self._role.tools == "native"
        if tools and not self._native:
            described = {"tools": "\n".join(tool.text() for tool in tools)}
            system += "\n\n" + fill(desk.settings.prompts["text-tools"], described)
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
        self._turn = 0
        self._told = 0
        """Messages that the log has."""
        self._counted: tuple[int, int] | None = None
        """Messages, and the tokens a server counted for them, at most."""
        self._density = _GUESS

    @property
    def turn(self) -> int:
        """Of the latest reply."""
        return self._turn - 1

    def tell(self, text: str) -> None:
        """As the user. What follows each other without a reply between is one message."""
        last = self._messages[-1]
        if last["role"] == "user":
            last["content"] += f"\n\n{text}"
        else:
            self._messages.append({"role": "user", "content": text})

    def answer(self, call: Call, text: str) -> None:
        """The result of a call of the latest reply."""
        if call.identity:
            self._messages.append({"role": "tool", "tool_call_id": call.identity, "content": text})
        else:
            self.tell(f"Result of {call.name}:\n{text}")

    async def tool_result(
        self, call: Call, position: int, work: Callable[[], Awaitable[tuple[str, str]]]
    ) -> tuple[str, str]:
        """Text and figure of a call: the recorded ones if there are any, so that a resumed run reads the same."""
        known = self._desk.log.tool_call(self.name, self.turn, position)
        if known is not None:
            return known.result, known.figure
        text, figure = await work()
        self.keep(call, position, text, figure)
        return text, figure

    def keep(self, call: Call, position: int, text: str, figure: str = "") -> None:
        """Write down a call with its result, once."""
        if self._desk.log.tool_call(self.name, self.turn, position) is None:
            kept = ToolCall(self.name, self.turn, position, call.name, call.raw, text, figure)
            self._desk.log.add_tool_call(kept)

    def unusable(self, problem: str) -> None:
        """Write down that the latest reply could not be used."""
        self.keep(Call("unusable", ""), -1, problem)

    async def ask(self, schema: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """The model's next reply, in the log before it is returned.

        Args:
            schema: of the JSON object wanted, for servers that can be told.

        Raises:
            ConversationEndedError: a cap, or the endpoint gave none; that is written down too.
            LlmError: the endpoint can give none to anybody.
        """
        log = self._desk.log
        if reason := log.ended(self.name, self._turn):
            raise ConversationEndedError(reason)
        sent, whole = self._fitting()
        wanted = self._format(schema)
        digest = self._digest(sent, wanted)
        message = log.reply(self.name, self._turn)
        if message is None:
            message = await self._buy(sent, whole, wanted, digest)
        elif message.request_digest != digest:
            raise LlmError(
                f"{self.name}, turn {self._turn}: what would be sent is not what was sent when the run began; "
                "it cannot be resumed by this version"
            )
        return self._heard(message, len(sent) == len(self._messages))

    # -- asking ---------------------------------------------------------------------------------------------------

    async def _buy(
        self, sent: Sequence[Mapping[str, Any]], most: int, wanted: Mapping[str, Any] | None, digest: str
    ) -> Message:
        desk = self._desk
        first = desk.log.num_attempts(self.name, self._turn)
        reserved = Reservation(most + self._role.max_tokens, self._role.cost(most, self._role.max_tokens))
        patience = _Patience(desk.settings.attempts, self._outage_seconds())
        while True:
            try:
                await desk.meter.reserve(reserved)
            except CapReachedError as error:
                raise self._ended(str(error)) from None
            message, failure = await self._attempt(first + patience.failures, sent, wanted, digest, reserved)
            if failure is None:
                return message
            if failure.fatal or (failure.nowhere and not self._answered()):
                raise LlmError(str(failure))
            if not failure.retry:
                break
            wait = patience.wait(failure, message.seconds)
            if wait is None:
                raise LlmError(
                    f"{self._role.base_url}: no reply after {patience.failures} requests in "
                    f"{patience.seconds:.0f} s: {failure}; designer resume goes on when it is back"
                )
            await desk.sleep(wait)
        if not desk.log.num_replies():
            raise LlmError(f"{self._role.base_url} has not answered once: {failure}")
        raise self._ended(f"no reply: {failure}")

    def _answered(self) -> bool:
        """Whether this role's endpoint has replied to anybody in this run, before a resume included."""
        return answered(self._role.base_url, self._desk.settings, self._desk.log)

    def _outage_seconds(self) -> float:
        """How long a request is tried: an endpoint that never answered is given time to be busy, not to come back."""
        longest = self._desk.settings.outage_seconds
        return longest if self._answered() else min(longest, _FIRST_SECONDS)

    async def _attempt(
        self,
        attempt: int,
        sent: Sequence[Mapping[str, Any]],
        wanted: Mapping[str, Any] | None,
        digest: str,
        reserved: Reservation,
    ) -> tuple[Message, EndpointError | None]:
        """Send once, settle and write down what came of it."""
        role, desk = self._role, self._desk
        endpoint = desk.endpoints[self._role_name]
        desk.log.sending(
            Attempt(self.name, self._turn, attempt, self._role_name, role.model, reserved.tokens, reserved.dollars)
        )
        began, answer, failure = time.monotonic(), None, None
        try:
            answer = await endpoint.complete(sent, self._announced(), wanted, desk.meter.seconds_left)
        except EndpointError as error:
            failure = error
        prompt, completion = _used(answer, failure, reserved, role)
        message = Message(
            *(self.name, self._turn, attempt, digest, [dict(m) for m in self._messages[self._told :]]),
            reply=None if answer is None else _reply(answer),
            error="" if failure is None else str(failure),
            prompt_tokens=prompt,
            completion_tokens=completion,
            dollars=role.cost(prompt, completion),
            seconds=time.monotonic() - began,
        )
        desk.log.add(message)
        await desk.meter.settle(reserved, prompt + completion, message.dollars)
        return message, failure

    def _ended(self, reason: str) -> ConversationEndedError:
        self._desk.log.end(self.name, self._turn, reason)
        self._desk.say(f"llm: {self.name}: {reason}")
        return ConversationEndedError(reason)

    def _heard(self, message: Message, whole: bool) -> Mapping[str, Any]:
        reply: Mapping[str, Any] = clean_json(message.reply or {})
        sent = sum(map(_bytes, self._messages))
        self._messages.append(_sendable(reply))
        self._told = len(self._messages)
        self._counted = None
        if whole:
            self._counted = (self._told, message.prompt_tokens + message.completion_tokens)
        if whole and not message.estimated:
            self._density = max(0.05, min(1.0, message.prompt_tokens / sent))
        self._turn += 1
        return reply

    def _announced(self) -> list[dict[str, Any]]:
        return [tool.native() for tool in self.tools] if self._native else []

    def _format(self, schema: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """What the server is told of the form of the reply."""
        if self.tools and not self._native:
            schema = call_schema(self.tools)
        if schema is None or self._role.structured == "none":
            return None
        if self._role.structured == "json_object":
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"name": "reply", "schema": dict(schema)}}

    def _digest(self, sent: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any] | None) -> str:
        content = [self._role.model, list(sent), self._announced(), wanted]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    # -- how large it is ------------------------------------------------------------------------------------------

    def _fitting(self) -> tuple[list[dict[str, Any]], int]:
        """What is sent, the oldest exchanges left out where all would not fit; and its tokens, at most."""
        overhead = len(json.dumps(self._announced()))
        room = self._role.context_tokens - self._role.max_tokens
        head, groups = self._messages[:2], _exchanges(self._messages[2:])
        sent = self._messages
        while len(groups) > 1 and (sum(map(_bytes, sent)) + overhead) * self._density * _SLACK > room:
            groups = groups[1:]
            shortened = {**head[-1], "content": f"{head[-1]['content']}{_LEFT_OUT}"}
            sent = [*head[:-1], shortened, *(message for group in groups for message in group)]
        if sent is self._messages and self._counted is not None:
            number, tokens = self._counted
            new = sum(_bytes(message) + _MESSAGE_TOKENS for message in sent[number:])
            return list(sent), int(tokens * _SLACK) + new
        return list(sent), sum(_bytes(message) + _MESSAGE_TOKENS for message in sent) + overhead


def answered(base_url: str, settings: LlmSettings, log: MessageLog) -> bool:
    """Whether the endpoint has replied in this run, to whichever role."""
    return any(settings.role(role).base_url == base_url for role in ROLES if role in log.heard())


class _Patience:
    """With an endpoint that fails in a way that may pass, at one request."""

    def __init__(self, attempts: int, seconds: float) -> None:
        self.failures = 0
        self.seconds = 0.0
        """Since the first attempt, waits included."""
        self._charged = attempts
        self._limit = seconds

    def wait(self, failure: EndpointError, took: float) -> float | None:
        """Seconds until it is tried again; None: not again."""
        self.failures += 1
        self._charged -= failure.charged
        wait = 2.0 ** min(self.failures - 1, 6) if failure.retry_after is None else failure.retry_after
        wait = min(wait, _LONGEST_WAIT)
        self.seconds += took
        if not self._charged or self.seconds + wait > self._limit:
            return None
        self.seconds += wait
        return wait


def _used(answer: Answer | None, failure: EndpointError | None, reserved: Reservation, role: Role) -> tuple[int, int]:
    """Prompt and completion tokens to be paid for: counted by the server, else as many as there could be."""
    if failure is not None and not failure.charged:
        return 0, 0
    most = reserved.tokens - role.max_tokens
    if answer is None:
        return most, role.max_tokens
    return answer.prompt_tokens or most, answer.completion_tokens or _most_said(answer, role)


def _most_said(answer: Answer, role: Role) -> int:
    """Tokens of a reply that nobody counted: one a byte of all that was seen of it, as no tokenizer makes more."""
    if answer.finish_reason == "length":
        return role.max_tokens
    return min(role.max_tokens, _bytes(answer.message()) + len(answer.reasoning.encode()) + _MESSAGE_TOKENS)


def _reply(answer: Answer) -> dict[str, Any]:
    content = {**answer.message(), "refusal": answer.refusal, "finish_reason": answer.finish_reason}
    if answer.reasoning:
        content["reasoning"] = answer.reasoning
    if not (answer.prompt_tokens and answer.completion_tokens):
        content["estimated"] = True
    return content


def _sendable(reply: Mapping[str, Any]) -> dict[str, Any]:
    """As it goes back to the server; some refuse arguments that are no JSON object."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.get("content") or ""}
    calls = reply.get("tool_calls") or []
    if calls:
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _object(call["function"]["arguments"])}}
            for call in calls
        ]
    return message


def _object(arguments: str) -> str:
    try:
        return arguments if isinstance(decode(arguments), dict) else "{}"
    except UnreadableError:
        return "{}"


def _exchanges(messages: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Each a reply and what followed it, so that no result is sent without its call."""
    groups: list[list[dict[str, Any]]] = []
    for message in messages:
        if message["role"] == "assistant" or not groups:
            groups.append([])
        groups[-1].append(message)
    return groups


def _bytes(message: Mapping[str, Any]) -> int:
    """Of its text and its calls: no tokenizer makes more tokens of them."""
    calls = message.get("tool_calls")
    return len(str(message.get("content") or "").encode()) + (len(json.dumps(calls).encode()) if calls else 0)
