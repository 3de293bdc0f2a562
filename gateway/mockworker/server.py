"""A mock vLLM server: the engine model in real time behind vLLM's HTTP interface. ``docs/mock-worker.md`` says what
is like vLLM and what is not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from gateway.mockworker import sse, tokens
from gateway.mockworker.answers import StreamedFlight, WholeFlight
from gateway.mockworker.api import (
    ApiError,
    Generation,
    chat_prompt,
    check_model,
    completion_prompt,
    parse_generation,
    parse_json,
    queue_full,
    shutting_down,
)
from gateway.mockworker.config import MockConfig
from gateway.mockworker.driver import Driver
from gateway.mockworker.engine import Engine, EngineRequest, RequestStats
from gateway.mockworker.metrics import CONTENT_TYPE, WorkerMetrics
from gateway.mockworker.profile import WorkerProfile
from gateway.mockworker.records import RecordLog

OUTPUT_TOKENS_HEADER = "x-ranvier-output-tokens"
"""How long the answer will be, told by a load generator and seen by no policy; ``max_tokens`` still bounds it."""

KEEP_ALIVE_SECONDS = 5.0
"""vLLM's: an idle connection is closed after so long."""
MAX_BODY_BYTES = 1 << 30
_CLOSE_SECONDS = 0.05
"""What aiohttp gives handlers to end by themselves before it cancels them (0 would be for ever)."""
_SSE_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "server": "uvicorn", "vary": "Origin"}
_JSON_HEADERS = {"content-type": "application/json", "server": "uvicorn", "vary": "Origin"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class MockWorker:
    """One mock vLLM on one port. ``start`` and ``close`` in the event loop that serves it."""

    def __init__(self, profile: WorkerProfile, config: MockConfig, records: RecordLog | None = None) -> None:
        self.config = config
        self.profile = profile
        self.url = ""
        self._records = records
        self._rng = random.Random(f"{config.seed}/ids/{config.instance}")
        self._created = int(time.time())
        self._draining = False
        self._num_serving = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._num_clashes = 0
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listens; the port. OSError when the address cannot be had."""
        engine = Engine(self.profile.engine, self.profile)
        self.metrics = WorkerMetrics(engine, self.config.model, self._seconds, time.time())
        self.driver = Driver(engine, self.metrics, self.config.speed)
        runner = web.AppRunner(
            self._application(),
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            shutdown_timeout=_CLOSE_SECONDS,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=2048).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        bound = int(runner.addresses[0][1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return bound

    async def drain(self) -> None:
        """Refuses new requests and waits for those in flight, ``shutdown_timeout`` seconds at most."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self.config.shutdown_timeout)

    async def close(self) -> None:
        """Aborts what is in flight and stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            await self._idle.wait()
            self.driver.close()

    def _seconds(self, duration: int) -> float:
        return self.driver.seconds(duration)

    # -- routes ---------------------------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[_errors], client_max_size=MAX_BODY_BYTES)
        gets: dict[str, Handler] = {
            "/health": self._empty,
            "/ping": self._empty,
            "/version": self._version,
            "/load": self._load,
            "/kv_event_sources": self._no_sources,
            "/metrics": self._metrics_text,
            "/v1/models": self._models,
        }
        posts: dict[str, Handler] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completion,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/ping": self._empty,
        }
        app.add_routes([web.get(path, handler, allow_head=False) for path, handler in gets.items()])
        app.add_routes([web.post(path, handler) for path, handler in posts.items()])
        return app

    async def _empty(self, _: web.Request) -> web.Response:
        return web.Response(headers={"server": "uvicorn"})

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": sse.VERSION})

    async def _load(self, _: web.Request) -> web.Response:
        return _json({"server_load": self.driver.num_flights})

    async def _no_sources(self, _: web.Request) -> web.Response:
        return _json({})

    async def _metrics_text(self, _: web.Request) -> web.Response:
        self.driver.refresh()
        return web.Response(body=self.metrics.render(), headers={"content-type": CONTENT_TYPE, "server": "uvicorn"})

    async def _models(self, _: web.Request) -> web.Response:
        card = {
            "id": self.config.model,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": self.profile.name,
            "parent": None,
            "max_model_len": self._max_model_len,
        }
        return _json({"object": "list", "data": [card]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        fields = parse_json(await request.read())
        check_model(fields, self.config.model)
        messages = fields.get("messages")
        prompt = chat_prompt(messages) if isinstance(messages, list) else completion_prompt(fields.get("prompt"))
        ids = tokens.encode(prompt)
        return _json({"count": len(ids), "max_model_len": self._max_model_len, "tokens": ids, "token_strs": None})

    async def _detokenize(self, request: web.Request) -> web.Response:
        fields = parse_json(await request.read())
        check_model(fields, self.config.model)
        return _json({"prompt": completion_prompt(fields.get("tokens")).rstrip(b"\0").decode("utf-8", "replace")})

    @property
    def _max_model_len(self) -> int:
        return self.profile.engine.max_request_tokens

    # -- generation -----------------------------------------------------------------------------------------------

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, chat=True)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, chat=False)

    async def _serve(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        self._num_serving += 1
        self._idle.clear()
        try:
            return await self._answer(request, await request.read(), chat)
        finally:
            self._num_serving -= 1
            if not self._num_serving:
                self._idle.set()

    async def _answer(self, request: web.Request, body: bytes, chat: bool) -> web.StreamResponse:
        request_id = request.headers.get("x-request-id") or f"{self._rng.getrandbits(64):016x}"
        arrival = time.time()
        try:
            self._refuse_when_closed_or_full()
            generation = parse_generation(
                body, chat=chat, served_model=self.config.model, max_model_len=self._max_model_len
            )
            flight = self._flight(generation, request_id, request.headers.get(OUTPUT_TOKENS_HEADER))
        except ApiError as error:
            self._record(request_id, arrival, outcome="refused", status=error.status)
            raise
        if isinstance(flight, StreamedFlight):
            return await self._stream(request, request_id, flight, arrival)
        return await self._whole(request_id, flight, arrival)

    def _refuse_when_closed_or_full(self) -> None:
        if self._draining:
            raise shutting_down()
        if self._is_full(self.driver.reported_num_queued):
            self.metrics.num_rejections["max_num_queued_reqs"] += 1
            raise queue_full()

    def _is_full(self, num_queued: int) -> bool:
        return 0 < self.config.max_num_queued_reqs <= num_queued

    def _flight(self, generation: Generation, request_id: str, told: str | None) -> WholeFlight:
        output_tokens, finish_reason = self._output(generation, request_id, told)
        block_size = self.profile.engine.block_size
        spec = EngineRequest(
            request_id=self._engine_id(request_id),
            num_prompt_tokens=generation.num_prompt_tokens,
            num_output_tokens=output_tokens,
            priority=generation.priority,
            prefix_chunks=tokens.prefix_chunks(generation.prompt, block_size, generation.cache_salt),
        )
        created, prompt = int(time.time()), generation.num_prompt_tokens
        answer = sse.Answer(request_id, self.config.model, created, generation.chat, prompt)
        self.metrics.histograms["request_params_max_tokens"].observe(generation.max_tokens)
        if not generation.stream:
            return WholeFlight(spec, answer, finish_reason)
        return StreamedFlight(
            spec,
            answer,
            finish_reason,
            include_usage=generation.include_usage,
            continuous_usage=generation.continuous_usage,
            show_cached=self.config.enable_prompt_tokens_details,
        )

    def _output(self, generation: Generation, request_id: str, told: str | None) -> tuple[int, str]:
        """How many tokens it makes and why it ends there."""
        config, most = self.config, generation.max_tokens
        if told is not None:
            wanted = _positive(told, OUTPUT_TOKENS_HEADER)
        elif generation.ignore_eos:
            wanted = most + 1
        else:
            wanted = tokens.draw_output_tokens(request_id, config.seed, config.output_median, config.output_sigma)
        wanted = max(wanted, generation.min_tokens)
        return min(wanted, most), "stop" if wanted <= most else "length"

    def _engine_id(self, request_id: str) -> str:
        """Clients may send one id twice at a time; the engine wants it unique."""
        if self.driver.engine.stats(request_id) is None:
            return request_id
        self._num_clashes += 1
        return f"{request_id}#{self._num_clashes}"

    async def _whole(self, request_id: str, flight: WholeFlight, arrival: float) -> web.StreamResponse:
        if self._is_full(self.driver.num_queued):
            self.metrics.num_rejections["max_num_queued_reqs"] += 1
            self._record(request_id, arrival, outcome="refused", status=503)
            raise queue_full()
        stats = await self._fly(request_id, flight, arrival)
        cached = stats.num_cached_tokens if self.config.enable_prompt_tokens_details else None
        body = flight.answer.whole(stats.num_output_tokens, flight.finish_reason, cached)
        return web.Response(body=body, headers={**_JSON_HEADERS, **self._id_header(request_id)})

    async def _stream(
        self, request: web.Request, request_id: str, flight: StreamedFlight, arrival: float
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_SSE_HEADERS, **self._id_header(request_id)})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if request.transport is None:
            self._record(request_id, arrival, outcome="abort")
            return response
        flight.attach(request.transport)
        if self._is_full(self.driver.num_queued):
            # A vLLM's API server learns of a full queue one step late: by then the answer has begun.
            self.metrics.num_rejections["max_num_queued_reqs"] += 1
            self._record(request_id, arrival, outcome="refused", status=200)
            flight.fail(queue_full())
        else:
            await self._fly(request_id, flight, arrival)
        await response.write_eof()
        return response

    async def _fly(self, request_id: str, flight: WholeFlight, arrival: float) -> RequestStats:
        """Through the engine; a client that leaves cancels this handler, and the request with it."""
        self.driver.submit(flight)
        try:
            stats = await self._landed(flight)
        except asyncio.CancelledError:
            aborted = self.driver.cancel(flight.request.request_id)
            self.metrics.forget(flight.request.request_id)
            self._record(request_id, arrival, aborted, "abort")
            raise
        self.metrics.num_finished[flight.finish_reason] += 1
        self._record(request_id, arrival, stats, flight.finish_reason)
        return stats

    async def _landed(self, flight: WholeFlight) -> RequestStats:
        interval = self.config.sse_keep_alive_interval
        if interval and isinstance(flight, StreamedFlight):
            while not flight.done.done():
                writes = flight.num_writes
                await asyncio.wait((flight.done,), timeout=interval)
                if flight.num_writes == writes:
                    flight.keep_alive()
        return await flight.done

    def _id_header(self, request_id: str) -> Mapping[str, str]:
        return {"x-request-id": request_id} if self.config.enable_request_id_headers else {}

    def _record(
        self,
        request_id: str,
        arrival: float,
        stats: RequestStats | None = None,
        outcome: str = "refused",
        status: int = 200,
    ) -> None:
        if self._records is None:
            return
        record: dict[str, Any] = {"request_id": request_id, "worker": self.url, "outcome": outcome, "status": status}
        record |= {"arrival": arrival, "ended": time.time()}
        if stats is not None:
            record |= self._life(stats)
        self._records.write(record)

    def _life(self, stats: RequestStats) -> dict[str, Any]:
        times = {"scheduled": stats.first_scheduled, "first_token": stats.first_token, "finished": stats.finish}
        return {
            **{name: self.driver.unix(at) if at >= 0 else None for name, at in times.items()},
            "num_prompt_tokens": stats.num_prompt_tokens,
            "num_output_tokens": stats.num_output_tokens,
            "num_cached_tokens": stats.num_cached_tokens,
            "num_preemptions": stats.num_preemptions,
        }


def _positive(text: str, name: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ApiError(400, f"{name} must be an integer of at least 1, got {text!r}.", param=name)
    return value


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, headers=_JSON_HEADERS)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refusals in OpenAI's shape, routing errors in FastAPI's."""
    try:
        return await handler(request)
    except ApiError as error:
        return web.Response(body=error.body(), status=error.status, headers=_JSON_HEADERS)
    except web.HTTPMethodNotAllowed as error:
        response = _json({"detail": "Method Not Allowed"}, 405)
        response.headers["allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    except web.HTTPNotFound:
        return _json({"detail": "Not Found"}, 404)
