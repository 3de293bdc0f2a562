"""What models said, on a page: all of it escaped, by whom, at what price."""

from __future__ import annotations

from designer.proposers.llm.account import Account, RoleAccount, Row
from designer.report_conversation import conversation_sections

ROLES = {
    "researcher": RoleAccount("researcher", ("big",), 5, 1, 4, 3, 1200, 340, 0.25, 2, 9.0, 16),
    "supervisor": RoleAccount("supervisor", ("small",), 2, 0, 2, 2, 100, 20, 0.01, 0, 1.0, 0),
}


def row(**values: object) -> Row:
    return Row(
        **{"context": "0", "role": "researcher", "conversation": "0/researcher", "turn": 0, "kind": "said", **values}
    )  # type: ignore[arg-type]


def page(*rows: Row, account: Account | None = None) -> str:
    return "".join(conversation_sections(account or Account(ROLES), rows, "runs/first"))


def test_a_run_without_models_has_no_such_section() -> None:
    assert list(conversation_sections(None, [], "runs/first")) == []
    assert list(conversation_sections(Account({}), [], "runs/first")) == []


def test_every_role_has_its_costs_and_all_of_them_their_sum() -> None:
    guess = {"experiments": 8, "requests": 30, "tokens": 50_000, "dollars": 1.5}
    text = page(account=Account(ROLES, guess))
    for cell in ("5 (1 failed)", "3 of 4", "1,200", "0.2500 (2 estimated)", "<td>all</td>", "0.2600", "30 requests"):
        assert cell in text


def test_what_is_said_cannot_become_part_of_the_page() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    said = page(
        row(text=evil, tokens_in=10, tokens_out=5, dollars=0.001),
        row(kind="called", tool=evil, text=evil, result=evil),
        row(kind="ended", conversation=evil, role=evil, text=evil),
    )
    assert "<script" not in said
    assert "<img" not in said
    assert said.count("&lt;script&gt;") >= 6
    assert "10 tokens in, 5 out, $0.0010" in said


def test_long_words_and_long_talks_are_cut_and_say_so() -> None:
    text = page(row(text="x" * 5000), *(row(turn=n, text=f"turn {n}") for n in range(450)))
    assert "… 1000 characters more" in text
    assert "The first 400 of 451 entries are here." in text
    assert "designer messages runs/first" in text
