"""What the mock accepts and refuses on /v1/chat/completions and /v1/completions, with vLLM's words (0.32, observed)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.mockworker import tokens

COMPLETIONS_DEFAULT_MAX_TOKENS = 16
"""Of /v1/completions alone, when the body has no ``max_tokens``."""
MAX_LOGPROBS = 20


class ApiError(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return orjson.dumps({"error": error})


def bad_value(message: str, name: str, value: Any) -> ApiError:
    return ApiError(400, f"{message} (parameter={name}, value={value})", param=name)


def bad_schema(kind: str, loc: str, msg: str, value: str, context: str | None = None) -> ApiError:
    """What FastAPI's validation errors look like after vLLM's handler."""
    detail = {"type": kind, "loc": loc, "msg": msg, "input": value}
    told = str(detail if context is None else {**detail, "ctx": {"error": context}})
    return ApiError(400, f"1 validation error:\n  {told}", "Bad Request", loc)


def unknown_model(model: str, served: str) -> ApiError:
    message = f"The model `{model}` does not exist. Valid aliases: {served}."
    return ApiError(404, message, "NotFoundError", "model")


def queue_full() -> ApiError:
    message = (
        "The engine is currently busy and cannot accept new requests. "
        "Please try again later or on a different instance."
    )
    return ApiError(503, message, "Service Unavailable")


def shutting_down() -> ApiError:
    return ApiError(500, "cannot schedule new futures after shutdown", "InternalServerError")


@dataclass(slots=True, frozen=True)
class Generation:
    """A request for tokens, validated."""

    chat: bool
    prompt: bytes
    """Four bytes a token."""
    num_prompt_tokens: int
    max_tokens: int
    """The most this request may make: the client's bound, or what the context has left."""
    min_tokens: int
    ignore_eos: bool
    priority: int
    """vLLM's sense: lower is earlier."""
    cache_salt: str
    stream: bool
    include_usage: bool
    continuous_usage: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``; ApiError for anything else."""
    if not body:
        raise bad_schema("missing", "body", "Field required", "None")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _json_error(body) from None
    if not isinstance(value, dict):
        msg = "Input should be a valid dictionary or object to extract fields from"
        raise bad_schema("model_attributes_type", "body", msg, shown(value))
    return value


def _json_error(body: bytes) -> ApiError:
    """orjson's errors are worded otherwise than those of the standard library, which FastAPI reports."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        at, why = error.pos, error.msg
    except UnicodeDecodeError as error:
        at, why = error.start, "Invalid UTF-8"
    else:
        at, why = 0, "Not strict JSON"  # NaN and the like
    return bad_schema("json_invalid", f"body.{at}", "JSON decode error", "<dict of 0 items>", why)


def shown(value: Any) -> str:
    """How a refused value is quoted: containers by their size alone."""
    if isinstance(value, dict | list):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)


def parse_generation(body: bytes, *, chat: bool, served_model: str, max_model_len: int) -> Generation:
    """The request in ``body``, or ApiError in the order and words of vLLM: schema, model, values, context."""
    fields = parse_json(body)
    if chat and not isinstance(fields.get("messages"), list):
        raise _not_a_list(fields, "messages")
    stream = fields.get("stream") is True
    options = _stream_options(fields, stream)
    check_model(fields, served_model)
    _check_sampling(fields)
    prompt = chat_prompt(fields["messages"]) if chat else completion_prompt(fields.get("prompt"))
    num_prompt_tokens = tokens.num_tokens(prompt)
    return Generation(
        chat=chat,
        prompt=prompt,
        num_prompt_tokens=num_prompt_tokens,
        max_tokens=_output_bound(fields, chat, num_prompt_tokens, max_model_len),
        min_tokens=_integer(fields, "min_tokens") or 0,
        ignore_eos=fields.get("ignore_eos") is True,
        priority=_integer(fields, "priority") or 0,
        cache_salt=str(fields.get("cache_salt") or ""),
        stream=stream,
        include_usage=options.get("include_usage") is True,
        continuous_usage=options.get("continuous_usage_stats") is True,
    )


def check_model(fields: Mapping[str, Any], served_model: str) -> None:
    """A body may leave ``model`` out; a wrong one is a 404."""
    model = fields.get("model")
    if model and model != served_model:
        raise unknown_model(str(model), served_model)


def _not_a_list(fields: Mapping[str, Any], name: str) -> ApiError:
    if name not in fields:
        return bad_schema("missing", f"body.{name}", "Field required", shown(fields))
    return bad_schema("list_type", f"body.{name}", "Input should be a valid list", shown(fields[name]))


def _stream_options(fields: Mapping[str, Any], stream: bool) -> Mapping[str, Any]:
    options = fields.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        loc = "body.stream_options"
        raise bad_schema("model_attributes_type", loc, "Input should be a valid dictionary", shown(options))
    if not stream:
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise ApiError(400, message, param="stream_options")
    return options


def _check_sampling(fields: Mapping[str, Any]) -> None:
    if (n := _integer(fields, "n")) is not None and n != 1:
        raise ApiError(400, f"n must be at least 1, got {n}." if n < 1 else f"n must be 1 on a mock worker, got {n}.")
    temperature = fields.get("temperature")
    if isinstance(temperature, int | float) and temperature < 0:
        raise bad_value(
            f"temperature must be non-negative, got {float(temperature)}.", "temperature", float(temperature)
        )
    if (wanted := _integer(fields, "top_logprobs")) is not None and wanted > MAX_LOGPROBS:
        message = f"Requested sample logprobs of {wanted}, which is greater than max allowed: {MAX_LOGPROBS}"
        raise bad_value(message, "logprobs", wanted)
    if fields.get("tools") and fields.get("tool_choice", "auto") == "auto":
        raise ApiError(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')


def _integer(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise bad_schema("int_type", f"body.{name}", "Input should be a valid integer", shown(value))


def _output_bound(fields: Mapping[str, Any], chat: bool, num_prompt_tokens: int, max_model_len: int) -> int:
    bound = _integer(fields, "max_completion_tokens") if chat else None
    if bound is None:
        bound = _integer(fields, "max_tokens")
    if bound is None and not chat and "max_tokens" not in fields:
        bound = COMPLETIONS_DEFAULT_MAX_TOKENS
    if bound is not None and bound < 1:
        raise bad_value(f"max_tokens must be at least 1, got {bound}.", "max_tokens", bound)
    if num_prompt_tokens >= max_model_len:
        raise _prompt_too_long(max_model_len)
    if bound is None:
        return max_model_len - num_prompt_tokens
    if bound > max_model_len:
        message = f"max_tokens={bound} cannot be greater than max_model_len={max_model_len}."
        raise bad_value(f"{message} Please request fewer output tokens.", "max_tokens", bound)
    if num_prompt_tokens + bound > max_model_len:
        raise _sum_too_long(bound, max_model_len)
    return bound


def _prompt_too_long(max_model_len: int) -> ApiError:
    """vLLM stops tokenizing one token past the limit, so that is the number it tells."""
    message = (
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains at least "
        f"{max_model_len + 1} input tokens, which exceeds this limit even without any output tokens. "
        "Please reduce the length of the input prompt."
    )
    return bad_value(message, "input_tokens", max_model_len + 1)


def _sum_too_long(max_tokens: int, max_model_len: int) -> ApiError:
    least = max_model_len - max_tokens + 1
    message = (
        f"This model's maximum context length is {max_model_len} tokens. However, you requested {max_tokens} output "
        f"tokens and your prompt contains at least {least} input tokens, for a total of at least {max_model_len + 1} "
        "tokens. Please reduce the length of the input prompt or the number of requested output tokens."
    )
    return bad_value(message, "input_tokens", least)


def chat_prompt(messages: list[Any]) -> bytes:
    """The text of all messages, one after the other; roles and template count nothing."""
    if not messages:
        raise ApiError(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    return b"".join(_message_text(message, f"body.messages.{i}") for i, message in enumerate(messages))


def _message_text(message: Any, loc: str) -> bytes:
    if not isinstance(message, dict):
        raise bad_schema("model_attributes_type", loc, "Input should be a valid dictionary", shown(message))
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str)).encode("utf-8", "replace")
    return str(content).encode("utf-8", "replace") if content is not None else b""


def completion_prompt(prompt: Any) -> bytes:
    """Text or token ids; of a list of prompts the mock takes one."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt.encode("utf-8", "replace")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return _pack(prompt)
    if isinstance(prompt, list) and len(prompt) > 1:
        raise ApiError(400, f"a mock worker takes one prompt a request, got {len(prompt)}.", param="prompt")
    raise ApiError(400, "Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")


def _pack(token_ids: list[Any]) -> bytes:
    try:
        return tokens.pack(token_ids)
    except (OverflowError, TypeError):
        message = f"prompt: a token id is an integer from 0 to {tokens.MAX_TOKEN_ID}."
        raise ApiError(400, message, param="prompt") from None
