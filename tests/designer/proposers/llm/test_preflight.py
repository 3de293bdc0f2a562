"""Before the first question: what cannot work is told at once, at no cost; what has answered is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from designer.proposers.llm.conversation import Conversation, Desk, LlmError
from designer.proposers.llm.endpoint import Endpoint
from designer.proposers.llm.meter import Meter
from designer.proposers.llm.preflight import preflight
from designer.proposers.llm.settings import ROLES, LlmSettings
from tests.support.conversations import new_log
from tests.support.fake_vllm import Behaviour, FakeVllm, answer, error, silent
from tests.support.scripted_models import cast_settings, says

NOWHERE = {"base_url": "http://127.0.0.1:9/v1"}
LIST = answer({"object": "list", "data": [{"id": "researcher"}, {"id": 5}, "x", {"id": "other"}]})


async def look(settings: LlmSettings, folder: Path, *, told: bool = False) -> Desk:
    """After the look the endpoints are closed, and nothing has been paid."""
    log = new_log(folder)
    endpoints = {role: Endpoint(settings.role(role)) for role in ROLES}
    desk = Desk(settings, log, Meter(settings.caps, log.spent()), endpoints)
    try:
        if told:
            await Conversation("0/researcher", "researcher", desk, "You are asked things.").ask()
        before = log.spent()
        await preflight(desk)
        assert log.spent() == before
    finally:
        for endpoint in endpoints.values():
            await endpoint.close()
        log.close()
    return desk


async def refusal(folder: Path, script: Behaviour, routes: Mapping[str, Behaviour], **changes: Any) -> str:
    async with FakeVllm(script, routes=routes) as server:
        with pytest.raises(LlmError) as caught:
            await look(cast_settings(server.url, **changes), folder)
        assert len(server.all_requests) <= 2
    return str(caught.value)


async def test_every_role_is_looked_at_before_the_first_is_asked(tmp_path: Path) -> None:
    async with FakeVllm(says("yes"), routes={"/v1/models": LIST}) as server:
        with pytest.raises(LlmError, match=r"http://127.0.0.1:9/v1: nobody listens there"):
            await look(cast_settings(server.url, supervisor=NOWHERE), tmp_path)
        assert server.requests == []


async def test_404_on_every_path_is_a_wrong_address(tmp_path: Path) -> None:
    text = await refusal(tmp_path, error(404), {"/v1/models": error(404)})
    assert "neither /models nor /chat/completions is there (404)" in text
    assert "correct it (--base-url) in a new run" in text


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_both_refuse_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("RANVIER_LLM_KEY", "sk-very-secret")
    said = error(status, "bad sk-very-secret")
    text = await refusal(tmp_path, said, {"/v1/models": said})
    assert f"the key in RANVIER_LLM_KEY was refused ({status}: " in text
    assert "sk-very" not in text


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    away = error(307, headers={"location": "http://127.0.0.1:9/v1/models"})
    assert "it redirects, which is not followed" in await refusal(tmp_path, says("yes"), {"/v1/models": away})


@pytest.mark.parametrize("listed", [error(404), error(401), error(403)])
async def test_a_server_that_shows_no_list_is_asked_for_what_it_cannot_answer(
    tmp_path: Path, listed: Behaviour
) -> None:
    async with FakeVllm(error(400, "messages: field required"), routes={"/v1/models": listed}) as server:
        desk = await look(cast_settings(server.url), tmp_path)
        assert [request.json for request in server.requests] == [{"model": "researcher"}]
    assert desk.endpoints["researcher"].served is None


@pytest.mark.parametrize("listed", [error(500), answer(b"<html>"), answer(b"[1]"), answer(b"[" * 100_000)])
async def test_what_is_no_list_says_nothing_yet(tmp_path: Path, listed: Behaviour) -> None:
    async with FakeVllm(says("yes"), routes={"/v1/models": listed}) as server:
        await look(cast_settings(server.url), tmp_path)
        assert server.requests == []


async def test_a_model_that_is_not_listed_is_told_and_its_refusal_names_those_that_are(tmp_path: Path) -> None:
    said: list[str] = []
    async with FakeVllm(error(404, "no such model"), routes={"/v1/models": LIST}) as server:
        settings = cast_settings(server.url)
        log = new_log(tmp_path)
        endpoints = {role: Endpoint(settings.role(role)) for role in ROLES}
        desk = Desk(settings, log, Meter(settings.caps, log.spent()), endpoints, say=said.append)
        await preflight(desk)
        with pytest.raises(LlmError, match=r"model 'analyst' is not served there .*; it serves other, researcher: "):
            await Conversation("0/analyst/1", "analyst", desk, "You are asked things.").ask()
        assert len(server.requests) == 1
        assert desk.meter.dollars == 0
        for endpoint in endpoints.values():
            await endpoint.close()
        log.close()
    assert said == [
        f"llm: {server.url}/v1 does not list model '{name}'; it lists other, researcher"
        for name in ("analyst", "supervisor")
    ]


async def test_what_has_answered_in_this_run_is_not_looked_at_after_a_resume(tmp_path: Path) -> None:
    async with FakeVllm(says("yes")) as server:
        settings = cast_settings(server.url)
        await look(settings, tmp_path, told=True)
        heard = len(server.all_requests)
        await server.stop()
        await look(settings, tmp_path)
        assert len(server.all_requests) == heard


async def test_a_server_that_is_silent_is_left_to_the_first_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("designer.proposers.llm.endpoint._PROBE_SECONDS", 0.1)
    async with FakeVllm(says("yes"), routes={"/v1/models": silent()}) as server:
        await look(cast_settings(server.url), tmp_path)
