"""The report's sections on replays and the rehearsed swap."""

from __future__ import annotations

from designer.gates_page import gate_sections
from designer.ledger import Ledger
from designer.replay_evidence import judged
from designer.search import RunOutcome
from designer.swap_in import RESULT
from tests.support.replay_pairs import aborted, pairs


def test_nothing_is_shown_of_what_was_not_done() -> None:
    assert not list(gate_sections(None, None))


def test_replays_show_the_rule_and_what_was_left_out() -> None:
    made = [*pairs([0.8, 0.82, 0.81], 0.8), *pairs([1.0], 1.0, first=4, state="invalid", workers="<b>"), aborted(5)]
    page = "".join(gate_sections(judged(made), None))
    assert "3 valid pairs on mock workers: mean response time 0.810" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "1 pair was begun and not ended (nothing was measured)" in page
    assert "evidence of 20 is a contradiction" in page


def test_the_swap_shows_its_bounds(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        page = "".join(gate_sections(None, ledger.result(RESULT)))
    assert "The swap, rehearsed" in page
    assert "<td>p99 response time</td>" in page
    assert "<td>1.25</td>" in page
