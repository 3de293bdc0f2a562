"""One conversation: retries, caps before sending, nothing bought twice, nothing too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from designer.proposers.llm.conversation import Conversation, ConversationEndedError, Desk, LlmError
from designer.proposers.llm.endpoint import Endpoint
from designer.proposers.llm.meter import Meter
from designer.proposers.llm.researcher import TOOLS
from designer.proposers.llm.settings import ROLES
from designer.proposers.llm.tools import read_calls
from tests.support.conversations import desk_of, new_log
from tests.support.fake_vllm import (
    Behaviour,
    FakeVllm,
    answer,
    close_before_first_byte,
    error,
    garbage,
    stall_mid_stream,
)
from tests.support.scripted_models import Cast, cast_settings, cut_stream, experiment, says

SYSTEM = "You are asked things."


def talk(desk: Desk, name: str = "0/researcher") -> Conversation:
    chat = Conversation(name, "researcher", desk, SYSTEM)
    chat.tell("Well?")
    return chat


async def test_what_passes_is_waited_for_as_long_as_the_server_asks(tmp_path: Path) -> None:
    limits = [error(429, headers={"retry-after": "9"}), error(503), garbage(), cut_stream(), says("yes")]
    cast, waits = Cast(researcher=[says("hello"), *limits]), list[float]()
    async with desk_of(cast, tmp_path, waits) as desk:
        await talk(desk, "1/researcher").ask()
        assert (await talk(desk).ask())["content"] == "yes"
        assert waits == [9.0, 2.0, 4.0, 8.0]
        found = list(desk.log.messages("0/researcher"))
        assert [message.reply is not None for message in found] == [False, False, False, False, True]
        # The refused one is free; three may have been worked on and count with all they could be.
        assert [message.completion_tokens for message in found] == [0, 500, 500, 500, 20]
        assert desk.meter.dollars == pytest.approx(sum(message.dollars for message in desk.log.messages()))
        assert desk.log.spent().dollars == pytest.approx(desk.meter.dollars)


async def test_a_server_that_stays_away_stops_the_run_and_what_it_will_never_answer_ends_the_conversation(
    tmp_path: Path,
) -> None:
    cast = Cast(researcher=[error(400, "too long")])
    async with desk_of(cast, tmp_path, attempts=2) as desk:
        with pytest.raises(LlmError, match=r"has not answered once: .*too long"):
            await talk(desk).ask()
        assert desk.log.ends() == {}
        cast.lines["researcher"] = [says("yes"), close_before_first_byte()]
        chat = talk(desk)
        await chat.ask()
        with pytest.raises(LlmError, match=r"no reply after 2 requests in .* goes on when it is back"):
            await talk(desk, "1/researcher").ask()
        assert desk.log.ends() == {}
        cast.lines["researcher"] = [error(400, "too long")]
        chat.tell("And?")
        with pytest.raises(ConversationEndedError, match=r"no reply: .*too long"):
            await chat.ask()
        assert desk.log.ends() == {"0/researcher": "no reply: Error code: 400 - too long"}


async def test_an_endpoint_that_comes_back_is_waited_for_and_one_that_does_not_can_be_resumed(tmp_path: Path) -> None:
    """Away: nobody listens at its port."""
    server = FakeVllm([says("hello"), says("yes"), says("again")])
    waits: list[float] = []
    come_back = 0

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == come_back:
            await server.listen()

    async with server:
        settings, log = cast_settings(server.url, outage_seconds=100.0), new_log(tmp_path)
        endpoints = {role: Endpoint(settings.role(role)) for role in ROLES}
        desk = Desk(settings, log, Meter(settings.caps, log.spent()), endpoints, sleep)
        await talk(desk, "1/researcher").ask()
        before = desk.meter.dollars
        await server.stop()
        with pytest.raises(LlmError, match=r"no reply after 7 requests.*designer resume goes on"):
            await talk(desk).ask()
        assert waits == [1, 2, 4, 8, 16, 32]
        assert (log.ends(), desk.meter.dollars) == ({}, before)
        waits.clear()
        come_back = 2
        assert (await talk(desk).ask())["content"] == "yes"
        assert waits == [1, 2]
        assert [message.attempt for message in log.messages("0/researcher") if message.reply is not None] == [9]
        for endpoint in endpoints.values():
            await endpoint.close()
        log.close()


@pytest.mark.parametrize("wrong", [close_before_first_byte(), garbage(), answer(b"<html>welcome</html>")])
async def test_an_address_that_never_answered_as_a_server_of_models_is_not_waited_for(
    tmp_path: Path, wrong: Behaviour
) -> None:
    cast, waits = Cast(researcher=[wrong]), list[float]()
    async with desk_of(cast, tmp_path, waits) as desk:
        with pytest.raises(LlmError, match="correct"):
            await talk(desk).ask()
        assert (waits, len(cast.heard["researcher"])) == ([], 1)


async def test_one_that_never_answered_may_be_busy_for_a_while(tmp_path: Path) -> None:
    cast, waits = Cast(researcher=[error(429)]), list[float]()
    async with desk_of(cast, tmp_path, waits) as desk:
        with pytest.raises(LlmError, match="no reply after 7 requests"):
            await talk(desk).ask()
        assert waits == [1, 2, 4, 8, 16, 32]
        cast.lines["researcher"] = [error(429), error(503), says("yes")]
        assert (await talk(desk).ask())["content"] == "yes"


async def test_an_endpoint_is_known_by_any_role_that_it_answered(tmp_path: Path) -> None:
    cast = Cast(researcher=[says("yes")], supervisor=[close_before_first_byte()])
    async with desk_of(cast, tmp_path, attempts=2) as desk:
        await talk(desk).ask()
        with pytest.raises(LlmError, match="no reply after 2 requests"):
            await Conversation("0/supervisor", "supervisor", desk, SYSTEM).ask()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_wrong_key_or_name_stops_the_run_at_once(tmp_path: Path, status: int) -> None:
    cast = Cast(researcher=[error(status, "no")])
    async with desk_of(cast, tmp_path) as desk:
        with pytest.raises(LlmError):
            await talk(desk).ask()
        assert len(cast.heard["researcher"]) == 1
        assert desk.log.ends() == {}


async def test_overspending_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    cast = Cast(researcher=[says("yes")])
    async with desk_of(cast, tmp_path, caps={"dollars": 0.0005}) as desk:
        with pytest.raises(
            ConversationEndedError, match=r"cap of \$0.0005: \$0.0000 used, the next request could cost"
        ):
            await talk(desk).ask()
        assert cast.heard["researcher"] == []
        with pytest.raises(ConversationEndedError, match="cap of"):
            await talk(desk).ask()


async def test_the_bound_on_a_prompt_is_what_was_counted_and_a_token_a_byte_for_the_rest(tmp_path: Path) -> None:
    cast = Cast(researcher=[says("yes", usage=(1000, 50)), says("no", usage=(1100, 20))])
    async with desk_of(cast, tmp_path) as desk:
        chat = talk(desk)
        await chat.ask()
        chat.tell("x" * 100)
        await chat.ask()
    first, second = desk_reservations(tmp_path)
    assert first == len(SYSTEM) + len("Well?") + 2 * 16 + 2 + 500
    assert second == int(1050 * 1.05) + 100 + 16 + 500


def desk_reservations(folder: Path) -> list[int]:
    import sqlite3

    db = sqlite3.connect(folder / "ledger.sqlite")
    rows = [row[0] for row in db.execute("SELECT reserved_tokens FROM llm_attempts ORDER BY turn")]
    db.close()
    return rows


@pytest.mark.parametrize("usage", [None, (0, 0), (-5, 10**20), ("many", True)])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_that_counts_nothing_is_charged_with_all_it_could_be(
    tmp_path: Path, usage: Any, stream: bool
) -> None:
    async with desk_of(Cast(researcher=[says("yes", usage=usage)]), tmp_path, researcher={"stream": stream}) as desk:
        await talk(desk).ask()
        [message] = desk.log.messages()
        assert message.prompt_tokens == desk_reservations(tmp_path)[0] - 500
        assert message.completion_tokens == len("yes") + 16
        assert message.estimated
        assert desk.meter.tokens == message.prompt_tokens + message.completion_tokens


async def test_half_a_count_is_believed_by_half(tmp_path: Path) -> None:
    lines = [says("yes", usage=(70, 0)), says("cut" * 9, usage=(0, 0), finish="length")]
    async with desk_of(Cast(researcher=lines), tmp_path) as desk:
        chat = talk(desk)
        for _ in lines:
            await chat.ask()
        first, second = desk.log.messages()
        assert (first.prompt_tokens, first.completion_tokens, first.estimated) == (70, 19, True)
        assert second.completion_tokens == 500


async def test_no_request_lasts_beyond_the_cap_on_time(tmp_path: Path) -> None:
    cast = Cast(researcher=[stall_mid_stream()])
    async with desk_of(cast, tmp_path, caps={"seconds": 0.3}) as desk:
        with pytest.raises(ConversationEndedError, match=r"cap of 0.3 s reached"):
            await talk(desk).ask()
        assert len(cast.heard["researcher"]) == 1


async def test_what_is_recorded_is_not_bought_again(tmp_path: Path) -> None:
    cast = Cast(researcher=[says("one"), says("two"), says("three")])

    async def twice(desk: Desk) -> list[str]:
        chat, heard = talk(desk), []
        for question in ("And?", "Then?"):
            heard.append(str((await chat.ask())["content"]))
            chat.tell(question)
        return heard

    async with desk_of(cast, tmp_path) as desk:
        assert await twice(desk) == ["one", "two"]
    async with desk_of(cast, tmp_path) as desk:
        assert await twice(desk) == ["one", "two"]
        assert len(cast.heard["researcher"]) == 2
        other = Conversation("0/researcher", "researcher", desk, "Another prompt.")
        other.tell("Well?")
        with pytest.raises(LlmError, match="cannot be resumed"):
            await other.ask()


async def test_calls_and_results_go_back_as_the_protocol_wants_them(tmp_path: Path) -> None:
    broken = says("", [("run_experiment", '{"hypothesis": '), ("finish", {"reason": "none"})])
    cast = Cast(researcher=[broken, says("done")])
    async with desk_of(cast, tmp_path) as desk:
        chat = Conversation("0/researcher", "researcher", desk, SYSTEM, TOOLS)
        chat.tell("Well?")
        for call in read_calls(await chat.ask(), TOOLS):
            chat.answer(call, call.problem or "fine")
        await chat.ask()
    _, _, replied, first, second = cast.heard["researcher"][1]["messages"]
    assert [call["function"]["arguments"] for call in replied["tool_calls"]] == ["{}", '{"reason": "none"}']
    assert (first["role"], first["tool_call_id"]) == ("tool", "id-0")
    assert "no JSON" in first["content"]
    assert second["content"] == "fine"


async def test_without_tool_calls_the_prompt_says_how_to_call(tmp_path: Path) -> None:
    cast = Cast(researcher=[experiment("x")])
    told = {"tools": "text", "structured": "json_schema"}
    async with desk_of(cast, tmp_path, researcher=told) as desk:
        chat = Conversation("0/researcher", "researcher", desk, SYSTEM, TOOLS)
        chat.tell("Well?")
        await chat.ask()
    [body] = cast.heard["researcher"]
    assert "tools" not in body
    assert "- `run_experiment` {" in body["messages"][0]["content"]
    assert (
        body["response_format"]["json_schema"]["schema"]["anyOf"][0]["properties"]["tool"]["const"] == "run_experiment"
    )


async def test_the_oldest_exchanges_are_left_out_where_all_would_not_fit(tmp_path: Path) -> None:
    cast = Cast(researcher=[says(f"reply {n}" + "y" * 300, usage=(480, 80)) for n in range(9)])
    async with desk_of(cast, tmp_path, researcher={"context_tokens": 1000}) as desk:
        chat = talk(desk)
        for n in range(8):
            await chat.ask()
            chat.tell(f"question {n} " + "x" * 300)
    last = cast.heard["researcher"][-1]["messages"]
    assert last[0]["content"] == SYSTEM
    assert last[1]["content"] == "Well?\n\n[Earlier exchanges are left out here.]"
    assert last[2]["role"] == "assistant"
    assert last[-1]["content"].startswith("question 6")
    assert "reply 0" not in str(last)


async def test_a_key_in_a_reply_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANVIER_LLM_KEY", "sk-very-secret")
    async with desk_of(Cast(researcher=[says("your key is sk-very-secret")]), tmp_path) as desk:
        assert (await talk(desk).ask())["content"] == "your key is [key]"
        assert "sk-very-secret" not in str(list(desk.log.messages()))
