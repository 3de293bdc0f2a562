"""Asks a worker for answers of known lengths and notes when each token comes: what a calibration measures with."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import aiohttp

_TOKEN_IDS = (32, 250)
"""Range of the token ids that prompts are drawn from: in the vocabulary of any model, and no special token of most."""
_SAMPLE = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_TIMEOUT_SECONDS = 600.0


class ProbeError(Exception):
    """The worker did not do what was asked; one line."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a batch."""

    delay: float
    """Seconds after the beginning of the batch."""
    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer. Times are seconds on one clock for all of a batch."""

    ask: Ask
    sent: float
    times: tuple[float, ...]
    """When each piece came."""
    counts: tuple[int, ...]
    """Tokens so far, at each of them: a piece may hold several."""

    @property
    def ttft(self) -> float:
        return self.times[0] - self.sent

    @property
    def response_time(self) -> float:
        return self.times[-1] - self.sent


class Prober(Protocol):
    """Runs a batch to its end; the answers in the order of the questions."""

    def run(self, asks: Sequence[Ask]) -> list[Stream]: ...


class HttpProber:
    """Over HTTP: completions of random token ids, streamed, with the token count in every piece. A context manager.

    Raises:
        ProbeError: the worker cannot be reached, refuses, or answers with another length than asked for.
    """

    def __init__(self, url: str, model: str | None = None, seed: int = 0) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._rng = random.Random(f"{seed}/prompts")
        self._runner = asyncio.Runner()
        self._session: aiohttp.ClientSession | None = None

    def __enter__(self) -> HttpProber:
        self._runner.__enter__()
        self._session = self._runner.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.__exit__(kind, error, traceback)

    def run(self, asks: Sequence[Ask]) -> list[Stream]:
        bodies = [self._body(ask) for ask in asks]
        streams: list[Stream] = self._guarded(self._all(asks, bodies))
        return streams

    def cache_config(self) -> dict[str, str]:
        """The labels of ``vllm:cache_config_info``; empty where the worker has none."""
        found = _SAMPLE.search(self._guarded(self._text("/metrics")))
        return dict(_LABEL.findall(found[1])) if found else {}

    def max_model_len(self) -> int | None:
        """From ``/v1/models``; None where the worker does not say."""
        models = json.loads(self._guarded(self._text("/v1/models")))
        length = models["data"][0].get("max_model_len")
        return length if isinstance(length, int) else None

    def _guarded(self, coroutine: Any) -> Any:
        try:
            return self._runner.run(coroutine)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ProbeError(f"{self._url}: {str(error) or type(error).__name__}") from error

    async def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS))

    def _body(self, ask: Ask) -> bytes:
        body: dict[str, Any] = {
            "prompt": [self._rng.randint(*_TOKEN_IDS) for _ in range(ask.num_prompt_tokens)],
            "max_tokens": ask.num_output_tokens,
            "min_tokens": ask.num_output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        return json.dumps(body | ({"model": self._model} if self._model else {})).encode()

    async def _all(self, asks: Sequence[Ask], bodies: Sequence[bytes]) -> list[Stream]:
        begin = time.perf_counter()
        return list(await asyncio.gather(*(self._one(a, b, begin) for a, b in zip(asks, bodies, strict=True))))

    async def _one(self, ask: Ask, body: bytes, begin: float) -> Stream:
        await asyncio.sleep(begin + ask.delay - time.perf_counter())
        sent = time.perf_counter()
        times: list[float] = []
        counts: list[int] = []
        async with self._client.post(
            f"{self._url}/v1/completions", data=body, headers={"content-type": "application/json"}
        ) as answer:
            if answer.status != 200:
                raise ProbeError(f"{self._url}: HTTP {answer.status}: {(await answer.text())[:200]}")
            async for line in answer.content:
                count = self._count(line)
                if count > (counts[-1] if counts else 0):
                    times.append(time.perf_counter())
                    counts.append(count)
        if not counts or counts[-1] != ask.num_output_tokens:
            raise ProbeError(
                f"{self._url}: {counts[-1] if counts else 0} tokens, not the {ask.num_output_tokens} asked"
            )
        return Stream(ask, sent, tuple(times), tuple(counts))

    def _count(self, line: bytes) -> int:
        """Tokens so far by one line of the stream; 0: it does not say."""
        if not line.startswith(b"data: {"):
            return 0
        event = json.loads(line[6:])
        if "error" in event:
            raise ProbeError(f"{self._url}: {event['error'].get('message', 'an error inside the stream')}")
        return int((event.get("usage") or {}).get("completion_tokens", 0))

    async def _text(self, path: str) -> str:
        async with self._client.get(self._url + path) as answer:
            answer.raise_for_status()
            return await answer.text()

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("enter the context first")
        return self._session
