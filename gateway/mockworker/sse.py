"""The bytes of an answer, in the shape of vLLM 0.32: prebuilt once a request, so that a token costs one join."""

from __future__ import annotations

import orjson

from gateway.mockworker import tokens

VERSION = "0.32.0+mock"
FINGERPRINT = b'"system_fingerprint":"vllm-' + VERSION.encode() + b'"'
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def http_chunk(data: bytes) -> bytes:
    """``data`` as one chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Answer:
    """One answer: ids, words and usage. ``cached`` is None unless the server tells prompt token details."""

    __slots__ = ("_after", "_before", "_cached", "_prompt", "_whole", "chat", "identity", "start")

    def __init__(self, request_id: str, model: str, created: int, chat: bool, num_prompt_tokens: int) -> None:
        kind = b"chat.completion" if chat else b"text_completion"
        name = orjson.dumps(f"{'chatcmpl' if chat else 'cmpl'}-{request_id}")
        rest = b'","created":%d,"model":%b,"choices":[' % (created, orjson.dumps(model))
        self.chat = chat
        self.start = tokens.first_word(request_id)
        self._prompt = num_prompt_tokens
        self._whole = b'{"id":' + name + b',"object":"' + kind + rest
        head = b"data: " + (self._whole if not chat else b'{"id":' + name + b',"object":"chat.completion.chunk' + rest)
        self.identity = head
        self._before = head + (b'{"index":0,"delta":{"content":"' if chat else b'{"index":0,"text":"')
        self._after = _AFTER_CHAT if chat else _AFTER_TEXT

    def first(self, usage: bool) -> bytes:
        """What comes with the first token and before it: for a chat the role alone, otherwise nothing."""
        if not self.chat:
            return b""
        role = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        counted = b"," + self._running_usage(0) if usage else b""
        return self.identity + role + counted + b',"prompt_token_ids":null,"prompt_text":null}\n\n'

    def token(self, index: int, usage: bool) -> bytes:
        """The event of the ``index``-th token (from 0), not the last."""
        if usage:
            return (
                self._before
                + tokens.word(self.start + index)
                + self._after
                + b"],"
                + self._running_usage(index + 1)
                + b"}\n\n"
            )
        return self._before + tokens.word(self.start + index) + self._after + b"]}\n\n"

    def chunk_parts(self) -> tuple[bytes, bytes]:
        """A token's event as a chunk of the transfer coding is ``before + word + after``: every word is four bytes."""
        tail = self._after + b"]}\n\n"
        size = len(self._before) + tokens.BYTES_PER_TOKEN + len(tail)
        return b"%x\r\n" % size + self._before, tail + b"\r\n"

    def last(self, count: int, finish: str, usage: bool, continuous: bool, cached: int | None) -> bytes:
        """The last token's event, usage if asked for, and ``[DONE]``."""
        word = tokens.word(self.start + count - 1)
        reason = finish.encode()
        event = self._before + word + (_LAST_CHAT if self.chat else _LAST_TEXT) % reason + b"]"
        if continuous:
            event += b"," + self._running_usage(count)
        if not usage:
            return event + b"," + FINGERPRINT + b"}\n\n" + DONE
        total = self.identity + b"]," + self._final_usage(count, cached) + b"," + FINGERPRINT + b"}\n\n"
        return event + b"}\n\n" + total + DONE

    def whole(self, count: int, finish: str, cached: int | None) -> bytes:
        """The body of an answer that is not streamed."""
        text = tokens.text(self.start, count)
        details = b"null" if cached is None else _DETAILS % cached
        usage = (self._prompt, self._prompt + count, count, details)
        return self._whole + (_WHOLE_CHAT if self.chat else _WHOLE_TEXT) % (text, finish.encode(), FINGERPRINT, *usage)

    def _running_usage(self, count: int) -> bytes:
        return _USAGE % (self._prompt, self._prompt + count, count) + b',"completion_tokens_details":null}'

    def _final_usage(self, count: int, cached: int | None) -> bytes:
        details = b"" if cached is None else b',"prompt_tokens_details":{"cached_tokens":%d}' % cached
        return _USAGE % (self._prompt, self._prompt + count, count) + details + b"}"


_USAGE = b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d'
_DETAILS = b'{"cached_tokens":%d,"created_cache_tokens":null,"multimodal_tokens":null}'
_AFTER_CHAT = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}'
_AFTER_TEXT = b'","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}'
_LAST_CHAT = b'"},"logprobs":null,"finish_reason":"%b","stop_reason":null,"token_ids":null}'
_LAST_TEXT = b'","logprobs":null,"finish_reason":"%b","stop_reason":null,"prompt_token_ids":null,"token_ids":null}'
_TOTALS = (
    b'"service_tier":null,%b,"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,'
    b'"prompt_tokens_details":%b,"completion_tokens_details":null}'
)
_WHOLE_CHAT = (
    b'{"index":0,"message":{"role":"assistant","content":"%b","refusal":null,"annotations":null,"audio":null,'
    b'"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"%b","stop_reason":null,'
    b'"token_ids":null,"routed_experts":null}],'
    + _TOTALS
    + b',"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,'
    b'"ec_transfer_params":null,"metrics":null}'
)
_WHOLE_TEXT = (
    b'{"index":0,"text":"%b","logprobs":null,"finish_reason":"%b","stop_reason":null,"token_ids":null,'
    b'"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}],'
    + _TOTALS
    + b',"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
)
