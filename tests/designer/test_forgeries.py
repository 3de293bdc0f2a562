"""A forgery is well formed: what it writes would be believed, were there nothing else to go by."""

from __future__ import annotations

import json

from designer.answer_check import scored, violations
from designer.forgeries import FORGERIES, RESULT_TEXT


def test_the_forged_result_and_trial_have_the_right_form() -> None:
    names: dict[str, bytes] = {}
    exec(RESULT_TEXT, names)
    assert scored(json.loads(names["RESULT"])["result"]).score == 0.001
    assert violations(json.loads(names["TRIAL"])) == []


def test_each_has_a_name_and_its_code() -> None:
    assert len({cheat.name for cheat in FORGERIES}) == len(FORGERIES) > 10
    for cheat in FORGERIES:
        compile(cheat.source, cheat.name, "exec")
        assert "forge" in cheat.source
