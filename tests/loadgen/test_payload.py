from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from loadgen.payload import Payloads
from loadgen.plan import Plan
from loadgen.trace import TraceRequest

PLAIN = TraceRequest(0, 10, 77)
FULL = TraceRequest(
    0, 10, 77, model="m", tenant="t", session_id="s", priority=3, max_tokens=99, ttft_slo_ms=250.5, request_id="id"
)
PLAN = Plan("http://x", trace="t", run_id="run")


def made(plan: Plan, request: TraceRequest = PLAIN, number: int = 5):
    payload = Payloads(plan, [PLAIN, FULL]).make(number, request)
    return payload, dict(payload.headers), orjson.loads(payload.body)


def test_a_chat_request():
    payload, headers, body = made(PLAN)
    assert (payload.path, payload.request_id) == ("/v1/chat/completions", "run-000005")
    assert headers == {"user-agent": "ranvier-loadgen", "x-request-id": "run-000005", "x-ranvier-output-tokens": "77"}
    (message,) = body.pop("messages")
    assert message["role"] == "user"
    assert len(message["content"]) == 40
    assert body.pop("max_tokens") in (128, 256, 512)
    assert body == {"stream": True, "stream_options": {"include_usage": True}}


def test_everything_a_trace_may_say():
    payload, headers, body = made(replace(PLAN, api_key="secret"), FULL)
    assert payload.request_id == headers["x-request-id"] == "id"
    assert headers["authorization"] == "Bearer secret"
    assert (headers["x-session-id"], headers["x-ranvier-tenant"], headers["x-ranvier-ttft-slo-ms"]) == (
        "s",
        "t",
        "250.5",
    )
    assert (body["model"], body["max_tokens"], body["priority"]) == ("m", 99, -3)


def test_options():
    assert made(replace(PLAN, model="other"), FULL)[2]["model"] == "other"
    assert "stream" not in made(replace(PLAN, stream=False))[2]
    assert "x-ranvier-output-tokens" not in made(replace(PLAN, output_header=False))[1]
    payload, _, body = made(replace(PLAN, endpoint="completions"))
    assert payload.path == "/v1/completions"
    assert len(body["prompt"]) == 40


@pytest.mark.parametrize(
    ("mode", "request_", "max_tokens"), [("none", FULL, None), ("forced", FULL, 77), ("trace", FULL, 99)]
)
def test_max_tokens(mode, request_, max_tokens):
    payload, _, body = made(replace(PLAN, max_tokens=mode), request_)
    assert (payload.max_tokens, body.get("max_tokens")) == (max_tokens, max_tokens)
    forced = mode == "forced"
    assert (body.get("min_tokens"), body.get("ignore_eos")) == ((77, True) if forced else (None, None))


def test_the_drawn_bound_does_not_depend_on_the_output():
    payloads = Payloads(PLAN, [TraceRequest(0, 1, 100)])
    drawn = [payloads.make(n, TraceRequest(0, 1, 1)).max_tokens for n in range(40)]
    assert drawn == [payloads.make(n, TraceRequest(0, 1, 100)).max_tokens for n in range(40)]
    assert set(drawn) == {128, 256, 512}


def test_the_same_plan_makes_the_same_bytes():
    assert made(PLAN)[0] == made(PLAN)[0] != made(replace(PLAN, salt="x"))[0]
