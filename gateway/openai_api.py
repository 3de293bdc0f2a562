"""Which paths a model answers, and what their JSON bodies say that a decision needs. A body's bytes are never changed.

Lenient on purpose: a field of the wrong type counts as absent, because the worker that gets the original bytes is the
one to judge them. Only a body that is no JSON object is refused here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

import orjson

MODEL_PATHS: Mapping[bytes, str] = {
    path: path.decode()
    for path in (
        b"/v1/chat/completions",
        b"/v1/chat/completions/batch",
        b"/v1/completions",
        b"/v1/embeddings",
        b"/v1/responses",
        b"/v1/messages",
        b"/v1/messages/count_tokens",
        b"/v1/score",
        b"/v1/rerank",
        b"/v2/rerank",
        b"/v2/embed",
        b"/v1/audio/transcriptions",
        b"/v1/audio/translations",
        b"/inference/v1/generate",
        b"/score",
        b"/rerank",
        b"/pooling",
        b"/classify",
        b"/generative_scoring",
        b"/tokenize",
        b"/detokenize",
        b"/invocations",
    )
}
"""POST to one of these goes to the dispatcher."""

ADMINISTRATIVE_PATHS: frozenset[str] = frozenset(
    (
        "/sleep",
        "/wake_up",
        "/reset_prefix_cache",
        "/reset_mm_cache",
        "/reset_encoder_cache",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/start_profile",
        "/stop_profile",
        "/scale_elastic_ep",
        "/collective_rpc",
        "/update_weights",
        "/init_weight_transfer_engine",
        "/pause",
        "/resume",
        "/abort_requests",
        "/server_info",
        "/shutdown",
    )
)
"""Paths by which a vLLM server is administered (some only in its development mode)."""

MAX_PREFIX_CHUNKS = 64
CHUNK_BYTES = 1024
BYTES_PER_TOKEN = 4
"""Of text, as assumed for the cumulative tokens of prefix chunks (a token id is 4 bytes, exactly)."""
MEDIA_BYTES = 576 * BYTES_PER_TOKEN
"""What an image or a sound part of a message counts for: 576 tokens, a LLaVA-1.5 image (arXiv 2310.03744)."""


class BadRequestError(Exception):
    """The client's fault: a body that is no JSON object. ``param`` is vLLM's, such as ``body.17``."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


@dataclass(slots=True)
class ApiRequest:
    """What a decision may know of a body."""

    model: str = ""
    """Empty when left out."""
    stream: bool = False
    max_tokens: int | None = None
    num_prompt_bytes: int = 0
    """Bytes of prompt text, a constant for each image or sound."""
    num_prompt_tokens: int | None = None
    """Exact, for prompts given as token ids."""
    priority: int = 0
    """Higher first (the wire's sign is turned)."""
    session_id: str | None = None
    cache_salt: str | None = None
    texts: list[str] = field(default_factory=list)
    """Prompt text in the order in which it stands in the prompt."""
    token_ids: list[int] | None = None


def canonical_path(path: bytes) -> str:
    """``path`` as a worker may understand it: decoded, without doubled or trailing slashes and dot segments."""
    parts: list[str] = []
    for part in unquote(path.decode("latin-1")).split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def read_body(body: bytes) -> ApiRequest:
    """What ``body`` says; ``BadRequestError`` in vLLM's words if it is no JSON object."""
    if not body:
        raise BadRequestError("1 validation error: body: Field required", "body")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(
            f"1 validation error: body.{error.pos}: JSON decode error: {error.msg}", f"body.{error.pos}"
        ) from None
    if type(value) is not dict:
        raise BadRequestError("1 validation error: body: Input should be a valid dictionary", "body")
    return _read(value)


def _read(value: dict[str, Any]) -> ApiRequest:
    get = value.get
    request = ApiRequest()
    if type(model := get("model")) is str:
        request.model = model
    request.stream = bool(get("stream"))
    request.max_tokens = _max_tokens(value)
    if type(priority := get("priority")) is int:
        request.priority = max(-MAX_PRIORITY, min(MAX_PRIORITY, -priority))
    if session := _text(get("session_id")):
        if len(session) > MAX_SESSION_BYTES:
            raise BadRequestError(f"session_id is longer than {MAX_SESSION_BYTES} characters", "session_id")
        request.session_id = session
    elif (user := _text(get("user"))) and len(user) <= MAX_SESSION_BYTES:
        request.session_id = user
    if salt := get("cache_salt"):
        request.cache_salt = _text(salt)
    if type(messages := get("messages")) is list and "tools" not in value and "system" not in value:
        _read_messages(messages, request.texts)
    else:
        _read_prompt(value, request)
    _count(request)
    return request


MAX_SESSION_BYTES = 256
MAX_PRIORITY = 2**63 - 1
"""What a 64-bit integer holds; JSON's go further."""


def _text(value: object) -> str | None:
    return value if type(value) is str and value else None


def _max_tokens(value: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        if type(limit := value.get(name)) is int:
            return limit if limit > 0 else None
    params = value.get("sampling_params")
    return _max_tokens(params) if type(params) is dict else None


_BEFORE_MESSAGES = ("tools", "functions", "instructions", "system")
_PROMPTS = ("prompt", "input", "query", "queries", "documents", "text_1", "text_2", "data_1", "data_2", "items")
_TOKEN_IDS = ("token_ids", "tokens", "prompt_token_ids")


def _read_prompt(value: dict[str, Any], request: ApiRequest) -> None:
    """Every field that may hold prompt, in the order in which templates put them."""
    texts = request.texts
    for name in _BEFORE_MESSAGES:
        if item := value.get(name):
            _read_item(item, texts)
    if type(messages := value.get("messages")) is list:
        _read_messages(messages, texts)
    for name in _PROMPTS:
        item = value.get(name)
        if type(item) is list and item and type(item[0]) in (int, list):
            _read_token_ids(item, request)
        elif item:
            _read_item(item, texts)
    for name in _TOKEN_IDS:
        if type(item := value.get(name)) is list and item and type(item[0]) is int:
            _read_token_ids(item, request)


def _read_token_ids(item: list[Any], request: ApiRequest) -> None:
    """One prompt of token ids, or a batch of them: all are counted, the first is what prefix chunks are made of."""
    batch = [item] if type(item[0]) is int else [prompt for prompt in item if type(prompt) is list]
    if request.token_ids is None and batch:
        request.token_ids = batch[0]
    request.num_prompt_tokens = (request.num_prompt_tokens or 0) + sum(map(len, batch))


def _read_messages(messages: list[Any], texts: list[str]) -> None:
    for message in messages:
        if type(message) is dict:
            _read_message(message, texts, 0)


def _read_message(message: dict[str, Any], texts: list[str], depth: int) -> None:
    if type(role := message.get("role")) is str:
        texts.append(role)
    content = message.get("content")
    if type(content) is str:
        texts.append(content)
    elif content:
        _read_item(content, texts, depth)
    if calls := message.get("tool_calls"):
        _read_item(calls, texts, depth)


_MAX_DEPTH = 8
"""Of lists in messages in lists …; real prompts have three."""
_MEDIA = frozenset(("image_url", "image", "input_image", "input_audio", "audio_url", "video_url", "image_embeds"))
_MEDIA_TEXT = "\0" * MEDIA_BYTES


def _read_item(item: object, texts: list[str], depth: int = 0) -> None:
    """The text in a string, a content part, or a list of either; other objects as they stand in JSON."""
    if type(item) is str:
        texts.append(item)
    elif type(item) is list:
        if depth < _MAX_DEPTH:
            for part in item:
                _read_item(part, texts, depth + 1)
    elif type(item) is dict:
        _read_part(item, texts, depth)


def _read_part(part: dict[str, Any], texts: list[str], depth: int) -> None:
    if type(kind := part.get("type")) is str and kind in _MEDIA:
        texts.append(_MEDIA_TEXT)
    elif type(text := part.get("text")) is str:
        texts.append(text)
    elif "content" in part and depth < _MAX_DEPTH:
        _read_message(part, texts, depth + 1)
    else:
        with suppress(orjson.JSONEncodeError):  # nested deeper than it can be written
            texts.append(orjson.dumps(part).decode())


def _count(request: ApiRequest) -> None:
    count = 0
    for text in request.texts:
        count += len(text) if text.isascii() else len(text.encode(errors="replace"))
    request.num_prompt_bytes = count


def read_form(body: bytes) -> ApiRequest:
    """The same of a ``multipart/form-data`` body (audio): its model, and a constant for the sound."""
    return ApiRequest(
        model=_form_field(body, b'name="model"'),
        stream=_form_field(body, b'name="stream"').lower() in ("true", "1"),
        num_prompt_bytes=MEDIA_BYTES,
    )


def _form_field(body: bytes, name: bytes) -> str:
    at = body.find(name)
    start = body.find(b"\r\n\r\n", at) + 4
    end = body.find(b"\r\n", start)
    return body[start:end].decode("utf-8", "replace") if at >= 0 and start >= 4 and 0 <= end - start <= 256 else ""


def prefix_keys(request: ApiRequest) -> tuple[tuple[int, int], ...]:
    """Whole 1 KB chunks of the prompt from its start, at most 64: (digest of it and all before it, tokens to its end).

    The model (a LoRA adapter's name is one) and ``cache_salt`` enter the first key. Tokens are 4 bytes each for text.
    """
    data = _prompt_start(request)
    salt = f"{request.model}\0{request.cache_salt or ''}".encode(errors="replace")
    digest, keys = blake2b(salt, digest_size=8).digest(), []
    for end in range(CHUNK_BYTES, min(len(data), MAX_PREFIX_CHUNKS * CHUNK_BYTES) + 1, CHUNK_BYTES):
        digest = blake2b(digest + data[end - CHUNK_BYTES : end], digest_size=8).digest()
        keys.append((int.from_bytes(digest, "little"), end // BYTES_PER_TOKEN))
    return tuple(keys)


def _prompt_start(request: ApiRequest) -> bytes:
    if request.token_ids is not None:
        return _pack(request.token_ids[: MAX_PREFIX_CHUNKS * CHUNK_BYTES // BYTES_PER_TOKEN])
    return "\0".join(_until(request.texts, MAX_PREFIX_CHUNKS * CHUNK_BYTES)).encode(errors="replace")


def _pack(token_ids: Iterable[int]) -> bytes:
    try:
        return array("I", token_ids).tobytes()
    except (TypeError, OverflowError):
        return b""  # not token ids after all: the worker will say so


def _until(texts: list[str], size: int) -> Iterable[str]:
    for text in texts:
        yield text[:size]
        size -= len(text)
        if size <= 0:
            return
