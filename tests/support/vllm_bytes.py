"""What a vLLM server sends, byte for byte where a client could tell (vLLM 0.32, observed)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.fake_connection import Recorded

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error",
           502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}  # fmt: skip
ERROR_TYPES = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError", 503: "Service Unavailable"}


def dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def sse_event(value: Any) -> bytes:
    return b"data: " + dump(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def names(request: Recorded) -> tuple[str, str, bool]:
    chat = "chat" in request.path
    rid = request.headers.get("x-request-id", "0123456789abcdef")
    try:
        model = str(json.loads(request.body or b"{}").get("model", "tiny"))
    except (ValueError, AttributeError):
        model = "tiny"
    return f"{'chatcmpl' if chat else 'cmpl'}-{rid}", model, chat


def usage_of(prompt: int, output: int, cached: int | None = None) -> dict[str, Any]:
    usage: dict[str, Any] = {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return usage


def sse_events(
    request: Recorded, chunks: int, *, prompt_tokens: int = 16, usage: bool | None = None, cached: int | None = None
) -> list[bytes]:
    """The events of a whole answer of ``chunks`` tokens, in vLLM's shape: for a chat a chunk with the role alone,
    then one chunk a token, then usage if the request asked for it (or as ``usage`` says), then ``[DONE]``."""
    rid, model, chat = names(request)
    head = {"id": rid, "object": "chat.completion.chunk" if chat else "text_completion", "created": 1, "model": model}
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    events = [sse_event({**head, "choices": [role], "prompt_token_ids": None, "prompt_text": None})] if chat else []
    for i in range(chunks):
        finish = "stop" if i == chunks - 1 else None
        part = {"delta": {"content": f" t{i}"}} if chat else {"text": f" t{i}"}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": finish, "token_ids": None}
        events.append(sse_event({**head, "choices": [choice]}))
    if usage if usage is not None else _wants_usage(request):
        events.append(sse_event({**head, "choices": [], "usage": usage_of(prompt_tokens, chunks, cached)}))
    return [*events, DONE]


def _wants_usage(request: Recorded) -> bool:
    try:
        return bool((json.loads(request.body).get("stream_options") or {}).get("include_usage"))
    except (ValueError, AttributeError):
        return False


def error_body(status: int, message: str = "scripted failure") -> dict[str, Any]:
    kind = ERROR_TYPES.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}", "server: uvicorn"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """``data`` in chunked transfer coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


SSE_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
LAST_CHUNK = b"0\r\n\r\n"


def completion(request: Recorded, output_tokens: int, prompt_tokens: int) -> dict[str, Any]:
    rid, model, chat = names(request)
    text = "".join(f" t{i}" for i in range(output_tokens))
    part: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, **part, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    kind = "chat.completion" if chat else "text_completion"
    return {"id": rid, "object": kind, "created": 1, "model": model, "choices": [choice],
            "usage": usage_of(prompt_tokens, output_tokens)}  # fmt: skip


IDLE_METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="MODEL"} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="MODEL"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="MODEL"} 0.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1024"} 1.0
"""
