"""A claim says what it does not cover."""

from designer.claim import not_compared, of_cells, shortcomings

MISSING = {"label": "tuned-baseline 12", "digest": "d", "failure": "ran past its deadline"}


def test_a_claim_with_everything_compared_has_none() -> None:
    assert not_compared(None) == []
    assert list(shortcomings({"winner": None}, [])) == []
    assert list(shortcomings({"not_compared": []}, [{"failed": []}])) == []


def test_a_baseline_that_failed_is_said_to_be_not_compared() -> None:
    (line,) = not_compared({"not_compared": [MISSING]})
    assert line == "Not compared with tuned-baseline 12, which failed: ran past its deadline."
    (said,) = shortcomings({"not_compared": [MISSING]}, [])
    assert said.startswith(line)
    assert "weaker" in said


def test_what_failed_on_the_sealed_seeds_is_said() -> None:
    (said,) = shortcomings({}, [{"failed": [MISSING]}])
    assert said.startswith("tuned-baseline 12 failed on the sealed seeds")


def test_a_certificate_says_its_level_and_where_its_ranges_promise_too_much() -> None:
    cells = [{"won": True, "lost": False}, {"won": False, "lost": True}, {"won": False, "lost": False}]
    failed = [{"regime": "KV x0.8", "failure": "too slow"}]
    certificate = {"cells": cells, "failed": failed, "level": 0.05, "within_and_not_won": ["KV x1, load x0.8"]}
    first, second, third = of_cells(certificate)
    assert first.startswith("Won in 1 of 4 regimes, lost in 1, at a level of 5% for all of them together")
    assert second == "Not scored: KV x0.8: too slow."
    assert third == "Within the ranges below it did not win in: KV x1, load x0.8."
    assert len(of_cells({**certificate, "failed": [], "within_and_not_won": []})) == 1


def test_a_certificate_of_an_earlier_version_claims_no_level() -> None:
    (line,) = of_cells({"cells": [{"won": True}, {"won": False}], "worst": None, "won_in": {}, "failed": []})
    assert line.startswith("Won in 1 of 2 regimes, each by a 95 % interval of its own")
    assert "lost in 0" not in line
